//! One connection to a redis service: commands out, replies in, bounded in time and bytes.
//!
//! Bytes of commands and replies are the `redis` crate's. The socket is ours, because a reply must
//! not take longer than the caller's deadline, nor more memory than a document may have, whatever
//! the other side sends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use redis::{cmd, Parser, Value};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::address::Family;
use crate::net::{resolve, tls};
use crate::time::Deadline;

use super::address::Address;

/// What a reply may have beyond a document.
const FRAME_BYTES_MAX: u64 = 4096;

/// First bytes of replies that hold others. None of the commands here is answered so, and many
/// small replies take far more memory than bytes.
const AGGREGATES: &[u8] = b"*%~>|";

/// A connection that is logged in.
pub(super) struct Connection {
    stream: Stream,
}

enum Stream {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Connection {
    pub(super) fn open(address: &Address, end: Deadline) -> Result<Connection> {
        let socket = Timed { socket: connect(address, end)?, end };
        let stream = match &address.tls {
            None => Stream::Plain(socket),
            Some(files) => {
                let config = tls::client_config(files.load()?)?;
                let name = ServerName::try_from(address.host.clone()).map_err(|error| {
                    let text = "the host of the service is no name for TLS";
                    Error::new(ErrorKind::InvalidAddress, text).caused_by(error)
                })?;
                let session = ClientConnection::new(config, name).map_err(|error| {
                    let text = "TLS with the metadata service failed";
                    Error::new(ErrorKind::MetadataUnavailable, text).caused_by(error)
                })?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        };
        let mut connection = Connection { stream };
        connection.log_in(address, end)?;
        Ok(connection)
    }

    fn log_in(&mut self, address: &Address, end: Deadline) -> Result<()> {
        if !address.password.is_empty() {
            let mut auth = cmd("AUTH");
            if !address.username.is_empty() {
                auth.arg(&address.username);
            }
            auth.arg(&address.password);
            let text = "redis does not accept user and password";
            self.expect_ok(&auth.get_packed_command(), text, end)?;
        }
        if address.database != 0 {
            let text = "redis does not have this database";
            let select = cmd("SELECT").arg(address.database).get_packed_command();
            self.expect_ok(&select, text, end)
                .map_err(|error| error.with("database", address.database))?;
        }
        Ok(())
    }

    fn expect_ok(&mut self, command: &[u8], refusal: &str, end: Deadline) -> Result<()> {
        match self.exchange(command, end)? {
            Value::Okay => Ok(()),
            // The reply may repeat the user's name, but no password.
            Value::ServerError(error) => Err(Error::new(ErrorKind::Rejected, refusal)
                .with("reply", crate::json::quote(&error.to_string()))),
            _ => Err(malformed()),
        }
    }

    /// Sends one packed command and reads one reply.
    pub(super) fn exchange(&mut self, command: &[u8], end: Deadline) -> Result<Value> {
        self.stream.set_end(end);
        let sent = self.stream.write_all(command).and_then(|()| self.stream.flush());
        sent.map_err(describe)?;
        let mut first = [0];
        self.stream.read_exact(&mut first).map_err(describe)?;
        if AGGREGATES.contains(&first[0]) {
            return Err(malformed());
        }
        let mut rest = (&mut self.stream).take(limits::DOCUMENT_BYTES_MAX as u64 + FRAME_BYTES_MAX);
        let reply = Parser::new().parse_value(first.chain(&mut rest));
        let left = rest.limit();
        reply.map_err(|error| {
            if left == 0 {
                let text = "the reply of the metadata service is too long";
                return Error::new(ErrorKind::MetadataMalformed, text);
            }
            if error.is_timeout() {
                return describe(std::io::ErrorKind::TimedOut.into());
            }
            if error.is_io_error() {
                let text = "the connection to the metadata service broke";
                return Error::new(ErrorKind::ConnectionLost, text).caused_by(error);
            }
            malformed().caused_by(error)
        })
    }
}

fn malformed() -> Error {
    Error::new(ErrorKind::MetadataMalformed, "the service does not answer like redis")
}

fn describe(error: std::io::Error) -> Error {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match error.kind() {
        TimedOut | WouldBlock => {
            Error::new(ErrorKind::Timeout, "the metadata service did not answer")
        }
        _ => Error::io(
            ErrorKind::ConnectionLost,
            "the connection to the metadata service broke",
            error,
        ),
    }
}

fn connect(address: &Address, end: Deadline) -> Result<TcpStream> {
    let left = end.remaining(Instant::now());
    let found = resolve::resolve_within(&address.host, address.port, Family::Any, left)?;
    let mut last = None;
    for (index, socket_address) in found.iter().enumerate() {
        let share = end.remaining(Instant::now()) / (found.len() - index) as u32;
        match connect_one(socket_address, share) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error.with("address", socket_address)),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "the name has no address")))
}

fn connect_one(address: &SocketAddr, timeout: Duration) -> Result<TcpStream> {
    if timeout.is_zero() {
        return Err(Error::new(ErrorKind::Timeout, "no time left to connect"));
    }
    let stream = TcpStream::connect_timeout(address, timeout)
        .map_err(|error| Error::io(ErrorKind::Unreachable, "cannot connect", error))?;
    let failed = |error| Error::io(ErrorKind::Resource, "cannot set a socket option", error);
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

impl Stream {
    fn set_end(&mut self, end: Deadline) {
        match self {
            Stream::Plain(timed) => timed.end = end,
            Stream::Tls(tls) => tls.sock.end = end,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(timed) => timed.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(timed) => timed.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Stream::Plain(timed) => timed.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// A socket on which no call takes longer than until `end`: TLS makes several of them for one read.
struct Timed {
    socket: TcpStream,
    end: Deadline,
}

impl Timed {
    fn left(&self) -> std::io::Result<Option<Duration>> {
        match self.end.remaining(Instant::now()) {
            Duration::ZERO => Err(std::io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush()
    }
}
