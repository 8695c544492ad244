//! The store from the command line, against any master: put, get, list, remove, look at, measure.
//!
//! Exit status: 0 done, 1 failed, 2 wrong arguments, 3 the object does not exist.

#[path = "support/store_bench.rs"]
mod store_bench;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mooncake::config::ProcessEnvironment;
use mooncake::error::{Error, ErrorKind, Result};
use mooncake::store::{PutOptions, Store, StoreOptions};
use serde_json::json;

/// Puts, gets, lists, removes and measures objects of a Mooncake Store
#[derive(Parser)]
#[command(name = "mc_store", version)]
struct Flags {
    #[command(flatten)]
    client: Client,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Client {
    /// Address of the master, "host:port"; several are separated by commas; or
    /// "etcd://host:port;host:port", where the elected one is found
    #[arg(long, value_name = "ADDRESS", global = true)]
    master: Option<String>,
    /// Name of this client, "host" or "host:port"; peers reach it under this host
    #[arg(long, value_name = "NAME", global = true)]
    host: Option<String>,
    /// Where engines find each other: P2PHANDSHAKE, or the address of a metadata service
    #[arg(long, value_name = "ADDRESS", global = true)]
    metadata: Option<String>,
    /// Memory given to the pool, such as 512mb
    #[arg(long, value_name = "SIZE", default_value = "0", global = true)]
    segment: String,
    /// Any other option of mooncake.json or setting of docs/configuration.md; the value is JSON,
    /// or text
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    settings: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Put an object from a file, or from the standard input
    Put {
        /// Its name
        key: String,
        /// Where its bytes are; "-" is the standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Copies, each in another segment
        #[arg(long, default_value_t = 1)]
        replicas: u64,
        /// Evict it last
        #[arg(long)]
        soft_pin: bool,
        /// Segments to try first
        #[arg(long, value_name = "NAME")]
        segment_name: Vec<String>,
    },
    /// Write an object to a file, or to the standard output
    Get {
        /// Its name
        key: String,
        /// Where its bytes go; "-" is the standard output
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// List objects whose names match a regular expression
    Ls {
        /// Found anywhere in the name
        #[arg(default_value = ".")]
        pattern: String,
        /// With sizes and places
        #[arg(short, long)]
        long: bool,
    },
    /// Remove objects
    Rm {
        /// Their names
        keys: Vec<String>,
        /// Remove what matches this regular expression
        #[arg(long, value_name = "REGEX", conflicts_with = "keys")]
        regex: Option<String>,
        /// Remove everything
        #[arg(long, conflicts_with_all = ["keys", "regex"])]
        all: bool,
        /// Also what readers hold leases on
        #[arg(long)]
        force: bool,
    },
    /// Show size and places of an object
    Stat {
        /// Its name
        key: String,
    },
    /// Say which objects exist
    Exists {
        /// Their names
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Show what the client sees of the master, and its counters
    Info,
    /// Give memory to the pool until the standard input ends
    Hold,
    /// Measure puts, lookups and gets
    Bench(store_bench::Plan),
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "mc_store: {error}");
            match error.kind() {
                ErrorKind::ObjectNotFound => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(flags: &Flags) -> Result<ExitCode> {
    let store = Store::open(&options(&flags.client)?)?;
    let outcome = command(&store, &flags.command);
    store.close();
    outcome
}

fn options(client: &Client) -> Result<StoreOptions> {
    let mut members = serde_json::Map::new();
    members.insert("global_segment_size".into(), client.segment.as_str().into());
    for setting in &client.settings {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(Error::new(ErrorKind::InvalidArgument, "--set takes KEY=VALUE")
                .with("given", setting));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        members.insert(key.to_owned(), value);
    }
    for (key, value) in [
        ("master_server_address", &client.master),
        ("local_hostname", &client.host),
        ("metadata_server", &client.metadata),
    ] {
        if let Some(value) = value {
            members.insert(key.into(), value.as_str().into());
        }
    }
    let given = members.contains_key("local_buffer_size");
    if !given {
        // Nothing here is read into local buffers.
        members.insert("local_buffer_size".into(), 0.into());
    }
    let json = serde_json::Value::Object(members).to_string();
    let mut options = StoreOptions::load(Some(&json), &ProcessEnvironment)?;
    if options.local_hostname.is_empty() {
        options.local_hostname = "127.0.0.1".to_owned();
    }
    if options.master.is_empty() {
        options.master = "127.0.0.1:50051".to_owned();
    }
    Ok(options)
}

fn command(store: &Store, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Put { key, file, replicas, soft_pin, segment_name } => {
            let options = PutOptions {
                replica_num: *replicas,
                soft_pin: *soft_pin,
                preferred_segments: segment_name.clone(),
                ..PutOptions::default()
            };
            store.put(key.as_bytes(), &input(file)?, &options)?;
        }
        Command::Get { key, file } => output(file, &store.get(key.as_bytes())?)?,
        Command::Ls { pattern, long } => {
            let mut text = Vec::new();
            for (key, replicas) in store.find(pattern.as_bytes())? {
                text.extend(key.escape_ascii());
                if *long {
                    let (size, places) = described(&replicas);
                    text.extend(format!("\t{size}\t{}", places.join(",")).bytes());
                }
                text.push(b'\n');
            }
            print(&text);
        }
        Command::Rm { keys, regex, all, force } => return remove(store, keys, regex, *all, *force),
        Command::Stat { key } => {
            let located = store.locate(&[key.as_bytes()], None)?.into_iter().next();
            let replicas = located.unwrap_or_else(|| Ok(Vec::new()))?;
            let (size, places) = described(&replicas);
            let value = json!({ "key": key, "size_bytes": size, "replicas": places });
            print(format!("{value:#}\n").as_bytes());
        }
        Command::Exists { keys } => {
            let names: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
            let mut missing = false;
            for (key, exists) in keys.iter().zip(store.exists(&names, None)?) {
                let exists = exists?;
                missing |= !exists;
                print(format!("{}\t{key}\n", u8::from(exists)).as_bytes());
            }
            return Ok(if missing { ExitCode::from(3) } else { ExitCode::SUCCESS });
        }
        Command::Info => {
            print(format!("{:#}\n{}", store.dump(), store.metrics().text()).as_bytes())
        }
        Command::Hold => {
            print(format!("holding as {} ({})\n", store.hostname(), store.endpoint()).as_bytes());
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        }
        Command::Bench(plan) => {
            for line in store_bench::run(store, plan)? {
                print(format!("{line}\n").as_bytes());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(
    store: &Store,
    keys: &[String],
    regex: &Option<String>,
    all: bool,
    force: bool,
) -> Result<ExitCode> {
    let count = match regex {
        Some(pattern) => store.remove_by_pattern(pattern.as_bytes(), force)?,
        None if all => store.remove_all(force)?,
        None => {
            if keys.is_empty() {
                let text = "name objects, or use --regex or --all";
                return Err(Error::new(ErrorKind::InvalidArgument, text));
            }
            let names: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
            let results = store.remove(&names, force, None)?;
            let count = results.iter().filter(|result| result.is_ok()).count();
            let mut failures = results.into_iter().filter_map(std::result::Result::err);
            if let Some(first) = failures.next() {
                for other in failures {
                    let _ = writeln!(std::io::stderr(), "mc_store: {other}");
                }
                return Err(first);
            }
            count as u64
        }
    };
    print(format!("{count}\n").as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn described(replicas: &[mooncake::store::Replica]) -> (u64, Vec<String>) {
    use mooncake::store::Place;
    let size = |place: &Place| match place {
        Place::Memory(ranges) => ranges.iter().map(|range| range.size).sum(),
        Place::Disk { size, .. } => *size,
    };
    let place = |place: &Place| match place {
        Place::Memory(ranges) => {
            let mut peers: Vec<&str> = ranges.iter().map(|range| range.endpoint.as_str()).collect();
            peers.dedup();
            peers.join("+")
        }
        Place::Disk { path, .. } => path.clone(),
    };
    let bytes = replicas.first().map_or(0, |replica| size(&replica.place));
    (bytes, replicas.iter().map(|replica| place(&replica.place)).collect())
}

fn input(file: &PathBuf) -> Result<Vec<u8>> {
    let read = if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    read.map_err(|error| {
        Error::io(ErrorKind::InvalidArgument, "cannot read", error).with("file", file.display())
    })
}

fn output(file: &PathBuf, bytes: &[u8]) -> Result<()> {
    let written = if file.as_os_str() == "-" {
        let mut out = std::io::stdout();
        out.write_all(bytes).and_then(|()| out.flush())
    } else {
        std::fs::write(file, bytes)
    };
    written.map_err(|error| {
        Error::io(ErrorKind::Resource, "cannot write", error).with("file", file.display())
    })
}

fn print(bytes: &[u8]) {
    let mut out = std::io::stdout();
    // A reader that left early is no failure.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}
