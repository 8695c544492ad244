//! Command lines as upstream's programs take them: `--flag=value`, `--flag value`, one dash or two,
//! dashes or underscores in names, `--flag` and `--noflag` for booleans, and the flags that its
//! two libraries for flags and for logging add to every program.
//!
//! Turns arguments into assignments that are checked against the types of a table. Owns nothing,
//! prints nothing, ends nothing: variables and files come through [`Sources`].

/// The type of a flag, by upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// 32 bits with a sign.
    Int32,
    /// 32 bits.
    Uint32,
    /// 64 bits with a sign.
    Int64,
    /// 64 bits.
    Uint64,
    /// A floating-point number.
    Double,
    /// Text.
    Text,
    /// Milliseconds, or a number with `ms`, `s`, `m` or `h` behind it.
    Milliseconds,
}

/// A value that fits the type of its flag.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a bool.
    Bool(bool),
    /// Of the integers with a sign.
    Signed(i64),
    /// Of the integers without, and of milliseconds.
    Unsigned(u64),
    /// Of a double.
    Double(f64),
    /// Of text.
    Text(String),
}

impl Kind {
    /// As upstream prints it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int32 => "int32",
            Kind::Uint32 => "uint32",
            Kind::Int64 => "int64",
            Kind::Uint64 | Kind::Milliseconds => "uint64",
            Kind::Double => "double",
            Kind::Text => "string",
        }
    }

    /// The value that `text` stands for; none where it does not fit.
    pub fn read(self, text: &str) -> Option<Value> {
        let signed = |number: Option<i64>| number.map(Value::Signed);
        let unsigned = |number: Option<u64>| number.map(Value::Unsigned);
        let number = || integer(text);
        match self {
            Kind::Bool => bool_word(text).map(Value::Bool),
            Kind::Int32 => signed(number().and_then(|n| i32::try_from(n).ok()).map(i64::from)),
            Kind::Int64 => signed(number().and_then(|n| i64::try_from(n).ok())),
            Kind::Uint32 => unsigned(number().and_then(|n| u32::try_from(n).ok()).map(u64::from)),
            Kind::Uint64 => unsigned(number().and_then(|n| u64::try_from(n).ok())),
            Kind::Double => text.trim_start().parse().ok().map(Value::Double),
            Kind::Text => Some(Value::Text(text.to_owned())),
            Kind::Milliseconds => unsigned(milliseconds(text)),
        }
    }
}

/// Upstream's words for booleans.
fn bool_word(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" => Some(true),
        "0" | "f" | "false" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// A number as upstream takes it: decimal, or hexadecimal after `0x`, with or without a sign.
fn integer(text: &str) -> Option<i128> {
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((digits, 10), |digits| (digits, 16));
    // The parser of the standard library would take another sign here.
    let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    i128::from_str_radix(digits, radix).ok().filter(|_| is_number).map(|number| sign * number)
}

/// A number without a sign; for the flags of programs that parse theirs in another way.
pub fn unsigned(text: &str) -> Result<u64, String> {
    let number = integer(text).ok_or_else(|| "not a number".to_owned())?;
    u64::try_from(number).map_err(|error| error.to_string())
}

/// Milliseconds as upstream 0.3.7 takes them, or with a unit as 0.3.13 does.
fn milliseconds(text: &str) -> Option<u64> {
    if let Some(number) = integer(text) {
        return u64::try_from(number).ok();
    }
    let text = text.trim().to_ascii_lowercase();
    let (digits, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let scale = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    u64::try_from(integer(digits.trim_end())?).ok()?.checked_mul(scale)
}

/// What a program knows of one of its flags.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Type.
    pub kind: Kind,
    /// What it is for.
    pub help: &'static str,
}

/// Where a command line reaches beyond itself.
pub struct Sources<'a> {
    /// Name of the program; sections of flag files are for one.
    pub program: &'a str,
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The text of a file.
    pub file: &'a dyn Fn(&str) -> std::io::Result<String>,
}

/// What the command line asks the program to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Its work.
    Run,
    /// Show the flags; the text is the flag that asked, and its value.
    Help(String, String),
    /// Say its name and version.
    Version,
}

