//! The executables as their users run them: two processes of the benchmark, and `mc_info`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed test is a panic.

#[path = "common/sysfs_tree.rs"]
mod sysfs_tree;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BENCH: &str = env!("CARGO_BIN_EXE_transfer_engine_bench");
const INFO: &str = env!("CARGO_BIN_EXE_mc_info");
const TOPOLOGY: &str = env!("CARGO_BIN_EXE_transfer_engine_topology_dump");
const LONGEST: Duration = Duration::from_secs(60);

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A target with 1 MiB, and the name under which it is reached.
fn target() -> (Running, String) {
    let mut child = Command::new(BENCH)
        .args(["-mode", "target", "--metadata_server=P2PHANDSHAKE", "--protocol=tcp"])
        .args(["--local_server_name=127.0.0.1", "--buffer_size=1048576", "--logtostderr"])
        .args(["--block_size=4096", "--batch_size=8", "--threads=2"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let running = Running(child);
    for line in lines {
        let line = line.unwrap();
        if let Some((_, name)) = line.split_once("listening on ") {
            assert!(
                line.starts_with('I') && line.contains("] Transfer Engine RPC using"),
                "{line}"
            );
            return (running, name.to_owned());
        }
    }
    panic!("the target ended without saying where it listens");
}

/// Runs a program to its end, or kills it.
fn run(program: &str, arguments: &[&str]) -> Output {
    let child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let end = Instant::now() + LONGEST;
    while running.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "{program} {arguments:?} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    std::io::copy(running.0.stdout.as_mut().unwrap(), &mut stdout).unwrap();
    std::io::copy(running.0.stderr.as_mut().unwrap(), &mut stderr).unwrap();
    Output { status: running.0.wait().unwrap(), stdout, stderr }
}

fn initiate(segment: &str, more: &[&str]) -> Output {
    let segment = format!("--segment_id={segment}");
    let mut arguments = vec![
        "--metadata_server=P2PHANDSHAKE",
        "--local_server_name=127.0.0.1",
        "--protocol=tcp",
        "--buffer_size=1048576",
        "--block_size=4096",
        "--batch_size=8",
        "--threads=2",
        "--duration=1",
        &segment,
    ];
    arguments.extend(more);
    run(BENCH, &arguments)
}

#[test]
fn the_benchmark_moves_bytes_and_ends_in_order() {
    let (mut target, name) = target();
    for operation in ["read", "write"] {
        let output = initiate(&name, &["-operation", operation, "--report_unit=MiB"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        let line = text.lines().find(|line| line.contains("Test completed: ")).expect(&text);
        let numbers: Vec<f64> = line
            .split("Test completed: ")
            .nth(1)
            .unwrap()
            .split([' ', ','])
            .filter_map(|word| word.parse().ok())
            .collect();
        let [duration, batches, rate] = numbers[..] else { panic!("{line}") };
        assert!(line.contains("duration ") && line.contains(", batch count "), "{line}");
        assert!(line.contains(", throughput ") && line.ends_with(" MiB/s"), "{line}");
        assert!(duration >= 1.0 && batches > 0.0, "{line}");
        let expected = batches * 8.0 * 4096.0 / f64::from(1 << 20) / duration;
        assert!((rate / expected - 1.0).abs() < 0.02, "{line}: expected {expected}");
    }
    let status = Command::new("kill").arg(target.0.id().to_string()).status().unwrap();
    assert!(status.success());
    let end = Instant::now() + LONGEST;
    let status = loop {
        if let Some(status) = target.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "the target does not end");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn what_cannot_work_is_said_and_is_a_failure() {
    let (_target, name) = target();
    for (arguments, words) in [
        (&["--operation=turn"][..], "--operation"),
        (&["--mode=observer"], "--mode"),
        (&["--backend=tent"], "--backend"),
        (&["--protocol=rdma"], "rdma"),
        (&["--protocol=carrier pigeon"], "carrier pigeon"),
        (&["--metadata_server=foo://host"], "foo"),
        (&["--duration=soon"], "soon"),
        (&["--no_such_flag"], "no_such_flag"),
        (&["--block_size=1048576"], "too small"),
        (&["--segment_id=127.0.0.1:1"], "127.0.0.1:1"),
    ] {
        let output = initiate(&name, arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
}

/// The words before the matrix, and the matrix.
fn dumped(output: &Output) -> (String, serde_json::Value) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (words, matrix) = text.split_at(text.find("]: ").unwrap() + 3);
    (words.to_owned(), serde_json::from_str(matrix).unwrap())
}

#[test]
fn the_topology_dump_prints_what_upstreams_prints() {
    let tree = sysfs_tree::SysfsTree::fixture("h800-8gpu-8nic");
    let root = format!("--sysfs-path={}", tree.root().display());
    let file = tree.made("matrix.json");
    std::fs::write(&file, r#"{"cpu:0":[["a"],["b"]]}"#).unwrap();
    let file = file.to_str().unwrap();

    let output = run(TOPOLOGY, &[&root]);
    let (words, matrix) = dumped(&output);
    assert_eq!(words, "Local topology [te/discover]: ");
    assert_eq!(matrix["cuda:3"][0], serde_json::json!(["mlx5_3"]));
    assert!(output.stdout.ends_with(b"]\n}\n\n") && output.stderr.is_empty());
    for flag in ["--device-name=mlx5_1,mlx5_2", "--device=mlx5_1,mlx5_2"] {
        let (_, matrix) = dumped(&run(TOPOLOGY, &[&root, flag, "--backend", "te"]));
        assert_eq!(matrix["cpu:0"], serde_json::json!([["mlx5_1", "mlx5_2"], []]));
    }
    let (words, matrix) = dumped(&run(TOPOLOGY, &[&root, "--custom-topo-json", file]));
    assert_eq!(words, format!("Local topology [te/custom ({file})]: "));
    assert_eq!(matrix, serde_json::json!({"cpu:0": [["a"], ["b"]]}));
    let output = run(TOPOLOGY, &[&root, "--custom-topo-json=/nowhere"]);
    assert_eq!(dumped(&output).1["cpu:1"][1].as_array().unwrap().len(), 4);
    assert!(output.stderr.starts_with(b"warning: the custom matrix is not used"));

    for (arguments, status, words) in [
        (&["--backend=tent"][..], 1, "error: failed to dump topology"),
        (&["--backend=other"], 2, "error: "),
        (&["--use-custom-topo"], 1, "error: --use-custom-topo requires MC_CUSTOM_TOPO_JSON"),
        (&["word"], 2, "error: "),
        (&["--no-such-flag"], 2, "error: "),
    ] {
        let output = run(TOPOLOGY, arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.starts_with(words), "{arguments:?}: {text}");
    }
    assert!(run(TOPOLOGY, &["-h"]).stdout.starts_with(b"Prints the preference matrix"));
}

#[test]
fn mc_info_describes_engine_peer_and_settings() {
    let (_target, name) = target();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = run(INFO, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let local = ["--json", "--local-name", "127.0.0.1"];
    let dump = json(&local);
    assert_eq!(dump["engine"]["host"], "127.0.0.1");
    assert_eq!(dump["transports"][0]["name"], "tcp");

    let tree = sysfs_tree::SysfsTree::fixture("ascend910b-8npu");
    let root = format!("sysfs_path={}", tree.root().display());
    let dump = json(&[&local[..], &["--set", &root]].concat());
    assert_eq!(dump["topology"]["accelerators"][0]["location"], "npu:0");
    assert_eq!(dump["topology"]["adapters"][1]["verdict"], "no port is active");

    let peer = json(&[&local[..], &["--segment", &name]].concat());
    assert_eq!(peer["peer"]["transport"], "shm");
    assert_eq!(peer["peer"]["why"], "the peer is on this host");
    let off = ["--segment", &name, "--set", "same_host=false"];
    let peer = json(&[&local[..], &off].concat());
    assert_eq!(peer["probe"]["answer"], "alive");
    assert_eq!(peer["buffers"]["list"][0]["length_bytes"], 1_048_576);
    assert_eq!(peer["peer"]["transport"], "tcp");

    let settings = json(&["--json", "--config", "--set", "port_min=16000"]);
    assert_eq!(settings["configuration"]["port_min"]["value"], 16_000);
    assert_eq!(settings["configuration"]["port_min"]["origin"], "option");

    let text = run(INFO, &local[1..]);
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("engine:\n"));

    for wrong in [
        &["--segment", "127.0.0.1:1", "--local-name", "127.0.0.1"][..],
        &["--protocol", "none such"],
        &["--set", "no_such_key=1"],
    ] {
        let output = run(INFO, wrong);
        assert!(!output.status.success(), "{wrong:?}");
        assert!(output.stdout.is_empty() && output.stderr.starts_with(b"mc_info: "), "{wrong:?}");
    }
}
