//! Location strings: `*`, `cpu`, `cpu:N`, `cuda:N`, `npu:N` and whatever a later device calls
//! itself. They are labels until a device backend gives them a meaning.

/// Longest location string, with the terminating NUL of the C struct that carries it.
const LOCATION_BYTES_MAX: usize = 63;

/// True for `*` or a lower-case word, optionally followed by `:` and a number.
pub fn is_valid(location: &str) -> bool {
    if location == "*" {
        return true;
    }
    if location.is_empty() || location.len() > LOCATION_BYTES_MAX {
        return false;
    }
    let (kind, index) = match location.split_once(':') {
        Some((kind, index)) => (kind, Some(index)),
        None => (location, None),
    };
    let kind_is_word = !kind.is_empty()
        && kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    kind_is_word && index.is_none_or(|i| i.parse::<u32>().is_ok())
}

/// True where the memory can be that of the host: it says so, or says nothing.
pub fn is_host(location: &str) -> bool {
    location == "*" || location == "cpu" || location.starts_with("cpu:")
}

#[cfg(test)]
mod tests {
    use super::{is_host, is_valid};

    #[test]
    fn devices_are_not_the_host() {
        for (location, expected) in
            [("*", true), ("cpu", true), ("cpu:3", true), ("cpux:3", false), ("npu:0", false)]
        {
            assert_eq!(is_host(location), expected, "{location}");
        }
    }

    #[test]
    fn accepts_what_deployments_write() {
        for good in ["*", "cpu", "cpu:0", "cuda:7", "npu:15", "ascend_npu:3"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", ":", ":1", "cpu:", "cpu:x", "cpu:-1", "CPU:0", "cpu 0", &"a".repeat(64)] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
