//! How fast bytes and entries may go when reclamation is steered.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use bytesize::ByteSize;

/// The most that may be deleted in a second: bytes, entries, or both. Neither: as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Allocated bytes a second.
    pub bytes: Option<NonZeroU64>,
    /// Entries (names) a second.
    pub entries: Option<NonZeroU64>,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Rate = Rate {
        bytes: None,
        entries: None,
    };

    /// Whether it sets no limit.
    pub fn is_unlimited(self) -> bool {
        self == Rate::UNLIMITED
    }
}

const NONE: &str = "unlimited";

/// The text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid rate {text:?}: {why} (examples: 50MB/s; 5000/s for entries; 50MB/s,5000/s; {NONE})"
)]
pub struct ParseRateError {
    text: String,
    why: &'static str,
}

impl FromStr for Rate {
    type Err = ParseRateError;

    /// Terms with a comma between them: a size and `/s` for bytes (units of 1000: `kB`, `MB`, `GB`, `TB`;
    /// of 1024: `KiB`, `MiB`, `GiB`, `TiB`), a bare number and `/s` for entries; or `unlimited`.
    fn from_str(text: &str) -> Result<Rate, ParseRateError> {
        let wrong = |why| ParseRateError {
            text: text.to_owned(),
            why,
        };
        if text.trim() == NONE {
            return Ok(Rate::UNLIMITED);
        }
        let mut rate = Rate::UNLIMITED;
        for term in text.split(',') {
            let amount = term.trim().strip_suffix("/s");
            let amount = amount.ok_or_else(|| wrong("it does not end in /s"))?.trim();
            if amount.starts_with(['-', '+']) {
                return Err(wrong("a number has no sign"));
            }
            let is_number = !amount.is_empty() && amount.bytes().all(|b| b.is_ascii_digit());
            let (amount, limit) = match is_number {
                true => {
                    let number = amount
                        .parse()
                        .map_err(|_| wrong("the number is too large"))?;
                    (number, &mut rate.entries)
                }
                false => {
                    let size: ByteSize = amount
                        .parse()
                        .map_err(|_| wrong("it is neither a size nor a number of entries"))?;
                    if size.as_u64() == u64::MAX {
                        return Err(wrong("the number is too large"));
                    }
                    (size.as_u64(), &mut rate.bytes)
                }
            };
            let amount =
                NonZeroU64::new(amount).ok_or_else(|| wrong("at no speed nothing ends"))?;
            if limit.replace(amount).is_some() {
                return Err(wrong("it says the same limit twice"));
            }
        }
        Ok(rate)
    }
}

impl fmt::Display for Rate {
    /// In the form that is parsed, and exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self
            .bytes
            .map(|bytes| format!("{}/s", exact_size(bytes.get())));
        let entries = self.entries.map(|entries| format!("{entries}/s"));
        let terms: Vec<String> = bytes.into_iter().chain(entries).collect();
        match terms.as_slice() {
            [] => f.write_str(NONE),
            terms => f.write_str(&terms.join(",")),
        }
    }
}

/// A size in the largest unit of which it is a whole number.
fn exact_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 9] = [
        (1 << 40, "TiB"),
        (1_000_000_000_000, "TB"),
        (1 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1000, "kB"),
        (1, "B"),
    ];
    let fitting = UNITS.iter().find(|(size, _)| bytes.is_multiple_of(*size));
    fitting.map_or_else(String::new, |(size, unit)| {
        format!("{}{unit}", bytes / size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(bytes: u64, entries: u64) -> Rate {
        Rate {
            bytes: NonZeroU64::new(bytes),
            entries: NonZeroU64::new(entries),
        }
    }

    #[test]
    fn rates_are_read() {
        for (text, expected) in [
            ("50MB/s", rate(50_000_000, 0)),
            ("64MiB/s", rate(64 << 20, 0)),
            ("1.5GB/s", rate(1_500_000_000, 0)),
            ("100B/s", rate(100, 0)),
            ("100 kB/s", rate(100_000, 0)),
            ("5000/s", rate(0, 5000)),
            ("50MB/s,5000/s", rate(50_000_000, 5000)),
            (" 5000/s , 50MB/s ", rate(50_000_000, 5000)),
            ("unlimited", Rate::UNLIMITED),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_in_words() {
        for (text, why) in [
            ("", "does not end in /s"),
            ("50MB", "does not end in /s"),
            ("50", "does not end in /s"),
            ("50MB/min", "does not end in /s"),
            ("/s", "neither a size nor"),
            ("fast/s", "neither a size nor"),
            ("50MQ/s", "neither a size nor"),
            ("NaN/s", "neither a size nor"),
            ("-5/s", "has no sign"),
            ("-5MB/s", "has no sign"),
            ("0/s", "nothing ends"),
            ("0MB/s", "nothing ends"),
            ("0.1B/s", "nothing ends"),
            ("50MB/s,60MB/s", "twice"),
            ("5/s,6/s", "twice"),
            ("50MB/s,", "does not end in /s"),
            ("unlimited,5/s", "does not end in /s"),
            ("99999999999999999999/s", "too large"),
            ("99999999999999PB/s", "too large"),
        ] {
            let refused = text.parse::<Rate>().map_err(|e| e.to_string());
            assert!(
                matches!(&refused, Err(e) if e.contains(why) && e.contains("50MB/s")),
                "{text}: {refused:?}"
            );
        }
    }

    #[test]
    fn rates_are_shown_as_people_write_them() {
        for text in [
            "50MB/s",
            "64MiB/s",
            "5000/s",
            "50MB/s,5000/s",
            "1GiB/s",
            "1TB/s",
            "7B/s",
            "unlimited",
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
    }

    proptest! {
        /// A size is parsed as a decimal fraction of a unit, so beyond 2^53 the last digits may go.
        #[test]
        fn what_is_shown_is_what_was_read(bytes in 0u64..1 << 53, entries: u64) {
            let rate = rate(bytes, entries);
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn no_text_is_a_panic(text: String) {
            prop_assert!(text.parse::<Rate>().is_ok_and(|r| r.to_string().contains('/') || r.is_unlimited())
                || text.parse::<Rate>().is_err());
        }
    }
}
