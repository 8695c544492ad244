//! The segment descriptor: what a peer must know to reach a segment, as a JSON document.
//!
//! Below `metadata`, which finds descriptors, and `transport`, which reads them, so that neither
//! knows the other. Pure: no service, no cache, any thread. The document is the one upstream
//! engines publish and read; one member more, `mooncake_native`, speaks to our own engines and is
//! ignored by upstream. A decoded descriptor has passed every check that upstream's readers make
//! and those that keep arithmetic on its addresses safe; it says nothing about whether the peer
//! tells the truth.
//!
//! Layouts of buffers are kept for what this library moves: `name`, `addr`, `length` and, for the
//! RDMA family, keys. Members that only other protocols use (`shm_name`, `offset`, `file_path`)
//! are ignored like unknown ones; such a descriptor can be listed, not used and not republished.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::{json, limits};

/// Which upstream version's optional members a document carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// 0.3.7.post2: without `rdma_server_name`, `tcp_data_host` and `tcp_proto_version`.
    V0_3_7,
    /// 0.3.13.post1. Readers of 0.3.7 ignore the additions, so engines publish this one.
    V0_3_13,
}

/// One decoded document.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentDescriptor {
    /// Name of the segment, which is also the name of the engine.
    pub name: String,
    /// How the segment can be reached.
    pub protocol: Protocols,
    /// Port of the TCP data plane, 0 without one.
    pub tcp_data_port: u16,
    /// Host of the TCP data plane; without it the host of `rpc_meta` (or of the name) is meant.
    pub tcp_data_host: Option<String>,
    /// Framing the TCP data plane understands; 1 where the document does not say.
    pub tcp_proto_version: u32,
    /// Local time of the writer, `YYYY-MM-DD hh:mm:ss.uuuuuu`; for people.
    pub timestamp: String,
    /// Name to use in NIC paths where it differs from `name`.
    pub rdma_server_name: Option<String>,
    /// Registered ranges.
    pub buffers: Vec<BufferDescriptor>,
    /// NICs (RDMA family) or accelerators (ascend).
    pub devices: Vec<DeviceDescriptor>,
    /// RDMA: which NICs are near which memory. Carried as it came.
    pub priority_matrix: Option<Value>,
    /// Ascend: ranks and their addresses. Carried as it came.
    pub rank_info: Option<Value>,
    /// What only our own engines publish and read.
    pub native: Option<NativeExtension>,
}

/// Everything needed to reach a segment's owner.
#[derive(Debug)]
pub struct PeerAddress {
    /// The name under which it was looked up. What the owner calls itself is its own affair.
    pub name: String,
    /// What the owner published.
    pub descriptor: SegmentDescriptor,
    /// Host of its data plane, resolved by the metadata layer where the descriptor lacks it.
    pub host: String,
}

/// One registered range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BufferDescriptor {
    /// TCP: the segment's name. Others: the location.
    #[serde(deserialize_with = "json::name")]
    pub name: String,
    /// First byte, in the owner's address space.
    #[serde(deserialize_with = "json::or_default")]
    pub addr: u64,
    /// Bytes. `addr + length` does not overflow in a decoded descriptor.
    #[serde(deserialize_with = "json::or_default")]
    pub length: u64,
    /// RDMA: local keys, one for each device.
    #[serde(deserialize_with = "keys")]
    pub lkey: Vec<u32>,
    /// RDMA: remote keys, one for each device, or none when the range is not remotely accessible.
    #[serde(deserialize_with = "keys")]
    pub rkey: Vec<u32>,
}

/// One NIC or accelerator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeviceDescriptor {
    /// Name of the device.
    #[serde(deserialize_with = "json::name")]
    pub name: String,
    /// Local identifier of the port.
    #[serde(deserialize_with = "json::or_default")]
    pub lid: u16,
    /// Global identifier, 16 hexadecimal bytes joined by `:`. Not used by ascend.
    #[serde(deserialize_with = "json::name")]
    pub gid: String,
}

