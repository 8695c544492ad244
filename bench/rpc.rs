//! Calls of the store that look keys up or put them: how many a second, what they cost the master.
//!
//!     cargo bench --bench rpc                            our server, which has no index
//!     cargo bench --bench rpc -- NAME=HOST:PORT@PID...   these masters, in turn, in one run
//!         --pin             every master on the first core, this process on the second
//!         --rounds N        median of so many rounds (3); --time-ms N for each figure (400)
//!         --connections N   only so many; may be given again
//!         --only TEXT       only loads in whose name it is
//!
//! `bench/master.py` starts our master and upstream's and runs this.
//!
//! The load is as cheap as it can be: one thread, blocking sockets, requests that are encoded once
//! and sent again and again, answers of which the length and the first head are looked at. Before
//! the clock runs, one answer to every request is decoded and compared with what was put. "deep"
//! loads have two windows of 16 requests under way on every connection, the others one request.
//!
//! Puts are batches that begin and then end, all keys new, of a fixed number instead of a fixed
//! time; they are removed after the clock has stopped. Their time limit is none of `--time-ms`.
//!
//! Where the load shares its cores with the master, rates are those of the sharing. The processor
//! time of the master for a million keys is not, and compares masters fairly. A master of ours is
//! asked in upstream's dialect, as others are, and in its own. The last master is what the others
//! are compared with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // What cannot be measured ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooncake::net::port::PortRule;
use mooncake::pool::identity::{ClientId, SegmentId, Uuid};
use mooncake::pool::object::{Key, PutItem, PutOptions};
use mooncake::pool::replica::ReplicaKind;
use mooncake::pool::segment::Segment;
use mooncake::rpc::client::{ClientOptions, MasterClient};
use mooncake::rpc::dialect::{self, Dialect};
use mooncake::rpc::frame::{ReplyHeader, RequestHeader, REPLY_HEADER_BYTES};
use mooncake::rpc::message::{Call, Greeting, Reply};
use mooncake::rpc::server::{Caller, Port, Replier, Server, ServerOptions, Service};
use mooncake::time::Deadline;
use rustix::thread::{sched_setaffinity, CpuSet, Pid};

const CONNECTIONS: [usize; 4] = [1, 4, 16, 64];
const BATCH: usize = 64;
/// Requests of one window.
const DEEP: usize = 16;
/// Keys that are there.
const STOCK: usize = BATCH * DEEP;
const SAMPLES: usize = 5000;
/// Keys of one measurement of puts, and bytes of each.
const PUTS: usize = 128 * STOCK;
const PUT_BYTES: u64 = 64;
const OWNER: ClientId = ClientId(Uuid { first: 1, second: 2 });

/// Answers that nothing is there.
struct Empty;

impl Service for Empty {
    fn serve(&self, call: Call, _: Caller, replier: Replier) {
        replier.answer(&match &call {
            Call::Greet { .. } => Reply::Greeted(Ok(Greeting { version: 1, master_life: 1 })),
            Call::ServiceReady => Reply::Ready(Ok(String::new())),
            Call::Exists(_) => Reply::Exists(Ok(false)),
            Call::BatchExists(keys) => Reply::BatchExists(vec![Ok(false); keys.len()]),
            other => other.refuse(mooncake::pool::outcome::Refusal::NOT_SUPPORTED),
        });
    }
}

