//! Tests of the table and of what becomes of a command line.

use super::*;

fn line(arguments: &[&str]) -> CommandLine {
    let sources = Sources {
        program: PROGRAM,
        variable: &|_| None,
        file: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    read(arguments.iter().map(|text| text.to_string()).collect(), &sources)
}

#[test]
fn names_are_unique_and_defaults_fit() {
    for (at, flag) in FLAGS.iter().enumerate() {
        assert!(flag.kind.read(flag.default).is_some(), "{}", flag.name);
        assert!(!FLAGS[..at].iter().any(|other| other.name == flag.name), "{} twice", flag.name);
        assert!(!gflags::library_flags().any(|(name, _)| name == flag.name), "{}", flag.name);
        assert!(!flag.help.ends_with('.') && !flag.help.is_empty(), "{}", flag.name);
    }
}

#[test]
fn the_last_one_wins_and_defaults_are_no_origin() {
    let line = line(&["--rpc-port=1", "--rpc_port", "0x2", "--noenable_metric_reporting"]);
    assert_eq!(line.problems, [""; 0]);
    assert_eq!(line.values.signed("rpc_port"), 2);
    assert!(!line.values.bool("enable_metric_reporting"));
    assert_eq!(line.values.origin("rpc_port"), Origin::CommandLine);
    assert_eq!(line.values.origin("metrics_port"), Origin::Default);
    assert_eq!(line.values.signed("metrics_port"), 9003);
}

#[test]
fn flags_without_effect_are_named_only_if_given() {
    assert_eq!(line(&["--rpc_port=5"]).values.without_effect(), []);
    let named = line(&["--enable_snapshot", "--cxl_size=5"]).values.without_effect();
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["cxl_size", "enable_snapshot"]);
}

#[test]
fn help_shows_every_flag_with_type_and_default() {
    let line = line(&["--rpc_port=5", "--help"]);
    let text = help("help", "", &line.values);
    for flag in FLAGS {
        assert!(text.contains(&format!("\n    -{} (", flag.name)), "{}", flag.name);
    }
    let flat = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("type: int32 default: 0 currently: 5"), "{flat}");
    assert!(flat.contains("type: string default: \"offset\""), "{flat}");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    assert!(help("helpxml", "", &line.values).contains("<name>rpc_port</name>"));
    assert!(!help("helpmatch", "transfer", &line.values).contains("-rpc_port"));
    assert_eq!(line.request, Request::Help("help".to_owned(), String::new()));
}