/// The member `mooncake_native`.
// Members in byte-wise alphabetical order: the derived writer keeps the order of declaration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeExtension {
    /// One entry for each entry of the descriptor's `buffers`, in the same order.
    #[serde(default, deserialize_with = "native_buffers")]
    pub buffers: Vec<NativeBuffer>,
    /// Bits of optional abilities.
    #[serde(default, deserialize_with = "json::or_default")]
    pub capabilities: u64,
    /// Tells engines of one host from others.
    #[serde(default, deserialize_with = "json::name")]
    pub host_id: String,
    /// Identity of this life of the engine; a restarted one has another. 32 lower-case hex digits.
    #[serde(serialize_with = "write_instance", deserialize_with = "read_instance")]
    pub instance: [u8; INSTANCE_BYTES],
    /// Newest native protocol version understood; never 0.
    #[serde(default, deserialize_with = "json::or_default")]
    pub version: u16,
}

/// What native peers must know of one buffer beyond its range.
// Members in byte-wise alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeBuffer {
    /// Access bits, as in the C API.
    #[serde(deserialize_with = "json::or_default")]
    pub access: u32,
    /// Key of this registration; a later one at the same address has another.
    #[serde(deserialize_with = "json::or_default")]
    pub key: u64,
    /// Where the memory lives; the `name` of a TCP buffer does not say.
    #[serde(deserialize_with = "json::name")]
    pub location: String,
}

/// In [`NativeExtension::capabilities`]: the engine has a door for peers of its host, whose name
/// follows from its instance.
pub const SAME_HOST: u64 = 1;

/// Bytes of [`NativeExtension::instance`].
pub const INSTANCE_BYTES: usize = 16;

const WHAT: &str = "segment descriptor";

/// Protocols some upstream version can publish, and `loopback`, which is ours.
const KNOWN_PROTOCOLS: [&str; 18] = [
    "ascend",
    "barex",
    "cxi",
    "cxl",
    "efa",
    "hip",
    "loopback",
    "maca",
    "musa",
    "nccl",
    "nvlink",
    "nvlink_intra",
    "nvmeof",
    "rdma",
    "sunrise_link",
    "tcp",
    "ub",
    "ubshmem",
];
/// Protocols with devices, keys and a priority matrix.
const RDMA_FAMILY: [&str; 4] = ["barex", "cxi", "efa", "rdma"];

/// The protocol of a segment, or several for builds that serve more than one. Never empty in a
/// decoded descriptor, and every entry is a known one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols(Vec<String>);

impl Protocols {
    /// True if the segment can be reached by `protocol`.
    pub fn contains(&self, protocol: &str) -> bool {
        self.0.iter().any(|entry| entry == protocol)
    }

    /// The entries in the order of the document.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    fn is_rdma_family(&self) -> bool {
        self.iter().any(|entry| RDMA_FAMILY.contains(&entry))
    }
}

impl From<&str> for Protocols {
    fn from(protocol: &str) -> Self {
        Protocols(vec![protocol.to_owned()])
    }
}

impl From<Vec<String>> for Protocols {
    fn from(protocols: Vec<String>) -> Self {
        Protocols(protocols)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl Serialize for Protocols {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => serializer.serialize_str(one),
            many => many.serialize(serializer),
        }
    }
}

/// A descriptor that says nothing yet.
impl Default for SegmentDescriptor {
    fn default() -> Self {
        SegmentDescriptor {
            name: String::new(),
            protocol: Protocols::default(),
            tcp_data_port: 0,
            tcp_data_host: None,
            tcp_proto_version: 1,
            timestamp: String::new(),
            rdma_server_name: None,
            buffers: Vec::new(),
            devices: Vec::new(),
            priority_matrix: None,
            rank_info: None,
            native: None,
        }
    }
}

impl SegmentDescriptor {
    /// The document in the form of an HTTP body: compact, members in byte-wise alphabetical order.
    pub fn encode(&self, dialect: Dialect) -> Vec<u8> {
        json::encode(&Writer { descriptor: self, dialect })
    }

