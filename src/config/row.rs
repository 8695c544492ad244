//! What a row of the settings table is made of. No values and no policy; those are in `table`.

use serde_json::Value as Json;

use super::EngineConfig;

/// One setting: how it is named, read, documented and reached in [`EngineConfig`].
pub struct Setting {
    /// Key in JSON, in [`EngineConfig::set`] and in the dump; also the name of the field.
    pub key: &'static str,
    /// Heading under which it is documented.
    pub section: &'static str,
    /// Environment variables, the first valid one wins.
    pub variables: &'static [Variable],
    /// What values look like.
    pub kind: Kind,
    /// Whether this version acts on it.
    pub effect: Effect,
    /// What it is for, in sentences.
    pub help: &'static str,
    /// Reads the field as JSON.
    pub get: fn(&EngineConfig) -> Json,
    /// Writes the field; false when a value of the row's kind does not fit the field's type.
    pub put: fn(&mut EngineConfig, Value) -> bool,
}

/// One environment variable that feeds a setting.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The upstream version that introduced it.
    pub since: Since,
    /// An integer is multiplied by this: variables in seconds feed settings in milliseconds.
    pub scale: i64,
    /// Bounds before scaling, where they differ from those of the setting.
    pub bounds: Option<(i64, i64)>,
}

impl Variable {
    /// A variable that has been read since upstream 0.3.7.
    pub(super) const fn v0_3_7(name: &'static str) -> Variable {
        Variable { name, since: Since::V0_3_7, scale: 1, bounds: None }
    }

    /// A variable that newer upstream versions read.
    pub(super) const fn v0_3_13(name: &'static str) -> Variable {
        Variable { name, since: Since::V0_3_13, scale: 1, bounds: None }
    }

    /// A variable of this library, which no upstream version reads.
    pub(super) const fn ours(name: &'static str) -> Variable {
        Variable { name, since: Since::Ours, scale: 1, bounds: None }
    }

    pub(super) const fn within(mut self, min: i64, max: i64) -> Variable {
        self.bounds = Some((min, max));
        self
    }

    pub(super) const fn scaled(mut self, scale: i64) -> Variable {
        self.scale = scale;
        self
    }
}

/// The upstream version from which on a variable is read there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// 0.3.7.post2.
    V0_3_7,
    /// 0.3.13.post1.
    V0_3_13,
    /// None: only this library reads it.
    Ours,
}

impl Since {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Since::V0_3_7 => "0.3.7",
            Since::V0_3_13 => "0.3.13",
            Since::Ours => "not in upstream",
        }
    }
}

/// What values of a setting look like.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Upstream's flags: a variable that exists switches it on, whatever its value.
    Flag,
    /// A variable says 1/true/yes/on or 0/false/no/off.
    Bool,
    /// An integer, both bounds inclusive.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// One of a few integers.
    OneOf(&'static [i64]),
    /// Text of at most so many bytes.
    Text(usize),
    /// As text, but never shown.
    Secret(usize),
    /// A list of at most so many texts; in a variable separated by commas.
    List(usize),
    /// One of a few words, in any case.
    Choice {
        /// The words, as they are stored.
        words: &'static [&'static str],
        /// Other spellings and the word they stand for.
        aliases: &'static [(&'static str, &'static str)],
    },
}

/// Whether this version acts on a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Used,
    /// It is read, checked and kept; the named part that acts on it is not in this version.
    Reserved(&'static str),
}

/// Variables of upstream that are known and deliberately not acted on.
pub struct NamesWithoutEffect {
    /// The names; a `*` at the end stands for any rest.
    pub names: &'static [&'static str],
    /// Why nothing happens.
    pub reason: &'static str,
}

/// A value that has passed the check of its [`Kind`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a flag or bool.
    Bool(bool),
    /// Of the integer kinds.
    Integer(i64),
    /// Of text, secret and choice.
    Text(String),
    /// Of a list.
    List(Vec<String>),
}

/// A type that a field of [`EngineConfig`] may have.
pub(super) trait Field: Sized {
    fn from_value(value: Value) -> Option<Self>;
    fn to_json(&self) -> Json;
}

impl Field for bool {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    fn to_json(&self) -> Json {
        Json::Bool(*self)
    }
}

macro_rules! integer_fields {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::Integer(n) => <$type>::try_from(n).ok(),
                    _ => None,
                }
            }

            fn to_json(&self) -> Json {
                Json::from(*self)
            }
        }
    )*};
}

integer_fields!(u16, u32, u64, usize, i32);

impl Field for String {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn to_json(&self) -> Json {
        Json::from(self.as_str())
    }
}

impl Field for Vec<String> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    fn to_json(&self) -> Json {
        Json::from(self.as_slice())
    }
}

impl<T: Field> Field for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        // Empty text is how an optional text is taken back.
        match value {
            Value::Text(text) if text.is_empty() => Some(None),
            value => T::from_value(value).map(Some),
        }
    }

    fn to_json(&self) -> Json {
        self.as_ref().map_or(Json::Null, Field::to_json)
    }
}
