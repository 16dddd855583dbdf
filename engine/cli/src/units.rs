//! Sizes and times as people write them: `512MiB`, `1.5h`, `250ms`.

use std::time::Duration;

/// Bytes: a whole number, or one with a unit (`KB`, `MB`, `GB`, `TB` of 1000, `KiB`, `MiB`, `GiB`, `TiB` of 1024).
///
/// # Errors
/// What is wrong with the text, with an example.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let bad = || format!("{text:?} is no size; write a number of bytes, or one with a unit such as 512MiB or 4GiB");
    let (number, unit) = split(text);
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    if factor == 1.0 {
        return number.parse().map_err(|_| bad());
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    let size = number * factor;
    // Below 2^53 every whole number of bytes is exact.
    if size.is_finite() && (0.0..9e15).contains(&size) {
        Ok(size as usize)
    } else {
        Err(bad())
    }
}

/// A time: a number with `ms`, `s`, `m` (minutes), `h` or `d`; seconds without a unit. At most a hundred years.
///
/// # Errors
/// What is wrong with the text, with an example.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time; write a number with a unit, such as 250ms, 5s, 10m, 1h or 7d");
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(bad()),
    };
    let seconds = number.parse::<f64>().map_err(|_| bad())? * factor;
    if !(0.0..=100.0 * 366.0 * 86400.0).contains(&seconds) {
        return Err(bad());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// A number and its unit.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    (text[..end].trim(), text[end..].trim())
}

/// Bytes for people: `3.2 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{amount:.1} {}", UNITS[unit])
    }
}

/// A time for people: `3d 4h`, `12.5s`.
pub(crate) fn human_time(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{:.1}s", d.as_secs_f64()),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86400, s % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_or_none() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes(" 1.5 KiB"), Ok(1536));
        assert_eq!(bytes("2GB"), Ok(2_000_000_000));
        for bad in ["", "x", "-1", "1.5", "4 apples", "1e30GiB", "NaNGiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(time("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "soon", "-1s", "1y", "1e99d", "NaN"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_are_readable() {
        assert_eq!((human(17), human(1536)), ("17 B".to_owned(), "1.5 KiB".to_owned()));
        assert_eq!(human_time(Duration::from_secs(93_600)), "1d 2h");
    }
}
