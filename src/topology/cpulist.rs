//! Lists of processors as the kernel writes them: `0-3,8,10-11`. Pure.

use std::fmt;

use crate::limits;

/// Processors, as ranges with both ends inclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(Vec<(u32, u32)>);

impl CpuList {
    /// Reads a list. `None` for what the kernel does not write: a range that ends before it begins,
    /// numbers beyond any machine, too many ranges. Empty text is an empty list: nodes without
    /// processors have one.
    pub fn parse(text: &str) -> Option<CpuList> {
        let mut ranges = Vec::new();
        for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if last < first || ranges.len() == limits::CPU_RANGES_MAX {
                return None;
            }
            ranges.push((first, last));
        }
        Some(CpuList(ranges))
    }

    /// How many processors there are; one that is listed twice counts twice.
    pub fn count(&self) -> usize {
        self.0.iter().map(|(first, last)| (last - first) as usize + 1).sum()
    }

    /// The processors.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_digits && *number < limits::CPU_NUMBER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_real_hosts() {
        for (text, count) in [
            ("0", 1),
            ("0-3", 4),
            ("0-3,8-11\n", 8),
            ("0,2,4-5", 4),
            ("", 0),
            ("\n", 0),
            ("0-47,96-143", 96),
        ] {
            let list = CpuList::parse(text).unwrap();
            assert_eq!((list.count(), list.to_string().as_str()), (count, text.trim()), "{text:?}");
            assert_eq!(list.iter().count(), count);
        }
    }

    #[test]
    fn what_the_kernel_does_not_write_is_refused() {
        let many = vec!["1"; limits::CPU_RANGES_MAX + 1].join(",");
        for text in [
            ",",
            "0,",
            "-",
            "3-",
            "-3",
            "3-1",
            "a",
            "0 1",
            "+1",
            "0-4294967295",
            "99999999999",
            "0-3:1/2",
            &many,
        ] {
            assert_eq!(CpuList::parse(text), None, "{text:?}");
        }
    }
}
