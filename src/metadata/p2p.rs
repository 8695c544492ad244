//! `P2PHANDSHAKE`: names are addresses, and peers exchange descriptors directly.
//!
//! The client side of the handshake plane; the serving side is `handshake_server.rs`. Every call
//! is one connection with one request and one reply, bounded by its deadline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::descriptor::{Dialect, PeerAddress, SegmentDescriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::net::address::{self, Family};
use crate::net::handshake::{encode_frame, Frame, FrameDecoder, Framing, MessageType};
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
    /// Once set, conversations end early: nobody waits for their outcome any more.
    pub is_over: Arc<AtomicBool>,
}

/// How soon a conversation notices that it is over.
const STEP: Duration = Duration::from_millis(100);

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
        let addresses =
            address::resolve(&location.ip_or_host_name, location.rpc_port, self.family)?;
        for socket_address in addresses {
            let left = deadline.remaining(Instant::now()).min(self.connect_timeout);
            if left.is_zero() || self.is_over.load(Ordering::Acquire) {
                break;
            }
            match connect_one(&socket_address, left) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(error) => error,
            None => Error::new(ErrorKind::Timeout, "no time left to connect"),
        })
    }

    fn send(&self, stream: &mut TcpStream, request: &[u8], deadline: Deadline) -> Result<()> {
        let broken = |error| {
            Error::io(ErrorKind::ConnectionLost, "the handshake request was not taken", error)
        };
        let mut rest = request;
        while !rest.is_empty() {
            self.arm(stream, deadline)?;
            match stream.write(rest) {
                Ok(0) => return Err(broken(std::io::ErrorKind::WriteZero.into())),
                Ok(sent) => rest = &rest[sent..],
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }

    fn receive(&self, stream: &mut TcpStream, deadline: Deadline) -> Result<Frame> {
        let mut decoder = FrameDecoder::new(self.bytes_max);
        let mut chunk = [0u8; 16 * 1024];
        loop {
            self.arm(stream, deadline)?;
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
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    return Err(Error::io(
                        ErrorKind::ConnectionLost,
                        "the handshake reply broke off",
                        error,
                    ))
                }
            }
        }
    }

    /// Gives the next blocking call the time that is left.
    fn arm(&self, stream: &TcpStream, deadline: Deadline) -> Result<()> {
        if self.is_over.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Shutdown, "the engine is being destroyed"));
        }
        let left = deadline.remaining(Instant::now());
        if left.is_zero() {
            return Err(Error::new(
                ErrorKind::Timeout,
                "the peer did not answer the handshake in time",
            ));
        }
        let failed = |error| Error::io(ErrorKind::Resource, "cannot set a socket timeout", error);
        let left = left.min(STEP);
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        stream.set_write_timeout(Some(left)).map_err(failed)
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

fn connect_one(socket_address: &SocketAddr, timeout: Duration) -> Result<TcpStream> {
    TcpStream::connect_timeout(socket_address, timeout).map_err(|error| {
        Error::io(ErrorKind::Unreachable, "cannot connect to the handshake port", error)
            .with("address", socket_address)
    })
}

fn is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
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
