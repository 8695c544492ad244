//! Command lines as the upstream programs take them, for programs that describe their flags with
//! [`clap`]: turns them into the one spelling that the program's [`clap::Command`] knows. The
//! spellings themselves are known to [`mooncake::config::gflags`]. Owns nothing.

use clap::{ArgAction, Command};
use mooncake::config::gflags::{parse, Kind, Known, Problem, Request, Sources};

pub(crate) use mooncake::config::gflags::unsigned;

/// The arguments of a program, without its name, in the spelling of `command`. Words that are no
/// flags are left out, as upstream ignores them; what is wrong is left for `command` to refuse.
pub(crate) fn normalise(command: &Command, arguments: Vec<String>) -> Vec<String> {
    let known = |name: &str| {
        let argument = command.get_arguments().find(|known| known.get_long() == Some(name))?;
        let is_bool = matches!(argument.get_action(), ArgAction::Set)
            && argument.get_num_args().is_some_and(|range| range.min_values() == 0);
        Some(Known { kind: if is_bool { Kind::Bool } else { Kind::Text }, help: "" })
    };
    let sources = Sources {
        program: command.get_name(),
        variable: &|name| std::env::var(name).ok(),
        file: &|path| std::fs::read_to_string(path),
    };
    let parsed = parse(arguments, &known, &sources);
    let mut spelled = match parsed.request {
        Request::Run => Vec::new(),
        Request::Help(..) => vec!["--help".to_owned()],
        Request::Version => vec!["--version".to_owned()],
    };
    for (name, value) in parsed.assignments {
        let is_bool = known(&name).is_some_and(|flag| flag.kind == Kind::Bool);
        let value = if is_bool { bool_word(&value) } else { value };
        spelled.push(format!("--{name}={value}"));
    }
    for problem in parsed.problems {
        spelled.push(match problem {
            Problem::Unknown { name, .. } | Problem::Missing { name, .. } => format!("--{name}"),
            Problem::Illegal { name, value, .. } => format!("--{name}={value}"),
            Problem::NotBool { written, .. } => format!("--{written}"),
            // No flag has such a name: the parser repeats it as what it does not know.
            Problem::NoVariable(what) | Problem::File(what) => format!("--{what}"),
        });
    }
    spelled
}

/// The words of clap for upstream's.
fn bool_word(value: &str) -> String {
    let is_on = matches!(value.to_ascii_lowercase().as_str(), "1" | "t" | "true" | "y" | "yes");
    is_on.to_string()
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
}
