//! What our HTTP metadata server answers, request by request, and what upstream's answers.

use std::io::{Read, Write};
use std::process::Command;

use mooncake::metadata::http_server::{MetadataServer, ServerOptions};

use crate::servers;
use crate::skip;
use crate::wire::{connect, request, request_with};

const PATH: &str = "/metadata?key=";

/// The part on which both upstream clients rely; true of every server.
fn serves_both_upstream_clients(port: u16) {
    let ask = |method, key: &str, body: &str| {
        let answer = request(port, method, &format!("{PATH}{key}"), body.as_bytes());
        (answer.status, String::from_utf8(answer.body).unwrap())
    };
    let answer = |status, text: &str| (status, text.to_owned());
    let (ram, meta) = ("mooncake%2Fram%2Fx%3A1", "mooncake%2Frpc_meta%2Fx%3A1");
    assert_eq!(ask("GET", ram, ""), answer(404, "metadata not found"));
    assert_eq!(ask("PUT", ram, "{\"a\":1}"), answer(200, "metadata updated"));
    assert_eq!(ask("GET", ram, ""), answer(200, "{\"a\":1}"));
    assert_eq!(ask("GET", "mooncake/ram/x:1", ""), answer(200, "{\"a\":1}"));
    assert_eq!(ask("PUT", ram, "not json"), answer(200, "metadata updated"));
    assert_eq!(ask("GET", ram, ""), answer(200, "not json"));
    assert_eq!(ask("PUT", meta, "1"), answer(200, "metadata updated"));
    assert_eq!(ask("PUT", meta, "2"), answer(400, "Duplicate rpc_meta key not allowed"));
    assert_eq!(ask("GET", meta, ""), answer(200, "1"));
    for key in [ram, meta] {
        assert_eq!(ask("DELETE", key, ""), answer(200, "metadata deleted"));
        assert_eq!(ask("DELETE", key, ""), answer(404, "metadata not found"));
    }
    assert_eq!(ask("POST", ram, "x").0, 405);
}

#[test]
fn upstream_servers() {
    for version in ["0.3.7.post2", "0.3.13.post1"] {
        let Some(server) = servers::upstream_http(version) else { continue };
        serves_both_upstream_clients(server.port);
    }
}

#[test]
fn our_server() {
    let server = servers::own_http(&[]);
    let port = server.port;
    serves_both_upstream_clients(port);
    let ask = |method, target: &str, body: &[u8]| request(port, method, target, body);
    let status = |method, target: &str, body: &[u8]| ask(method, target, body).status;
    // A client that repeats itself after a lost reply is told that all is well.
    assert_eq!(status("PUT", "/metadata?key=rpc_meta", b"same"), 200);
    let again = ask("PUT", "/metadata?key=rpc_meta", b"same");
    assert_eq!((again.status, &again.body[..]), (200, &b"metadata unchanged"[..]));
    for method in ["GET", "PUT", "DELETE"] {
        for target in ["/metadata", "/metadata?", "/metadata?key=", "/metadata?name=x"] {
            assert_eq!(status(method, target, b""), 400, "{method} {target}");
        }
        assert_eq!(status(method, "/other?key=x", b""), 404);
    }
    assert_eq!(ask("GET", "/health", b"").body, b"OK");
    let head = ask("GET", "/metadata?key=rpc_meta", b"").head.to_ascii_lowercase();
    assert!(head.contains("content-type: application/json"), "{head}");
    // Bounds.
    let long_key = format!("/metadata?key={}", "k".repeat(5000));
    assert_eq!(status("PUT", &long_key, b"x"), 414);
    assert_eq!(status("GET", &format!("/metadata?key={}", "k".repeat(100_000)), b""), 414);
    let huge = "Content-Length: 99999999999\r\n";
    let mut stream = connect(port);
    let text = format!("PUT /metadata?key=huge HTTP/1.1\r\nHost: x\r\n{huge}\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    let documents = vec![b'd'; 16 << 20];
    assert_eq!(status("PUT", "/metadata?key=large", &documents), 200);
    assert_eq!(ask("GET", "/metadata?key=large", b"").body.len(), documents.len());
    let one_more = [&documents[..], b"d"].concat();
    assert_eq!(status("PUT", "/metadata?key=large", &one_more), 413);
    let expecting = request_with(port, "PUT", "/metadata?key=e", "Expect: 100-continue\r\n", b"e");
    assert!([100, 200].contains(&expecting.status));
    // Garbage closes its own connection only.
    for garbage in [&b"\0\0\0\0\r\n\r\n"[..], b"GET\r\n\r\n", b"GET /metadata HTTP/9.9\r\n\r\n"] {
        let mut stream = connect(port);
        stream.write_all(garbage).unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 4"), "{reply:?}");
    }
    assert_eq!(status("GET", "/health", b""), 200);
}

/// As a program embeds it: a socket of its own, a handle, an end that frees the port.
#[test]
fn the_library_part() {
    let bind = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port));
    let mut server = MetadataServer::start(bind(0).unwrap(), ServerOptions::default()).unwrap();
    let port = server.address().port();
    assert_eq!(server.url(), format!("http://127.0.0.1:{port}/metadata"));
    serves_both_upstream_clients(port);
    // Two in one process share nothing.
    let other = MetadataServer::start(bind(0).unwrap(), ServerOptions::default()).unwrap();
    assert_eq!(request(port, "PUT", "/metadata?key=a", b"1").status, 200);
    assert_eq!(request(other.address().port(), "GET", "/metadata?key=a", b"").status, 404);
    server.stop();
    server.stop();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    drop(bind(port).unwrap());

    // With a file, which is written at the end and read at the start.
    let folder = servers::Folder::new();
    let file = folder.path().join("documents");
    let options = || ServerOptions { file: Some(file.clone()) };
    for (put, get) in [(&b"one"[..], None), (b"two", Some(&b"one"[..]))] {
        let server = MetadataServer::start(bind(0).unwrap(), options()).unwrap();
        let port = server.address().port();
        let found = request(port, "GET", "/metadata?key=kept", b"");
        assert_eq!((found.status == 200).then_some(&found.body[..]), get);
        assert_eq!(request(port, "PUT", "/metadata?key=kept", put).status, 200);
    }
    std::fs::write(&file, "nonsense").unwrap();
    let Err(error) = MetadataServer::start(bind(0).unwrap(), options()) else {
        panic!("a file of nonsense was accepted")
    };
    assert_eq!(error.kind(), mooncake::error::ErrorKind::MetadataMalformed, "{error}");
    assert_eq!(error.context("file"), Some(file.display().to_string().as_str()), "{error}");
}

