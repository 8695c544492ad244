//! The URL of a redis service, completed from settings. Pure.

use percent_encoding::percent_decode_str;

use crate::error::{Error, ErrorKind, Result};
use crate::net::address::{join_host_port, parse_host_port};
use crate::net::tls::TlsFiles;

use super::Settings;

/// Where the service is and who we are to it.
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<TlsFiles>,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) database: u32,
}

impl Address {
    pub(super) fn parse(settings: &Settings<'_>) -> Result<Address> {
        // The URL may hold a password, so no error repeats it.
        let invalid =
            |why: &str| Error::new(ErrorKind::InvalidAddress, why).with("scheme", "redis");
        let (scheme, rest) =
            settings.url.split_once("://").ok_or_else(|| invalid("not a redis URL"))?;
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (username, password) = match user {
            Some(user) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                let decode = |text| {
                    percent_decode_str(text)
                        .decode_utf8()
                        .map(|text| text.into_owned())
                        .map_err(|_| invalid("user and password of a redis URL must be UTF-8"))
                };
                (decode(name)?, decode(password)?)
            }
            None => (settings.username.to_owned(), settings.password.to_owned()),
        };
        let parsed = parse_host_port(place, settings.default_port)?;
        if parsed.host.is_empty() {
            return Err(invalid("a redis URL must name a host"));
        }
        if parsed.is_port_assumed() {
            log::warn!(
                "the redis URL names no port: {} is assumed, redis itself uses 6379",
                parsed.port
            );
        }
        let database = match path.trim_matches('/') {
            "" => settings.database,
            digits => digits
                .parse()
                .map_err(|_| invalid("the path of a redis URL is the number of a database"))?,
        };
        Ok(Address {
            host: parsed.host,
            port: parsed.port,
            tls: scheme.eq_ignore_ascii_case("rediss").then(|| settings.files.clone()),
            username,
            password,
            database,
        })
    }

    /// For messages.
    pub(super) fn endpoint(&self) -> String {
        join_host_port(&self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address> {
        Address::parse(&Settings {
            url,
            default_port: 12_001,
            username: "set-user",
            password: "set-password",
            database: 3,
            files: TlsFiles::default(),
            lease: None,
        })
    }

    #[test]
    fn urls_win_over_settings() {
        for (url, endpoint, user, password, database, tls) in [
            ("redis://h", "h:12001", "set-user", "set-password", 3, false),
            ("redis://h:6379/", "h:6379", "set-user", "set-password", 3, false),
            ("rediss://h:1/7", "h:1", "set-user", "set-password", 7, true),
            ("redis://:p%40%2f@h:1", "h:1", "", "p@/", 3, false),
            ("redis://u:p:q@[::1]:1/0?x=y", "[::1]:1", "u", "p:q", 0, false),
        ] {
            let address = parse(url).unwrap();
            assert_eq!(address.endpoint(), endpoint, "{url}");
            assert_eq!((address.username.as_str(), address.password.as_str()), (user, password));
            assert_eq!((address.database, address.tls.is_some()), (database, tls), "{url}");
        }
    }

    #[test]
    fn refusals_do_not_repeat_the_password() {
        for url in ["redis://u:secret@", "redis://u:secret@h/x", "redis://u:%ff@h", "redis:"] {
            let Err(error) = parse(url) else { panic!("{url} was accepted") };
            assert_eq!(error.kind(), ErrorKind::InvalidAddress, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