    /// The same with a newline: handshake messages, etcd and redis values.
    pub fn encode_line(&self, dialect: Dialect) -> Vec<u8> {
        json::encode_line(&Writer { descriptor: self, dialect })
    }

    /// Reads either form, of either dialect.
    pub fn decode(bytes: &[u8]) -> Result<SegmentDescriptor> {
        if bytes.len() > limits::DOCUMENT_BYTES_MAX {
            let text = format!(
                "{WHAT} of {} bytes; at most {} are accepted",
                bytes.len(),
                limits::DOCUMENT_BYTES_MAX
            );
            return Err(Error::new(ErrorKind::MetadataMalformed, text));
        }
        let document: Document = json::decode_object(bytes, ErrorKind::MetadataMalformed, WHAT)?;
        let descriptor = document.into_descriptor();
        match descriptor.check() {
            Ok(()) => Ok(descriptor),
            Err(error) => Err(error.with("segment", json::quote(&descriptor.name))),
        }
    }

    /// The rules that upstream's readers apply after parsing, and ours against overflow.
    fn check(&self) -> Result<()> {
        if self.protocol.0.is_empty() {
            return Err(refusal("no protocol", "protocol"));
        }
        if let Some(unknown) = self.protocol.iter().find(|entry| !KNOWN_PROTOCOLS.contains(entry)) {
            let text = format!("unknown protocol `{}`", json::quote(unknown));
            return Err(refusal(text, "protocol"));
        }
        let is_rdma_family = self.protocol.is_rdma_family();
        // Those whose buffers are used by (name, addr, length); others may leave them out.
        let is_range_needed = is_rdma_family
            || ["tcp", "ascend", "loopback"].iter().any(|entry| self.protocol.contains(entry));
        if is_rdma_family {
            for (index, device) in self.devices.iter().enumerate() {
                if device.name.is_empty() || device.gid.is_empty() {
                    let text = "device without name or gid";
                    return Err(refusal(text, format_args!("devices[{index}]")));
                }
            }
        }
        for (index, buffer) in self.buffers.iter().enumerate() {
            let problem = if buffer.addr.checked_add(buffer.length).is_none() {
                "buffer reaches beyond the address space"
            } else if is_range_needed
                && (buffer.name.is_empty() || buffer.addr == 0 || buffer.length == 0)
            {
                "buffer with an empty name, address 0 or length 0"
            } else if is_rdma_family && !buffer.has_sound_keys(self.devices.len()) {
                "number of keys differs from number of devices"
            } else {
                continue;
            };
            return Err(refusal(problem, format_args!("buffers[{index}]")));
        }
        Ok(())
    }
}

impl BufferDescriptor {
    /// Key *i* belongs to device *i*. Newer writers leave `rkey` empty for ranges that are not
    /// remotely accessible; then there is nothing to pair.
    fn has_sound_keys(&self, devices: usize) -> bool {
        self.rkey.is_empty() || (self.rkey.len() == devices && self.lkey.len() == devices)
    }
}

fn refusal(text: impl fmt::Display, member: impl fmt::Display) -> Error {
    Error::new(ErrorKind::MetadataMalformed, format!("malformed {WHAT}: {text}"))
        .with("member", member)
}

/// The document as it is parsed.
#[derive(Deserialize)]
#[serde(default)]
struct Document {
    #[serde(deserialize_with = "buffers")]
    buffers: Vec<BufferDescriptor>,
    #[serde(deserialize_with = "devices")]
    devices: Vec<DeviceDescriptor>,
    #[serde(deserialize_with = "json::optional_object")]
    mooncake_native: Option<NativeExtension>,
    #[serde(deserialize_with = "json::name")]
    name: String,
    #[serde(deserialize_with = "json::opaque")]
    priority_matrix: Option<Value>,
    #[serde(deserialize_with = "protocols")]
    protocol: Protocols,
    #[serde(deserialize_with = "json::opaque")]
    rank_info: Option<Value>,
    #[serde(deserialize_with = "json::optional_name")]
    rdma_server_name: Option<String>,
    #[serde(deserialize_with = "json::optional_name")]
    tcp_data_host: Option<String>,
    #[serde(deserialize_with = "json::or_default")]
    tcp_data_port: u16,
    #[serde(deserialize_with = "proto_version")]
    tcp_proto_version: u32,
    #[serde(deserialize_with = "json::name")]
    timestamp: String,
}