/// Something wrong with a command line; the text form is upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No such flag.
    Unknown {
        /// Its name, with underscores.
        name: String,
        /// It comes from `--fromenv` or `--tryfromenv`.
        from_environment: bool,
    },
    /// The value does not fit the type.
    Illegal {
        /// The flag.
        name: String,
        /// Its type.
        kind: Kind,
        /// What was given.
        value: String,
    },
    /// The line ends behind a flag that needs a value.
    Missing {
        /// The flag.
        name: String,
        /// What it is for.
        help: String,
    },
    /// `--noflag` of a flag that is no boolean.
    NotBool {
        /// As it was written.
        written: String,
        /// Its type.
        kind: Kind,
    },
    /// A variable that must be there is not.
    NoVariable(String),
    /// A flag file that cannot be read.
    File(String),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Unknown { name, from_environment } => {
                write!(f, "unknown command line flag '{name}'")?;
                if *from_environment {
                    write!(f, " (via --fromenv or --tryfromenv)")?;
                }
                Ok(())
            }
            Problem::Illegal { name, kind, value } => {
                // Upstream 0.3.13 has text here and checks it later, with words of its own.
                let is_duration = *kind == Kind::Milliseconds
                    && integer(value).is_none()
                    && value.trim_start().starts_with(|c: char| c.is_ascii_digit());
                if is_duration {
                    return write!(f, "failed validation of new value '{value}' for flag '{name}'");
                }
                let kind = kind.name();
                write!(f, "illegal value '{value}' specified for {kind} flag '{name}'")
            }
            Problem::Missing { name, help } => {
                write!(f, "flag '--{name}' is missing its argument; flag description: {help}")
            }
            Problem::NotBool { written, kind } => write!(
                f,
                "boolean value ({written}) specified for {} command line flag",
                kind.name()
            ),
            Problem::NoVariable(name) => write!(f, "{name} not found in environment"),
            Problem::File(why) => f.write_str(why),
        }
    }
}

/// A command line that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Flags of the program's own, with values that fit; of one that comes twice the last counts.
    pub assignments: Vec<(String, String)>,
    /// Flags of upstream's logging library, likewise.
    pub logging: Vec<(String, String)>,
    /// What is wrong, in the order of the line.
    pub problems: Vec<Problem>,
    /// What to do; help goes before problems.
    pub request: Request,
}

/// Flags that upstream's library for flags acts on itself.
const OWN: &[(&str, Kind)] = &[
    ("flagfile", Kind::Text),
    ("fromenv", Kind::Text),
    ("help", Kind::Bool),
    ("helpfull", Kind::Bool),
    ("helpmatch", Kind::Text),
    ("helpon", Kind::Text),
    ("helppackage", Kind::Bool),
    ("helpshort", Kind::Bool),
    ("helpxml", Kind::Bool),
    ("tab_completion_columns", Kind::Int32),
    ("tab_completion_word", Kind::Text),
    ("tryfromenv", Kind::Text),
    ("undefok", Kind::Text),
    ("version", Kind::Bool),
];

/// Flags of upstream's logging library, which every upstream program has.
const LOGGING: &[(&str, Kind)] = &[
    ("alsologtoemail", Kind::Text),
    ("alsologtostderr", Kind::Bool),
    ("colorlogtostderr", Kind::Bool),
    ("colorlogtostdout", Kind::Bool),
    ("drop_log_memory", Kind::Bool),
    ("log_backtrace_at", Kind::Text),
    ("log_dir", Kind::Text),
    ("log_link", Kind::Text),
    ("log_prefix", Kind::Bool),
    ("log_utc_time", Kind::Bool),
    ("log_year_in_prefix", Kind::Bool),
    ("logbuflevel", Kind::Int32),
    ("logbufsecs", Kind::Int32),
    ("logemaillevel", Kind::Int32),
    ("logfile_mode", Kind::Int32),
    ("logmailer", Kind::Text),
    ("logtostderr", Kind::Bool),
    ("logtostdout", Kind::Bool),
    ("max_log_size", Kind::Uint32),
    ("minloglevel", Kind::Int32),
    ("stderrthreshold", Kind::Int32),
    ("stop_logging_if_full_disk", Kind::Bool),
    ("symbolize_stacktrace", Kind::Bool),
    ("timestamp_in_logfile_name", Kind::Bool),
    ("v", Kind::Int32),
    ("vmodule", Kind::Text),
];

