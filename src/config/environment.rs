//! The environment as a parameter: the process's own, or a map in tests.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::table::{NAMES_WITHOUT_EFFECT, SETTINGS};

/// Where environment variables come from.
pub trait Environment {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<OsString>;
    /// The names of all variables, in any order.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<OsString> {
        BTreeMap::get(self, name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// The `MC_*` variables that are set and that nothing in the library knows, sorted. Most are
/// misspelt: the caller should say so once for each process.
pub fn unknown_environment_names(environment: &dyn Environment) -> Vec<String> {
    let mut unknown: Vec<String> = environment
        .names()
        .into_iter()
        .filter(|name| name.starts_with("MC_") && !is_known(name))
        .collect();
    unknown.sort();
    unknown
}

fn is_known(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.variables.iter().any(|v| v.name == name))
        || NAMES_WITHOUT_EFFECT.iter().any(|group| {
            group.names.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == *pattern,
            })
        })
}
