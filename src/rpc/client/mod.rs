//! The calling end: a master behind an address, for many threads.
//!
//! A call takes a free connection or opens one, and the caller's own thread sends and receives on
//! it: there is no thread behind this. A connection serves one call at a time, so a late answer can
//! only end its own connection. Who answers (a master of ours or of which version of upstream) is
//! asked anew on every connection, since a master may be replaced by another kind.
//!
//! After a failure the master is not tried for a while (see [`gate`]); calls are refused at once,
//! all but the one that finds out whether it is back.

mod gate;
mod wire;

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::address::{parse_host_port, Family, HostPort, PortSource};
use crate::net::resolve::resolve_within;
use crate::time::Deadline;

use super::dialect::Dialect;
use super::message::{Call, Greeting, Reply};

use gate::{Gate, Pass};
use wire::Connection;

/// Port of a master whose address names none.
pub const PORT_DEFAULT: u16 = 50_051;
/// A connection that was used this recently is believed to be alive.
const FRESH: Duration = Duration::from_millis(20);

/// How a master is called.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host[:port]`.
    pub address: String,
    /// Speak only this; absent asks the master.
    pub dialect: Option<Dialect>,
    /// Longest time to connect and to learn who answers.
    pub connect_timeout: Duration,
    /// Connections at once, which is also the number of calls under way; more wait.
    pub connections_max: usize,
    /// Connections that were not used for this long are not used again.
    pub idle_timeout: Duration,
    /// How long a caller looks out for the answer before it sleeps.
    pub spin: Duration,
    /// First pause after a failure; it doubles up to `pause_max`.
    pub pause_min: Duration,
    /// Longest pause after a failure.
    pub pause_max: Duration,
    /// A call that got no answer for this long, while no other call got one, means that the master
    /// has failed.
    pub stall_timeout: Duration,
    /// Sends small calls without waiting for more.
    pub tcp_nodelay: bool,
}

impl ClientOptions {
    /// The usual ones.
    pub fn new(address: impl Into<String>) -> ClientOptions {
        ClientOptions {
            address: address.into(),
            dialect: None,
            connect_timeout: Duration::from_secs(3),
            connections_max: 32,
            idle_timeout: Duration::from_secs(30),
            spin: Duration::from_micros(50),
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(1),
            tcp_nodelay: true,
        }
    }
}

struct State {
    host: String,
    port: u16,
    /// As the caller wrote it.
    address: Arc<str>,
    /// Another address is another master.
    epoch: u64,
    closed: bool,
    gate: Gate,
    last_failure: Option<Error>,
    last_heard: Option<Instant>,
    idle: Vec<Lent>,
    /// Sockets of all connections with their epochs, to end calls under way.
    sockets: HashMap<u64, (u64, Arc<TcpStream>)>,
    /// Connections that exist or are being made.
    open: usize,
    waiting: usize,
    next_id: u64,
    dialect: Option<Dialect>,
    greeting: Option<Greeting>,
}

/// A connection with where it belongs.
struct Lent {
    connection: Connection,
    id: u64,
    epoch: u64,
    fresh: bool,
}

/// Calls one master. Thread-safe; every call blocks its thread until the answer, the failure or the
/// deadline.
pub struct MasterClient {
    options: ClientOptions,
    state: Mutex<State>,
    freed: Condvar,
}

