//! Rules between settings. What the environment got wrong is put back to its default with a
//! warning, as upstream does; what the caller got wrong is an error.

use super::origin::Origin;
use super::EngineConfig;
use crate::error::{Error, ErrorKind, Result};

/// Ports that Linux hands out for outgoing connections; upstream 0.3.13 refuses to listen there.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

pub(super) fn check(config: &mut EngineConfig) -> Result<()> {
    check_port_range(config)?;
    check_fragment_ratio(config)?;
    check_affinity(config)
}

fn check_port_range(config: &mut EngineConfig) -> Result<()> {
    let Err(why) = port_range_is_sound(config) else { return Ok(()) };
    let text = format!("port range {}..{} {why}", config.port_min, config.port_max);
    settle(config, &["port_min", "port_max"], text)
}

fn port_range_is_sound(config: &EngineConfig) -> std::result::Result<(), &'static str> {
    let (min, max) = (config.port_min, config.port_max);
    if min > max {
        return Err("ends before it begins");
    }
    // The newer spelling brings the newer rules; the older one and the caller take any port.
    let is_newer = |key| match config.origins.get(key) {
        Origin::Environment(name) => name.ends_with("_RPC_PORT"),
        _ => false,
    };
    if is_newer("port_min") || is_newer("port_max") {
        if min < 1024 {
            return Err("begins below 1024");
        }
        if min <= *EPHEMERAL.end() && max >= *EPHEMERAL.start() {
            return Err("touches the ports 32768..60999, which the kernel hands out itself");
        }
    }
    Ok(())
}

fn check_fragment_ratio(config: &mut EngineConfig) -> Result<()> {
    let (ratio, slice) = (u64::from(config.rdma_fragment_ratio), config.rdma_slice_bytes);
    // The default ratio with a tiny slice is no contradiction: it merges nothing.
    if ratio < slice || config.origins.get("rdma_fragment_ratio") == Origin::Default {
        return Ok(());
    }
    let text = format!("rdma_fragment_ratio {ratio} is not below rdma_slice_bytes {slice}");
    settle(config, &["rdma_fragment_ratio"], text)
}

fn check_affinity(config: &mut EngineConfig) -> Result<()> {
    if !(config.rdma_peer_affinity && config.rdma_same_device_preferred) {
        return Ok(());
    }
    let text = "rdma_peer_affinity and rdma_same_device_preferred exclude each other".to_owned();
    settle(config, &["rdma_peer_affinity", "rdma_same_device_preferred"], text)
}

/// Refuses if the caller set one of `keys`; else puts those from the environment back.
fn settle(config: &mut EngineConfig, keys: &[&'static str], text: String) -> Result<()> {
    let by_caller = |key: &&str| matches!(config.origins.get(key), Origin::Json | Origin::Option);
    if keys.iter().any(by_caller) {
        let origins: Vec<String> =
            keys.iter().map(|key| format!("{key} by {}", config.origins.get(key))).collect();
        return Err(Error::new(ErrorKind::InvalidArgument, text).with("set", origins.join(", ")));
    }
    let set: Vec<String> = keys
        .iter()
        .map(|key| config.origins.get(key))
        .filter(|origin| *origin != Origin::Default)
        .map(|origin| origin.to_string())
        .collect();
    let set = set.join(", ");
    config.warnings.push(format!("{text} (set by {set}): ignored, the default is used"));
    for key in keys {
        config.reset(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;
    use crate::error::ErrorKind;

    /// JSON, variables as `MIN_RPC` for `MC_MIN_RPC_PORT`, the range that results or `None` for an
    /// error, and the number of warnings.
    type RangeCase = (&'static str, &'static str, Option<(u16, u16)>, usize);

    #[test]
    fn port_ranges() {
        const DEFAULT: Option<(u16, u16)> = Some((15_000, 17_000));
        let cases: [RangeCase; 16] = [
            ("", "", DEFAULT, 0),
            ("", "MIN_RPC=20000 MAX_RPC=20010", Some((20_000, 20_010)), 0),
            ("", "MIN_PRC=40000 MAX_PRC=40010", Some((40_000, 40_010)), 0),
            ("", "MIN_RPC=40000 MAX_RPC=40010", DEFAULT, 1),
            ("", "MIN_RPC=30000 MAX_RPC=62000", DEFAULT, 1),
            ("", "MIN_RPC=61000 MAX_RPC=65535", Some((61_000, 65_535)), 0),
            ("", "MIN_RPC=1000 MAX_RPC=2000", DEFAULT, 1),
            ("", "MIN_PRC=1000 MAX_PRC=2000", Some((1000, 2000)), 0),
            ("", "MIN_PRC=0", DEFAULT, 1),
            ("", "MAX_PRC=70000", DEFAULT, 1),
            ("", "MIN_PRC=18000", DEFAULT, 1),
            ("", "MIN_RPC=16000 MIN_PRC=16500", Some((16_000, 17_000)), 0),
            ("", "MIN_RPC=x MIN_PRC=16500", Some((16_500, 17_000)), 1),
            (r#"{"port_min": 40000, "port_max": 40000}"#, "", Some((40_000, 40_000)), 0),
            (r#"{"port_min": 18000}"#, "", None, 0),
            (r#"{"port_min": 18000}"#, "MAX_PRC=19000", Some((18_000, 19_000)), 0),
        ];
        for (json, variables, expected, warnings) in cases {
            let named: Vec<(String, &str)> = variables
                .split_whitespace()
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (format!("MC_{name}_PORT"), value))
                .collect();
            let pairs: Vec<(&str, &str)> = named.iter().map(|(n, v)| (n.as_str(), *v)).collect();
            match load((!json.is_empty()).then_some(json), &pairs) {
                Ok(config) => {
                    let range = (config.port_min, config.port_max);
                    assert_eq!(Some(range), expected, "{json} {variables}");
                    assert_eq!(config.warnings.len(), warnings, "{:?}", config.warnings);
                }
                Err(error) => {
                    assert_eq!(expected, None, "{error}");
                    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                }
            }
        }
    }

    #[test]
    fn contradictions_from_the_environment_fall_back_together() {
        let config = load(
            None,
            &[("MC_ENABLE_HCA_PEER_AFFINITY", "1"), ("MC_ENABLE_DEST_DEVICE_AFFINITY", "1")],
        )
        .unwrap();
        assert!(!config.rdma_peer_affinity && !config.rdma_same_device_preferred);
        assert_eq!(config.warnings.len(), 1);
        assert_eq!(config.origins.get("rdma_peer_affinity").to_string(), "default");
    }

    #[test]
    fn the_fragment_ratio_is_below_the_slice() {
        let env = [("MC_SLICE_SIZE", "4"), ("MC_FRAGMENT_RATIO", "8")];
        let config = load(None, &env).unwrap();
        assert_eq!((config.rdma_slice_bytes, config.rdma_fragment_ratio), (4, 4));
        assert!(load(Some(r#"{"rdma_fragment_ratio": 65536}"#), &[]).is_err());
        assert!(load(None, &[("MC_SLICE_SIZE", "2")]).unwrap().warnings.is_empty());
    }
}
