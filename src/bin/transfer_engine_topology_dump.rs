//! `transfer_engine_topology_dump`: prints which adapters are near which memory of this host, with
//! the flags, the output and the exit status of upstream's program.
//!
//! Starts no engine and opens no device. As upstream's, it shows what discovery finds, also where
//! `MC_CUSTOM_TOPO_JSON` is set, unless asked for the custom matrix. The form of the output is that
//! of upstream 0.3.13; 0.3.7 printed the same matrix without the words in brackets.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use mooncake::config::{EngineConfig, ProcessEnvironment};
use mooncake::topology::{discover, Origin, Request};

/// Prints the preference matrix of this host: for each memory node, GPU and NPU the RDMA adapters
/// to prefer, and the others
#[derive(Parser)]
#[command(name = "transfer_engine_topology_dump", version, infer_long_args = true)]
struct Flags {
    /// Only these adapters, separated by commas
    #[arg(long, value_name = "DEVICE_NAME", default_value = "")]
    device_name: String,
    /// Whose topology: te is that of this library; tent is another engine of upstream, which is not
    /// in here
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
    /// Show the matrix that MC_CUSTOM_TOPO_JSON names, instead of what discovery finds
    #[arg(long)]
    use_custom_topo: bool,
    /// Show the matrix of this file
    #[arg(long, value_name = "CUSTOM_TOPO_JSON")]
    custom_topo_json: Option<String>,
    /// Where the kernel shows devices, or a captured copy of it [default: the setting sysfs_path]
    #[arg(long, value_name = "FOLDER")]
    sysfs_path: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    Auto,
    Te,
    Tent,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to dump topology: {error}");
    if flags.backend == Backend::Tent {
        return Err(failed(&"the backend tent is not part of this library"));
    }
    let (config, _) =
        EngineConfig::load(None, &ProcessEnvironment).map_err(|error| failed(&error))?;
    let (custom, mode) = match (&flags.custom_topo_json, flags.use_custom_topo) {
        (Some(path), _) => (Some(path.clone()), format!("custom ({path})")),
        (None, true) => {
            let path = config.custom_topology_path.ok_or_else(|| {
                "--use-custom-topo requires MC_CUSTOM_TOPO_JSON in the environment".to_owned()
            })?;
            (Some(path.clone()), format!("custom ({path})"))
        }
        (None, false) => (None, "discover".to_owned()),
    };
    let filters = match flags.device_name.as_str() {
        "" => config.device_filters,
        names => vec![names.to_owned()],
    };
    let root = flags.sysfs_path.as_deref().unwrap_or(&config.sysfs_path);
    let is_custom = custom.is_some();
    let topology = discover(Path::new(root), &Request { custom, filters });
    if is_custom && topology.origin == Origin::Host {
        // As upstream with a file that cannot be read: discovery instead, and status 0.
        for note in topology.notes.iter().filter(|note| note.contains("custom")) {
            let _ = writeln!(std::io::stderr(), "warning: {note}");
        }
    }
    let text = format!("Local topology [te/{mode}]: {}\n", topology.matrix.to_text());
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| failed(&error))
}
