//! The serving side of the handshake plane.
//!
//! One thread serves all conversations without blocking: each has a deadline and at most one
//! message of memory, so a silent or hostile client costs others nothing. A conversation is one
//! request, one reply, then the client closes. Threads: `mc-handshake` only.

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::epoll::{Epoll, Event, Interest};
use crate::net::handshake::{
    check_json, encode_reply, Frame, FrameDecoder, Framing, MessageType, NotifyMessage, ProbeReply,
};
use crate::net::thread::spawn;
use crate::net::vectored;
use crate::net::wake::EventFd;

/// What the engine answers.
pub trait HandshakeHandler: Send + Sync {
    /// The own descriptor as a JSON line, or `null`.
    fn descriptor_line(&self) -> Vec<u8>;
    /// Takes a notification; false refuses it.
    fn notify(&self, message: NotifyMessage) -> bool;
    /// Answers an RDMA connection request with a JSON line.
    fn connection_line(&self, payload: &[u8]) -> Vec<u8>;
}

const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

/// The running server; stops when dropped.
pub struct HandshakeServer {
    stop: Arc<EventFd>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HandshakeServer {
    /// Serves on `listener`, which must be non-blocking.
    pub fn start(
        listener: TcpListener,
        handler: Arc<dyn HandshakeHandler>,
        bytes_max: usize,
    ) -> Result<HandshakeServer> {
        let stop = Arc::new(EventFd::new()?);
        let stopping = Arc::new(AtomicBool::new(false));
        let epoll = Epoll::new()?;
        epoll.add(listener.as_fd(), LISTENER, Interest::READ)?;
        epoll.add(stop.as_fd(), STOP, Interest::READ)?;
        let mut serving = Serving {
            epoll,
            listener,
            handler,
            bytes_max,
            conversations: HashMap::new(),
            next_token: 0,
            stopping: Arc::clone(&stopping),
        };
        let thread = spawn("mc-handshake", move || serving.run())?;
        Ok(HandshakeServer { stop, stopping, thread: Some(thread) })
    }

    /// Ends the thread; conversations in progress are closed.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for HandshakeServer {
    fn drop(&mut self) {
        self.stop();
    }
}

enum Phase {
    Receiving(FrameDecoder),
    Replying { bytes: Vec<u8>, sent: usize },
    // The reply is out and our side is shut down; waiting for the client to close, so that the
    // kernel does not reset the connection before the reply is read.
    Closing,
}

struct Conversation {
    stream: TcpStream,
    phase: Phase,
    deadline: Instant,
    // Order of arrival, to find the oldest.
    token: u64,
}

struct Serving {
    epoll: Epoll,
    listener: TcpListener,
    handler: Arc<dyn HandshakeHandler>,
    bytes_max: usize,
    conversations: HashMap<u64, Conversation>,
    next_token: u64,
    stopping: Arc<AtomicBool>,
}

impl Serving {
    fn run(&mut self) {
        let mut events = Vec::new();
        while !self.stopping.load(Ordering::Acquire) {
            if self.epoll.wait(&mut events, self.next_timeout()).is_err() {
                // Never happens with a valid epoll; a pause keeps a defect from burning a core.
                std::thread::sleep(Duration::from_millis(100));
            }
            for event in &events {
                match event.token {
                    LISTENER => self.accept(),
                    STOP => {}
                    _ => self.step(event),
                }
            }
            self.expire(Instant::now());
        }
    }

    fn next_timeout(&self) -> Option<Duration> {
        let next = self.conversations.values().map(|c| c.deadline).min()?;
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn accept(&mut self) {
        // Bounded, so that a flood of new clients cannot starve the ones being served.
        for _ in 0..64 {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors: the oldest conversation makes room; without one, wait.
                    log::warn!("handshake: cannot accept: {error}");
                    if !self.evict() {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    return;
                }
            };
            if self.conversations.len() >= limits::HANDSHAKE_CONNECTIONS_MAX {
                self.evict();
            }
            let token = self.next_token;
            self.next_token += 1;
            let usable = stream.set_nonblocking(true).is_ok()
                && stream.set_nodelay(true).is_ok()
                && self.epoll.add(stream.as_fd(), token, Interest::READ).is_ok();
            if usable {
                let conversation = Conversation {
                    stream,
                    phase: Phase::Receiving(FrameDecoder::new(self.bytes_max)),
                    deadline: Instant::now() + limits::HANDSHAKE_SERVE_TIMEOUT,
                    token,
                };
                self.conversations.insert(token, conversation);
            }
        }
    }

