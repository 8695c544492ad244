//! Settings: one table, read from JSON, environment variables and options.
//!
//! Owns [`EngineConfig`] and nothing else: no thread, no global, no look at the host. Options and
//! JSON win over the environment, the environment wins over defaults. Anything wrong in what the
//! caller wrote is an error; anything wrong in the environment is ignored with a warning, since a
//! variable may be meant for another program.

mod check;
mod dialect;
mod document;
mod environment;
pub mod gflags;
mod nearest;
mod origin;
mod parse;
mod row;
mod table;

use std::fmt;

use serde_json::{json, Value as Json};

pub use dialect::Dialect;
pub use document::document;
pub use environment::{unknown_environment_names, Environment, ProcessEnvironment};
pub use origin::{Origin, Origins};
pub use row::{Effect, Kind, NamesWithoutEffect, Setting, Since, Value, Variable};
pub use table::{EngineConfig, NAMES_WITHOUT_EFFECT, SETTINGS};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

impl EngineConfig {
    /// Reads a configuration: `json` is an object of settings, or absent. The origins are also kept
    /// in the configuration itself.
    pub fn load(json: Option<&str>, env: &dyn Environment) -> Result<(EngineConfig, Origins)> {
        let mut config = EngineConfig::default();
        config.apply_environment(env);
        if let Some(json) = json {
            config.apply_json(json)?;
        }
        config.check()?;
        let origins = config.origins.clone();
        Ok((config, origins))
    }

    /// Sets one value by its key; `null` leaves it as it is. Rules between settings are not looked
    /// at, so that related ones can be set one after the other: see [`EngineConfig::check`].
    pub fn set(&mut self, key: &str, value: Json, origin: Origin) -> Result<()> {
        let Some(setting) = find(key) else { return Err(unknown_key(key)) };
        if value.is_null() {
            return Ok(());
        }
        let value = parse::from_json(&setting.kind, &value).map_err(|why| {
            Error::new(ErrorKind::InvalidArgument, format!("setting {key} {why}"))
                .with("origin", &origin)
        })?;
        self.put(setting, value, origin)
    }

    /// Applies the rules between settings. [`EngineConfig::load`] has done so; whoever calls
    /// [`EngineConfig::set`] or writes fields does it again.
    pub fn check(&mut self) -> Result<()> {
        check::check(self)
    }

    /// Every setting with its value and origin. Passwords are not shown.
    pub fn dump(&self) -> Json {
        let mut members = serde_json::Map::new();
        for setting in SETTINGS {
            let mut member = json!({
                "value": self.shown(setting),
                "origin": self.origins.get(setting.key).to_string(),
            });
            if let (Effect::Reserved(part), Some(member)) = (setting.effect, member.as_object_mut())
            {
                member.insert("reserved_for".to_owned(), Json::from(part));
            }
            members.insert(setting.key.to_owned(), member);
        }
        Json::Object(members)
    }

    fn apply_environment(&mut self, env: &dyn Environment) {
        for setting in SETTINGS {
            for variable in setting.variables {
                let Some(text) = env.get(variable.name) else { continue };
                match self.apply_variable(setting, variable, text) {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(why) => {
                        self.warnings.push(format!("environment {} {why}: ignored", variable.name));
                    }
                }
            }
        }
    }

    /// True when the variable decided the setting.
    fn apply_variable(
        &mut self,
        setting: &Setting,
        variable: &Variable,
        text: std::ffi::OsString,
    ) -> std::result::Result<bool, String> {
        let text = text.into_string().map_err(|_| "is not UTF-8".to_owned())?;
        let Some(value) = parse::from_variable(&setting.kind, variable, &text)? else {
            return Ok(false);
        };
        if matches!(setting.kind, Kind::Flag) && parse::reads_like_no(&text) {
            let name = variable.name;
            self.warnings.push(format!("environment {name} is set, which means yes: unset it"));
        }
        let origin = Origin::Environment(variable.name);
        self.put(setting, value, origin).map(|()| true).map_err(|error| error.to_string())
    }

    fn apply_json(&mut self, text: &str) -> Result<()> {
        let invalid = |why: &str| Error::new(ErrorKind::InvalidArgument, why);
        if text.len() > limits::CONFIG_JSON_BYTES_MAX {
            return Err(invalid("configuration is too long").with("bytes", text.len()));
        }
        let json: Json = serde_json::from_str(text)
            .map_err(|error| invalid("configuration is not JSON").caused_by(error))?;
        let Json::Object(members) = json else {
            return Err(invalid("configuration is not a JSON object"));
        };
        for (key, value) in members {
            self.set(&key, value, Origin::Json)?;
        }
        Ok(())
    }

    fn put(&mut self, setting: &Setting, value: Value, origin: Origin) -> Result<()> {
        if !(setting.put)(self, value) {
            // The bounds of a row fit the type of its field; a test goes through all of them.
            let text = format!("setting {} does not fit its field", setting.key);
            return Err(Error::new(ErrorKind::Internal, text));
        }
        self.origins.record(setting.key, origin);
        Ok(())
    }

    /// Puts a setting back to its default.
    fn reset(&mut self, key: &str) {
        let Some(setting) = find(key) else { return };
        let default = (setting.get)(&EngineConfig::default());
        if let Ok(value) = parse::from_json(&setting.kind, &default) {
            (setting.put)(self, value);
            self.origins.record(setting.key, Origin::Default);
        }
    }

    /// The value as it may be shown to anybody.
    fn shown(&self, setting: &Setting) -> Json {
        let value = (setting.get)(self);
        match (&setting.kind, value.as_str()) {
            (Kind::Secret(_), Some("")) => value,
            (Kind::Secret(_), _) => Json::from("(hidden)"),
            (Kind::Text(_), Some(text)) => Json::from(hide_password(text)),
            _ => value,
        }
    }
}

/// As the dump, so that a password cannot reach a log through `{:?}`.
impl fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("EngineConfig");
        for setting in SETTINGS {
            text.field(setting.key, &self.shown(setting));
        }
        text.finish_non_exhaustive()
    }
}

fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn unknown_key(key: &str) -> Error {
    let shown: String = key.chars().take(limits::CONFIG_KEY_CHARS_SHOWN).collect();
    let error = Error::new(ErrorKind::InvalidArgument, format!("no setting {shown:?}"));
    match nearest::nearest(&shown, SETTINGS.iter().map(|setting| setting.key)) {
        Some(known) => error.with("nearest", known),
        None => error,
    }
}

/// Replaces what stands between `://` and `@` up to the first `/`.
fn hide_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority_len = rest.find('/').unwrap_or(rest.len());
    match rest[..authority_len].rfind('@') {
        Some(at) => format!("{scheme}://(hidden){}", &rest[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
