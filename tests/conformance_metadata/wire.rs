//! Bare sockets: requests written by hand, and services that answer whatever a test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::stores::PATIENCE;

/// An answer of an HTTP server.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// One request on a connection of its own.
pub(crate) fn request(port: u16, method: &str, target: &str, body: &[u8]) -> Answer {
    request_with(port, method, target, "", body)
}

/// The same with further header lines, each ended by `\r\n`.
pub(crate) fn request_with(
    port: u16,
    method: &str,
    target: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let mut stream = connect(port);
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: \
         {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses may not read all of it.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn parse(bytes: &[u8]) -> Answer {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("no head");
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: bytes[at + 4..].to_vec() }
}

/// A request as it arrived, and its body.
pub(crate) struct Recorded {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Recorded {
    /// Reads a request in one piece, as the vectors keep them.
    pub(crate) fn parse(bytes: &[u8]) -> Recorded {
        let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("no head");
        let head = std::str::from_utf8(&bytes[..at]).unwrap();
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Recorded { line, headers, body: bytes[at + 4..].to_vec() }
    }
}

/// A service that accepts connections, one after the other, and does with each what the test says.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn new(serve: impl Fn(TcpStream) + Send + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                if is_farewell(&mut stream) {
                    return;
                }
                serve(stream);
            }
        });
        Fake { address, thread: Some(thread) }
    }

    /// A service that gives the same reply to every request and closes.
    pub(crate) fn replying(reply: &'static [u8]) -> Fake {
        Fake::new(move |mut stream| {
            let mut some = [0; 4096];
            let _ = stream.read(&mut some);
            let _ = stream.write_all(reply);
        })
    }

    /// An HTTP service that records requests and answers each with status 200 and `body`, or 404
    /// where it has none.
    pub(crate) fn recording(body: Option<&'static str>) -> (Fake, Receiver<Recorded>) {
        let (sender, receiver) = channel();
        let fake = Fake::new(move |mut stream| {
            let Some(bytes) = read_request(&mut stream) else { return };
            let _ = sender.send(Recorded::parse(&bytes));
            let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
            let body = body.unwrap_or("metadata not found");
            let reply = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(reply.as_bytes());
        });
        (fake, receiver)
    }
}

const FAREWELL: &[u8] = b"\0end";

fn is_farewell(stream: &mut TcpStream) -> bool {
    let mut first = [0; 4];
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let found = stream.peek(&mut first);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    matches!(found, Ok(4)) && first == FAREWELL
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let _ = stream.write_all(FAREWELL);
        }
        let _ = self.thread.take().unwrap().join();
    }
}

fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let received = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..received]);
        let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..at]).to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |digits| digits.trim().parse().unwrap());
        if bytes.len() >= at + 4 + length {
            return Some(bytes);
        }
    }
}