    /// Closes the oldest conversation: it had the most time to speak.
    fn evict(&mut self) -> bool {
        let oldest = self.conversations.keys().min().copied();
        oldest.is_some_and(|token| self.conversations.remove(&token).is_some())
    }

    fn expire(&mut self, now: Instant) {
        self.conversations.retain(|_, conversation| conversation.deadline > now);
    }

    fn step(&mut self, event: &Event) {
        let Some(mut conversation) = self.conversations.remove(&event.token) else { return };
        match self.advance(&mut conversation) {
            Ok(true) => {
                self.conversations.insert(event.token, conversation);
            }
            Ok(false) => {}
            Err(error) => log::debug!("handshake: conversation closed: {error}"),
        }
    }

    /// Moves a conversation as far as possible; false when it is over.
    fn advance(&self, conversation: &mut Conversation) -> Result<bool> {
        if let Phase::Receiving(decoder) = &mut conversation.phase {
            let mut chunk = [0u8; 16 * 1024];
            let frame = loop {
                match vectored::receive(conversation.stream.as_fd(), &mut chunk) {
                    Ok(0) => return Ok(false),
                    Ok(received) => {
                        if let Some(frame) = decoder.feed(&chunk[..received])? {
                            break frame;
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        return Ok(true)
                    }
                    Err(error) => return Err(broken(error)),
                }
            };
            let bytes = self.reply(&frame)?;
            conversation.phase = Phase::Replying { bytes, sent: 0 };
        }
        if let Phase::Replying { bytes, sent } = &mut conversation.phase {
            while *sent < bytes.len() {
                match vectored::send(conversation.stream.as_fd(), &bytes[*sent..]) {
                    Ok(count) => *sent += count,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        let interest =
                            Interest { read: false, write: true, end: false, once: false };
                        let fd = conversation.stream.as_fd();
                        self.epoll.modify(fd, conversation.token, interest)?;
                        return Ok(true);
                    }
                    Err(error) => return Err(broken(error)),
                }
            }
            conversation.stream.shutdown(std::net::Shutdown::Write).map_err(broken)?;
            self.epoll.modify(conversation.stream.as_fd(), conversation.token, Interest::READ)?;
            conversation.phase = Phase::Closing;
        }
        let mut rest = [0u8; 4096];
        match vectored::receive(conversation.stream.as_fd(), &mut rest) {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) => Ok(error.kind() == std::io::ErrorKind::WouldBlock),
        }
    }

    fn reply(&self, frame: &Frame) -> Result<Vec<u8>> {
        let line = match frame.framing {
            Framing::Typed(MessageType::Metadata) => {
                check_json(&frame.payload)?;
                self.handler.descriptor_line()
            }
            Framing::Typed(MessageType::Notify) => {
                let message = NotifyMessage::decode(&frame.payload)?;
                let reply = if self.handler.notify(message) {
                    NotifyMessage::accepted()
                } else {
                    NotifyMessage::default()
                };
                reply.encode_line()?
            }
            Framing::Typed(MessageType::Probe) => {
                check_json(&frame.payload)?;
                ProbeReply::success().encode_line()
            }
            Framing::Typed(MessageType::Connection) | Framing::Old => {
                check_json(&frame.payload)?;
                self.handler.connection_line(&frame.payload)
            }
        };
        Ok(encode_reply(frame.framing, &line))
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::io(ErrorKind::ConnectionLost, "the handshake connection broke", error)
}
