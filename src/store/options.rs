//! What a client is opened with: the names of `mooncake.json`, and any setting of the engine.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::{EngineConfig, Environment, Origin};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

use super::elected_master::ElectedMaster;
use super::master::Master;
use super::rpc_master::RpcMaster;

/// Upstream's defaults where a file or the environment says nothing: 3.125 GiB and 1 GiB.
const SEGMENT_BYTES_DEFAULT: u64 = 3_355_443_200;
const LOCAL_BUFFER_BYTES_DEFAULT: u64 = 1 << 30;

/// Options of a store client. Plain data.
#[derive(Clone)]
pub struct StoreOptions {
    /// Name of the client, `host` or `host:port`; peers reach it under this host.
    pub local_hostname: String,
    /// Where engines find each other: `P2PHANDSHAKE` or the address of a metadata service.
    pub metadata_server: String,
    /// Bytes given to the pool; 0 for a client that only reads and writes.
    pub segment_bytes: u64,
    /// Bytes for objects that are read into memory of the client.
    pub local_buffer_bytes: u64,
    /// Transport, as in the setting `protocol`.
    pub protocol: String,
    /// Adapters to use, a comma list; empty is all.
    pub devices: String,
    /// Address of the master, `host:port`, or several separated by commas; or
    /// `etcd://host:port;host:port`, where the elected one is found.
    pub master: String,
    /// Settings of the engine and the rest of the client.
    pub config: EngineConfig,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            local_hostname: String::new(),
            metadata_server: "P2PHANDSHAKE".to_owned(),
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            local_buffer_bytes: LOCAL_BUFFER_BYTES_DEFAULT,
            protocol: "tcp".to_owned(),
            devices: String::new(),
            master: String::new(),
            config: EngineConfig::default(),
        }
    }
}

impl StoreOptions {
    /// Reads options: `json` is an object with the names of `mooncake.json` (or of upstream's
    /// `setup`) and of any setting of `docs/configuration.md`. What it does not say comes from the
    /// variables `MOONCAKE_*`, then from the defaults.
    pub fn load(json: Option<&str>, env: &dyn Environment) -> Result<StoreOptions> {
        StoreOptions::default().load_over(json, env)
    }

    /// As [`StoreOptions::load`], with other defaults.
    pub fn load_over(self, json: Option<&str>, env: &dyn Environment) -> Result<StoreOptions> {
        let mut options = self;
        options.apply_environment(env)?;
        let mut rest = Map::new();
        if let Some(json) = json {
            for (key, value) in object(json)? {
                if !options.set(&key, &value)? {
                    rest.insert(key, value);
                }
            }
        }
        let text = Value::Object(rest).to_string();
        options.config = EngineConfig::load(Some(&text), env)?.0;
        Ok(options)
    }

    fn apply_environment(&mut self, env: &dyn Environment) -> Result<()> {
        for (names, key) in VARIABLES {
            let text = names.iter().find_map(|name| env.get(name)?.into_string().ok());
            if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
                self.set(key, &Value::from(text.trim()))?;
            }
        }
        Ok(())
    }

    /// Sets one option by the name that `mooncake.json` has for it; false for a name that is none.
    pub fn set(&mut self, key: &str, value: &Value) -> Result<bool> {
        match key {
            "local_hostname" => self.local_hostname = text(key, value)?,
            "metadata_server" => self.metadata_server = text(key, value)?,
            "protocol" => self.protocol = text(key, value)?.to_ascii_lowercase(),
            "device_name" | "rdma_devices" => self.devices = text(key, value)?,
            "master_server_address" | "master_server_addr" => self.master = text(key, value)?,
            "global_segment_size" => self.segment_bytes = bytes(key, value)?,
            "local_buffer_size" => self.local_buffer_bytes = bytes(key, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The engine's settings for a client of that name.
    pub(super) fn engine_config(&self, hostname: &str) -> Result<EngineConfig> {
        let mut config = self.config.clone();
        let name = without_device(hostname);
        let mut set = |key: &str, value: Value| config.set(key, value, Origin::Option);
        set("metadata", self.metadata_server.as_str().into())?;
        set("local_name", name.into())?;
        set("protocol", self.protocol.as_str().into())?;
        if !self.devices.is_empty() {
            set("device_filters", self.devices.as_str().into())?;
        }
        config.check()?;
        Ok(config)
    }

    /// The way to the master.
    pub(super) fn connect(&self) -> Result<Arc<dyn Master>> {
        let timeout = Duration::from_millis(self.config.store_master_connect_timeout_ms.into());
        if self.master.contains("://") {
            return Ok(Arc::new(ElectedMaster::new(&self.master, &self.config, timeout)?));
        }
        Ok(Arc::new(RpcMaster::new(&self.master, timeout)?))
    }
}

/// Variables of upstream's package, and the option that each stands for; the first that is set
/// counts.
const VARIABLES: &[(&[&str], &str)] = &[
    (&["MOONCAKE_LOCAL_HOSTNAME", "LOCAL_HOSTNAME"], "local_hostname"),
    (&["MOONCAKE_TE_META_DATA_SERVER"], "metadata_server"),
    (&["MOONCAKE_GLOBAL_SEGMENT_SIZE"], "global_segment_size"),
    (&["MOONCAKE_LOCAL_BUFFER_SIZE"], "local_buffer_size"),
    (&["MOONCAKE_PROTOCOL"], "protocol"),
    (&["MOONCAKE_DEVICE"], "device_name"),
    (&["MOONCAKE_MASTER"], "master_server_address"),
];

/// Ascend deployments append the card to the name: `host:port:npu_0`.
fn without_device(hostname: &str) -> &str {
    match hostname.rsplit_once(':') {
        Some((rest, device)) if device.starts_with("npu_") => rest,
        _ => hostname,
    }
}

fn object(json: &str) -> Result<Map<String, Value>> {
    if json.len() > limits::CONFIG_JSON_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidArgument, "the options are too long")
            .with("length_bytes", json.len()));
    }
    match serde_json::from_str(json) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Error::new(ErrorKind::InvalidArgument, "the options are no JSON object")),
        Err(error) => {
            Err(Error::new(ErrorKind::InvalidArgument, "the options are no JSON").caused_by(error))
        }
    }
}

