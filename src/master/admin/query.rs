//! The query of a request: members as they stand there, and decoded.

use percent_encoding::percent_decode;

/// Names of keys in one query; the header of a request is bounded, so this is, too.
const LIST_MAX: usize = 65_536;

/// One query.
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(super) fn new(query: Option<&'a str>) -> Query<'a> {
        Query(query.unwrap_or(""))
    }

    fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.split('&').find_map(|member| {
            let (found, value) = member.split_once('=').unwrap_or((member, ""));
            (found == name).then_some(value)
        })
    }

    /// What the first member of that name may mean: as it stands there, and decoded if that is
    /// something else. Empty where there is none.
    pub(super) fn spellings(&self, name: &str) -> Vec<Vec<u8>> {
        let Some(raw) = self.raw(name) else { return Vec::new() };
        let decoded = decoded(raw);
        let mut spellings = vec![raw.as_bytes().to_vec()];
        if decoded != raw.as_bytes() {
            spellings.push(decoded);
        }
        spellings
    }

    /// The decoded entries of a list with commas between them.
    pub(super) fn list(&self, name: &str) -> Vec<Vec<u8>> {
        let raw = self.raw(name).map(decoded).unwrap_or_default();
        let entries = raw.split(|byte| *byte == b',').filter(|entry| !entry.is_empty());
        entries.take(LIST_MAX).map(<[u8]>::to_vec).collect()
    }
}

fn decoded(raw: &str) -> Vec<u8> {
    // A plus sign is a blank in a query.
    percent_decode(raw.replace('+', " ").as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_are_and_decoded() {
        let query = Query::new(Some("x=1&key=a%2Fb&key=z&keys=a%2Cb,,c%20d&bare"));
        assert_eq!(query.spellings("key"), [b"a%2Fb".to_vec(), b"a/b".to_vec()]);
        assert_eq!(query.spellings("x"), [b"1".to_vec()]);
        assert_eq!(query.spellings("bare"), [b"".to_vec()]);
        assert!(query.spellings("none").is_empty());
        assert_eq!(query.list("keys"), [b"a".to_vec(), b"b".to_vec(), b"c d".to_vec()]);
        assert!(Query::new(None).list("keys").is_empty());
    }
}
