//! The serving end: connections of callers, their requests to a [`Service`], its answers back.
//!
//! A [`Server`] owns its listeners and its threads, `mc-rpc-N`. Each thread owns the connections
//! given to it, calls the service on itself, and writes the answer straight behind the previous
//! one, so an answer given at once costs no hand-over. Answers may also come later, from any
//! thread, in any order; callers match them by their number. No state is tied to a connection.
//!
//! A thread looks out for the next request for a bounded time after it has served one, then sleeps;
//! without callers it costs nothing. What a caller can occupy is bounded: bytes of unfinished
//! requests, of unread answers, owed answers, time.

mod connection;
mod replier;
mod worker;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::port::{bind_listener, PortRule};
use crate::time::Deadline;

use super::dialect::Dialect;
use super::look::Look;
use super::message::Call;

pub use replier::Replier;

/// What answers calls.
pub trait Service: Send + Sync {
    /// Takes one call. Runs on the thread of the connection, which serves many others: it must not
    /// wait. What has to wait keeps the `replier` and answers from wherever it ends; a replier that
    /// is dropped answers that the call failed. A panic ends the call, not the thread.
    fn serve(&self, call: Call, caller: Caller, replier: Replier);

    /// Takes one call that only looks keys up; they lie in the request, so what has to wait needs
    /// keys of its own. All else is as with [`Service::serve`], which is what it does unless a
    /// service knows better.
    fn look(&self, look: Look<'_>, caller: Caller, replier: Replier) {
        self.serve(look.to_call(), caller, replier);
    }
}

/// Who called.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Where from.
    pub address: SocketAddr,
    /// How it speaks.
    pub dialect: Dialect,
}

/// How a server works.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Threads; 0 chooses by the number of cores.
    pub threads: usize,
    /// How long a thread looks out for the next request before it sleeps.
    pub spin: Duration,
    /// Connections at once; more are refused, or take the place of one that never sent a request.
    pub connections_max: usize,
    /// Closes connections that sent nothing and are owed nothing for this long.
    pub idle_timeout: Option<Duration>,
    /// Sends small answers without waiting for more.
    pub tcp_nodelay: bool,
    /// Longest body of a request, at most [`limits::RPC_REQUEST_BYTES_MAX`].
    pub request_bytes_max: usize,
    /// Time for one request to arrive once it has begun, and for a caller to take a part of what
    /// waits for it.
    pub frame_timeout: Duration,
    /// Time for a new connection to send its first request.
    pub stranger_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            threads: 0,
            spin: Duration::from_micros(50),
            connections_max: 16_384,
            idle_timeout: None,
            tcp_nodelay: true,
            request_bytes_max: limits::RPC_REQUEST_BYTES_MAX,
            frame_timeout: limits::RPC_FRAME_TIMEOUT,
            stranger_timeout: limits::RPC_STRANGER_TIMEOUT,
        }
    }
}

/// One port over the service.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Where to listen; absent is every address of both families.
    pub bind: Option<IpAddr>,
    /// Which port.
    pub rule: PortRule,
    /// How requests are answered that do not say which version they are of.
    pub dialect: Dialect,
}

/// What has happened so far. Numbers only grow, except the open connections.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections taken.
    pub connections_accepted: AtomicU64,
    /// Connections closed for a reason of ours: too many, too slow, no frames.
    pub connections_refused: AtomicU64,
    /// Connections at present.
    pub connections_open: AtomicUsize,
    /// Requests given to the service.
    pub calls: AtomicU64,
    /// Requests answered with a fault.
    pub faults: AtomicU64,
    /// Panics of the service.
    pub panics: AtomicU64,
    /// Bytes received.
    pub bytes_received: AtomicU64,
    /// Bytes sent.
    pub bytes_sent: AtomicU64,
}

/// What all threads of a server share.
struct Context {
    options: ServerOptions,
    service: Arc<dyn Service>,
    counters: Arc<Counters>,
    /// Bytes of unfinished requests.
    input_bytes: AtomicUsize,
}

/// A running server. Dropped, it stops at once.
pub struct Server {
    threads: Vec<(Arc<worker::Shared>, Option<JoinHandle<()>>)>,
    addresses: Vec<SocketAddr>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens all ports, or none. Does not block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Resource`] says which port cannot be had; [`ErrorKind::InvalidArgument`] for
    /// options out of their bounds.
    pub fn start(
        options: ServerOptions,
        ports: &[Port],
        service: Arc<dyn Service>,
    ) -> Result<Server> {
        let options = checked(options, ports)?;
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for port in ports {
            let listener = bind_listener(port.bind, port.rule, port.bind.is_none(), BACKLOG)?;
            addresses.push(listener.local_addr().map_err(|error| {
                Error::io(ErrorKind::Resource, "cannot see the address of a listener", error)
            })?);
            listeners.push((listener, port.dialect));
        }
        let counters = Arc::new(Counters::default());
        let count = options.threads;
        let context = Arc::new(Context {
            options,
            service,
            counters: Arc::clone(&counters),
            input_bytes: AtomicUsize::new(0),
        });
        let shared = (0..count)
            .map(|_| worker::Shared::new())
            .collect::<Result<Vec<Arc<worker::Shared>>>>()?;
        let mut server = Server { threads: Vec::new(), addresses, counters };
        let mut listeners: Option<Vec<(TcpListener, Dialect)>> = Some(listeners);
        for (index, own) in shared.iter().enumerate() {
            let acceptor = worker::Acceptor {
                listeners: listeners.take().unwrap_or_default(),
                workers: shared.clone(),
            };
            // Those that run already stop when `server` is dropped.
            let thread = worker::start(index, own, &context, acceptor)?;
            server.threads.push((Arc::clone(own), Some(thread)));
        }
        Ok(server)
    }

    /// Where it listens, in the order of the ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What has happened.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Takes no new connections and requests, sends what is owed, and ends all threads; what is
    /// still owed at `deadline` is given up. Blocks until then, and as long as the service takes
    /// for the call it is in.
    pub fn stop(&mut self, deadline: Deadline) {
        for (shared, _) in &self.threads {
            shared.stop(deadline.instant());
        }
        for (_, thread) in &mut self.threads {
            if let Some(thread) = thread.take() {
                // A panic outside of the service has been reported by the thread itself.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Deadline::within(Duration::ZERO));
    }
}

/// Connections that the kernel holds until they are taken: a fleet that restarts comes at once.
const BACKLOG: u32 = 4096;

fn checked(mut options: ServerOptions, ports: &[Port]) -> Result<ServerOptions> {
    let wrong = |what: &'static str, value: String| {
        Err(Error::new(ErrorKind::InvalidArgument, what).with("value", value))
    };
    if ports.is_empty() {
        return wrong("a server needs a port", "none".to_owned());
    }
    if options.threads > limits::RPC_THREADS_MAX {
        return wrong("too many threads", options.threads.to_string());
    }
    if !(1..=limits::RPC_CONNECTIONS_MAX).contains(&options.connections_max) {
        return wrong("number of connections out of range", options.connections_max.to_string());
    }
    if !(1..=limits::RPC_REQUEST_BYTES_MAX).contains(&options.request_bytes_max) {
        return wrong("length of requests out of range", options.request_bytes_max.to_string());
    }
    if options.spin > limits::RPC_SPIN_MAX {
        return wrong("too long a time to look out", format!("{:?}", options.spin));
    }
    if options.threads == 0 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // They sleep when there is nothing to do, and one keeps about one core of callers busy.
        options.threads = cores.clamp(2, 8);
    }
    Ok(options)
}

/// Adds to a counter that nobody orders anything by.
fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
