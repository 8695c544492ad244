//! Lines on standard error in the form of upstream's logging library, which scripts read:
//! level and date, time, thread, place, text. Log records of the library are printed the same way.

use std::io::Write as _;

/// Prints a line of the program itself.
macro_rules! info {
    ($($text:tt)*) => {
        crate::glog::line('I', file!(), line!(), format_args!($($text)*))
    };
}

/// As [`info!`], for what is wrong but goes on.
macro_rules! warning {
    ($($text:tt)*) => {
        crate::glog::line('W', file!(), line!(), format_args!($($text)*))
    };
}

/// As [`info!`], for what ends the program.
macro_rules! error {
    ($($text:tt)*) => {
        crate::glog::line('E', file!(), line!(), format_args!($($text)*))
    };
}

pub(crate) use {error, info, warning};

/// Prints one line; a standard error that is closed is not worth ending for.
pub(crate) fn line(level: char, file: &str, line: u32, text: std::fmt::Arguments) {
    let time = jiff::Zoned::now().strftime("%m%d %H:%M:%S%.6f");
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let file = file.rsplit('/').next().unwrap_or(file);
    let _ = writeln!(std::io::stderr(), "{level}{time} {thread:>5} {file}:{line}] {text}");
}

/// Prints log records of the library up to `level`.
pub(crate) fn show_library(level: log::LevelFilter) {
    static LOGGER: Logger = Logger;
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error => 'E',
            log::Level::Warn => 'W',
            _ => 'I',
        };
        let file = record.file().unwrap_or("mooncake");
        line(level, file, record.line().unwrap_or(0), *record.args());
    }

    fn flush(&self) {}
}