fn text(key: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) if text.len() <= limits::CONNECTION_STRING_BYTES_MAX => {
            Ok(text.clone())
        }
        Value::Null => Ok(String::new()),
        _ => Err(Error::new(ErrorKind::InvalidArgument, format!("option {key} is not a text"))),
    }
}

fn bytes(key: &str, value: &Value) -> Result<u64> {
    let parsed = match value {
        Value::String(text) => parse_size(text),
        Value::Number(number) => number
            .as_u64()
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "not a number of bytes")),
        _ => Err(Error::new(ErrorKind::InvalidArgument, "not a size")),
    };
    parsed.map_err(|error| error.with("option", key))
}

/// Reads a size: digits, perhaps a fraction, perhaps one of k, m, g, t with or without `b` or
/// `ib`, in any case and with blanks between; all of them are powers of 1024.
pub(super) fn parse_size(text: &str) -> Result<u64> {
    let wrong = || {
        Error::new(ErrorKind::InvalidArgument, "not a size")
            .with("text", text.escape_debug().to_string().chars().take(64).collect::<String>())
    };
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let whole = match number.split_once('.') {
        None => number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)),
        Some(_) => {
            let value = number.parse::<f64>().map_err(|_| wrong())? * (1u64 << shift) as f64;
            (value.is_finite() && value < limits::REQUEST_BYTES_MAX as f64).then_some(value as u64)
        }
    };
    whole.filter(|bytes| *bytes <= isize::MAX as u64).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn load(json: Option<&str>, env: &[(&str, &str)]) -> Result<StoreOptions> {
        let env: BTreeMap<String, String> =
            env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        StoreOptions::load(json, &env)
    }

    #[test]
    fn sizes_in_all_spellings() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            (" 4gb", 4 << 30),
            ("4 GB ", 4 << 30),
            ("1.5g", 3 << 29),
            ("512MB", 512 << 20),
            ("16KiB", 16 << 10),
            ("1t", 1 << 40),
            ("10b", 10),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "gb", "-1", "1e9", "1.2.3g", "4xb", "99999999999999999999", "9999999t"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_wins_over_the_environment_and_names_have_aliases() {
        let env = [("MOONCAKE_MASTER", "m:1"), ("LOCAL_HOSTNAME", "h"), ("MOONCAKE_DEVICE", "")];
        let options = load(None, &env).unwrap();
        assert_eq!((options.master.as_str(), options.local_hostname.as_str()), ("m:1", "h"));
        assert_eq!(options.segment_bytes, SEGMENT_BYTES_DEFAULT);
        let json = r#"{"master_server_addr": "n:2", "global_segment_size": "64mb",
            "local_buffer_size": 0, "protocol": "TCP", "tcp_lanes_per_peer": 2}"#;
        let options = load(Some(json), &env).unwrap();
        assert_eq!(options.master, "n:2");
        assert_eq!((options.segment_bytes, options.local_buffer_bytes), (64 << 20, 0));
        assert_eq!((options.protocol.as_str(), options.config.tcp_lanes_per_peer), ("tcp", 2));
    }

    #[test]
    fn mistakes_are_named() {
        for (json, word) in [
            ("[]", "object"),
            ("{", "JSON"),
            (r#"{"global_segment_size": -1}"#, "global_segment_size"),
            (r#"{"global_segment_size": "1x"}"#, "global_segment_size"),
            (r#"{"local_hostname": 5}"#, "local_hostname"),
            (r#"{"no_such_option": 5}"#, "no_such_option"),
        ] {
            let error = load(Some(json), &[]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{json}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_card_in_the_name_is_not_a_port() {
        assert_eq!(without_device("10.0.0.1:9000:npu_3"), "10.0.0.1:9000");
        assert_eq!(without_device("host:9000"), "host:9000");
    }
}
