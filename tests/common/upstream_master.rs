//! An upstream master of 0.3.7.post2 as a process, from its wheel.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ports::free_port;

const VERSION: &str = "0.3.7.post2";

/// The folder of the unpacked wheel, or the reason why there is none.
pub fn wheel() -> Result<PathBuf, String> {
    let fetch = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/fetch");
    let output = Command::new("python3").arg(fetch).arg(VERSION).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("python3: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "ok wheel/VERSION FOLDER (SECONDS)"
    let folder = text.lines().find_map(|line| {
        let told = line.strip_prefix(&format!("ok wheel/{VERSION} "))?;
        told.rsplit_once(" (").map(|(folder, _)| PathBuf::from(folder))
    });
    folder.ok_or_else(|| text.trim().to_owned())
}

/// Killed when dropped.
pub struct UpstreamMaster {
    child: Child,
    pub address: SocketAddr,
}

impl UpstreamMaster {
    /// Starts one on free ports.
    pub fn start(wheel: &Path, flags: &[&str]) -> UpstreamMaster {
        // A program that reserves nothing may have taken one meanwhile, hence the tries.
        for _ in 0..5 {
            let [rpc, metrics] = [(); 2].map(|()| free_port());
            let child = Command::new(wheel.join("mooncake/mooncake_master"))
                .env("LD_LIBRARY_PATH", wheel.join("nvidia/cuda_runtime/lib"))
                .arg("--rpc_address=127.0.0.1")
                .arg(format!("--rpc_port={rpc}"))
                .arg(format!("--metrics_port={metrics}"))
                .arg("--rpc_thread_num=2")
                .args(flags)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], rpc));
            let mut master = UpstreamMaster { child, address };
            let until = Instant::now() + Duration::from_secs(20);
            while Instant::now() < until && master.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return master;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("the upstream master does not start");
    }
}

impl Drop for UpstreamMaster {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
