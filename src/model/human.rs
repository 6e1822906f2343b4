//! Sizes and times as Docker's listings show them, and what things cost.

use std::time::Duration;

/// A size in bytes in Docker's human form: decimal units, three significant digits, as
/// `docker images` prints it (`go-units`' `HumanSizeWithPrecision(size, 3)`): `0B`, `7.8MB`, `1.02GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", three_digits(value), UNITS[unit])
}

/// Go's `%.3g` for values from 0 to 1000: at most three significant digits, no trailing zeros, and
/// `1e+03` where the rounding leaves that range.
fn three_digits(value: f64) -> String {
    // By the exact value, as C and Go round: 9.995 is less than that in binary.
    let exponent = format!("{value:.2e}");
    let decimals = match exponent.rsplit_once('e') {
        Some((_, "3")) => return "1e+03".to_owned(),
        Some((_, "2")) => 0,
        Some((_, "1")) => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A measured time: `85.2 µs`, `1.5 ms`, `12.3 s`; three significant digits.
pub fn seconds(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    // Hours are told in seconds, too.
    match value < 999.5 {
        true => format!("{} {unit}", three_digits(value)),
        false => format!("{value:.0} {unit}"),
    }
}

/// A span of time in words, as `docker ps` says it (`go-units`' `HumanDuration`): `Less than a
/// second`, `5 minutes`, `About an hour`, `3 weeks`.
pub fn duration(seconds: i64) -> String {
    let (s, m) = (seconds, seconds / 60);
    let h = (seconds as f64 / 3600.0 + 0.5) as i64;
    match () {
        () if s < 1 => "Less than a second".to_owned(),
        () if s == 1 => "1 second".to_owned(),
        () if s < 60 => format!("{s} seconds"),
        () if m == 1 => "About a minute".to_owned(),
        () if m < 60 => format!("{m} minutes"),
        () if h == 1 => "About an hour".to_owned(),
        () if h < 48 => format!("{h} hours"),
        () if h < 24 * 7 * 2 => format!("{} days", h / 24),
        () if h < 24 * 30 * 2 => format!("{} weeks", h / 24 / 7),
        () if h < 24 * 365 * 2 => format!("{} months", h / 24 / 30),
        () => format!("{} years", h / 24 / 365),
    }
}

/// A number with a comma between each three digits: `100,007`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How long something took, for people: `0.04 s`, `21.3 s`, `214 s`.
pub fn took(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..1.0 => format!("{seconds:.2} s"),
        1.0..100.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

/// What a deletion has cost: `100,007 entries in 21.3 s`.
pub fn price(entries: u64, time: Duration) -> String {
    let name = if entries == 1 { "entry" } else { "entries" };
    format!("{} {name} in {}", count(entries), took(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_times() {
        let times = [2e-7, 8.52e-5, 0.0015, 0.12345, 1.0, 12.34, 5000.0].map(seconds);
        let texts = [
            "0.2 µs", "85.2 µs", "1.5 ms", "123 ms", "1 s", "12.3 s", "5000 s",
        ];
        assert_eq!(times, texts);
    }

    #[test]
    fn sizes_as_docker_writes_them() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (999, "999B"),
            (1000, "1kB"),
            (1024, "1.02kB"),
            (4096, "4.1kB"),
            (7_795_433, "7.8MB"),
            (77_900_000, "77.9MB"),
            (141_234_567, "141MB"),
            (1_020_000_000, "1.02GB"),
            (999_999, "1e+03kB"),
            (9995, "9.99kB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations_as_docker_writes_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (47 * 3600, "47 hours"),
            (3 * 86400, "3 days"),
            (15 * 86400, "2 weeks"),
            (70 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn prices_are_told_in_a_few_digits() {
        for (entries, millis, text) in [
            (0, 0, "0 entries in 0.00 s"),
            (1, 40, "1 entry in 0.04 s"),
            (999, 1234, "999 entries in 1.2 s"),
            (100_007, 21_340, "100,007 entries in 21.3 s"),
            (1_234_567, 214_400, "1,234,567 entries in 214 s"),
        ] {
            assert_eq!(price(entries, Duration::from_millis(millis)), text);
        }
    }
}