/// Names and types of the flags that every program accepts without having them in its table: those
/// of upstream's library for flags, then those of its library for logging.
pub fn library_flags() -> impl Iterator<Item = (&'static str, Kind)> {
    OWN.iter().chain(LOGGING).copied()
}

/// Reads `arguments`, which do not begin with the program's name. Words that are no flags and
/// everything behind `--` are left out, as upstream ignores them.
pub fn parse<'a>(
    arguments: Vec<String>,
    known: &'a dyn Fn(&str) -> Option<Known>,
    sources: &'a Sources<'a>,
) -> Parsed {
    let parsed = Parsed {
        assignments: Vec::new(),
        logging: Vec::new(),
        problems: Vec::new(),
        request: Request::Run,
    };
    let mut parser = Parser { known, sources, parsed, undefined_is_fine: Vec::new() };
    parser.line(arguments, 0);
    let fine = parser.undefined_is_fine;
    parser.parsed.problems.retain(|problem| match problem {
        Problem::Unknown { name, .. } => {
            !fine.contains(name)
                && !name.strip_prefix("no").is_some_and(|name| fine.iter().any(|f| f == name))
        }
        _ => true,
    });
    parser.parsed
}

struct Parser<'a> {
    known: &'a dyn Fn(&str) -> Option<Known>,
    sources: &'a Sources<'a>,
    parsed: Parsed,
    undefined_is_fine: Vec<String>,
}

/// Flag files may name further ones; nobody nests them deeper.
const FILES_DEEP_MAX: usize = 8;