/// Serves until its standard input ends.
fn serve() {
    let bind = Some("127.0.0.1".parse().unwrap());
    let port = Port { bind, rule: PortRule::Fixed(0), dialect: Dialect::Upstream0_3_7 };
    let server = Server::start(ServerOptions::default(), &[port], Arc::new(Empty)).unwrap();
    println!("{}", server.addresses()[0]);
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// What a call asks for, whether the keys are there, and how many calls are under way together.
struct Load {
    name: &'static str,
    keys: usize,
    are_there: bool,
    depth: usize,
    /// `None` for puts.
    make: Option<fn(Vec<Key>) -> Call>,
}

fn one(mut keys: Vec<Key>) -> Key {
    keys.pop().unwrap()
}

fn loads() -> Vec<Load> {
    let mut loads = Vec::new();
    for depth in [1, DEEP] {
        let deep = depth > 1;
        let mut add = |names: [&'static str; 2], keys, are_there, make: fn(Vec<Key>) -> Call| {
            let name = names[usize::from(deep)];
            loads.push(Load { name, keys, are_there, depth, make: Some(make) });
        };
        add(["exists, absent", "exists, absent, deep"], 1, false, |k| Call::Exists(one(k)));
        add(["exists, there", "exists, there, deep"], 1, true, |k| Call::Exists(one(k)));
        let names = ["64 x exists, absent", "64 x exists, absent, deep"];
        add(names, BATCH, false, Call::BatchExists);
        let names = ["64 x exists, there", "64 x exists, there, deep"];
        add(names, BATCH, true, Call::BatchExists);
        let names = ["64 x replicas, absent", "64 x replicas, absent, deep"];
        add(names, BATCH, false, Call::BatchLookup);
        let names = ["64 x replicas, there", "64 x replicas, there, deep"];
        add(names, BATCH, true, Call::BatchLookup);
    }
    for (name, depth) in [("64 x put", 1), ("64 x put, deep", DEEP)] {
        loads.push(Load { name, keys: BATCH, are_there: true, depth, make: None });
    }
    loads
}

impl Load {
    /// The calls of one window; those of puts differ from window to window.
    fn calls(&self, window: usize) -> Vec<Call> {
        let call = |number: usize| {
            let first = number * self.keys;
            let Some(make) = self.make else { return puts(window * STOCK + first).to_vec() };
            let prefix = if self.are_there { "there" } else { "absent" };
            let keys = (first..first + self.keys).map(|key| name(prefix, key % STOCK));
            vec![make(keys.collect())]
        };
        (0..self.depth).flat_map(call).collect()
    }

    fn is_right(&self, reply: &Reply) -> bool {
        match reply {
            Reply::Exists(found) => found == &Ok(self.are_there),
            Reply::BatchExists(found) => found.iter().all(|one| one == &Ok(self.are_there)),
            Reply::Located(located) => located.is_ok() == self.are_there,
            Reply::BatchLocated(all) => all.iter().all(|one| one.is_ok() == self.are_there),
            Reply::BatchGranted(all) => all.iter().all(Result::is_ok),
            Reply::BatchDone(all) => all.iter().all(Result::is_ok),
            _ => false,
        }
    }
}

/// The begin and the end of the puts of a batch of keys.
fn puts(first: usize) -> [Call; 2] {
    let keys = || (first..first + BATCH).map(|number| name("put", number));
    let items = keys().map(|key| PutItem::new(key, vec![PUT_BYTES])).collect();
    [
        Call::BatchPutStart(Some(OWNER), items, PutOptions::default()),
        Call::BatchPutEnd(Some(OWNER), keys().collect(), ReplicaKind::Memory, Vec::new()),
    ]
}

/// A key of 40 bytes.
fn name(prefix: &str, number: usize) -> Key {
    format!("{prefix:-<30}{number:010}").into_bytes()
}

/// A master and how it is spoken to.
struct Subject {
    name: String,
    address: String,
    pid: u32,
    dialect: Dialect,
    has_index: bool,
    client: Arc<MasterClient>,
}

fn call(client: &MasterClient, call: &Call) -> Reply {
    client.call(call, Deadline::within(Duration::from_secs(10))).unwrap()
}

impl Subject {
    /// One for each dialect that the master is to be measured in.
    fn all_of(name: &str, address: &str, pid: u32, has_index: bool) -> Vec<Subject> {
        let client = Arc::new(MasterClient::new(ClientOptions::new(address)).unwrap());
        call(&client, &Call::Exists(b"key".to_vec()));
        let mut dialects = vec![Dialect::Upstream0_3_7];
        if client.dialect() == Some(Dialect::Native) {
            dialects.insert(0, Dialect::Native);
        }
        if has_index {
            stock(&client);
        }
        let subject = |dialect| Subject {
            name: format!("{name} ({dialect})"),
            address: address.to_owned(),
            pid,
            dialect,
            has_index,
            client: Arc::clone(&client),
        };
        dialects.into_iter().map(subject).collect()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// User and system seconds of the process so far.
    fn processor_seconds(&self) -> [f64; 2] {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        [11, 12].map(|at| fields[at].parse::<f64>().unwrap() / ticks)
    }

    fn frame(&self, call: &Call) -> Vec<u8> {
        let mut body = Vec::new();
        let function = dialect::encode_request(self.dialect, call, &mut body).unwrap();
        let header = RequestHeader { seq: 7, function, length: body.len() as u32, attachment: 0 };
        [&header.encode()[..], &body].concat()
    }

    /// Asks for everything in the window once and looks closely at the answers; their bytes.
    fn try_out(&self, load: &Load) -> usize {
        let mut stream = self.connect();
        let answer = |call: &Call| {
            stream.write_all(&self.frame(call)).unwrap();
            let mut head = [0; REPLY_HEADER_BYTES];
            stream.read_exact(&mut head).unwrap();
            let header = ReplyHeader::decode(&head).unwrap();
            assert_eq!((header.fault, header.seq), (0, 7), "{}: {}", self.name, load.name);
            let mut body = vec![0; header.length as usize];
            stream.read_exact(&mut body).unwrap();
            let reply = dialect::decode_reply(self.dialect, call.method(), &body).unwrap();
            assert!(load.is_right(&reply), "{}: {}: {reply:?}", self.name, load.name);
            REPLY_HEADER_BYTES + body.len()
        };
        load.calls(0).iter().map(answer).sum()
    }

    fn measure(&self, load: &Load, connections: usize, time: Duration) -> Figure {
        if self.has_index {
            // Or upstream's master takes the segment away.
            call(&self.client, &Call::Ping(OWNER));
        }
        let answer_bytes = self.try_out(load);
        let frames = |window| load.calls(window).iter().flat_map(|call| self.frame(call)).collect();
        let ahead = if load.depth > 1 { 2 } else { 1 };
        // Of looks one window is sent all the time; that of puts that was tried out is left out.
        let count = match load.make {
            Some(_) => 1,
            None => PUTS / STOCK * (DEEP / load.depth) + connections * ahead,
        };
        let windows: Vec<Vec<u8>> = (count.min(2) - 1..count).map(frames).collect();
        let mut next = windows.iter().cycle();
        let mut streams: Vec<TcpStream> = (0..connections).map(|_| self.connect()).collect();
        let mut send = |stream: &mut TcpStream| {
            stream.write_all(next.next().unwrap()).unwrap();
        };
        for _ in 0..ahead {
            streams.iter_mut().for_each(&mut send);
        }
        let mut buffer = vec![0; 1 << 18];
        let (start, before, mut done) = (Instant::now(), self.processor_seconds(), 0);
        let goes_on = |done: usize| match load.make {
            Some(_) => start.elapsed() < time,
            None => done + connections * (ahead + 1) < windows.len(),
        };
        while goes_on(done) {
            for stream in &mut streams {
                take(stream, answer_bytes, &mut buffer);
                send(stream);
                done += 1;
            }
        }
        let (spent, after) = (start.elapsed().as_secs_f64(), self.processor_seconds());
        for stream in &mut streams {
            take(stream, answer_bytes * ahead, &mut buffer);
        }
        if load.make.is_none() {
            call(&self.client, &Call::RemoveByPattern { pattern: b"^put".to_vec(), force: false });
        }
        let keys = (done * load.depth * load.keys) as f64;
        let micros = |at: usize| (after[at] - before[at]) * 1e6 / keys;
        Figure { rate: keys / spent / 1e6, user: micros(0), system: micros(1) }
    }

    /// Microseconds of one call by our client: half and nearly all of them take no longer.
    fn one_call(&self) -> [f64; 2] {
        let absent = Call::Exists(name("absent", 0));
        let mut times: Vec<Duration> = (0..SAMPLES)
            .map(|_| {
                let start = Instant::now();
                call(&self.client, &absent);
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        [50, 99].map(|percent| times[(SAMPLES - 1) * percent / 100].as_secs_f64() * 1e6)
    }
}

/// Takes so many bytes of answers, of which the first begins here.
fn take(stream: &mut TcpStream, bytes: usize, buffer: &mut [u8]) {
    let mut left = bytes;
    while left > 0 {
        let space = left.min(buffer.len());
        let received = stream.read(&mut buffer[..space]).unwrap();
        assert!(received > 0, "the master has closed a connection");
        if left == bytes && received >= REPLY_HEADER_BYTES {
            let header = ReplyHeader::decode(buffer.first_chunk().unwrap()).unwrap();
            assert_eq!((header.fault, header.seq), (0, 7));
        }
        left -= received;
    }
}

/// Gives the master a segment and objects in it, if it has none.
fn stock(client: &MasterClient) {
    let segment = Segment {
        id: SegmentId(Uuid { first: 3, second: 4 }),
        name: "bench".to_owned(),
        base: 1 << 40,
        size: 1 << 30,
        endpoint: "127.0.0.1:12345".to_owned(),
        protocol: "tcp".to_owned(),
    };
    call(client, &Call::Mount(segment, OWNER));
    for number in 0..STOCK {
        let key = name("there", number);
        let item = PutItem::new(key.clone(), vec![4096]);
        call(client, &Call::PutStart(Some(OWNER), item, PutOptions::default()));
        call(client, &Call::PutEnd(Some(OWNER), key, ReplicaKind::Memory, 0));
    }
    let found = call(client, &Call::Lookup(name("there", 0)));
    assert!(matches!(found, Reply::Located(Ok(_))), "{found:?}");
}

/// Million keys a second, and processor seconds of the master for a million keys.
#[derive(Clone, Copy)]
struct Figure {
    rate: f64,
    user: f64,
    system: f64,
}

impl Figure {
    fn cost(&self) -> f64 {
        self.user + self.system
    }
}

fn median(figures: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Lets the process run on one core only; threads that it makes later too.
fn pin(pid: u32, core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task: i32 = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
        sched_setaffinity(Pid::from_raw(task), &cores).unwrap();
    }
}

/// The server of ours without an index, as a process of its own.
fn own_server() -> (Child, String) {
    let own = std::env::current_exe().unwrap();
    let pipe = Stdio::piped;
    let mut server = Command::new(own).arg("serve").stdin(pipe()).stdout(pipe()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (server, line.trim().to_owned())
}

struct Options {
    pinned: bool,
    rounds: usize,
    time: Duration,
    connections: Vec<usize>,
    only: Vec<String>,
    masters: Vec<String>,
}

fn options() -> Options {
    let mut options = Options {
        pinned: false,
        rounds: 3,
        time: Duration::from_millis(400),
        connections: Vec::new(),
        only: Vec::new(),
        masters: Vec::new(),
    };
    // Cargo adds a flag of its own.
    let mut arguments = std::env::args().skip(1).filter(|one| one != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--pin" => options.pinned = true,
            "--rounds" => options.rounds = value().parse().unwrap(),
            "--time-ms" => options.time = Duration::from_millis(value().parse().unwrap()),
            "--connections" => options.connections.push(value().parse().unwrap()),
            "--only" => options.only.push(value()),
            _ => options.masters.push(argument),
        }
    }
    if options.connections.is_empty() {
        options.connections = CONNECTIONS.to_vec();
    }
    options
}

fn run(options: &Options, subjects: &[Subject]) {
    for subject in subjects {
        if options.pinned {
            pin(subject.pid, 0);
        }
        let [half, most] = subject.one_call();
        println!("{}: one call of our client, p50 {half:.1} us, p99 {most:.1} us", subject.name);
    }
    let is_asked = |load: &Load| {
        let named = options.only.iter().any(|text| load.name.contains(text.as_str()));
        let can_be = subjects.iter().all(|subject| subject.has_index || !load.are_there);
        (named || options.only.is_empty()) && can_be
    };
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
    println!(
        "\nmillion keys/s; processor seconds of the master for a million keys (user + kernel)"
    );
    println!(
        "| load | connections | {} | rate / that of the last, cost of the last / its own |",
        names.join(" | ")
    );
    println!("| --- | --- |{} --- |", " --- |".repeat(subjects.len()));
    for load in loads().into_iter().filter(is_asked) {
        for connections in &options.connections {
            let mut figures: Vec<Vec<Figure>> = vec![Vec::new(); subjects.len()];
            for _ in 0..options.rounds {
                for (subject, figures) in subjects.iter().zip(&mut figures) {
                    figures.push(subject.measure(&load, *connections, options.time));
                }
            }
            let show = |f: &Vec<Figure>| {
                format!(
                    "{:.2}; {:.3} ({:.3} + {:.3})",
                    median(f, |f| f.rate),
                    median(f, Figure::cost),
                    median(f, |f| f.user),
                    median(f, |f| f.system),
                )
            };
            let cells: Vec<String> = figures.iter().map(show).collect();
            let last = figures.last().unwrap();
            let ratio = |f: &Vec<Figure>| {
                let rate = median(f, |f| f.rate) / median(last, |f| f.rate);
                let cost = median(last, Figure::cost) / median(f, Figure::cost);
                format!("{rate:.1}, {cost:.1}")
            };
            let others = &figures[..figures.len() - 1];
            let ratios: Vec<String> = others.iter().map(ratio).collect();
            let name = load.name;
            println!("| {name} | {connections} | {} | {} |", cells.join(" | "), ratios.join("; "));
        }
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "serve") {
        return serve();
    }
    let options = options();
    if options.pinned {
        pin(std::process::id(), 1);
    }
    if options.masters.is_empty() {
        let (mut server, address) = own_server();
        run(&options, &Subject::all_of("no index", &address, server.id(), false));
        drop(server.stdin.take());
        server.wait().unwrap();
        return;
    }
    let subjects = options.masters.iter().flat_map(|argument| {
        let (name, place) = argument.split_once('=').expect("NAME=HOST:PORT@PID");
        let (address, pid) = place.split_once('@').expect("NAME=HOST:PORT@PID");
        Subject::all_of(name, address, pid.parse().unwrap(), true)
    });
    run(&options, &subjects.collect::<Vec<Subject>>());
}
