//! `mooncake_master` as its users run it: command lines, exit codes, ports, files, signals.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed test is a panic.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mooncake::pool::identity::{ClientId, SegmentId, Uuid};
use mooncake::pool::object::{PutItem, PutOptions};
use mooncake::pool::replica::ReplicaKind;
use mooncake::pool::segment::Segment;
use mooncake::rpc::client::{ClientOptions, MasterClient};
use mooncake::rpc::message::{Call, Reply};
use mooncake::time::Deadline;

const MASTER: &str = env!("CARGO_BIN_EXE_mooncake_master");
const LONGEST: Duration = Duration::from_secs(60);

/// A folder that goes away with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("mc-master-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A master that does not outlive its test.
struct Running {
    child: Child,
    errors: BufReader<ChildStderr>,
    /// Everything up to the start line, and that line.
    log: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(MASTER);
    command.args(arguments).env_remove("HOME").env_remove("XDG_STATE_HOME");
    command.env_remove("STATE_DIRECTORY").env_remove("FLAGS_rpc_port");
    command
}

/// Starts a master and waits for its start line.
fn start(mut command: Command) -> Running {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    let mut running = Running { child, errors, log: String::new() };
    while !running.log.contains("Master service started on port ") {
        let mut line = String::new();
        let count = running.errors.read_line(&mut line).unwrap();
        assert!(count > 0, "it ended: {}", running.log);
        running.log += &line;
    }
    running
}

impl Running {
    /// A setting of the start line.
    fn setting(&self, name: &str) -> String {
        let (_, rest) = self.log.rsplit_once(&format!(" {name}=")).expect(name);
        rest.split([',', '\n']).next().unwrap().to_owned()
    }

    fn port(&self) -> u16 {
        self.setting("rpc_port").parse().unwrap()
    }

