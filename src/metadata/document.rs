//! The `rpc_meta` document, and the keys under which documents are kept in a metadata service.
//!
//! Pure: no service is known here, any thread may enter. Segment documents are in `descriptor`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::json;

const KEY_ROOT: &str = "mooncake/";

/// Where the handshake plane of an engine is reached.
// Members in byte-wise alphabetical order, as upstream writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RpcMeta {
    /// Host of the handshake plane and, for peers that look no further, of the data plane.
    #[serde(deserialize_with = "json::name")]
    pub ip_or_host_name: String,
    /// Port of the handshake plane.
    #[serde(deserialize_with = "json::or_default")]
    pub rpc_port: u16,
}

impl RpcMeta {
    /// The document as an HTTP body.
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// The document as an etcd or redis value: with a newline.
    pub fn encode_line(&self) -> Vec<u8> {
        json::encode_line(self)
    }

    /// Reads either form.
    pub fn decode(bytes: &[u8]) -> Result<RpcMeta> {
        json::decode_object(bytes, ErrorKind::MetadataMalformed, "rpc_meta document")
    }
}

/// Key of the segment document of `name`. Names that contain `/` are paths of their own and are
/// not put under `ram/`.
pub fn ram_key(cluster_id: &str, name: &str) -> String {
    let directory = if name.contains('/') { "" } else { "ram/" };
    key(cluster_id, directory, name)
}

/// Key of the `rpc_meta` document of the engine `name`.
pub fn rpc_meta_key(cluster_id: &str, name: &str) -> String {
    key(cluster_id, "rpc_meta/", name)
}

/// Refuses names under which an engine could not be published without harm: their keys would be
/// those of another engine, or ones that HTTP services write only once, or lead nowhere.
pub fn check_own_name(name: &str) -> Result<()> {
    let why = if name.starts_with('/') {
        "begins with a slash, which is dropped where a segment is opened"
    } else if name.contains("rpc_meta") {
        "contains `rpc_meta`, and documents with that in their key are not replaced"
    } else if name.split('/').rev().skip(1).any(|part| part == "ram") {
        "has the part `ram/`, which keeps the documents of other segments"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidArgument, format!("the name of the engine {why}"))
        .with("segment", name.escape_debug()))
}

/// Joins the parts; `cluster_id` may be empty and may bring its own final `/`.
fn key(cluster_id: &str, directory: &str, name: &str) -> String {
    let separator = if cluster_id.is_empty() || cluster_id.ends_with('/') { "" } else { "/" };
    format!("{KEY_ROOT}{cluster_id}{separator}{directory}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(ram_key("", "nodeA:12345"), "mooncake/ram/nodeA:12345");
        assert_eq!(ram_key("", "nvmeof/x"), "mooncake/nvmeof/x");
        assert_eq!(ram_key("c", "n"), "mooncake/c/ram/n");
        assert_eq!(ram_key("c/", "n"), "mooncake/c/ram/n");
        assert_eq!(rpc_meta_key("", "n"), "mooncake/rpc_meta/n");
        assert_eq!(rpc_meta_key("c", "a/b"), "mooncake/c/rpc_meta/a/b");
    }

    #[test]
    fn names_that_would_be_keys_of_others() {
        for name in ["/a", "//", "ram/a", "c/ram/a", "rpc_meta/a", "my-rpc_meta", "ram//"] {
            let error = check_own_name(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
        }
        for name in ["", "a", "ram", "a/ram", "program/x", "nvmeof/x", "a b:1", "RAM/x"] {
            check_own_name(name).unwrap();
        }
    }

    #[test]
    fn rpc_meta_reads_what_is_missing_as_empty() {
        assert_eq!(RpcMeta::decode(b"{}").unwrap(), RpcMeta::default());
        let meta = RpcMeta::decode(br#" {"later":[], "rpc_port": 7} "#).unwrap();
        assert_eq!(meta, RpcMeta { rpc_port: 7, ..RpcMeta::default() });
    }

    #[test]
    fn rpc_meta_refuses_wrong_types_by_name() {
        for (text, member) in [
            (r#"{"rpc_port":"16845"}"#, "rpc_port"),
            (r#"{"rpc_port":65536}"#, "rpc_port"),
            (r#"{"ip_or_host_name":1}"#, "ip_or_host_name"),
        ] {
            let error = RpcMeta::decode(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MetadataMalformed);
            assert_eq!(error.context("member"), Some(member), "{text}");
        }
        for text in ["", "null", "[]", "{", "{} x"] {
            assert!(RpcMeta::decode(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
