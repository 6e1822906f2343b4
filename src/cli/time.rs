//! Times as Docker's listings show them.

use jiff::{Timestamp, tz::TimeZone};

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
