//! Where each value of a configuration came from, so that a dump can answer "who set this?".

use std::collections::BTreeMap;
use std::fmt;

/// The place that decided a value. Later ones in this list win over earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The named environment variable.
    Environment(&'static str),
    /// The key of the same name in the JSON object.
    Json,
    /// A member of an options struct, a command line flag, or another call of
    /// [`super::EngineConfig::set`].
    Option,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Json => f.write_str("json key"),
            Origin::Option => f.write_str("option"),
        }
    }
}

/// The origin of every setting; one that is absent is at its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    /// The origin of `key`.
    pub fn get(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or_default()
    }

    /// The settings that somebody set, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Origin)> {
        self.0.iter().map(|(key, origin)| (*key, origin))
    }

    pub(super) fn record(&mut self, key: &'static str, origin: Origin) {
        if origin == Origin::Default {
            self.0.remove(key);
        } else {
            self.0.insert(key, origin);
        }
    }
}