/// `--host ::` as the guides write it: both families; an address alone: only that one. In a network
/// of its own, because some of these listen on every address of the host.
#[test]
fn hosts_to_listen_on() {
    let ran = std::thread::spawn(|| {
        // SAFETY: changes the network of this thread and its children only; it ends with the test.
        let is_alone = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        let is_up = |interface| {
            let command = Command::new("ip").args(["link", "set", interface, "up"]).status();
            command.is_ok_and(|status| status.success())
        };
        if !is_alone || !is_up("lo") {
            return false;
        }
        let (v4, v6) = ("127.0.0.1", "[::1]");
        let has_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
        for (flags, serves, refuses) in [
            // The defaults are upstream's.
            (&[][..], &[v4][..], &[v6][..]),
            (&["--host", "0.0.0.0"], &[v4], &[v6]),
            (&["--host", "127.0.0.1"], &[v4], &["127.0.0.2"]),
            (&["--host", "::"], &[v4, v6], &[]),
            (&["--host=[::]"], &[v4, v6], &[]),
            (&["--host", "::1"], &[v6], &[v4]),
        ] {
            if has_v6 || !serves.contains(&v6) {
                listens(flags, serves, refuses);
            }
        }
        true
    });
    if !ran.join().unwrap() {
        skip::skipped("no network namespace for this user, or no ip");
    }
}

fn listens(flags: &[&str], serves: &[&str], refuses: &[&str]) {
    const PORT: u16 = 8080;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mooncake_http_metadata_server"));
    command.args(flags).stderr(std::process::Stdio::null());
    servers::die_with_parent(&mut command);
    let mut child = command.spawn().unwrap();
    let connects = |host: &&str| std::net::TcpStream::connect(format!("{host}:{PORT}")).is_ok();
    crate::lifetime::eventually(&format!("{flags:?}"), || serves.iter().all(connects));
    assert!(!refuses.iter().any(connects), "{flags:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn five_hundred_silent_clients_block_nobody() {
    let server = servers::own_http(&[]);
    let silent: Vec<_> = (0..500).map(|_| connect(server.port)).collect();
    assert_eq!(request(server.port, "PUT", "/metadata?key=a", b"1").status, 200);
    assert_eq!(request(server.port, "GET", "/metadata?key=a", b"").body, b"1");
    drop(silent);
}

#[test]
fn a_file_keeps_the_documents() {
    let folder = servers::Folder::new();
    let file = folder.path().join("documents").display().to_string();
    let server = servers::own_http(&["--file", &file]);
    assert_eq!(request(server.port, "PUT", "/metadata?key=a%20b", b"1 2\n").status, 200);
    assert_eq!(request(server.port, "PUT", "/metadata?key=gone", b"1").status, 200);
    assert_eq!(request(server.port, "DELETE", "/metadata?key=gone", b"").status, 200);
    let end = std::time::Instant::now() + crate::stores::PATIENCE;
    while !std::fs::read_to_string(&file)
        .is_ok_and(|text| !text.contains("gone") && !text.is_empty())
    {
        assert!(std::time::Instant::now() < end, "the file is not written");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(server);
    let server = servers::own_http(&["--file", &file]);
    assert_eq!(request(server.port, "GET", "/metadata?key=a%20b", b"").body, b"1 2\n");
    assert_eq!(request(server.port, "GET", "/metadata?key=gone", b"").status, 404);
}

#[test]
fn the_program_ends_in_order_and_refuses_what_it_cannot_do() {
    let program = env!("CARGO_BIN_EXE_mooncake_http_metadata_server");
    let port = servers::free_port().to_string();
    let folder = servers::Folder::new();
    let file = folder.path().join("documents");
    let mut command = Command::new(program);
    command.args(["--port", &port, "--host", "127.0.0.1", "--log-level", "DEBUG"]);
    command.arg("--file").arg(&file).stderr(std::process::Stdio::null());
    servers::die_with_parent(&mut command);
    let mut child = command.spawn().unwrap();
    let number: u16 = port.parse().unwrap();
    let end = std::time::Instant::now() + crate::stores::PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", number)).is_err() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(request(number, "PUT", "/metadata?key=last", b"word").status, 200);
    // The port is taken.
    let second = Command::new(program).args(["--port", &port, "--host", "127.0.0.1"]).output();
    let second = second.unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains(&port));
    // SAFETY: the pid is that of our own child, which has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "last word\n");

    std::fs::write(&file, "nonsense").unwrap();
    let refused = Command::new(program).args(["--port", "0"]).arg("--file").arg(&file).output();
    assert_eq!(refused.unwrap().status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "nonsense");
    let refused = Command::new(program).arg("--nonsense").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
