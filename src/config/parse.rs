//! From JSON values and environment strings to checked [`Value`]s. Pure; knows kinds, not settings.

use serde_json::Value as Json;

use super::row::{Kind, Value, Variable};
use crate::limits;

/// Reads a JSON value; the error says what was expected.
pub(super) fn from_json(kind: &Kind, json: &Json) -> Result<Value, String> {
    match (kind, json) {
        (Kind::Flag | Kind::Bool, Json::Bool(b)) => Ok(Value::Bool(*b)),
        (Kind::Flag | Kind::Bool, _) => Err("is not true or false".to_owned()),
        (Kind::Integer { .. } | Kind::OneOf(_), Json::Number(number)) => match number.as_i64() {
            Some(n) => check_integer(kind, n, None),
            None => Err(format!("{number} is not an integer in range")),
        },
        (Kind::Integer { .. } | Kind::OneOf(_), _) => Err("is not an integer".to_owned()),
        (Kind::Text(bytes_max) | Kind::Secret(bytes_max), Json::String(text)) => {
            check_text(text, *bytes_max).map(|text| Value::Text(text.to_owned()))
        }
        (Kind::Choice { words, aliases }, Json::String(text)) => choose(words, aliases, text),
        (Kind::Text(_) | Kind::Secret(_) | Kind::Choice { .. }, _) => {
            Err("is not a string".to_owned())
        }
        (Kind::List(items_max), Json::String(text)) => split_list(text, *items_max),
        (Kind::List(items_max), Json::Array(items)) => {
            let texts = items
                .iter()
                .take(items_max + 1)
                .map(|item| item.as_str().ok_or("has an item that is not a string"))
                .collect::<Result<Vec<_>, _>>()?;
            collect_list(texts.into_iter(), *items_max)
        }
        (Kind::List(_), _) => Err("is not a list of strings".to_owned()),
    }
}

/// Reads the text of an environment variable. `Ok(None)` is text that says nothing.
pub(super) fn from_variable(
    kind: &Kind,
    variable: &Variable,
    text: &str,
) -> Result<Option<Value>, String> {
    if matches!(kind, Kind::Flag) {
        return Ok(Some(Value::Bool(true)));
    }
    let text = text.trim();
    if text.is_empty() {
        return match kind {
            Kind::Integer { .. } | Kind::OneOf(_) => Err("is empty".to_owned()),
            _ => Ok(None),
        };
    }
    let value = match kind {
        Kind::Flag => Value::Bool(true),
        Kind::Bool => Value::Bool(parse_bool(text)?),
        Kind::Integer { .. } | Kind::OneOf(_) => {
            let n: i64 = text.parse().map_err(|_| "is not an integer".to_owned())?;
            check_integer(kind, n, Some(variable))?
        }
        Kind::Text(bytes_max) | Kind::Secret(bytes_max) => {
            Value::Text(check_text(text, *bytes_max)?.to_owned())
        }
        Kind::List(items_max) => split_list(text, *items_max)?,
        Kind::Choice { words, aliases } => choose(words, aliases, text)?,
    };
    Ok(Some(value))
}

/// True where a flag's text reads like "no" although its mere presence means yes.
pub(super) fn reads_like_no(text: &str) -> bool {
    matches!(parse_bool(text.trim()), Ok(false))
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("is none of 1, true, yes, on, 0, false, no, off".to_owned()),
    }
}

fn check_integer(kind: &Kind, n: i64, variable: Option<&Variable>) -> Result<Value, String> {
    let scaled = match variable {
        Some(variable) => {
            if let Some((min, max)) = variable.bounds {
                if n < min || n > max {
                    return Err(format!("{n} is not within {min}..{max}"));
                }
            }
            n.checked_mul(variable.scale).ok_or_else(|| format!("{n} is too large"))?
        }
        None => n,
    };
    match kind {
        Kind::Integer { min, max } if scaled < *min || scaled > *max => {
            Err(format!("{scaled} is not within {min}..{max}"))
        }
        Kind::OneOf(values) if !values.contains(&scaled) => {
            let values: Vec<String> = values.iter().map(i64::to_string).collect();
            Err(format!("{scaled} is none of {}", values.join(", ")))
        }
        _ => Ok(Value::Integer(scaled)),
    }
}