    /// Of the line that follows the start line.
    fn metadata_port(&mut self) -> u16 {
        loop {
            let mut line = String::new();
            assert!(self.errors.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some((_, port)) = line.split_once("HTTP metadata server started on port ") {
                return port.trim().parse().unwrap();
            }
        }
    }

    fn metrics_port(&self) -> u16 {
        self.setting("metrics_port").parse().unwrap()
    }

    fn end(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + LONGEST;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

/// Runs a command line that is to end by itself.
fn run(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + LONGEST;
    // Pipes hold what such a run prints, but for the help, which is read while it comes.
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut stdout = Vec::new();
        out.read_to_end(&mut stdout).unwrap();
        stdout
    });
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut stderr = Vec::new();
    err.read_to_end(&mut stderr).unwrap();
    Output { status, stdout: reader.join().unwrap(), stderr }
}

fn get(host: &str, port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((host, port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_cannot_be_ends_with_one_and_says_why() {
    let folder = Folder::new("refused");
    let list = folder.file("list.yaml", "rpc_port: [1]\n");
    let wrong = folder.file("wrong.json", r#"{"enable_ha": "true"}"#);
    let other = folder.file("other.toml", "rpc_port = 5\n");
    for (arguments, words) in [
        (&["--enable_gcc"][..], "ERROR: unknown command line flag 'enable_gcc'\n"),
        (&["--rpc_port=x"], "ERROR: illegal value 'x' specified for int32 flag 'rpc_port'\n"),
        (&["--client_ttl="], "ERROR: illegal value '' specified for int64 flag 'client_ttl'\n"),
        (
            &["--default_kv_lease_ttl=-1"],
            "ERROR: illegal value '-1' specified for uint64 flag 'default_kv_lease_ttl'\n",
        ),
        (
            &["--default_kv_lease_ttl=5x"],
            "ERROR: failed validation of new value '5x' for flag 'default_kv_lease_ttl'\n",
        ),
        (&["--rpc_port"], "ERROR: flag '--rpc_port' is missing its argument; flag description: "),
        (&["--fromenv=rpc_port"], "ERROR: FLAGS_rpc_port not found in environment\n"),
        (&["--eviction_ratio=2"], "--eviction_ratio=2 is not between 0 and 1"),
        (&["--memory_allocator=x"], "--memory_allocator=x is neither offset nor cachelib"),
        (&["--enable_ha"], "--enable_ha=1 needs --etcd_endpoints"),
        (&["--rpc_port=99999"], "--rpc_port=99999 is no port"),
        (&["--rpc_address=300.1.1.1"], "--rpc_address=300.1.1.1 is no address"),
        (&["--rpc_port_0_3_13=1"], "--rpc_port_0_3_13=1 cannot be served"),
        (&["--config_path=/nowhere/x.yaml"], "/nowhere/x.yaml"),
        (&["--config_path", &list], "rpc_port is a list"),
        (&["--config_path", &wrong], "enable_ha is not of type bool"),
        (&["--config_path", &other], "neither .yaml nor .json"),
        (&["--data_dir=/proc/nowhere", "--port=0", "--metrics_port=0"], "/proc/nowhere"),
    ] {
        let output = run(command(arguments));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
}

#[test]
fn help_ends_with_one_and_version_with_zero() {
    for flag in ["--help", "-helpfull", "--helpshort", "--helpxml", "--helppackage"] {
        let output = run(command(&[flag]));
        assert_eq!(output.status.code(), Some(1), "{flag}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("rpc_port"), "{flag}");
        assert!(output.stderr.is_empty(), "{flag}");
    }
    let output = run(command(&["--version", "--rpc_port=5"]));
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"mooncake_master"));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for flag in ["rpc_port", "port", "metrics_port", "http_metadata_server_port"] {
        let mut arguments = vec!["--rpc_address=127.0.0.1".to_owned(), "--port=0".to_owned()];
        arguments.push("--metrics_host=127.0.0.1".to_owned());
        arguments.push("--metrics_port=0".to_owned());
        arguments.push("--http_metadata_server_host=127.0.0.1".to_owned());
        arguments.push("--enable_http_metadata_server".to_owned());
        arguments.push("--http_metadata_server_port=0".to_owned());
        arguments.push(format!("--{flag}={port}"));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run(command(&arguments));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{flag}: {text}");
        let last = text.lines().last().unwrap();
        assert!(last.contains(&format!("--{flag}")), "{flag}: {text}");
        assert!(last.contains(&port.to_string()), "{flag}: {text}");
        assert!(!text.contains("started"), "{flag}: {text}");
    }
}

/// The command lines of the guides that our users follow, with ports that are free.
#[test]
fn command_lines_of_guides_work() {
    let folder = Folder::new("guides");
    let config = folder.file("mooncake_config.yaml", "metrics_port: 0\nmax_threads: 2\n");
    let metadata = ["--http_metadata_server_port=0", "--metrics_port", "0"];
    let ratios = ["--eviction_ratio", "0.05", "--eviction_high_watermark_ratio", "0.9"];
    let first = [
        &["--rpc_port", "0", "--port", "0", "--enable_http_metadata_server=true"][..],
        &["--http_metadata_server_host=0.0.0.0"],
        &metadata,
        &["--rpc_thread_num", "8"],
        &ratios,
    ]
    .concat();
    let sixth = [
        &["--rpc_port", "0", "--port", "0", "--rpc_address=::"][..],
        &["--enable_http_metadata_server=true", "--http_metadata_server_host=::"],
        &metadata,
        &["--rpc_thread_num", "8"],
        &ratios,
    ]
    .concat();
    let with_file = format!("--config_path={config}");
    let file = ["--rpc_port=0", "--port=0", &with_file, "--enable_http_metadata_server=1", "-v=1"];
    let file = [&file[..], &["--http_metadata_server_port=0"]].concat();
    let plain = ["--port", "0", "--max_threads", "4", "--metrics_port=0"].to_vec();
    let dashes = ["--rpc-port=0", "--port=0", "--metrics-port=0", "--noenable-metric-reporting"];
    for arguments in [first, sixth.clone(), file, plain, dashes.to_vec()] {
        let running = start(command(&arguments));
        assert!(running.port() > 0, "{arguments:?}");
        assert!(get("127.0.0.1", running.metrics_port(), "/health").ends_with("OK"));
        let address = if arguments == sixth { "::1" } else { "127.0.0.1" };
        TcpStream::connect((address, running.port())).unwrap();
    }
}

#[test]
fn both_families_are_served_on_the_unspecified_address() {
    let arguments = ["--port=0", "--rpc_address=::", "--metrics_port=0"];
    let running = start(command(&arguments));
    for host in ["127.0.0.1", "::1"] {
        TcpStream::connect((host, running.port())).unwrap();
        assert!(get(host, running.metrics_port(), "/health").starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn flags_go_before_the_file_and_unknown_keys_are_mentioned() {
    let folder = Folder::new("file");
    let text = "client_live_ttl_sec: 33\nmetrics_port: 1\nsurprise: 5\nport: 0\n";
    let path = format!("--config_path={}", folder.file("m.yaml", text));
    let running = start(command(&[&path, "--metrics_port=0", "--enable_snapshot"]));
    assert_eq!(running.setting("client_ttl"), "33");
    assert!(running.metrics_port() > 1);
    assert!(running.log.contains("surprise"), "{}", running.log);
    assert!(running.log.contains("no effect: --enable_snapshot"), "{}", running.log);
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in ["-TERM", "-INT"] {
        let mut running = start(command(&["--port=0", "--metrics_port=0"]));
        // A connection that says nothing must not keep it.
        let _silent = TcpStream::connect(("127.0.0.1", running.port())).unwrap();
        running.signal(signal);
        assert!(running.end().success(), "{signal}");
    }
}

#[test]
fn two_masters_do_not_share_a_journal() {
    let folder = Folder::new("journal");
    let data = format!("--data_dir={}", folder.0.display());
    let running = start(command(&["--port=0", "--metrics_port=0", &data]));
    assert_eq!(running.setting("journal"), folder.0.to_str().unwrap());
    let output = run(command(&["--port=0", "--metrics_port=0", &data]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another master"), "{text}");
}

const OWNER: ClientId = ClientId(Uuid { first: 1, second: 2 });

/// A client of the master that has mounted a segment of that name.
fn mounted(master: &Running, name: &str) -> MasterClient {
    let address = format!("127.0.0.1:{}", master.port());
    let client = MasterClient::new(ClientOptions::new(address)).unwrap();
    let segment = Segment {
        id: SegmentId(Uuid { first: 3, second: 4 }),
        name: name.to_owned(),
        base: 1 << 40,
        size: 64 << 20,
        endpoint: "127.0.0.1:1".to_owned(),
        protocol: "tcp".to_owned(),
    };
    let Reply::Done(Ok(())) = call(&client, &Call::Mount(segment, OWNER)) else { panic!() };
    client
}

fn call(client: &MasterClient, call: &Call) -> Reply {
    client.call(call, Deadline::within(LONGEST)).unwrap()
}

fn put_start(client: &MasterClient, key: &[u8]) -> Reply {
    let item = PutItem::new(key.to_vec(), vec![100]);
    call(client, &Call::PutStart(Some(OWNER), item, PutOptions::default()))
}

#[test]
fn a_put_that_was_granted_may_end_before_the_master_does() {
    let mut running = start(command(&["--port=0", "--metrics_port=0"]));
    let client = mounted(&running, "h");
    assert!(matches!(put_start(&client, b"early"), Reply::Granted(Ok(_))));
    running.signal("-TERM");
    let end = Instant::now() + LONGEST;
    // Until the signal has arrived puts are granted, and these must end, too.
    let mut late = Vec::new();
    while let Reply::Granted(Ok(_)) = put_start(&client, &late.len().to_le_bytes()) {
        late.push(late.len().to_le_bytes().to_vec());
        assert!(Instant::now() < end, "it goes on granting");
    }
    assert!(running.child.try_wait().unwrap().is_none(), "it waits");
    late.push(b"early".to_vec());
    for key in late {
        let ended = call(&client, &Call::PutEnd(Some(OWNER), key, ReplicaKind::Memory, 0));
        assert!(matches!(ended, Reply::Done(Ok(()))), "{ended:?}");
    }
    assert!(running.end().success());
}

#[test]
fn a_put_that_never_ends_does_not_keep_it() {
    let mut running = start(command(&["--port=0", "--metrics_port=0"]));
    let client = mounted(&running, "h");
    assert!(matches!(put_start(&client, b"k"), Reply::Granted(Ok(_))));
    running.signal("-TERM");
    assert!(running.end().success());
}

/// Status of a request to the metadata server.
fn metadata(port: u16, method: &str, key: &str) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let body = if method == "PUT" { "{}" } else { "" };
    write!(
        stream,
        "{method} /metadata?key={key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn metadata_of_a_client_that_is_gone_is_removed_where_that_is_asked_for() {
    const KEYS: [&str; 3] =
        ["mooncake%2Fram%2Fh%3A1", "mooncake%2Frpc_meta%2Fh%3A1", "mooncake%2Fram%2Fh%3A2"];
    for is_asked_for in [true, false] {
        let flag = format!("--enable_metadata_cleanup_on_timeout={is_asked_for}");
        let mut running = start(command(&[
            "--port=0",
            "--metrics_port=0",
            "--client_ttl=1",
            "--enable_http_metadata_server",
            "--http_metadata_server_port=0",
            &flag,
        ]));
        // Of the port that the system chose, the line behind the start line tells.
        let port = running.metadata_port();
        for key in KEYS {
            assert_eq!(metadata(port, "PUT", key), 200);
        }
        let client = mounted(&running, "h:1");
        let gone = "mooncake_master_expired_clients_total 1";
        let end = Instant::now() + LONGEST;
        while !get("127.0.0.1", running.metrics_port(), "/metrics").contains(gone) {
            assert!(Instant::now() < end, "the client is not given up");
            std::thread::sleep(Duration::from_millis(20));
        }
        let expected = if is_asked_for { 404 } else { 200 };
        for key in &KEYS[..2] {
            while metadata(port, "GET", key) != expected {
                assert!(Instant::now() < end, "{key} is still there");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert_eq!(metadata(port, "GET", KEYS[2]), 200, "of another one");
        client.close();
    }
}
