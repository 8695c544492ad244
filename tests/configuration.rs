//! `docs/configuration.md` is what the table of settings says (`MOONCAKE_UPDATE=1` writes it anew),
//! and the table knows every environment variable of upstream, with upstream's range.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mooncake::config::{
    unknown_environment_names, EngineConfig, Setting, Since, Variable, NAMES_WITHOUT_EFFECT,
    SETTINGS,
};

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_page_is_fresh() {
    let path = in_tree("docs/configuration.md");
    let expected = mooncake::config::document();
    if std::env::var_os("MOONCAKE_UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let same = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
    assert!(
        found == expected,
        "{} is stale from line {} on; MOONCAKE_UPDATE=1 writes it anew",
        path.display(),
        same + 1
    );
}

/// One line of the list: name, version, what it takes.
fn upstream() -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(in_tree("tests/vectors/environment/upstream.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = |line: &str| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        <[String; 3]>::try_from(words).unwrap()
    };
    lines.map(words).collect()
}

fn variable(name: &str) -> Option<(&'static Setting, &'static Variable)> {
    SETTINGS.iter().find_map(|setting| {
        let found = setting.variables.iter().find(|variable| variable.name == name);
        found.map(|variable| (setting, variable))
    })
}

fn load(name: &str, value: &str) -> EngineConfig {
    let environment = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    EngineConfig::load(None, &environment).unwrap().0
}

/// The value is taken: it has its origin in the dump, and nothing is complained about.
fn is_taken(setting: &Setting, name: &str, value: &str) {
    let config = load(name, value);
    assert_eq!(config.warnings, Vec::<String>::new(), "{name}={value}");
    let origin = config.origins.get(setting.key).to_string();
    assert_eq!(origin, format!("environment {name}"), "{name}={value}");
    assert_eq!(config.dump()[setting.key]["origin"], origin.as_str(), "{name}={value}");
}

/// The value is ignored, and a warning names it.
fn is_refused(setting: &Setting, name: &str, value: &str) {
    let config = load(name, value);
    assert_eq!(config.dump(), EngineConfig::default().dump(), "{name}={value}");
    assert_eq!(config.warnings.len(), 1, "{name}={value}: {:?}", config.warnings);
    let warning = &config.warnings[0];
    assert!(warning.contains(name) || warning.contains(setting.key), "{name}={value}: {warning}");
}

fn check_values(setting: &Setting, name: &str, takes: &str) {
    let taken = |values: &[&str]| values.iter().for_each(|value| is_taken(setting, name, value));
    let refused =
        |values: &[&str]| values.iter().for_each(|value| is_refused(setting, name, value));
    match takes {
        "set" => {
            taken(&["", "1", "anything"]);
            // On as well, but somebody may have meant the opposite.
            assert_eq!(load(name, "0").warnings.len(), 1, "{name}");
        }
        "bool" => {
            taken(&["1", "true", "0", "false"]);
            refused(&["perhaps", "2"]);
        }
        "text" => {
            taken(&["some-text"]);
            refused(&["control\u{7}character"]);
        }
        "list" => taken(&["one", "one,two"]),
        range if range.contains("..") => {
            let (low, high) = range.split_once("..").unwrap();
            if let Ok(low) = low.parse::<i64>() {
                taken(&[&low.to_string()]);
                refused(&[&(low - 1).to_string()]);
            }
            if let Ok(high) = high.parse::<i64>() {
                taken(&[&high.to_string()]);
                refused(&[&(high + 1).to_string()]);
            }
            refused(&["soon", "1.5", "99999999999999999999"]);
        }
        words => {
            words.split(',').for_each(|word| is_taken(setting, name, word));
            refused(&["nonsense", "-7"]);
        }
    }
}

#[test]
fn every_variable_of_upstream_is_known_with_its_range() {
    let listed = upstream();
    assert!(listed.len() > 150, "{} lines", listed.len());
    let unused: Vec<&str> =
        NAMES_WITHOUT_EFFECT.iter().flat_map(|group| group.names).copied().collect();
    for [name, since, takes] in &listed {
        let Some((setting, variable)) = variable(name) else {
            assert_eq!(takes, "-", "{name} is in no row of the table");
            // A family is known by its beginning.
            let name = name.strip_suffix("ANY").unwrap_or(name);
            let is_known = unused.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *pattern,
            });
            assert!(is_known, "{name} is neither in a row nor among the names without effect");
            continue;
        };
        let expected = if since == "0.3.7" { Since::V0_3_7 } else { Since::V0_3_13 };
        assert_eq!(variable.since, expected, "{name}");
        if takes != "-" {
            check_values(setting, name, takes);
        }
    }
    // And the other way round: no row reads a name that upstream does not have.
    let names: BTreeSet<&str> = listed.iter().map(|[name, ..]| name.as_str()).collect();
    for variable in SETTINGS.iter().flat_map(|setting| setting.variables) {
        let is_ours = variable.since == Since::Ours;
        assert!(
            names.contains(variable.name) != is_ours,
            "{}: in the list, or ours",
            variable.name
        );
    }
}

/// What upstream reads is never called unknown, and a misspelt name always is.
#[test]
fn only_misspelt_names_are_unknown() {
    let mut environment: BTreeMap<String, String> =
        upstream().into_iter().map(|[name, ..]| (name, "1".to_owned())).collect();
    assert_eq!(unknown_environment_names(&environment), Vec::<String>::new());
    let misspelt: Vec<String> =
        environment.keys().filter(|n| n.starts_with("MC_TCP")).map(|n| format!("{n}X")).collect();
    environment.extend(misspelt.iter().map(|name| (name.clone(), "1".to_owned())));
    assert_eq!(unknown_environment_names(&environment), misspelt);
}
