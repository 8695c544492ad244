//! JSON as the codecs of documents and messages use it: typed, bounded, with errors that name the
//! member.
//!
//! Owns nothing, has no state, may be entered by any thread. It knows no document; those are in
//! `metadata` and `net`. It must not build a generic tree from foreign bytes without a bound:
//! two bytes of text cost 32 bytes of tree.
//!
//! Reading follows upstream's readers (jsoncpp): members in any order, unknown ones ignored,
//! missing and `null` ones read as 0, "" or empty. It is stricter in three points, all of which
//! only a defective or hostile writer meets: a member given twice, text after the document, and a
//! number given as text, fraction or negative are refused.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Longest piece of foreign text repeated in an error message.
const QUOTE_BYTES_MAX: usize = 256;

/// The compact form: no white space, members in the order of the struct.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing to a vector cannot fail, and the types of this crate serialize to JSON without a
    // fallible step (no map with keys other than strings, no hand-written error).
    #[allow(clippy::expect_used)]
    serde_json::to_vec(value).expect("serialization into memory is infallible")
}

/// The compact form and a newline, as handshake messages and etcd values end.
pub(crate) fn encode_line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = encode(value);
    line.push(b'\n');
    line
}

/// Reads one document. A failure has kind `kind` and says which member of `what` is wrong.
pub(crate) fn decode<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    kind: ErrorKind,
    what: &'static str,
) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        // The member's path is worth a second pass, but only on the way to a refusal: recording
        // it costs an allocation per member.
        let mut again = serde_json::Deserializer::from_slice(bytes);
        let member = match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(error) => error.path().to_string(),
            Ok(_) => ".".to_owned(),
        };
        let text = format!("malformed {what}: {}", quote(&error.to_string()));
        let error = Error::new(kind, text);
        if member == "." {
            error
        } else {
            error.with("member", quote(&member))
        }
    })
}

/// Reads one document that is an object; see [`Object`].
pub(crate) fn decode_object<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    kind: ErrorKind,
    what: &'static str,
) -> Result<T> {
    decode::<Object<T>>(bytes, kind, what).map(|object| object.0)
}

/// Reads one document that is an object or `null`.
pub(crate) fn decode_optional_object<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    kind: ErrorKind,
    what: &'static str,
) -> Result<Option<T>> {
    let object = decode::<Option<Object<T>>>(bytes, kind, what)?;
    Ok(object.map(|object| object.0))
}

/// Checks that the bytes are one JSON document of any shape, keeping nothing of it.
pub(crate) fn check(bytes: &[u8], kind: ErrorKind, what: &'static str) -> Result<()> {
    decode::<serde::de::IgnoredAny>(bytes, kind, what).map(|_| ())
}

/// Foreign text made fit for an error message: bounded, and without control characters.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() >= QUOTE_BYTES_MAX {
            out.push_str("...");
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// `deserialize_with`: a value, or its default where the member is `null`.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// `deserialize_with`: text of at most `MAX` bytes; `null` reads as "".
pub(crate) fn text<'de, D, const MAX: usize>(
    deserializer: D,
) -> std::result::Result<String, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_any(TextVisitor::<MAX>)
}

/// `deserialize_with`: a name; see [`limits::NAME_BYTES_MAX`].
pub(crate) fn name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<String, D::Error> {
    text::<D, { limits::NAME_BYTES_MAX }>(deserializer)
}

/// `deserialize_with`: a name that may be unused, which writers express by absence or by "".
pub(crate) fn optional_name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<String>, D::Error> {
    name(deserializer).map(|text| Some(text).filter(|text| !text.is_empty()))
}

/// `deserialize_with`: an array of at most `MAX` entries; `null` reads as empty.
pub(crate) fn list<'de, D, T, const MAX: usize>(
    deserializer: D,
) -> std::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(ListVisitor::<T, MAX>(PhantomData))
}

/// `deserialize_with`: an array of at most `MAX` objects; `null` reads as empty.
pub(crate) fn objects<'de, D, T, const MAX: usize>(
    deserializer: D,
) -> std::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = list::<D, Object<T>, MAX>(deserializer)?;
    Ok(objects.into_iter().map(|object| object.0).collect())
}

/// `deserialize_with`: an object that may be absent or `null`.
pub(crate) fn optional_object<'de, D, T>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<Object<T>>::deserialize(deserializer).map(|object| object.map(|object| object.0))
}

/// `deserialize_with`: a member that is carried, not understood. The bound is on its text, before
/// a tree is built from it.
pub(crate) fn opaque<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Value>, D::Error> {
    let Some(raw) = Option::<&RawValue>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let bytes = raw.get().len();
    if bytes > limits::OPAQUE_MEMBER_BYTES_MAX {
        return Err(D::Error::custom(format_args!(
            "{bytes} bytes, at most {} are accepted here",
            limits::OPAQUE_MEMBER_BYTES_MAX
        )));
    }
    parse_tree(raw.get()).map(Some).map_err(D::Error::custom)
}

