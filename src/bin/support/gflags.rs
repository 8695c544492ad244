//! Command lines as the upstream programs take them: `--flag=value`, `--flag value`, one dash or
//! two, dashes or underscores in names, `--flag` and `--noflag` for booleans.
//!
//! Turns them into the one spelling that the program's [`clap::Command`] knows. Owns nothing.

use clap::{ArgAction, Command};

/// Flags of upstream's logging library, which every upstream program has. They are accepted and
/// have no effect. `true`: it takes a value.
const LOGGING: &[(&str, bool)] = &[
    ("alsologtoemail", true),
    ("alsologtostderr", false),
    ("colorlogtostderr", false),
    ("log_backtrace_at", true),
    ("log_dir", true),
    ("log_link", true),
    ("log_prefix", false),
    ("logbuflevel", true),
    ("logbufsecs", true),
    ("logtostderr", false),
    ("logtostdout", false),
    ("max_log_size", true),
    ("minloglevel", true),
    ("stderrthreshold", true),
    ("v", true),
    ("vmodule", true),
];

/// Spellings of upstream's help flags.
const HELP: &[&str] = &["help", "helpfull", "helpshort", "helppackage", "helpxml", "h"];

/// The arguments of a program, without its name, in the spelling of `command`. Words that are no
/// flags are left out, as upstream ignores them.
pub(crate) fn normalise(command: &Command, arguments: Vec<String>) -> Vec<String> {
    let mut spelled = Vec::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let Some(flag) = flag_of(&argument) else {
            if argument == "--" {
                break;
            }
            continue;
        };
        let (name, mut value) = match flag.split_once('=') {
            Some((name, value)) => (name.replace('-', "_"), Some(value.to_owned())),
            None => (flag.replace('-', "_"), None),
        };
        if HELP.contains(&name.as_str()) {
            spelled.push("--help".to_owned());
            continue;
        }
        if let Some(takes_value) = logging(&name) {
            if takes_value && value.is_none() {
                rest.next();
            }
            continue;
        }
        if let Some(name) = name.strip_prefix("no").filter(|name| is_bool(command, name)) {
            spelled.push(format!("--{name}=false"));
            continue;
        }
        if is_bool(command, &name) {
            let value = value.as_deref().map_or("true", bool_word);
            spelled.push(format!("--{name}={value}"));
            continue;
        }
        if value.is_none() && is_known(command, &name) {
            value = rest.next();
        }
        spelled.push(match value {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}"),
        });
    }
    spelled
}

/// A number as upstream takes it: decimal, or hexadecimal after `0x`.
pub(crate) fn unsigned(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

fn flag_of(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    (!flag.is_empty()).then_some(flag)
}

fn logging(name: &str) -> Option<bool> {
    let find = |name: &str| LOGGING.iter().find(|(known, _)| *known == name);
    match find(name) {
        Some((_, takes_value)) => Some(*takes_value),
        None => {
            find(name.strip_prefix("no")?).filter(|(_, takes_value)| !takes_value).map(|_| false)
        }
    }
}

fn is_known(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_long() == Some(name))
}

/// True for a flag that stands for a boolean: it takes `=value`, but does not need it.
fn is_bool(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|argument| {
        argument.get_long() == Some(name)
            && matches!(argument.get_action(), ArgAction::Set)
            && argument.get_num_args().is_some_and(|range| range.min_values() == 0)
    })
}

/// Upstream's words for booleans; others are left for the parser to refuse.
fn bool_word(value: &str) -> &str {
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" => "true",
        "0" | "f" | "false" | "n" | "no" => "false",
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn spelled(arguments: &[&str]) -> Vec<String> {
        let on_off = Arg::new("on").long("on_off").num_args(0..=1).require_equals(true);
        let command = Command::new("test").arg(Arg::new("size").long("block_size")).arg(on_off);
        normalise(&command, arguments.iter().map(|text| text.to_string()).collect())
    }

    #[test]
    fn every_spelling_is_the_same() {
        for same in [
            &["--block_size=5"][..],
            &["-block_size=5"],
            &["--block_size", "5"],
            &["-block-size", "5"],
            &["word", "--block_size=5"],
            &["--logtostderr", "--block_size=5", "-v", "3", "--nolog_prefix"],
            &["--block_size=5", "--", "--block_size=6"],
        ] {
            assert_eq!(spelled(same), ["--block_size=5"], "{same:?}");
        }
    }

    #[test]
    fn booleans_do_not_take_the_next_word() {
        assert_eq!(spelled(&["--on_off", "false"]), ["--on_off=true"]);
        assert_eq!(spelled(&["-noon_off"]), ["--on_off=false"]);
        assert_eq!(spelled(&["--on-off=N"]), ["--on_off=false"]);
        assert_eq!(spelled(&["--on_off=maybe"]), ["--on_off=maybe"]);
    }

    #[test]
    fn unknown_flags_are_left_for_the_parser() {
        assert_eq!(spelled(&["--unknown", "5"]), ["--unknown"]);
        assert_eq!(spelled(&["--helpshort"]), ["--help"]);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(unsigned("65536"), Ok(65_536));
        assert_eq!(unsigned("0x10"), Ok(16));
        assert!(unsigned("-1").is_err());
        assert!(unsigned("1G").is_err());
    }
}
