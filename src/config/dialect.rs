//! The data-plane dialects of TCP as a setting.

use serde_json::Value as Json;

use super::row::{Field, Value};

/// The best dialect used towards a peer. A peer that does not speak it gets an older one, except
/// that `V1` never offers anything newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The best that both sides have.
    #[default]
    Auto,
    /// Upstream's first framing, 0.3.7.
    V1,
    /// Upstream's second framing, 0.3.13.
    V2,
    /// Ours.
    Native,
}

impl Dialect {
    /// Every word, in the order of age.
    pub(super) const WORDS: &'static [&'static str] = &["auto", "v1", "v2", "native"];

    /// The word used in JSON and in the dump.
    pub fn word(self) -> &'static str {
        match self {
            Dialect::Auto => "auto",
            Dialect::V1 => "v1",
            Dialect::V2 => "v2",
            Dialect::Native => "native",
        }
    }
}

impl Field for Dialect {
    fn from_value(value: Value) -> Option<Self> {
        let Value::Text(word) = value else { return None };
        [Dialect::Auto, Dialect::V1, Dialect::V2, Dialect::Native]
            .into_iter()
            .find(|dialect| dialect.word() == word)
    }

    fn to_json(&self) -> Json {
        Json::from(self.word())
    }
}
