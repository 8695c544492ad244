//! `P2PHANDSHAKE`: names are addresses, and peers exchange descriptors directly.
//!
//! The client side of the handshake plane; the serving side is `handshake_server.rs`. Every call
//! is one connection with one request and one reply, bounded by its deadline.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::descriptor::{Dialect, PeerAddress, SegmentDescriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::net::address::{self, Family};
use crate::net::ending::Ending;
use crate::net::handshake::{encode_frame, Frame, FrameDecoder, Framing, MessageType};
use crate::net::resolve::resolve_before;
use crate::net::vectored;
use crate::time::Deadline;

use super::document::RpcMeta;
use super::Directory;

/// How to talk to handshake planes.
#[derive(Clone, Debug)]
pub struct HandshakeClient {
    /// Address family of names.
    pub family: Family,
    /// Longest message, both ways.
    pub bytes_max: usize,
    /// Longest connect.
    pub connect_timeout: Duration,
    /// Port of names that have none.
    pub default_port: u16,
    /// Once it has begun, conversations end early: nobody waits for their outcome any more.
    pub is_over: Arc<Ending>,
}

impl HandshakeClient {
    /// Sends one message and returns the payload of the reply.
    pub fn exchange(
        &self,
        location: &RpcMeta,
        message_type: MessageType,
        json_line: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>> {
        let peer = address::join_host_port(&location.ip_or_host_name, location.rpc_port);
        let add_place =
            |error: Error| error.with("peer", &peer).with("operation", operation(message_type));
        let request = encode_frame(message_type, json_line);
        if request.len() > self.bytes_max {
            return Err(add_place(
                Error::new(ErrorKind::LimitReached, "the handshake message is too long")
                    .with("length_bytes", request.len())
                    .with("limit", self.bytes_max),
            ));
        }
        let mut stream = self.connect(location, deadline).map_err(add_place)?;
        let sent = self.send(&mut stream, &request, deadline);
        let frame = self.receive(&mut stream, deadline);
        // A peer that refuses may close before it has read everything: its reply, if there is
        // one, says more than the failed send.
        let frame = match (frame, sent) {
            (Ok(frame), _) => frame,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(add_place(error)),
        };
        match frame.framing {
            Framing::Typed(reply_type) if reply_type == message_type => Ok(frame.payload),
            other => Err(add_place(Error::new(
                ErrorKind::Protocol,
                format!("the reply has another type: {other:?}"),
            ))),
        }
    }

    fn connect(&self, location: &RpcMeta, deadline: Deadline) -> Result<TcpStream> {
        let mut last = None;
        let left = || deadline.remaining(Instant::now()).min(self.connect_timeout);
        let addresses = resolve_before(
            &location.ip_or_host_name,
            location.rpc_port,
            self.family,
            left(),
            &self.is_over,
        )?;
        for socket_address in addresses {
            if left().is_zero() {
                break;
            }
            match self.connect_one(socket_address, left()) {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == ErrorKind::Shutdown => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(error) => error,
            None => Error::new(ErrorKind::Timeout, "no time left to connect"),
        })
    }

    /// The connection does not block.
    fn connect_one(&self, address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
        let failed = |error| {
            Error::io(ErrorKind::Unreachable, "cannot connect to the handshake port", error)
                .with("address", address)
        };
        let until = Instant::now() + timeout;
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        match socket.connect(&address.into()) {
            Ok(()) => return Ok(socket.into()),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(failed(error)),
        }
        loop {
            self.is_over.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if self.is_over.wait(socket.as_fd(), true, left).map_err(failed)? {
                return match socket.take_error().map_err(failed)? {
                    Some(error) => Err(failed(error)),
                    None => Ok(socket.into()),
                };
            }
            if left.is_zero() {
                return Err(failed(std::io::ErrorKind::TimedOut.into()));
            }
        }
    }

    fn send(&self, stream: &mut TcpStream, request: &[u8], deadline: Deadline) -> Result<()> {
        let broken = |error| {
            Error::io(ErrorKind::ConnectionLost, "the handshake request was not taken", error)
        };
        let mut rest = request;
        while !rest.is_empty() {
            match vectored::send(stream.as_fd(), rest) {
                Ok(0) => return Err(broken(std::io::ErrorKind::WriteZero.into())),
                Ok(sent) => rest = &rest[sent..],
                Err(error) if is_transient(&error) => self.wait(stream, true, deadline)?,
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }

    fn receive(&self, stream: &mut TcpStream, deadline: Deadline) -> Result<Frame> {
        let broken =
            |error| Error::io(ErrorKind::ConnectionLost, "the handshake reply broke off", error);
        let mut decoder = FrameDecoder::new(self.bytes_max);
        let mut chunk = [0u8; 16 * 1024];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => {
                    return Err(Error::new(
                        ErrorKind::Rejected,
                        "the peer closed the handshake without a reply",
                    ))
                }
                Ok(received) => {
                    if let Some(frame) = decoder.feed(&chunk[..received])? {
                        return Ok(frame);
                    }
                    // A peer that never stops sending is not waited for either.
                    self.wait(stream, false, deadline)?;
                }
                Err(error) if is_transient(&error) => self.wait(stream, false, deadline)?,
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// Sleeps until the connection is ready; an error once nobody waits for that any more.
    fn wait(&self, stream: &TcpStream, write: bool, deadline: Deadline) -> Result<()> {
        self.is_over.check()?;
        let left = deadline.remaining(Instant::now());
        if left.is_zero() {
            return Err(Error::new(
                ErrorKind::Timeout,
                "the peer did not answer the handshake in time",
            ));
        }
        let failed = |error| Error::io(ErrorKind::Resource, "cannot wait for a socket", error);
        self.is_over.wait(stream.as_fd(), write, left).map_err(failed)?;
        Ok(())
    }
}

fn operation(message_type: MessageType) -> &'static str {
    match message_type {
        MessageType::Connection => "handshake",
        MessageType::Metadata => "fetch descriptor",
        MessageType::Notify => "notify",
        MessageType::Probe => "probe",
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock)
}

/// Where the present own descriptor comes from; built on demand, so that registering many buffers
/// one by one does not build as many descriptors.
pub trait OwnSegment: Send + Sync {
    /// The descriptor, if the engine is still there.
    fn descriptor(&self) -> Option<Arc<SegmentDescriptor>>;
}

/// The directory whose names are `host:port` of handshake planes.
pub struct P2pDirectory {
    client: HandshakeClient,
    own: Weak<dyn OwnSegment>,
}

impl P2pDirectory {
    /// `own` is sent along with every request.
    pub fn new(client: HandshakeClient, own: Weak<dyn OwnSegment>) -> Self {
        P2pDirectory { client, own }
    }

    /// Upstream sends its own descriptor as the request, and receivers ignore it. One that does
    /// not fit into a message is sent without its buffers, so that its size blocks nothing.
    fn request(&self) -> Vec<u8> {
        let Some(own) = self.own.upgrade().and_then(|own| own.descriptor()) else {
            return b"{}\n".to_vec();
        };
        let line = own.encode_line(Dialect::V0_3_13);
        if line.len() < self.client.bytes_max {
            return line;
        }
        let bare = SegmentDescriptor { buffers: Vec::new(), native: None, ..(*own).clone() };
        bare.encode_line(Dialect::V0_3_13)
    }
}

impl Directory for P2pDirectory {
    fn scheme(&self) -> &'static str {
        "P2PHANDSHAKE"
    }

    fn is_passive(&self) -> bool {
        true
    }

    fn publish(&self, _: &SegmentDescriptor, _: &RpcMeta, _: Deadline) -> Result<()> {
        Ok(())
    }

    fn withdraw(&self, _: &str, _: Deadline) -> Result<()> {
        Ok(())
    }

    fn fetch(&self, name: &str, deadline: Deadline) -> Result<PeerAddress> {
        let location = self.locate(name, deadline)?;
        let reply =
            self.client.exchange(&location, MessageType::Metadata, &self.request(), deadline)?;
        if reply.trim_ascii() == b"null" {
            return Err(Error::new(ErrorKind::SegmentNotFound, "the peer publishes no segment")
                .with("segment", name));
        }
        let descriptor =
            SegmentDescriptor::decode(&reply).map_err(|error| error.with("segment", name))?;
        // The host we have just reached is a better address than the one the peer believes in:
        // behind NAT or a proxy the latter leads astray, and a forged one leads anywhere.
        Ok(PeerAddress { name: name.to_owned(), descriptor, host: location.ip_or_host_name })
    }

    fn locate(&self, name: &str, _: Deadline) -> Result<RpcMeta> {
        let parsed = address::parse_host_port(name, self.client.default_port)?;
        Ok(RpcMeta { ip_or_host_name: parsed.host, rpc_port: parsed.port })
    }
}
