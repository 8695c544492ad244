//! Reads Rust source as far as `architecture.rs` needs it: what is code and what is comment, text
//! or test, and which paths of the crate the code names. No parser: it knows comments, literals,
//! braces and paths, and the tests at its end say how well.

/// Source whose comments and literals are blanked; lines stay where they are.
pub(crate) struct Code {
    text: String,
}

impl Code {
    /// Reads a file: `source` without comments, contents of literals and `#[cfg(test)]` items.
    pub(crate) fn new(source: &str) -> Code {
        Code { text: without_tests(&without_literals(source)) }
    }

    /// The code.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Line numbers (from 1) of each place where `word` stands as a whole.
    pub(crate) fn lines_with(&self, word: &str) -> Vec<usize> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let guard_front = word.starts_with(is_word);
        let guard_back = word.ends_with(is_word);
        let mut lines = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            for (at, _) in line.match_indices(word) {
                let front = line[..at].chars().next_back().is_some_and(is_word);
                let back = line[at + word.len()..].chars().next().is_some_and(is_word);
                if !(guard_front && front || guard_back && back) {
                    lines.push(index + 1);
                }
            }
        }
        lines
    }

    /// Every path that begins at the root of the crate, at `super` or at the crate's name, groups
    /// taken apart, with its line. `module` is the path of the file's module.
    pub(crate) fn paths(&self, module: &[String]) -> Vec<(usize, Vec<String>)> {
        let mut found = Vec::new();
        let text = &self.text;
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let word = identifier(rest);
            if word.is_empty() {
                at += rest.chars().next().map_or(1, char::len_utf8);
                continue;
            }
            let joined = text[..at].ends_with("::") || text[..at].ends_with('$');
            let mut base = match word {
                "crate" | "mooncake" => Some(Vec::new()),
                "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
                _ => None,
            };
            if joined || !rest[word.len()..].starts_with("::") {
                base = None;
            }
            if let Some(base) = base {
                let line = text[..at].matches('\n').count() + 1;
                let mut paths = Vec::new();
                tree(&rest[word.len() + 2..], base, &mut paths);
                found.extend(paths.into_iter().map(|path| (line, path)));
            }
            at += word.len();
        }
        found
    }
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// Takes a path or a group of them apart; returns what follows it.
fn tree<'a>(text: &'a str, mut base: Vec<String>, into: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if rest.is_empty() {
                return rest;
            }
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let after = tree(rest, base.clone(), into);
            // What may stand between here and the next name is `as` with another one.
            rest = &after[after.find([',', '}']).unwrap_or(after.len())..];
        }
    }
    let word = identifier(text);
    match word {
        "super" => {
            base.pop();
        }
        "" | "self" => {}
        word => base.push(word.to_owned()),
    }
    let rest = &text[word.len()..];
    match rest.strip_prefix("::") {
        Some(rest) => tree(rest, base, into),
        None => {
            into.push(base);
            rest
        }
    }
}

/// Blanks comments and the inside of text and character literals.
fn without_literals(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let before = out.chars().next_back();
        let after_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_text(rest).filter(|_| !after_word) {
            length
        } else if first == '"' {
            escaped(rest, '"')
        } else if first == '\'' && is_character(rest) {
            escaped(rest, '\'')
        } else {
            0
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        // The quotes stay, so that a literal is still seen to be one.
        let quoted = !rest.starts_with('/');
        let blank = rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' });
        if quoted {
            out.push('"');
        }
        out.extend(blank.skip(usize::from(quoted)));
        rest = &rest[length..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a raw text literal at the front, if there is one.
fn raw_text(text: &str) -> Option<usize> {
    let body = text.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let prefix = text.len() - body.len();
    let inside = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(prefix + hashes + 1 + length)
}

fn escaped(text: &str, quote: char) -> usize {
    let mut escape = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escape => escape = false,
            '\\' => escape = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// True for a character literal, false for a lifetime.
fn is_character(text: &str) -> bool {
    let mut inside = text.chars().skip(1);
    matches!((inside.next(), inside.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

/// Blanks every item behind `#[cfg(test)]`; works on code without literals.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let length = item_length(item);
        out.extend(item[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[length..];
    }
    out.push_str(rest);
    out
}

/// The item ends with its first semicolon or with its outermost brace.
fn item_length(item: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str, module: &str) -> Vec<String> {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        let paths = Code::new(source).paths(&module);
        paths.into_iter().map(|(line, path)| format!("{line} {}", path.join("::"))).collect()
    }

    #[test]
    fn groups_and_supers_are_resolved() {
        let source = "use crate::{json, limits::{A, B as C}};\n\
                      use super::super::stream::Target;\n\
                      fn f() { crate::net::random::u64(); self::x::y(); super::z(); }\n\
                      pub(crate) struct S(pub(super) u8);";
        assert_eq!(
            paths(source, "transport::tcp::lane::v1"),
            [
                "1 json",
                "1 limits::A",
                "1 limits::B",
                "2 transport::tcp::stream::Target",
                "3 net::random::u64",
                "3 transport::tcp::lane::z",
            ]
        );
    }

    #[test]
    fn comments_literals_and_tests_are_no_code() {
        let source = r##"
            // unsafe crate::engine
            /* unsafe /* nested */ unsafe */
            const A: &str = "unsafe \" crate::engine";
            const B: &str = r#"unsafe " crate::engine"#;
            const C: char = '"'; fn f<'a>(x: &'a u8) { unsafe { g('\'') } }
            #[cfg(test)]
            mod tests { use crate::engine; fn t() { unsafe {} } }
            #[cfg(test)]
            use crate::engine;
            fn after() { unsafe_name(); crate::json::x() }
        "##;
        let code = Code::new(source);
        assert_eq!(code.lines_with("unsafe"), [6]);
        assert_eq!(paths(source, "net"), ["11 json::x"]);
        assert_eq!(code.text().lines().count(), source.lines().count());
    }
}
