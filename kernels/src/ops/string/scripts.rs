//! The scripts of Unicode code points, by the numbers that ICU gives them.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

/// The first code point (hexadecimal) of every run of one script, and the script.
const RUNS: &str = include_str!("scripts.txt");

fn runs() -> &'static [(i32, i32)] {
    static TABLE: OnceLock<Vec<(i32, i32)>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let run = |word: &str| {
            let (first, script) = word.split_once(':')?;
            Some((i32::from_str_radix(first, 16).ok()?, script.parse().ok()?))
        };
        RUNS.split_ascii_whitespace().filter_map(run).collect()
    })
}

/// The script of a code point; -1 if there is no such code point.
pub(crate) fn script(c: i32) -> i32 {
    if !(0..=0x10ffff).contains(&c) {
        return -1;
    }
    let table = runs();
    let after = table.partition_point(|(first, _)| *first <= c);
    after.checked_sub(1).and_then(|i| table.get(i)).map_or(-1, |r| r.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_sorted() {
        assert_eq!(runs().len(), RUNS.split_ascii_whitespace().count());
        assert!(runs().is_sorted_by(|a, b| a.0 < b.0) && runs()[0].0 == 0);
        assert_eq!(
            ["A", "Ж", "世", "あ", "א"].map(|s| script(s.chars().next().unwrap() as i32)),
            [25, 8, 17, 20, 19]
        );
    }
}
