//! The flags of `mooncake_master`: one table for the parser, the help, the configuration file and
//! `docs/master-flags.md`.
//!
//! Pure. [`read`] turns a command line into [`Values`]; what they mean together is decided in
//! [`super::config`].

mod document;
mod help;
mod table;

use std::collections::BTreeMap;

use crate::config::gflags::{self, Kind, Known, Parsed, Request, Sources, Value};

pub use document::document;
pub use help::{help, version};
pub use table::FLAGS;

/// Name of the program.
pub const PROGRAM: &str = "mooncake_master";

/// Who has a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Upstream 0.3.7.post2.
    V0_3_7,
    /// Upstream 0.3.13.post1.
    V0_3_13,
    /// This program only.
    Ours,
}

/// Whether this program acts on a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Used,
    /// It is read and checked; the reason why nothing happens.
    None(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name, with underscores.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// As it would be written behind the flag.
    pub default: &'static str,
    /// Who has it.
    pub since: Since,
    /// Whether something happens.
    pub effect: Effect,
    /// What it is for: one sentence without its full stop.
    pub help: &'static str,
}

/// The flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The configuration file.
    File,
    /// The command line, or a variable or file that it names.
    CommandLine,
}

/// A value for every flag.
#[derive(Clone, Debug)]
pub struct Values(BTreeMap<&'static str, (String, Origin)>);

impl Default for Values {
    fn default() -> Values {
        let default = |flag: &Flag| (flag.name, (flag.default.to_owned(), Origin::Default));
        Values(FLAGS.iter().map(default).collect())
    }
}

impl Values {
    /// Sets a value that fits, unless a stronger origin has. False where it does not fit or no such
    /// flag is there.
    pub fn set(&mut self, name: &str, value: &str, origin: Origin) -> bool {
        let Some(flag) = find(name).filter(|flag| flag.kind.read(value).is_some()) else {
            return false;
        };
        let entry = self.0.entry(flag.name).or_insert_with(|| (String::new(), Origin::Default));
        if entry.1 <= origin {
            *entry = (value.to_owned(), origin);
        }
        true
    }

    /// Where the value comes from.
    pub fn origin(&self, name: &str) -> Origin {
        self.0.get(name).map_or(Origin::Default, |(_, origin)| *origin)
    }

    /// The value as it was written.
    pub fn written(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |(value, _)| value)
    }

    fn read(&self, name: &str) -> Option<Value> {
        find(name)?.kind.read(self.written(name))
    }

    /// Of a bool; false for other types.
    pub fn bool(&self, name: &str) -> bool {
        self.read(name) == Some(Value::Bool(true))
    }

    /// Of an integer with a sign; 0 for other types.
    pub fn signed(&self, name: &str) -> i64 {
        match self.read(name) {
            Some(Value::Signed(number)) => number,
            _ => 0,
        }
    }

    /// Of an integer without, or milliseconds; 0 for other types.
    pub fn unsigned(&self, name: &str) -> u64 {
        match self.read(name) {
            Some(Value::Unsigned(number)) => number,
            _ => 0,
        }
    }

    /// Of a double; 0 for other types.
    pub fn double(&self, name: &str) -> f64 {
        match self.read(name) {
            Some(Value::Double(number)) => number,
            _ => 0.0,
        }
    }

    /// Names of flags that somebody set and that have no effect, with the reason.
    pub fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let without = FLAGS.iter().filter_map(|flag| match flag.effect {
            Effect::None(why) if self.origin(flag.name) > Origin::Default => Some((flag.name, why)),
            _ => None,
        });
        without.collect()
    }
}

/// A command line that has been read.
pub struct CommandLine {
    /// The program's own flags; default where nothing was said.
    pub values: Values,
    /// Flags of upstream's logging library.
    pub logging: Vec<(String, String)>,
    /// What is wrong, in upstream's words; the program must not start.
    pub problems: Vec<String>,
    /// What to do.
    pub request: Request,
}

/// Reads the arguments, which do not begin with the program's name.
pub fn read(arguments: Vec<String>, sources: &Sources) -> CommandLine {
    let known = |name: &str| find(name).map(|flag| Known { kind: flag.kind, help: flag.help });
    let Parsed { assignments, logging, problems, request } =
        gflags::parse(arguments, &known, sources);
    let mut values = Values::default();
    for (name, value) in assignments {
        values.set(&name, &value, Origin::CommandLine);
    }
    let problems = problems.iter().map(ToString::to_string).collect();
    CommandLine { values, logging, problems, request }
}

#[cfg(test)]
mod tests;