impl Default for Document {
    fn default() -> Self {
        Document {
            buffers: Vec::new(),
            devices: Vec::new(),
            mooncake_native: None,
            name: String::new(),
            priority_matrix: None,
            protocol: Protocols::default(),
            rank_info: None,
            rdma_server_name: None,
            tcp_data_host: None,
            tcp_data_port: 0,
            tcp_proto_version: PROTO_VERSION_ABSENT,
            timestamp: String::new(),
        }
    }
}

/// What a writer that does not know `tcp_proto_version` speaks.
const PROTO_VERSION_ABSENT: u32 = 1;

impl Document {
    fn into_descriptor(self) -> SegmentDescriptor {
        // Keys are paired with ranges by position. If the counts differ, someone who does not
        // know the extension has edited the document, and any pairing would be a guess that
        // could lend one range the key of another. The upstream part is still whole, so the peer
        // is then served as an upstream peer, which needs no keys. Version 0 was never spoken:
        // there is nothing to agree on, with the same consequence.
        let native = self
            .mooncake_native
            .filter(|native| native.buffers.len() == self.buffers.len() && native.version != 0);
        SegmentDescriptor {
            name: self.name,
            protocol: self.protocol,
            tcp_data_port: self.tcp_data_port,
            tcp_data_host: self.tcp_data_host,
            tcp_proto_version: self.tcp_proto_version,
            timestamp: self.timestamp,
            rdma_server_name: self.rdma_server_name,
            buffers: self.buffers,
            devices: self.devices,
            priority_matrix: self.priority_matrix,
            rank_info: self.rank_info,
            native,
        }
    }
}

fn buffers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<BufferDescriptor>, D::Error> {
    json::objects::<_, _, { limits::DESCRIPTOR_BUFFERS_MAX }>(deserializer)
}

fn native_buffers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<NativeBuffer>, D::Error> {
    json::objects::<_, _, { limits::DESCRIPTOR_BUFFERS_MAX }>(deserializer)
}

