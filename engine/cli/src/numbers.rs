//! Numbers that options take. Each parser refuses what has no meaning and says what has one.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::units;

/// The most threads of a session.
const THREADS: u64 = 4096;
/// The longest time, a year, in seconds.
const LONGEST: u64 = 366 * 86400;

fn whole(text: &str, what: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = text.parse().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| format!("{what} is a whole number from {} to {}", range.start(), range.end()))
}

/// How many threads may compute.
///
/// # Errors
/// What may be given.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    whole(text, "the number of threads", 1..=THREADS).map(|n| n as usize)
}

/// How many processes there are at a time.
///
/// # Errors
/// What may be given.
pub(crate) fn jobs(text: &str) -> Result<usize, String> {
    whole(text, "the number of jobs", 1..=THREADS).map(|n| n as usize)
}

/// Any 64 bits.
///
/// # Errors
/// What may be given.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    whole(text, "a seed", 0..=u64::MAX)
}

/// A time limit in whole seconds.
///
/// # Errors
/// What may be given.
pub(crate) fn whole_seconds(text: &str) -> Result<u64, String> {
    whole(text, "the limit in seconds", 1..=LONGEST)
}

/// A time limit in seconds.
///
/// # Errors
/// What may be given.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let limit = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= LONGEST as f64);
    let limit = limit.and_then(|s| Duration::try_from_secs_f64(s).ok());
    // A fraction of a nanosecond is no time at all.
    let limit = limit.filter(|d| !d.is_zero());
    limit.ok_or_else(|| format!("the limit in seconds is a number above 0, at most {LONGEST}"))
}

/// A limit of memory.
///
/// # Errors
/// What may be given.
pub(crate) fn memory(text: &str) -> Result<usize, String> {
    match units::bytes(text)? {
        0 => Err("no tensor fits into 0 bytes; write a size such as 512MiB or 4GiB".into()),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_meaning_are_refused_with_those_that_have_one() {
        assert_eq!((threads("1"), threads("4096")), (Ok(1), Ok(4096)));
        for text in ["0", "-1", "4097", "1.5", "", "many"] {
            let e = threads(text).unwrap_err();
            assert_eq!(e, "the number of threads is a whole number from 1 to 4096", "{text}");
        }
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert!(seed("-1").unwrap_err().contains("from 0 to 18446744073709551615"));
        assert!(jobs("0").is_err() && whole_seconds("0").is_err());
        assert!(whole_seconds("18446744073709551615").is_err());
    }

    #[test]
    fn a_time_limit_is_a_time() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["0", "-1", "1e-12", "NaN", "inf", "1e30", "soon"] {
            assert!(seconds(text).unwrap_err().contains("above 0"), "{text}");
        }
    }

    #[test]
    fn memory_is_a_size() {
        assert_eq!(memory("2MiB"), Ok(2 << 20));
        for text in ["0", "0GiB", "-1", "lots"] {
            assert!(memory(text).unwrap_err().contains("4GiB"), "{text}");
        }
    }
}
