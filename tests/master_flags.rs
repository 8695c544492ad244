//! `docs/master-flags.md` is what the table of flags says, and the table has every flag of both
//! upstream versions. `MOONCAKE_UPDATE=1` writes the page anew.
#![allow(clippy::unwrap_used)] // A failed test is a panic.

use std::path::Path;

use mooncake::master::flags::{document, find, Since, FLAGS};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/master-flags.md");
    let expected = document();
    if std::env::var_os("MOONCAKE_UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} is stale; MOONCAKE_UPDATE=1 writes it anew", path.display());
}

/// Name, type and default as the help of the released programs prints them.
#[test]
fn every_flag_of_upstream_is_there_with_its_type() {
    let list = read("tests/vectors/master/flags.txt");
    let mut counts = [0, 0];
    for line in list.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (version, name, kind) =
            (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let default = words.next().unwrap_or("");
        let flag = find(name).unwrap_or_else(|| panic!("{name} is missing"));
        let since = match version {
            "7" => Since::V0_3_7,
            "13" => Since::V0_3_13,
            other => panic!("{other}"),
        };
        counts[usize::from(version == "13")] += 1;
        assert_eq!(flag.since, since, "{name}");
        // 0.3.13 reads lengths of time as text.
        let kind = if kind == "duration" { "uint64" } else { kind };
        assert_eq!(flag.kind.name(), kind, "{name}");
        assert_eq!(flag.kind.read(flag.default), flag.kind.read(default), "{name}");
    }
    let ours = FLAGS.iter().filter(|flag| flag.since == Since::Ours).count();
    assert_eq!(counts[0], 25);
    assert_eq!(FLAGS.len(), counts[0] + counts[1] + ours);
}
