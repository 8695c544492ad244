//! Bytes of the wires, said by somebody who is not an engine.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mooncake::descriptor::SegmentDescriptor;
use mooncake::engine::Engine;
use mooncake::net::handshake::{encode_frame, FrameDecoder, MessageType};
use mooncake::transport::tcp::wire::native::{Block, Hello, Kind, RequestHeader, VERSION};
use mooncake::transport::tcp::wire::v1v2::{Framing, Header, Opcode};

/// How long a raw client waits for an answer before the test fails.
pub const ANSWER: Duration = Duration::from_secs(60);

/// Connects to a port of an engine.
pub fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    stream.set_write_timeout(Some(ANSWER)).unwrap();
    stream
}

/// Everything until the other side ends the connection, in order or not. Fails on silence.
pub fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 65_536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return bytes,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if is_silence(&error) => panic!("the connection was not closed"),
            Err(_) => return bytes,
        }
    }
}

/// True for the error of a read that found nothing in time.
pub fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Exactly `count` bytes.
pub fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// The engine's descriptor, fetched as a peer would.
pub fn descriptor_of(engine: &Engine) -> SegmentDescriptor {
    let reply = handshake(engine.rpc_port(), MessageType::Metadata, b"{}\n").unwrap();
    SegmentDescriptor::decode(&reply).unwrap()
}

/// One conversation with a handshake plane; `None` if it was closed without a reply.
pub fn handshake(port: u16, message_type: MessageType, line: &[u8]) -> Option<Vec<u8>> {
    let mut stream = dial(port);
    // A server that refuses early may reset while we still send.
    let _ = stream.write_all(&encode_frame(message_type, line));
    let bytes = read_to_end(&mut stream);
    let frame = FrameDecoder::new(16 << 20).feed(&bytes).unwrap()?;
    Some(frame.payload)
}

/// A header of upstream's.
pub fn upstream(opcode: Opcode, framing: Framing, addr: u64, size: u64) -> Vec<u8> {
    Header { size, addr, opcode, framing }.encode().to_vec()
}

/// A hello to an engine of that instance.
pub fn hello(instance: [u8; 16]) -> Vec<u8> {
    hello_of(instance).encode()
}

pub fn hello_of(instance: [u8; 16]) -> Hello {
    Hello {
        version: VERSION,
        second: VERSION,
        capabilities: 0,
        instance: [9; 16],
        expected: instance,
        text: "stranger".into(),
        mark: None,
    }
}

/// A native request frame without payload.
pub fn frame(kind: Kind, sequence: u32, blocks: &[Block]) -> Vec<u8> {
    let payload = blocks.iter().map(|block| u64::from(block.length)).sum();
    let mut bytes = Vec::new();
    RequestHeader { kind, blocks: blocks.len() as u16, sequence, payload }.encode(&mut bytes);
    blocks.iter().for_each(|block| block.encode(&mut bytes));
    bytes
}

/// A native connection past its hello.
pub fn greeted(engine: &Engine, instance: [u8; 16]) -> TcpStream {
    let mut stream = dial(engine.data_port());
    stream.write_all(&hello(instance)).unwrap();
    let reply = read_hello(&mut stream);
    assert_eq!(reply.version, VERSION, "{}", reply.text);
    stream
}

/// The hello of the other side.
pub fn read_hello(stream: &mut TcpStream) -> Hello {
    let mut bytes = read_exactly(stream, 16);
    let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes.extend(read_exactly(stream, length - 16));
    Hello::decode(&bytes).unwrap().unwrap().0
}
