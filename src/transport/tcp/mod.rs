//! TCP.
pub mod wire;
use super::*;
use crate::config::EngineConfig;
use crate::metrics::Metrics;
pub const NATIVE_VERSION: u16 = 1;
pub struct Settings;
impl Settings {
    pub fn new(_: &EngineConfig, _: [u8; 16], _: &str, _: &str) -> Self {
        Settings
    }
}
pub struct Tcp;
impl Tcp {
    pub fn start(
        _: Settings,
        _: std::net::TcpListener,
        _: Arc<dyn RegionTable>,
        _: Arc<dyn Recovery>,
        _: Arc<Metrics>,
    ) -> Result<Tcp> {
        Ok(Tcp)
    }
}
impl Transport for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::HOST
    }
    fn register(&self, _: &Arc<Region>) -> Result<RegionKeys> {
        Ok(RegionKeys::default())
    }
    fn unregister(&self, _: &Arc<Region>) {}
    fn publish(&self, d: &mut SegmentDescriptor) {
        d.protocol = "tcp".into();
    }
    fn route(&self, _: &PeerAddress) -> Option<Result<Arc<dyn Route>>> {
        None
    }
    fn shutdown(&self) {}
    fn dump(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}