impl std::fmt::Debug for MasterClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MasterClient").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl MasterClient {
    /// Opens nothing yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidAddress`] and [`ErrorKind::InvalidArgument`].
    pub fn new(options: ClientOptions) -> Result<MasterClient> {
        let place = parse_address(&options.address)?;
        if options.connections_max == 0 || options.spin > limits::RPC_SPIN_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "options of the master's client are out of range",
            ));
        }
        let state = State {
            host: place.host,
            port: place.port,
            address: options.address.as_str().into(),
            epoch: 0,
            closed: false,
            gate: Gate::new(options.pause_min, options.pause_max),
            last_failure: None,
            last_heard: None,
            idle: Vec::new(),
            sockets: HashMap::new(),
            open: 0,
            waiting: 0,
            next_id: 0,
            dialect: None,
            greeting: None,
        };
        Ok(MasterClient { options, state: Mutex::new(state), freed: Condvar::new() })
    }

    /// Makes one call. An answer that refuses it is an answer.
    ///
    /// A call whose connection broke is made once more if the master cannot have acted on it, or if
    /// acting twice changes nothing; in all other cases the caller learns that its fate is unknown
    /// by [`ErrorKind::ConnectionLost`] or [`ErrorKind::Timeout`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerDown`] at once while the master counts as failed;
    /// [`ErrorKind::Unreachable`], [`ErrorKind::Timeout`], [`ErrorKind::ConnectionLost`],
    /// [`ErrorKind::Protocol`]; [`ErrorKind::Rejected`] if the master did not serve it;
    /// [`ErrorKind::Unsupported`] if its dialect has no such call; [`ErrorKind::Shutdown`].
    pub fn call(&self, call: &Call, deadline: Deadline) -> Result<Reply> {
        let mut retried = false;
        loop {
            let mut lent = self.take(deadline).map_err(|error| self.place(error, call))?;
            let asked = Instant::now();
            match lent.connection.exchange(call, deadline) {
                Ok(reply) => {
                    self.give_back(lent, true);
                    return Ok(reply);
                }
                Err(broken) if broken.intact => {
                    self.give_back(lent, !broken.unanswered);
                    return Err(self.place(broken.error, call));
                }
                Err(broken) => {
                    let is_lost = broken.error.kind() == ErrorKind::ConnectionLost;
                    let was_idle = !lent.fresh;
                    lent.connection.abandon();
                    self.discard(lent);
                    if is_lost {
                        // Those that were made with it have most likely ended with it.
                        self.discard_idle();
                    }
                    let harmless =
                        broken.unsent || (broken.unanswered && call.method().is_repeatable());
                    if is_lost && was_idle && harmless && !retried {
                        retried = true;
                        continue;
                    }
                    if broken.error.kind() == ErrorKind::Timeout {
                        self.timed_out(asked, &broken.error);
                    }
                    return Err(self.place(broken.error, call));
                }
            }
        }
    }

    /// How the master spoke last; none before the first connection.
    pub fn dialect(&self) -> Option<Dialect> {
        self.state.lock().dialect
    }

    /// Which life of a native master answered last.
    pub fn greeting(&self) -> Option<Greeting> {
        self.state.lock().greeting.clone()
    }

    /// The address that is called.
    pub fn address(&self) -> String {
        self.state.lock().address.to_string()
    }

    /// True while calls are refused because the master failed.
    pub fn is_down(&self) -> bool {
        self.state.lock().gate.is_closed()
    }

    /// Calls another address from now on. Calls under way end as they would have.
    pub fn redirect(&self, address: &str) -> Result<()> {
        let place = parse_address(address)?;
        let mut state = self.state.lock();
        (state.host, state.port, state.address) = (place.host, place.port, address.into());
        state.epoch += 1;
        state.gate = Gate::new(self.options.pause_min, self.options.pause_max);
        state.last_failure = None;
        drop(state);
        self.discard_idle();
        Ok(())
    }

    /// The same where the master so far is known to be replaced: calls under way end now, since
    /// their answers are worth nothing.
    pub fn replace(&self, address: &str) -> Result<()> {
        self.redirect(address)?;
        let state = self.state.lock();
        let epoch = state.epoch;
        for (of, socket) in state.sockets.values() {
            if *of < epoch {
                // Its call sees the end of the connection; one that has ended already is as good.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    /// Ends all calls under way and refuses further ones. Does not block.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for (_, socket) in state.sockets.values() {
            // Its call sees the end of the connection; one that has ended already is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        self.discard_idle();
        self.freed.notify_all();
    }

    fn place(&self, error: Error, call: &Call) -> Error {
        let state = self.state.lock();
        let error =
            error.with("master", &state.address).with("call", format_args!("{:?}", call.method()));
        match state.closed {
            true => Error::new(ErrorKind::Shutdown, "the client is being closed").caused_by(error),
            false => error,
        }
    }

    /// A free connection, or a new one.
    fn take(&self, deadline: Deadline) -> Result<Lent> {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            if state.closed {
                return Err(Error::new(ErrorKind::Shutdown, "the client is being closed"));
            }
            if deadline.passed(now) {
                return Err(Error::new(ErrorKind::Timeout, "no connection was free in time"));
            }
            let pass = state.gate.enter(now);
            if pass == Pass::Refused {
                let error = Error::new(ErrorKind::PeerDown, "the master failed moments ago");
                return Err(match &state.last_failure {
                    Some(failure) => error.caused_by(failure.clone()),
                    None => error,
                });
            }
            if pass == Pass::Open {
                if let Some(lent) = state.idle.pop() {
                    let unused = now.saturating_duration_since(lent.connection.last_used);
                    if unused < FRESH {
                        return Ok(lent);
                    }
                    drop(state);
                    if unused < self.options.idle_timeout && lent.connection.is_quiet() {
                        return Ok(lent);
                    }
                    self.discard(lent);
                    state = self.state.lock();
                    continue;
                }
            }
            // One that probes comes on top: the others may all be stuck.
            if pass == Pass::Probe || state.open < self.options.connections_max {
                return self.connect(state, pass, deadline);
            }
            state.waiting += 1;
            self.freed.wait_until(&mut state, deadline.instant());
            state.waiting -= 1;
        }
    }

    fn connect(
        &self,
        mut state: MutexGuard<'_, State>,
        pass: Pass,
        deadline: Deadline,
    ) -> Result<Lent> {
        state.open += 1;
        let (host, port, epoch) = (state.host.clone(), state.port, state.epoch);
        let id = state.next_id;
        state.next_id += 1;
        drop(state);
        let started = Instant::now();
        let limit = Deadline::after(started, self.options.connect_timeout);
        let limit = limit.min(deadline);
        let made = self.make((id, epoch), &host, port, limit);
        let mut state = self.state.lock();
        match made {
            Ok((connection, met)) => {
                if state.epoch == epoch {
                    state.gate.open();
                    state.dialect = Some(met.dialect);
                    state.greeting = met.greeting;
                    state.last_heard = Some(Instant::now());
                }
                Ok(Lent { connection, id, epoch, fresh: true })
            }
            Err(error) => {
                state.open -= 1;
                state.sockets.remove(&id);
                self.wake_one(&state);
                // A caller without patience learned nothing about the master.
                let hasty = error.kind() == ErrorKind::Timeout
                    && started.elapsed()
                        < self.options.connect_timeout.min(self.options.stall_timeout);
                if state.epoch == epoch {
                    if hasty {
                        state.gate.give_up_probe(pass);
                    } else {
                        self.fail(&mut state, pass, &error);
                    }
                }
                Err(error)
            }
        }
    }

    fn make(
        &self,
        (id, epoch): (u64, u64),
        host: &str,
        port: u16,
        deadline: Deadline,
    ) -> Result<(Connection, wire::Met)> {
        let time = deadline.remaining(Instant::now());
        let addresses = resolve_within(host, port, Family::Any, time)?;
        let options = &self.options;
        let mut connection =
            Connection::open(&addresses, options.tcp_nodelay, options.spin, deadline)?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::new(ErrorKind::Shutdown, "the client is being closed"));
        }
        if state.epoch != epoch {
            let text = "the master was replaced meanwhile";
            return Err(Error::new(ErrorKind::Unreachable, text));
        }
        state.sockets.insert(id, (epoch, Arc::clone(connection.stream())));
        drop(state);
        let met = connection.meet(options.dialect, deadline)?;
        Ok((connection, met))
    }

    fn fail(&self, state: &mut State, pass: Pass, error: &Error) {
        if !state.gate.is_closed() {
            log::warn!("master {} failed: {error}", state.address);
        }
        state.gate.close(pass, Instant::now());
        state.last_failure = Some(error.clone());
    }

    /// A call got no answer in its time.
    fn timed_out(&self, asked: Instant, error: &Error) {
        let mut state = self.state.lock();
        let heard_since = state.last_heard.is_some_and(|heard| heard > asked);
        if asked.elapsed() < self.options.stall_timeout || heard_since {
            return;
        }
        self.fail(&mut state, Pass::Open, error);
        drop(state);
        self.discard_idle();
    }

    fn give_back(&self, mut lent: Lent, heard: bool) {
        let now = Instant::now();
        lent.connection.last_used = now;
        lent.fresh = false;
        let mut state = self.state.lock();
        if heard && lent.epoch == state.epoch {
            state.last_heard = Some(now);
            if state.gate.is_closed() {
                state.gate.open();
            }
            state.dialect = Some(lent.connection.dialect());
        }
        let is_spare = state.open > self.options.connections_max;
        if state.closed || lent.epoch != state.epoch || is_spare {
            drop(state);
            self.discard(lent);
            return;
        }
        state.idle.push(lent);
        self.wake_one(&state);
    }

    fn discard(&self, lent: Lent) {
        let mut state = self.state.lock();
        state.open -= 1;
        state.sockets.remove(&lent.id);
        self.wake_one(&state);
        drop(state);
        // Closed without the lock.
        drop(lent);
    }

    fn discard_idle(&self) {
        let mut state = self.state.lock();
        let idle = std::mem::take(&mut state.idle);
        state.open -= idle.len();
        for lent in &idle {
            state.sockets.remove(&lent.id);
        }
        drop(state);
        self.freed.notify_all();
    }

    fn wake_one(&self, state: &State) {
        if state.waiting > 0 {
            self.freed.notify_one();
        }
    }
}

fn parse_address(text: &str) -> Result<HostPort> {
    let place = parse_host_port(text, PORT_DEFAULT)?;
    if place.host.is_empty() || place.port_source == PortSource::Malformed || place.port == 0 {
        let text = text.escape_debug();
        return Err(Error::new(ErrorKind::InvalidAddress, "not the address of a master")
            .with("address", text));
    }
    Ok(place)
}