fn devices<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<DeviceDescriptor>, D::Error> {
    json::objects::<_, _, { limits::DESCRIPTOR_DEVICES_MAX }>(deserializer)
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<u32>, D::Error> {
    json::list::<_, _, { limits::DESCRIPTOR_DEVICES_MAX }>(deserializer)
}

fn proto_version<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u32, D::Error> {
    let version = Option::<u32>::deserialize(deserializer)?;
    Ok(version.unwrap_or(PROTO_VERSION_ABSENT))
}

/// A string, or an array of strings from builds that serve several protocols.
fn protocols<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Protocols, D::Error> {
    deserializer.deserialize_any(ProtocolsVisitor)
}

struct ProtocolsVisitor;

impl<'de> serde::de::Visitor<'de> for ProtocolsVisitor {
    type Value = Protocols;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of strings")
    }

    fn visit_str<E: serde::de::Error>(self, one: &str) -> std::result::Result<Protocols, E> {
        let value = serde::de::value::StrDeserializer::new(one);
        json::optional_name(value).map(|name| Protocols(name.into_iter().collect()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Protocols, E> {
        Ok(Protocols::default())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(
        self,
        entries: A,
    ) -> std::result::Result<Protocols, A::Error> {
        let entries = serde::de::value::SeqAccessDeserializer::new(entries);
        json::list::<_, _, { limits::DESCRIPTOR_PROTOCOLS_MAX }>(entries).map(Protocols)
    }
}

fn write_instance<S: Serializer>(
    instance: &[u8; INSTANCE_BYTES],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(*instance)))
}

fn read_instance<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<[u8; INSTANCE_BYTES], D::Error> {
    let digits = json::name(deserializer)?;
    let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() == 2 * INSTANCE_BYTES && digits.bytes().all(is_lower_hex) {
        if let Ok(instance) = u128::from_str_radix(&digits, 16) {
            return Ok(instance.to_be_bytes());
        }
    }
    Err(serde::de::Error::custom("expected 32 lower-case hexadecimal digits"))
}

/// The document as it is written: which members are there depends on protocol and dialect, their
/// order is byte-wise alphabetical on every level.
struct Writer<'a> {
    descriptor: &'a SegmentDescriptor,
    dialect: Dialect,
}

impl Serialize for Writer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let it = self.descriptor;
        let is_new = self.dialect == Dialect::V0_3_13;
        let is_rdma_family = it.protocol.is_rdma_family();
        // The length is a hint that JSON does not use.
        let mut document = serializer.serialize_struct("SegmentDescriptor", 12)?;
        document.serialize_field("buffers", &BuffersWriter(it))?;
        if is_rdma_family || it.protocol.contains("ascend") {
            document.serialize_field("devices", &DevicesWriter(it))?;
        }
        if let Some(native) = &it.native {
            document.serialize_field("mooncake_native", native)?;
        }
        document.serialize_field("name", &it.name)?;
        if let (true, Some(matrix)) = (is_rdma_family, &it.priority_matrix) {
            document.serialize_field("priority_matrix", matrix)?;
        }
        document.serialize_field("protocol", &it.protocol)?;
        if let Some(rank_info) = &it.rank_info {
            document.serialize_field("rank_info", rank_info)?;
        }
        if is_new {
            let name = it.rdma_server_name.as_deref().unwrap_or_default();
            document.serialize_field("rdma_server_name", name)?;
            if let Some(host) = &it.tcp_data_host {
                document.serialize_field("tcp_data_host", host)?;
            }
        }
        document.serialize_field("tcp_data_port", &it.tcp_data_port)?;
        if is_new {
            document.serialize_field("tcp_proto_version", &it.tcp_proto_version)?;
        }
        document.serialize_field("timestamp", &it.timestamp)?;
        document.end()
    }
}

struct BuffersWriter<'a>(&'a SegmentDescriptor);

impl Serialize for BuffersWriter<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let has_keys = self.0.protocol.is_rdma_family();
        serializer.collect_seq(self.0.buffers.iter().map(|buffer| BufferWriter {
            addr: buffer.addr,
            length: buffer.length,
            lkey: has_keys.then_some(buffer.lkey.as_slice()),
            name: &buffer.name,
            rkey: has_keys.then_some(buffer.rkey.as_slice()),
        }))
    }
}

#[derive(Serialize)]
struct BufferWriter<'a> {
    addr: u64,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lkey: Option<&'a [u32]>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rkey: Option<&'a [u32]>,
}

struct DevicesWriter<'a>(&'a SegmentDescriptor);

impl Serialize for DevicesWriter<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let has_gid = self.0.protocol.is_rdma_family();
        serializer.collect_seq(self.0.devices.iter().map(|device| DeviceWriter {
            gid: has_gid.then_some(device.gid.as_str()),
            lid: device.lid,
            name: &device.name,
        }))
    }
}

