//! Signals by the names and numbers that users give them.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// The text is no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid signal: {0}")]
pub struct UnknownSignal(pub String);

/// The number of `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.
///
/// # Errors
/// What signal(7) does not list for Linux.
pub fn number(text: &str) -> Result<i32, UnknownSignal> {
    let unknown = || UnknownSignal(text.to_owned());
    if let Ok(number) = text.parse::<i32>() {
        return match (1..=64).contains(&number) {
            true => Ok(number),
            false => Err(unknown()),
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(signal) = Signal::from_str(&format!("SIG{name}")) {
        return Ok(signal as i32);
    }
    // The C library keeps the first two for itself.
    let (first, last) = (34, 64);
    let realtime = match name {
        "RTMIN" => Some(first),
        "RTMAX" => Some(last),
        _ => name
            .strip_prefix("RTMIN+")
            .and_then(|n| n.parse::<i32>().ok())
            .map(|n| first + n)
            .or_else(|| {
                let below = name.strip_prefix("RTMAX-")?;
                Some(last - below.parse::<i32>().ok()?)
            }),
    };
    realtime
        .filter(|number| (first..=last).contains(number))
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, value) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("1", 1),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        for text in [
            "",
            "0",
            "65",
            "-9",
            "NOPE",
            "SIG",
            "RTMIN+40",
            "RTMAX--1",
            "SIGSIGTERM",
        ] {
            assert!(number(text).is_err(), "{text:?}");
        }
    }
}
