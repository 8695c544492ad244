//! Making a C header from source files of `src/capi`, and keeping the checked-in copy fresh.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test may fail by a panic.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The top folder of the project.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Fails when `include/<file>` is not `fresh`; `MOONCAKE_UPDATE=1` writes it instead. `test` is the
/// name of the calling program.
pub(crate) fn keep_fresh(file: &str, fresh: &str, test: &str) {
    let path = root().join("include").join(file);
    if std::env::var_os("MOONCAKE_UPDATE").is_some() {
        fs::write(&path, fresh).unwrap();
        return;
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    if fresh == checked_in {
        return;
    }
    let name = path.file_name().unwrap();
    let generated = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&generated, fresh).unwrap();
    let line = fresh.lines().zip(checked_in.lines()).take_while(|(a, b)| a == b).count() + 1;
    panic!(
        "include/{file} is not what src/capi says, from line {line} on; compare with {} and run: \
         MOONCAKE_UPDATE=1 cargo test --test {test}",
        generated.display()
    );
}

/// The declarations of some source files, together.
pub(crate) fn section(sources: &[PathBuf], adjust: impl Fn(&mut cbindgen::Config)) -> String {
    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    adjust(&mut config);
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in sources {
        builder = builder.with_src(source);
    }
    let mut bytes = Vec::new();
    builder.generate().unwrap_or_else(|error| panic!("{sources:?}: {error}")).write(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<String> = text.lines().map(parenthesised).collect();
    short_comments(&lines)
}

/// Puts a comment of one line in one line, and constants that belong together next to each other.
fn short_comments(lines: &[String]) -> String {
    let mut text = String::new();
    let mut rest = lines;
    while let Some(line) = rest.first() {
        if let [open, body, close, ..] = rest {
            let indent = &open[..open.len() - open.trim_start().len()];
            if let (true, Some(words), "*/") =
                (open.trim() == "/**", body.trim().strip_prefix("* "), close.trim())
            {
                let short = format!("{indent}/** {words} */");
                if short.len() <= 100 {
                    writeln!(text, "{short}").unwrap();
                    rest = &rest[3..];
                    continue;
                }
            }
        }
        let between_constants = line.is_empty()
            && text.lines().last().is_some_and(|last| last.starts_with("#define"))
            && rest.get(4).is_some_and(|next| next.starts_with("#define"));
        if !between_constants {
            writeln!(text, "{line}").unwrap();
        }
        rest = &rest[1..];
    }
    text
}

/// A negative constant needs parentheses: `-MC_ERR_X` must not read `--100`.
fn parenthesised(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("#define"), Some(name), Some(value)) if value.starts_with('-') => {
            format!("#define {name} ({value})")
        }
        _ => line.to_owned(),
    }
}