#[derive(Serialize)]
struct DeviceWriter<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<&'a str>,
    lid: u16,
    name: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native() -> NativeExtension {
        NativeExtension {
            buffers: vec![NativeBuffer { access: 3, key: u64::MAX, location: "cpu:0".into() }],
            capabilities: 5,
            host_id: "h".into(),
            instance: *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff",
            version: 1,
        }
    }

    fn tcp() -> SegmentDescriptor {
        SegmentDescriptor {
            name: "n:1".into(),
            protocol: "tcp".into(),
            tcp_data_port: 15402,
            tcp_data_host: Some("::1".into()),
            tcp_proto_version: 2,
            timestamp: "t".into(),
            rdma_server_name: None,
            buffers: vec![BufferDescriptor {
                name: "n:1".into(),
                addr: u64::MAX - 4096,
                length: 4096,
                ..BufferDescriptor::default()
            }],
            devices: Vec::new(),
            priority_matrix: None,
            rank_info: None,
            native: Some(native()),
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    fn refused(document: &str) -> Error {
        let error = SegmentDescriptor::decode(document.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MetadataMalformed, "{document}");
        error
    }

    #[test]
    fn what_an_engine_publishes() {
        let expected = concat!(
            r#"{"buffers":[{"addr":18446744073709547519,"length":4096,"name":"n:1"}],"#,
            r#""mooncake_native":{"buffers":[{"access":3,"key":18446744073709551615,"#,
            r#""location":"cpu:0"}],"capabilities":5,"host_id":"h","#,
            r#""instance":"000102030405060708090a0b0c0d0eff","version":1},"#,
            r#""name":"n:1","protocol":"tcp","rdma_server_name":"","tcp_data_host":"::1","#,
            r#""tcp_data_port":15402,"tcp_proto_version":2,"timestamp":"t"}"#,
        );
        assert_eq!(text(tcp().encode(Dialect::V0_3_13)), expected);
        assert_eq!(text(tcp().encode_line(Dialect::V0_3_13)), format!("{expected}\n"));
        assert_eq!(SegmentDescriptor::decode(expected.as_bytes()).unwrap(), tcp());
    }

    #[test]
    fn the_old_dialect_leaves_out_what_came_later() {
        let document = SegmentDescriptor { native: None, ..tcp() };
        let expected = concat!(
            r#"{"buffers":[{"addr":18446744073709547519,"length":4096,"name":"n:1"}],"#,
            r#""name":"n:1","protocol":"tcp","tcp_data_port":15402,"timestamp":"t"}"#,
        );
        assert_eq!(text(document.encode(Dialect::V0_3_7)), expected);
        let decoded = SegmentDescriptor::decode(expected.as_bytes()).unwrap();
        assert_eq!(decoded.tcp_proto_version, 1);
        assert_eq!(decoded.tcp_data_host, None);
    }

    #[test]
    fn rdma_and_ascend_layouts() {
        let rdma = concat!(
            r#"{"buffers":[{"addr":4096,"length":8,"lkey":[764],"name":"cpu:0","rkey":[765]}],"#,
            r#""devices":[{"gid":"00:01","lid":7,"name":"rxe1"}],"name":"n:1","#,
            r#""priority_matrix":{"a":[[],["rxe1"]],"b":[[],[]]},"protocol":"rdma","#,
            r#""tcp_data_port":0,"timestamp":"t"}"#,
        );
        let decoded = SegmentDescriptor::decode(rdma.as_bytes()).unwrap();
        assert_eq!(decoded.buffers[0].rkey, [765]);
        assert_eq!(decoded.devices[0].lid, 7);
        assert_eq!(text(decoded.encode(Dialect::V0_3_7)), rdma);

        let ascend = concat!(
            r#"{"buffers":[{"addr":4096,"length":8,"name":"npu:0"}],"#,
            r#""devices":[{"lid":0,"name":"npu0"}],"name":"n:1","protocol":"ascend","#,
            r#""rank_info":{"hostIp":"10.0.0.1","hostPort":20013},"#,
            r#""tcp_data_port":0,"timestamp":"t"}"#,
        );
        let decoded = SegmentDescriptor::decode(ascend.as_bytes()).unwrap();
        assert_eq!(text(decoded.encode(Dialect::V0_3_7)), ascend);
    }

    #[test]
    fn carried_members_stay_in_alphabetical_order() {
        // Holds as long as no dependency turns on serde_json's `preserve_order`.
        let document = r#"{"protocol":"rdma","priority_matrix":{"b":[[],[]],"a":[[],[]]}}"#;
        let decoded = SegmentDescriptor::decode(document.as_bytes()).unwrap();
        let again = text(decoded.encode(Dialect::V0_3_7));
        assert!(again.contains(r#""priority_matrix":{"a":[[],[]],"b":[[],[]]}"#), "{again}");
    }

    #[test]
    fn missing_members_read_as_nothing() {
        let decoded = SegmentDescriptor::decode(br#"{"protocol":"tcp","later":{}}"#).unwrap();
        let expected = SegmentDescriptor {
            name: String::new(),
            tcp_data_port: 0,
            tcp_data_host: None,
            tcp_proto_version: 1,
            timestamp: String::new(),
            buffers: Vec::new(),
            native: None,
            ..tcp()
        };
        assert_eq!(decoded, expected);
        let nulls = br#"{"protocol":"tcp","buffers":null,"tcp_proto_version":null,"name":null,
            "mooncake_native":null,"tcp_data_host":"","rdma_server_name":""}"#;
        assert_eq!(SegmentDescriptor::decode(nulls).unwrap(), expected);
    }

    #[test]
    fn protocols_may_be_several() {
        let decoded = SegmentDescriptor::decode(br#"{"protocol":["tcp","rdma"]}"#).unwrap();
        assert!(decoded.protocol.contains("tcp") && decoded.protocol.contains("rdma"));
        assert!(!decoded.protocol.contains("ascend"));
        assert_eq!(decoded.protocol.to_string(), "tcp,rdma");
        let again = text(decoded.encode(Dialect::V0_3_7));
        assert!(again.contains(r#""protocol":["tcp","rdma"]"#), "{again}");

        for document in [
            r#"{}"#,
            r#"{"protocol":""}"#,
            r#"{"protocol":null}"#,
            r#"{"protocol":[]}"#,
            r#"{"protocol":"TCP"}"#,
            r#"{"protocol":"quic"}"#,
            r#"{"protocol":["tcp","quic"]}"#,
            r#"{"protocol":7}"#,
        ] {
            assert_eq!(refused(document).context("member"), Some("protocol"), "{document}");
        }
        let many = format!(r#"{{"protocol":[{}"tcp"]}}"#, r#""tcp","#.repeat(32));
        assert_eq!(refused(&many).context("member"), Some("protocol"));
    }

    #[test]
    fn unusable_buffers_refuse_the_whole_descriptor() {
        for (buffer, member) in [
            (r#"{"addr":1,"length":1}"#, "buffers[1]"),
            (r#"{"addr":0,"length":1,"name":"n"}"#, "buffers[1]"),
            (r#"{"addr":1,"length":0,"name":"n"}"#, "buffers[1]"),
            (r#"{"addr":18446744073709551615,"length":1,"name":"n"}"#, "buffers[1]"),
            (r#"{"addr":-1,"length":1,"name":"n"}"#, "buffers[1].addr"),
            (r#"{"addr":1.5,"length":1,"name":"n"}"#, "buffers[1].addr"),
            (r#"{"addr":18446744073709551616,"length":1,"name":"n"}"#, "buffers[1].addr"),
            (r#"{"addr":1,"length":"1","name":"n"}"#, "buffers[1].length"),
            (r#"{"addr":1,"length":1,"name":["n"]}"#, "buffers[1].name"),
            (r#"[1,1,"n"]"#, "buffers[1]"),
        ] {
            let good = r#"{"addr":1,"length":1,"name":"n"}"#;
            let document =
                format!(r#"{{"buffers":[{good},{buffer}],"name":"seg","protocol":"tcp"}}"#);
            assert_eq!(refused(&document).context("member"), Some(member), "{document}");
        }
        let error = refused(r#"{"buffers":[{}],"name":"seg\n","protocol":"tcp"}"#);
        assert_eq!(error.context("segment"), Some("seg\\n"));
        // Where buffers are described by other members, the range may be missing.
        assert!(SegmentDescriptor::decode(br#"{"buffers":[{}],"protocol":"cxl"}"#).is_ok());
    }

    #[test]
    fn rdma_keys_pair_with_devices() {
        let decode = |keys: &str| {
            let document = format!(
                r#"{{"buffers":[{{"addr":1,"length":1,"name":"cpu:0"{keys}}}],
                "devices":[{{"name":"a","gid":"1"}},{{"name":"b","gid":"2"}}],
                "protocol":"rdma"}}"#
            );
            SegmentDescriptor::decode(document.as_bytes())
        };
        assert!(decode(r#","rkey":[1,2],"lkey":[3,4]"#).is_ok());
        assert!(decode("").is_ok());
        assert!(decode(r#","rkey":[],"lkey":[3,4]"#).is_ok());
        assert!(decode(r#","rkey":[1],"lkey":[3]"#).is_err());
        assert!(decode(r#","rkey":[1,2],"lkey":[3]"#).is_err());
        assert!(decode(r#","rkey":[1,4294967296],"lkey":[3,4]"#).is_err());
        let nameless = r#"{"devices":[{"name":"a","gid":""}],"protocol":"rdma"}"#;
        assert_eq!(refused(nameless).context("member"), Some("devices[0]"));
    }

    #[test]
    fn an_extension_that_does_not_fit_is_ignored_as_a_whole() {
        let mut document = tcp();
        document.buffers.push(document.buffers[0].clone());
        let decoded = SegmentDescriptor::decode(&document.encode(Dialect::V0_3_13)).unwrap();
        assert_eq!(decoded.buffers, document.buffers);
        assert_eq!(decoded.native, None);

        let mut document = tcp();
        document.native = Some(NativeExtension { version: 0, ..native() });
        let decoded = SegmentDescriptor::decode(&document.encode(Dialect::V0_3_13)).unwrap();
        assert_eq!(decoded.native, None);
    }

    #[test]
    fn a_malformed_extension_is_refused_by_name() {
        let instance = "000102030405060708090a0b0c0d0e0f";
        for (extension, member) in [
            ("7".to_owned(), "mooncake_native"),
            ("[]".to_owned(), "mooncake_native"),
            ("{}".to_owned(), "mooncake_native"),
            (format!(r#"{{"instance":"{}"}}"#, &instance[1..]), "mooncake_native.instance"),
            (format!(r#"{{"instance":"+{}"}}"#, &instance[1..]), "mooncake_native.instance"),
            (
                format!(r#"{{"instance":"{}"}}"#, instance.to_uppercase()),
                "mooncake_native.instance",
            ),
            (
                format!(r#"{{"instance":"{instance}","buffers":[{{"key":-1}}]}}"#),
                "mooncake_native.buffers[0].key",
            ),
        ] {
            let document = format!(r#"{{"mooncake_native":{extension},"protocol":"tcp"}}"#);
            assert_eq!(refused(&document).context("member"), Some(member), "{document}");
        }
    }

    #[test]
    fn what_is_no_descriptor() {
        for document in ["", "null", "[]", "{", "\"tcp\"", r#"{"protocol":"tcp"} x"#] {
            refused(document);
        }
        assert_eq!(
            refused(r#"{"protocol":"tcp","tcp_data_port":65536}"#).context("member"),
            Some("tcp_data_port")
        );
        // Depth is bounded also inside members that are ignored or carried.
        for member in ["later", "priority_matrix"] {
            let deep = "[".repeat(100_000);
            refused(&format!(r#"{{"{member}":{deep}"#));
        }
    }

    #[test]
    fn many_buffers() {
        let one = r#"{"addr":4096,"length":1,"name":"n"}"#;
        let list = vec![one; limits::BUFFERS_MAX].join(",");
        let document = format!(r#"{{"buffers":[{list}],"protocol":"tcp"}}"#);
        let decoded = SegmentDescriptor::decode(document.as_bytes()).unwrap();
        assert_eq!(decoded.buffers.len(), limits::BUFFERS_MAX);

        let list = "{},".repeat(limits::DESCRIPTOR_BUFFERS_MAX);
        let document = format!(r#"{{"buffers":[{list}{{}}],"protocol":"cxl"}}"#);
        assert_eq!(refused(&document).context("member"), Some("buffers"));
    }
}
