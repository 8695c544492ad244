//! A matrix that somebody wrote: from a file, or as text.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

use super::matrix::{Matrix, Preference};
use super::sysfs::is_plain;
use super::Origin;
use crate::error::{Error, ErrorKind, Result};
use crate::{json, limits};

/// The matrix that `given` stands for: the JSON object itself, if it begins with a brace, else the
/// file of that name.
pub(super) fn load(given: &str) -> Result<(Matrix, Origin)> {
    if given.trim_start().starts_with('{') {
        return Ok((parse(given)?, Origin::Text));
    }
    let failed = |error| {
        Error::io(ErrorKind::InvalidArgument, "the file cannot be read", error)
            .with("path", json::quote(given))
    };
    // The flag keeps a pipe from blocking for ever.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(given)
        .map_err(failed)?;
    let mut text = String::new();
    let bytes_max = limits::CUSTOM_TOPOLOGY_BYTES_MAX as u64 + 1;
    file.take(bytes_max).read_to_string(&mut text).map_err(failed)?;
    let matrix = parse(&text).map_err(|error| error.with("path", given))?;
    Ok((matrix, Origin::File(given.to_owned())))
}

/// Reads upstream's form: an object whose members are two lists of adapters each.
pub(super) fn parse(text: &str) -> Result<Matrix> {
    let refused = |why: String| Error::new(ErrorKind::InvalidArgument, why);
    if text.len() > limits::CUSTOM_TOPOLOGY_BYTES_MAX {
        let max = limits::CUSTOM_TOPOLOGY_BYTES_MAX;
        return Err(refused(format!("a preference matrix has at most {max} bytes")));
    }
    let entries: BTreeMap<String, (Vec<String>, Vec<String>)> =
        json::decode(text.as_bytes(), ErrorKind::InvalidArgument, "preference matrix")?;
    let mut matrix = BTreeMap::new();
    for (location, (preferred, others)) in entries {
        let names = || preferred.iter().chain(&others);
        if !is_plain(&location) {
            let text = format!("`{}` is not a location", json::quote(&location));
            return Err(refused(text));
        }
        if let Some(name) = names().find(|name| !is_plain(name)) {
            let text = format!("`{}` is not the name of an adapter", json::quote(name));
            return Err(refused(text).with("location", &location));
        }
        matrix.insert(location, Preference { preferred, others });
    }
    let matrix = Matrix::new(matrix);
    if matrix.adapter_names().len() > limits::ADAPTERS_MAX {
        return Err(refused(format!("more than {} adapters", limits::ADAPTERS_MAX)));
    }
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_form_and_nothing_else() {
        let text = r#"{"npu:1":[["x"],[]],"cpu:0":[["a","b"],["c"]]}"#;
        let matrix = parse(text).unwrap();
        assert_eq!(matrix.adapter_names(), ["a", "b", "c", "x"]);
        assert_eq!(matrix.get("npu:1").unwrap().preferred, ["x"]);
        assert_eq!(parse("{}").unwrap(), Matrix::default());
        let long =
            format!(r#"{{"cpu:0":[[],[]]}}{}"#, " ".repeat(limits::CUSTOM_TOPOLOGY_BYTES_MAX));
        let names = |count: usize| (0..count).map(|n| format!("\"a{n}\"")).collect::<Vec<_>>();
        let many = names(limits::ADAPTERS_MAX + 1).join(",");
        let most = names(limits::ADAPTERS_MAX).join(",");
        let full = format!(r#"{{"cpu:0":[[{most}],[]],"cpu:1":[[],[{most}]]}}"#);
        assert_eq!(parse(&full).unwrap().adapter_names().len(), limits::ADAPTERS_MAX);
        for bad in [
            "",
            "{",
            "[]",
            "null",
            r#"{"cpu:0":[["a"]]}"#,
            r#"{"cpu:0":[["a"],["b"],["c"]]}"#,
            r#"{"cpu:0":"x"}"#,
            r#"{"cpu:0":[["a",5],[]]}"#,
            r#"{"cpu:0":[[""],[]]}"#,
            r#"{"":[[],[]]}"#,
            r#"{"cpu:0":[["a,b"],[]]}"#,
            r#"{"cpu:0":[[],[]]} x"#,
            &long,
            &format!(r#"{{"cpu:0":[[{many}],[]]}}"#),
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:.40}");
        }
    }
}