fn parse_tree<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text)
}

/// A struct read from an object and from nothing else: the derived readers would also take an
/// array, member by position, which no writer of these documents means.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> std::result::Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members))
    }
}

struct TextVisitor<const MAX: usize>;

impl<const MAX: usize> Visitor<'_> for TextVisitor<MAX> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string of at most {MAX} bytes")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<String, E> {
        if text.len() > MAX {
            return Err(E::invalid_length(text.len(), &self));
        }
        Ok(text.to_owned())
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<String, E> {
        Ok(String::new())
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(
        self,
        mut entries: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            list.push(entry);
        }
        Ok(list)
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Self::Value, E> {
        Ok(Vec::new())
    }
}

/// A JSON string taken as bytes: text that is not UTF-8, which some writers emit unescaped, is
/// kept as it came instead of being refused or repaired.
#[derive(Debug, Default)]
pub(crate) struct StringBytes<const MAX: usize>(pub(crate) Vec<u8>);

impl<'de, const MAX: usize> Deserialize<'de> for StringBytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_bytes(StringBytesVisitor::<MAX>)
    }
}

struct StringBytesVisitor<const MAX: usize>;

impl<const MAX: usize> Visitor<'_> for StringBytesVisitor<MAX> {
    type Value = StringBytes<MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string of at most {MAX} bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> std::result::Result<Self::Value, E> {
        if bytes.len() > MAX {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(StringBytes(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[serde(default, deserialize_with = "or_default")]
        port: u16,
        #[serde(default, deserialize_with = "opaque")]
        extra: Option<Value>,
        #[serde(default, deserialize_with = "name")]
        label: String,
    }

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(default, deserialize_with = "objects::<_, _, 2>")]
        items: Vec<Inner>,
    }

    fn read(text: &str) -> Result<Outer> {
        decode_object(text.as_bytes(), ErrorKind::MetadataMalformed, "test document")
    }

    #[test]
    fn missing_null_and_unknown_members_are_harmless() {
        assert!(read("{}").unwrap().items.is_empty());
        assert!(read(r#"{"items":null,"later":[{"x":1}]}"#).unwrap().items.is_empty());
        let outer = read(r#"{"items":[{"port":null,"label":null,"extra":null}]}"#).unwrap();
        assert_eq!(outer.items[0].port, 0);
        assert_eq!(outer.items[0].label, "");
        assert_eq!(outer.items[0].extra, None);
    }

    #[test]
    fn an_error_names_the_member() {
        let error = read(r#"{"items":[{},{"port":"x"}]}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MetadataMalformed);
        assert_eq!(error.context("member"), Some("items[1].port"));
        for text in [r#"{"items":[{"port":70000}]}"#, r#"{"items":[{"port":-1}]}"#] {
            assert_eq!(read(text).unwrap_err().context("member"), Some("items[0].port"), "{text}");
        }
        let error = read(r#"{"items":[{"label":7}]}"#).unwrap_err();
        assert_eq!(error.context("member"), Some("items[0].label"));
    }

    #[test]
    fn an_array_is_not_an_object() {
        for text in ["[]", "[[]]", "null", "1"] {
            assert_eq!(read(text).unwrap_err().kind(), ErrorKind::MetadataMalformed, "{text}");
        }
        let error = read(r#"{"items":[[7]]}"#).unwrap_err();
        assert_eq!(error.context("member"), Some("items[0]"));
    }

    #[test]
    fn bounds_hold() {
        assert_eq!(read(r#"{"items":[{},{}]}"#).unwrap().items.len(), 2);
        let error = read(r#"{"items":[{},{},{}]}"#).unwrap_err();
        assert_eq!(error.context("member"), Some("items"));

        let label = "n".repeat(limits::NAME_BYTES_MAX + 1);
        let error = read(&format!(r#"{{"items":[{{"label":"{label}"}}]}}"#)).unwrap_err();
        assert_eq!(error.context("member"), Some("items[0].label"));

        let zeros = "0,".repeat(limits::OPAQUE_MEMBER_BYTES_MAX / 2);
        let error = read(&format!(r#"{{"items":[{{"extra":[{zeros}0]}}]}}"#)).unwrap_err();
        assert_eq!(error.context("member"), Some("items[0].extra"));
    }

    #[test]
    fn an_error_does_not_repeat_all_of_a_long_value() {
        let long = "x".repeat(1 << 20);
        let error = read(&format!(r#"{{"items":[{{"port":"{long}"}}]}}"#)).unwrap_err();
        assert!(error.to_string().len() < 2 * QUOTE_BYTES_MAX + 100);
    }

    #[test]
    fn quoted_text_has_no_control_characters() {
        assert_eq!(quote("a\nb\u{7f}"), "a\\nb\\u{7f}");
    }
}
