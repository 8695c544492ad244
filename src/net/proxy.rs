//! Which proxy the environment asks for, by the rules of curl, which upstream's engine uses.
//!
//! Pure over a function that reads variables.

use std::net::IpAddr;

/// The proxy for a URL of `scheme` and `host`, if there is one.
///
/// `http_proxy` counts in lower case only, since a CGI server takes the upper-case name from a
/// request header. The others count in both, lower case first.
pub(super) fn choose(
    scheme: &str,
    host: &str,
    read: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let own: &[&str] = match scheme {
        "https" => &["https_proxy", "HTTPS_PROXY"],
        _ => &["http_proxy"],
    };
    let mut names = own.iter().chain(&["all_proxy", "ALL_PROXY"]);
    let proxy = names.find_map(|name| read(name).filter(|value| !value.trim().is_empty()))?;
    let exceptions = read("no_proxy").or_else(|| read("NO_PROXY")).unwrap_or_default();
    (!is_exception(host, &exceptions)).then(|| proxy.trim().to_owned())
}

/// True if a list like `localhost,.example.com,10.0.0.0/8` has the host in it.
fn is_exception(host: &str, list: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let host = host.to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        match address {
            Some(address) => covers(entry, address),
            None => {
                let domain = entry.trim_start_matches('.').trim_end_matches('.');
                let domain = domain.to_ascii_lowercase();
                host == domain || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
            }
        }
    })
}

/// True if `entry`, an address or `address/bits`, covers the address.
fn covers(entry: &str, address: IpAddr) -> bool {
    let (network, bits) = match entry.split_once('/') {
        Some((network, bits)) => (network, bits.parse().ok()),
        None => (entry, Some(128u32)),
    };
    let network = network.trim_start_matches('[').trim_end_matches(']');
    let (Ok(network), Some(bits)) = (network.parse::<IpAddr>(), bits) else { return false };
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let shift = 32u32.saturating_sub(bits);
            a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let shift = 128u32.saturating_sub(bits);
            a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(scheme: &str, host: &str, variables: &[(&str, &str)]) -> Option<String> {
        choose(scheme, host, &|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn the_variable_follows_the_scheme() {
        let all = [("http_proxy", "h:1"), ("HTTPS_PROXY", "s:2"), ("all_proxy", "a:3")];
        assert_eq!(chosen("http", "x", &all).as_deref(), Some("h:1"));
        assert_eq!(chosen("https", "x", &all).as_deref(), Some("s:2"));
        assert_eq!(chosen("http", "x", &all[1..]).as_deref(), Some("a:3"));
        assert_eq!(chosen("http", "x", &[("HTTP_PROXY", "evil:1")]), None);
        assert_eq!(chosen("http", "x", &[("http_proxy", " ")]), None);
        assert_eq!(chosen("http", "x", &[]), None);
    }

    #[test]
    fn exceptions() {
        for (host, list, excepted) in [
            ("a.example.com", "example.com", true),
            ("a.example.com", ".example.com", true),
            ("example.com", ".example.com", true),
            ("badexample.com", "example.com", false),
            ("EXAMPLE.com.", "example.COM", true),
            ("x", "*", true),
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3", "0.0.0.0/0", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.30", false),
            ("[fd00::1]", "fd00::/16", true),
            ("[fd00::1]", "[fd00::1]", true),
            ("fd00::1", "::/0", true),
            ("10.1.2.3", "fd00::/0, 10.1.2.x", false),
            ("localhost", "a, localhost", true),
            ("localhost", "", false),
        ] {
            assert_eq!(is_exception(host, list), excepted, "{host} in {list}");
            let chosen = chosen("http", host, &[("http_proxy", "p:1"), ("NO_PROXY", list)]);
            assert_eq!(chosen.is_none(), excepted, "{host} in {list}");
        }
    }
}