fn check_text(text: &str, bytes_max: usize) -> Result<&str, String> {
    if text.len() > bytes_max {
        return Err(format!("has {} bytes, at most {bytes_max} are allowed", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("contains control characters".to_owned());
    }
    Ok(text)
}

fn split_list(text: &str, items_max: usize) -> Result<Value, String> {
    collect_list(text.split(','), items_max)
}

fn collect_list<'a>(
    items: impl Iterator<Item = &'a str>,
    items_max: usize,
) -> Result<Value, String> {
    let mut list = Vec::new();
    for item in items.map(str::trim).filter(|item| !item.is_empty()) {
        if list.len() == items_max {
            return Err(format!("has more than {items_max} items"));
        }
        list.push(check_text(item, limits::NAME_BYTES_MAX)?.to_owned());
    }
    Ok(Value::List(list))
}

fn choose(words: &[&str], aliases: &[(&str, &str)], text: &str) -> Result<Value, String> {
    let lower = text.trim().to_ascii_lowercase();
    let word = aliases.iter().find(|(alias, _)| *alias == lower).map_or(lower.as_str(), |a| a.1);
    if words.contains(&word) {
        Ok(Value::Text(word.to_owned()))
    } else {
        // The words, not the text: a stranger's text may be long.
        Err(format!("is none of {}", words.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NUMBER: Kind = Kind::Integer { min: 1, max: 10 };
    const WORD: Kind =
        Kind::Choice { words: &["off", "warn"], aliases: &[("warning", "warn"), ("0", "off")] };

    #[test]
    fn json_values() {
        let text = |s: &str| Some(Value::Text(s.to_owned()));
        let list = |l: &[&str]| Some(Value::List(l.iter().map(|s| s.to_string()).collect()));
        let cases = [
            (Kind::Flag, json!(true), Some(Value::Bool(true))),
            (Kind::Flag, json!(1), None),
            (Kind::Bool, json!(false), Some(Value::Bool(false))),
            (Kind::Bool, json!("yes"), None),
            (NUMBER, json!(1), Some(Value::Integer(1))),
            (NUMBER, json!(10), Some(Value::Integer(10))),
            (NUMBER, json!(0), None),
            (NUMBER, json!(11), None),
            (NUMBER, json!(1.5), None),
            (NUMBER, json!(u64::MAX), None),
            (NUMBER, json!("1"), None),
            (Kind::OneOf(&[512, 1024]), json!(512), Some(Value::Integer(512))),
            (Kind::OneOf(&[512, 1024]), json!(513), None),
            (Kind::Text(3), json!("abc"), text("abc")),
            (Kind::Text(3), json!("abcd"), None),
            (Kind::Text(3), json!("a\nb"), None),
            (Kind::Text(3), json!(7), None),
            (Kind::Secret(3), json!("abc"), text("abc")),
            (WORD, json!("WARNING"), text("warn")),
            (WORD, json!("loud"), None),
            (Kind::List(2), json!("a, b,"), list(&["a", "b"])),
            (Kind::List(2), json!(["a", " b "]), list(&["a", "b"])),
            (Kind::List(2), json!(["a", "b", "c"]), None),
            (Kind::List(2), json!(["a", 1]), None),
            (Kind::List(2), json!([]), list(&[])),
            (Kind::List(2), json!({}), None),
        ];
        for (kind, json, expected) in cases {
            assert_eq!(from_json(&kind, &json).ok(), expected, "{kind:?} {json}");
        }
    }

    #[test]
    fn variables() {
        let plain = Variable::v0_3_7("X");
        let seconds = plain.within(5, 3600).scaled(1000);
        let wide = Kind::Integer { min: 1, max: 3_600_000 };
        let cases = [
            (Kind::Flag, plain, "", Some(Some(Value::Bool(true)))),
            (Kind::Flag, plain, "0", Some(Some(Value::Bool(true)))),
            (Kind::Bool, plain, "On", Some(Some(Value::Bool(true)))),
            (Kind::Bool, plain, "no", Some(Some(Value::Bool(false)))),
            (Kind::Bool, plain, "maybe", None),
            (Kind::Bool, plain, "", Some(None)),
            (NUMBER, plain, " 7 ", Some(Some(Value::Integer(7)))),
            (NUMBER, plain, "7x", None),
            (NUMBER, plain, "", None),
            (NUMBER, plain, "-1", None),
            (wide, seconds, "5", Some(Some(Value::Integer(5000)))),
            (wide, seconds, "4", None),
            (wide, seconds, "3601", None),
            (wide, seconds, "9223372036854775807", None),
            (Kind::Text(5), plain, "", Some(None)),
            (Kind::Text(5), plain, "abc", Some(Some(Value::Text("abc".to_owned())))),
            (WORD, plain, "Warn", Some(Some(Value::Text("warn".to_owned())))),
        ];
        for (kind, variable, text, expected) in cases {
            assert_eq!(from_variable(&kind, &variable, text).ok(), expected, "{kind:?} {text:?}");
        }
    }

    #[test]
    fn a_flag_set_to_no_is_noticed() {
        assert!(reads_like_no("0") && reads_like_no(" OFF "));
        assert!(!reads_like_no("") && !reads_like_no("1"));
    }
}
