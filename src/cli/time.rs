//! Times as Docker's listings show them, and as its commands take them.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::model::human;

/// `2024-01-01 12:00:00 +0000 UTC`, as Go prints a time.
pub fn absolute(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
        .to_string()
}

/// `5 minutes ago`.
pub fn ago(time: Timestamp) -> String {
    format!("{} ago", since(time))
}

/// `5 minutes`.
pub fn since(time: Timestamp) -> String {
    human::duration(Timestamp::now().as_second() - time.as_second())
}

/// A length of time as an argument: `90`, `1.5` (seconds), `90s`, `1m30s`, `2h`.
///
/// # Errors
/// Why it is none, in a line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let why = || format!("{text:?} is no duration, such as 90, 90s or 1m30s");
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| why()),
        Err(_) => {
            let span: SignedDuration = text.parse().map_err(|_| why())?;
            span.try_into().map_err(|_| why())
        }
    }
}

/// A moment as an argument: RFC 3339, the same without a time or an offset (then the local one), Unix
/// seconds, or how long before `now` it was, as [`parse_duration`] has it but with a unit.
///
/// # Errors
/// Why it is none, in a line.
pub fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let why = || {
        format!("{text:?} is no time, such as 2024-01-01T12:00:00Z, 1704110400, 10m (ago) or now")
    };
    if text == "now" {
        return Ok(now);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        let after_epoch = SignedDuration::try_from_secs_f64(seconds).map_err(|_| why())?;
        return Timestamp::from_duration(after_epoch).map_err(|_| why());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(time) = text.parse::<DateTime>() {
        let zoned = time.to_zoned(TimeZone::system()).map_err(|_| why())?;
        return Ok(zoned.timestamp());
    }
    let ago: SignedDuration = text.parse().map_err(|_| why())?;
    now.checked_sub(ago).map_err(|_| why())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("90", 90_000),
            ("1.5", 1_500),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "-1", "-1s", "soon", "nan", "inf", "1 parsec"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments() {
        let now: Timestamp = "2024-01-01T12:00:00Z".parse().unwrap();
        for (text, time) in [
            ("now", "2024-01-01T12:00:00Z"),
            ("10m", "2024-01-01T11:50:00Z"),
            ("1h30m", "2024-01-01T10:30:00Z"),
            ("0s", "2024-01-01T12:00:00Z"),
            ("1704110400", "2024-01-01T12:00:00Z"),
            ("1704110400.25", "2024-01-01T12:00:00.25Z"),
            ("2024-01-01T13:00:00.5+02:00", "2024-01-01T11:00:00.5Z"),
        ] {
            assert_eq!(parse_moment(text, now), Ok(time.parse().unwrap()), "{text}");
        }
        let local = parse_moment("2023-06-01T00:00:00", now).unwrap();
        assert_eq!(parse_moment("2023-06-01", now), Ok(local));
        for text in [
            "",
            "yesterday",
            "nan",
            "1e30",
            "2024-13-01",
            "10 fortnights",
        ] {
            assert!(parse_moment(text, now).is_err(), "{text}");
        }
    }
}
