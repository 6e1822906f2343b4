//! What happened, in order: the history that `events` prints.

use std::fmt;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::{DbError, Tx, from_sql, parsed, to_sql};
use crate::model::ImageId;

/// What an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// An image was loaded.
    Load,
    /// An image was given a tag.
    Tag,
    /// A tag was taken from an image.
    Untag,
    /// An image was deleted.
    Delete,
    /// A layer was marked for deletion.
    Mark,
    /// A view began to hold a layer.
    Pin,
    /// A view ceased to hold a layer.
    Unpin,
    /// The physical deletion of a layer began.
    ReclaimStart,
    /// A layer is gone.
    ReclaimEnd,
    /// The physical deletion of a layer met an error.
    ReclaimFailed,
}

impl Action {
    const ALL: [Action; 10] = [
        Action::Load,
        Action::Tag,
        Action::Untag,
        Action::Delete,
        Action::Mark,
        Action::Pin,
        Action::Unpin,
        Action::ReclaimStart,
        Action::ReclaimEnd,
        Action::ReclaimFailed,
    ];

    /// Whether its ID is an image's, and not a layer's.
    pub fn is_about_image(self) -> bool {
        match self {
            Action::Load | Action::Tag | Action::Untag | Action::Delete => true,
            Action::Mark
            | Action::Pin
            | Action::Unpin
            | Action::ReclaimStart
            | Action::ReclaimEnd
            | Action::ReclaimFailed => false,
        }
    }

    /// The name under which `events` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Load => "load",
            Action::Tag => "tag",
            Action::Untag => "untag",
            Action::Delete => "delete",
            Action::Mark => "mark",
            Action::Pin => "pin",
            Action::Unpin => "unpin",
            Action::ReclaimStart => "reclaim-start",
            Action::ReclaimEnd => "reclaim-end",
            Action::ReclaimFailed => "reclaim-failed",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is no action's name.
#[derive(Debug, thiserror::Error)]
#[error("unknown action {0:?}")]
pub struct UnknownAction(String);

impl std::str::FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Action, UnknownAction> {
        Action::ALL
            .into_iter()
            .find(|a| a.as_str() == text)
            .ok_or_else(|| UnknownAction(text.to_owned()))
    }
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Grows by at least one from event to event.
    pub seq: i64,
    /// When the transaction began that it belongs to.
    pub time: Timestamp,
    /// What happened.
    pub action: Action,
    /// To what: an image ID, or a layer's chain ID.
    pub id: String,
    /// Allocated bytes of the layer, where the action is about one.
    pub bytes: Option<u64>,
    /// A tag, a container, a reason.
    pub detail: String,
}

/// What went with an image when it was last removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// How many layers were marked.
    pub layers: u64,
    /// Their allocated bytes.
    pub bytes: u64,
}

impl Tx<'_> {
    /// The images that were removed one day and whose digests begin with these hexadecimal digits; they
    /// may have been loaded again.
    pub fn removed_images(&self, hex: &str) -> Result<Vec<ImageId>, DbError> {
        let mut statement = self.tx.prepare_cached(
            "SELECT DISTINCT id FROM events
             WHERE action = 'delete' AND substr(id, 8, ?1) = ?2 ORDER BY id",
        )?;
        let digits = i64::try_from(hex.len()).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![digits, hex], |row| parsed(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What was marked with the last removal of an image. The events of one transaction follow each
    /// other, and have one time.
    pub fn last_removal(&self, image: &ImageId) -> Result<Option<Removed>, DbError> {
        let mut statement = self.tx.prepare_cached(
            "SELECT (SELECT count(*) FROM events AS mark WHERE seq > gone.seq
                     AND mark.time = gone.time AND action = 'mark'),
                    (SELECT coalesce(sum(bytes), 0) FROM events AS mark WHERE seq > gone.seq
                     AND mark.time = gone.time AND action = 'mark')
             FROM events AS gone WHERE action = 'delete' AND id = ? ORDER BY seq DESC LIMIT 1",
        )?;
        let removed = statement.query_row([image.to_string()], |row| {
            Ok(Removed {
                layers: from_sql(row, 0)?,
                bytes: from_sql(row, 1)?,
            })
        });
        Ok(removed.optional()?)
    }

    /// Record an event.
    pub fn record(
        &self,
        action: Action,
        id: &dyn fmt::Display,
        bytes: Option<u64>,
        detail: &str,
    ) -> Result<(), DbError> {
        self.tx
            .prepare_cached(
                "INSERT INTO events (time, action, id, bytes, detail) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![
                self.now.to_string(),
                action.as_str(),
                id.to_string(),
                bytes.map(to_sql),
                detail
            ])?;
        Ok(())
    }

    /// The events after `seq`, oldest first. 0 gives all.
    pub fn events_after(&self, seq: i64) -> Result<Vec<Event>, DbError> {
        let mut statement = self.tx.prepare_cached(
            "SELECT seq, time, action, id, bytes, detail FROM events WHERE seq > ? ORDER BY seq",
        )?;
        let rows = statement.query_map([seq], |row| {
            Ok(Event {
                seq: row.get(0)?,
                time: parsed(row, 1)?,
                action: parsed(row, 2)?,
                id: row.get(3)?,
                bytes: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
                detail: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
