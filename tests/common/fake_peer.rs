//! A peer whose descriptor is fine and whose data port does what a test says.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mooncake::descriptor::{
    BufferDescriptor, Dialect, NativeBuffer, NativeExtension, SegmentDescriptor,
};
use mooncake::net::handshake::{encode_frame, FrameDecoder, MessageType};
use std::io::Write;

use super::engines::Kind;

/// Where the fake peer's buffer seems to be.
pub const ADDRESS: u64 = 0x7000_0000_0000;
/// Its length.
pub const LENGTH: u64 = 1 << 30;
/// Its native key.
pub const KEY: u64 = 0x1234_5678_9abc;
/// Its native instance.
pub const INSTANCE: [u8; 16] = [0x5a; 16];

/// Ends its threads when dropped.
pub struct FakePeer {
    pub name: String,
    pub data_port: u16,
    stopping: Arc<AtomicBool>,
    line: Arc<Mutex<Vec<u8>>>,
}

impl Drop for FakePeer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes both accepting threads.
        let _ = TcpStream::connect(&self.name);
        let _ = TcpStream::connect(("127.0.0.1", self.data_port));
    }
}

impl FakePeer {
    /// Each connection to the data port is given to `serve`, on a thread of its own.
    pub fn new(kind: Kind, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> FakePeer {
        let data = TcpListener::bind("127.0.0.1:0").unwrap();
        let data_port = data.local_addr().unwrap().port();
        let stopping = Arc::new(AtomicBool::new(false));
        let serve = Arc::new(serve);
        accept(data, &stopping, move |stream| {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        });
        let control = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = control.local_addr().unwrap().to_string();
        let line = descriptor(kind, &name, data_port).encode_line(Dialect::V0_3_13);
        let line = Arc::new(Mutex::new(line));
        let published = Arc::clone(&line);
        accept(control, &stopping, move |mut stream| {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let line = published.lock().unwrap().clone();
            answer_handshake(&mut stream, MessageType::Metadata, &line);
        });
        FakePeer { name, data_port, stopping, line }
    }

    /// From now on it publishes this.
    pub fn publish(&self, descriptor: &SegmentDescriptor) {
        *self.line.lock().unwrap() = descriptor.encode_line(Dialect::V0_3_13);
    }
}

/// Reads one request and sends `line` as the reply.
pub fn answer_handshake(stream: &mut TcpStream, message_type: MessageType, line: &[u8]) {
    let mut decoder = FrameDecoder::new(16 << 20);
    let mut chunk = [0u8; 65_536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if decoder.feed(&chunk[..count]).unwrap().is_some() {
                    break;
                }
            }
        }
    }
    let _ = stream.write_all(&encode_frame(message_type, line));
}

fn accept(
    listener: TcpListener,
    stopping: &Arc<AtomicBool>,
    serve: impl Fn(TcpStream) + Send + 'static,
) {
    let stopping = Arc::clone(stopping);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if stopping.load(Ordering::Acquire) {
                return;
            }
            serve(stream);
        }
    });
}

/// What the fake peer publishes.
pub fn descriptor(kind: Kind, name: &str, data_port: u16) -> SegmentDescriptor {
    let native = NativeExtension {
        buffers: vec![NativeBuffer { access: 3, key: KEY, location: "cpu:0".into() }],
        capabilities: 0,
        host_id: String::new(),
        instance: INSTANCE,
        version: 1,
    };
    SegmentDescriptor {
        name: name.to_owned(),
        protocol: "tcp".into(),
        tcp_data_port: data_port,
        tcp_data_host: Some("127.0.0.1".into()),
        tcp_proto_version: if kind == Kind::V1 { 1 } else { 2 },
        timestamp: "2026-01-01 00:00:00.000000".into(),
        buffers: vec![BufferDescriptor {
            name: name.to_owned(),
            addr: ADDRESS,
            length: LENGTH,
            lkey: Vec::new(),
            rkey: Vec::new(),
        }],
        native: (kind == Kind::Native).then_some(native),
        ..SegmentDescriptor::default()
    }
}

/// Keeps a connection open and says nothing until the other side closes it.
pub fn silence(mut stream: TcpStream) {
    let mut chunk = [0u8; 65_536];
    while matches!(stream.read(&mut chunk), Ok(count) if count > 0) {}
}
