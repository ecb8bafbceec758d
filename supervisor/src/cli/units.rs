//! Numbers as people read them, each in a few columns.

use std::time::Duration;

/// The two largest units: `2d03h`, `4m05s`, `12s`.
pub(super) fn uptime(millis: u64) -> String {
    let seconds = Duration::from_millis(millis).as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// Bytes in the unit that leaves the fewest digits: `1.5M`, `2.0G`.
pub(super) fn memory(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1023.95 { format!("{mebibytes:.1}M") } else { format!("{:.1}G", mebibytes / 1024.0) }
}

/// Microseconds as `0.3ms`, `41ms`, `2.5s`.
pub(super) fn millis(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{}ms", micros / 1000, micros / 100 % 10),
        10_000..1_000_000 => format!("{}ms", micros / 1000),
        _ => format!("{}.{}s", micros / 1_000_000, micros / 100_000 % 10),
    }
}

/// Per cent, with one digit after the point.
pub(super) fn percent(number: f64) -> String {
    format!("{number:.1}%")
}

/// Bits a second as megabits, with three digits that count: `0.25`, `31.7`, `1234`.
pub(super) fn megabits(bits: f64) -> String {
    three_digits(bits / 1e6)
}

/// Events a second; `0` where there were none.
pub(super) fn per_second(number: f64) -> String {
    if number == 0.0 { "0".to_owned() } else { three_digits(number) }
}

fn three_digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        9.995..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// Rows with their columns one below the other.
pub(super) fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_show_two_units() {
        assert_eq!([0, 59_999, 60_000, 3_600_000, 90_000_000].map(uptime), ["0s", "59s", "1m00s", "1h00m", "1d01h"]);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0, 3 << 19, 1 << 30, (1 << 30) - 1].map(memory), ["0.0M", "1.5M", "1.0G", "1.0G"]);
        assert_eq!([0, 340, 9_990, 41_900, 2_540_000].map(millis), ["0.0ms", "0.3ms", "9.9ms", "41ms", "2.5s"]);
        assert_eq!([0.0, 250_000.0, 31_650_000.0, 1.2345e9].map(megabits), ["0.00", "0.25", "31.6", "1234"]);
        assert_eq!([0.0, 0.5, 12.0, 99.96].map(per_second), ["0", "0.50", "12.0", "100"]);
        assert_eq!(per_second(f64::NAN), "NaN");
    }
}