impl<'a> Parser<'a> {
    fn line(&mut self, arguments: Vec<String>, depth: usize) {
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                break;
            }
            let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
            let Some(flag) = flag.filter(|flag| !flag.is_empty()) else { continue };
            let (written, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let name = written.replace('-', "_");
            let Some(flag) = self.find(&name) else {
                self.negated(&name, written);
                continue;
            };
            let value = match value {
                Some(value) => value,
                None if flag.kind == Kind::Bool => "1".to_owned(),
                None => match rest.next() {
                    Some(value) => value,
                    None => {
                        let help = flag.help.to_owned();
                        self.parsed.problems.push(Problem::Missing { name, help });
                        break;
                    }
                },
            };
            self.assign(name, flag.kind, value, depth);
        }
    }

    fn find(&self, name: &str) -> Option<Known> {
        (self.known)(name).or_else(|| {
            let (_, kind) = library_flags().find(|(known, _)| *known == name)?;
            Some(Known { kind, help: "" })
        })
    }

    /// `--noflag`, or a flag that does not exist.
    fn negated(&mut self, name: &str, written: &str) {
        let problem = match name.strip_prefix("no").and_then(|name| Some((name, self.find(name)?)))
        {
            Some((name, flag)) if flag.kind == Kind::Bool => {
                return self.assign(name.to_owned(), Kind::Bool, "0".to_owned(), FILES_DEEP_MAX);
            }
            Some((_, flag)) => Problem::NotBool { written: written.to_owned(), kind: flag.kind },
            None => Problem::Unknown { name: name.to_owned(), from_environment: false },
        };
        self.parsed.problems.push(problem);
    }

    fn assign(&mut self, name: String, kind: Kind, value: String, depth: usize) {
        if kind.read(&value).is_none() {
            self.parsed.problems.push(Problem::Illegal { name, kind, value });
            return;
        }
        if (self.known)(&name).is_some() {
            self.parsed.assignments.push((name, value));
            return;
        }
        let is_on = bool_word(&value) == Some(true);
        match name.as_str() {
            "flagfile" => list(&value).for_each(|path| self.file(path, depth)),
            "fromenv" => list(&value).for_each(|name| self.variable(name, true)),
            "tryfromenv" => list(&value).for_each(|name| self.variable(name, false)),
            "undefok" => {
                self.undefined_is_fine.extend(list(&value).map(|name| name.replace('-', "_")));
            }
            "version" => {
                if is_on && self.parsed.request == Request::Run {
                    self.parsed.request = Request::Version;
                }
            }
            "help" | "helpfull" | "helppackage" | "helpshort" | "helpxml" => {
                if is_on {
                    self.parsed.request = Request::Help(name, String::new());
                }
            }
            "helpmatch" | "helpon" => self.parsed.request = Request::Help(name, value),
            _ => {
                if LOGGING.iter().any(|(known, _)| *known == name) {
                    self.parsed.logging.push((name, value));
                }
            }
        }
    }

    fn variable(&mut self, name: &str, must_exist: bool) {
        let name = name.replace('-', "_");
        let Some(flag) = self.find(&name) else {
            self.parsed.problems.push(Problem::Unknown { name, from_environment: true });
            return;
        };
        let variable = format!("FLAGS_{name}");
        match (self.sources.variable)(&variable) {
            // What comes from a variable cannot read further variables or files.
            Some(_) if OWN.iter().any(|(own, _)| *own == name) => {}
            Some(value) => self.assign(name, flag.kind, value, FILES_DEEP_MAX),
            None if must_exist => self.parsed.problems.push(Problem::NoVariable(variable)),
            None => {}
        }
    }

    /// Lines of flags; a line of another kind names the programs that the flags behind it are for.
    fn file(&mut self, path: &str, depth: usize) {
        if depth >= FILES_DEEP_MAX {
            self.parsed.problems.push(Problem::File(format!("{path}: flag files nest too deep")));
            return;
        }
        let text = match (self.sources.file)(path) {
            Ok(text) => text,
            Err(error) => {
                self.parsed.problems.push(Problem::File(format!("{path}: {error}")));
                return;
            }
        };
        let mut is_for_us = true;
        let mut before_was_program = false;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with('-') {
                let named = line
                    .split_ascii_whitespace()
                    .any(|name| name == self.sources.program || name == "*");
                is_for_us = named || before_was_program && is_for_us;
                before_was_program = true;
                continue;
            }
            before_was_program = false;
            if is_for_us {
                self.line(vec![line.to_owned()], depth + 1);
            }
        }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<Known> {
        let kind = match name {
            "port" => Kind::Int32,
            "size" => Kind::Uint64,
            "on_off" => Kind::Bool,
            "ratio" => Kind::Double,
            "ttl" => Kind::Milliseconds,
            "text" => Kind::Text,
            _ => return None,
        };
        Some(Known { kind, help: "what for" })
    }

    fn read(arguments: &[&str]) -> Parsed {
        let sources = Sources {
            program: "prog",
            variable: &|name| (name == "FLAGS_port").then(|| "77".to_owned()),
            file: &|path| match path {
                "some" => Ok("# note\n--port=5\nother\n--port=6\nprog\n--on-off\n".to_owned()),
                "round" => Ok("--flagfile=round".to_owned()),
                _ => Err(std::io::ErrorKind::NotFound.into()),
            },
        };
        parse(arguments.iter().map(|text| text.to_string()).collect(), &known, &sources)
    }

    fn assigned(arguments: &[&str]) -> Vec<String> {
        let parsed = read(arguments);
        assert_eq!(parsed.problems, [], "{arguments:?}");
        parsed.assignments.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn problems(arguments: &[&str]) -> Vec<String> {
        read(arguments).problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn every_spelling_is_the_same() {
        for same in [
            &["--port=5"][..],
            &["-port=5"],
            &["--port", "5"],
            &["-port", "5"],
            &["word", "--port=5", "word"],
            &["--logtostderr", "--port=5", "-v", "3", "--nolog_prefix", "--log-dir=/x"],
            &["--port=5", "--", "--port=6", "--unknown"],
            &["--undefok=gone,other", "--gone", "--nogone", "--port=5", "--other=6"],
        ] {
            assert_eq!(assigned(same), ["port=5"], "{same:?}");
        }
    }

    #[test]
    fn booleans_do_not_take_the_next_word() {
        assert_eq!(assigned(&["--on_off", "0"]), ["on_off=1"]);
        assert_eq!(assigned(&["-noon_off"]), ["on_off=0"]);
        assert_eq!(assigned(&["--noon-off"]), ["on_off=0"]);
        assert_eq!(assigned(&["--on-off=N"]), ["on_off=N"]);
        assert_eq!(assigned(&["--on-off=TRUE", "--on_off=f"]), ["on_off=TRUE", "on_off=f"]);
    }

    #[test]
    fn a_value_may_begin_with_a_dash() {
        assert_eq!(assigned(&["--port", "-1"]), ["port=-1"]);
        assert_eq!(assigned(&["--text", "--on_off"]), ["text=--on_off"]);
    }

    #[test]
    fn what_is_wrong_has_the_words_of_upstream() {
        for (arguments, words) in [
            (&["--nosuch"][..], "unknown command line flag 'nosuch'"),
            (&["--no-such=5"], "unknown command line flag 'no_such'"),
            (&["--port=x"], "illegal value 'x' specified for int32 flag 'port'"),
            (&["--port="], "illegal value '' specified for int32 flag 'port'"),
            (&["--port=2147483648"], "illegal value '2147483648' specified for int32 flag 'port'"),
            (&["--size=-1"], "illegal value '-1' specified for uint64 flag 'size'"),
            (&["--ttl=-1"], "illegal value '-1' specified for uint64 flag 'ttl'"),
            (&["--ttl=5x"], "failed validation of new value '5x' for flag 'ttl'"),
            (&["--on_off=maybe"], "illegal value 'maybe' specified for bool flag 'on_off'"),
            (&["--port"], "flag '--port' is missing its argument; flag description: what for"),
            (&["--noport"], "boolean value (noport) specified for int32 command line flag"),
            (&["--fromenv=size"], "FLAGS_size not found in environment"),
            (
                &["--tryfromenv=gone"],
                "unknown command line flag 'gone' (via --fromenv or --tryfromenv)",
            ),
            (&["--v=high"], "illegal value 'high' specified for int32 flag 'v'"),
            (&["--flagfile=round"], "round: flag files nest too deep"),
        ] {
            assert_eq!(problems(arguments), [words], "{arguments:?}");
        }
        assert!(problems(&["--flagfile=gone"])[0].starts_with("gone: "));
        assert_eq!(problems(&["--a", "--port=y", "--b"]).len(), 3);
    }

    #[test]
    fn numbers() {
        assert_eq!(Kind::Int32.read("0x100"), Some(Value::Signed(256)));
        assert_eq!(Kind::Int32.read("-0x10"), Some(Value::Signed(-16)));
        assert_eq!(Kind::Int32.read(" 5"), Some(Value::Signed(5)));
        assert_eq!(Kind::Int32.read("5 "), None);
        assert_eq!(Kind::Int32.read("--5"), None);
        assert_eq!(Kind::Uint64.read("18446744073709551615"), Some(Value::Unsigned(u64::MAX)));
        assert_eq!(Kind::Uint64.read("18446744073709551616"), None);
        assert_eq!(Kind::Uint32.read("4294967296"), None);
        assert_eq!(Kind::Double.read("5e-2"), Some(Value::Double(0.05)));
        assert_eq!(Kind::Double.read("5%"), None);
        assert_eq!(unsigned("0x10"), Ok(16));
        assert!(unsigned("-1").is_err());
        assert!(unsigned("1G").is_err());
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("5000", 5000),
            ("0x10", 16),
            ("500ms", 500),
            ("5s", 5000),
            ("2M", 120_000),
            (" 1 h ", 3_600_000),
        ] {
            assert_eq!(Kind::Milliseconds.read(text), Some(Value::Unsigned(ms)), "{text}");
        }
        for text in ["", "s", "5d", "5ss", "-5s", "5.5s", "99999999999999999999s", "2h5m"] {
            assert_eq!(Kind::Milliseconds.read(text), None, "{text}");
        }
    }

    #[test]
    fn files_and_variables() {
        assert_eq!(assigned(&["--flagfile=some"]), ["port=5", "on_off=1"]);
        assert_eq!(assigned(&["--fromenv=port", "--port=9"]), ["port=77", "port=9"]);
        assert_eq!(assigned(&["--tryfromenv", "port,size"]), ["port=77"]);
    }

    #[test]
    fn help_and_version() {
        assert_eq!(read(&["--helpshort"]).request, Request::Help("helpshort".into(), "".into()));
        assert_eq!(read(&["--helpon=x"]).request, Request::Help("helpon".into(), "x".into()));
        assert_eq!(read(&["--version", "--help=0"]).request, Request::Version);
        assert_eq!(read(&["--noversion"]).request, Request::Run);
    }

    #[test]
    fn flags_of_the_logging_library_are_kept_apart() {
        assert_eq!(read(&["-v=1"]).logging, [("v".to_owned(), "1".to_owned())]);
    }
}
