//! Regular expressions over keys: linear time, and no lock while matching.
//!
//! Upstream's syntax is ECMAScript's, found anywhere in the key, byte by byte. What the two kinds
//! of engine share is taken; look-around and back-references, which need more than linear time,
//! are refused.

use regex::bytes::{Regex, RegexBuilder};

use super::State;
use crate::limits;
use crate::pool::outcome::{Outcome, Refusal};

fn compile(pattern: &[u8]) -> Outcome<Regex> {
    if pattern.len() > limits::PATTERN_BYTES_MAX {
        return Err(Refusal::INVALID_PARAMS);
    }
    let text = std::str::from_utf8(pattern).map_err(|_| Refusal::INVALID_PARAMS)?;
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(limits::PATTERN_COMPILED_BYTES_MAX)
        .dfa_size_limit(limits::PATTERN_COMPILED_BYTES_MAX)
        .build()
        .map_err(|_| Refusal::INVALID_PARAMS)
}

impl State {
    /// Calls `each` with every key in which the pattern is found, as of the moment when its shard
    /// is looked at. No lock is held meanwhile.
    pub(super) fn each_match(
        &self,
        pattern: &[u8],
        mut each: impl FnMut(&[u8]) -> Outcome<()>,
    ) -> Outcome<()> {
        let regex = compile(pattern)?;
        let mut keys = Vec::new();
        let mut ends = Vec::new();
        for number in 0..self.shards.len() {
            keys.clear();
            ends.clear();
            {
                let shard = self.shards[number].read();
                for slot in shard.slots() {
                    keys.extend_from_slice(&shard.objects.get(slot).key);
                    ends.push(keys.len());
                }
            }
            let mut start = 0;
            for end in &ends {
                let key = &keys[start..*end];
                start = *end;
                if regex.is_match(key) {
                    each(key)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::compile;
    use crate::pool::outcome::Refusal;

    #[test]
    fn search_semantics_byte_by_byte() {
        let found = |pattern: &str, key: &[u8]| compile(pattern.as_bytes()).unwrap().is_match(key);
        assert!(found("b", b"abc") && found("^a.c$", b"abc") && found("", b"x"));
        assert!(found("^layer_[0-9]+/", b"layer_12/x") && !found("^x", b"ax"));
        assert!(
            found("^a.b$", b"a\xffb") && found("\\d{2}", b"k42") && found("é", "né".as_bytes())
        );
        assert!(found("a\\/b", b"a/b") && found("(?:ab)+", b"abab"));
    }

    #[test]
    fn what_is_not_linear_or_too_large_is_refused() {
        let huge = "a".repeat(crate::limits::PATTERN_BYTES_MAX + 1);
        let patterns: [&[u8]; 7] =
            [b"(a)\\1", b"(?=a)b", b"(?!a)b", b"[", b"(", b"\xff", huge.as_bytes()];
        for pattern in patterns {
            assert_eq!(compile(pattern).unwrap_err(), Refusal::INVALID_PARAMS);
        }
        assert_eq!(compile(b"((a{100}){100}){100}").unwrap_err(), Refusal::INVALID_PARAMS);
    }

    #[test]
    fn a_hostile_pattern_on_a_long_key_ends() {
        let regex = compile(b"(a*)*(a|aa)+$").unwrap();
        let mut key = vec![b'a'; crate::limits::KEY_BYTES_MAX];
        key.push(b'b');
        assert!(!regex.is_match(&key));
    }
}
