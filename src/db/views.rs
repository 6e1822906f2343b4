//! The views that are served, and the layers each of them pins.
//!
//! The locks that the servers hold decide what is pinned; these rows say by whom.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::params;

use super::{Action, DbError, Tx, parsed};
use crate::model::ContainerId;

/// A view that is served, or whose server died a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Whose view it is. The container itself may have been removed by force.
    pub container: ContainerId,
    /// The server's process ID.
    pub pid: i32,
    /// Where it was mounted.
    pub mountpoint: PathBuf,
    /// When it was mounted.
    pub mounted: Timestamp,
    /// Detached from its mount point; it lives on for the handles that are open.
    pub detached: bool,
    /// The rows of the layers that it pins.
    pub pins: Vec<i64>,
}

/// A view that has a pin on a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Whose view it is.
    pub container: ContainerId,
    /// The server's process ID.
    pub pid: i32,
}

/// What `insert_view` records.
#[derive(Debug)]
pub struct NewView<'a> {
    /// Whose view it is.
    pub container: &'a ContainerId,
    /// The server's process ID.
    pub pid: u32,
    /// Where it is mounted.
    pub mountpoint: &'a Path,
    /// The rows of the layers that it pins.
    pub pins: &'a [i64],
}

impl Tx<'_> {
    /// All views, oldest first.
    pub fn views(&self) -> Result<Vec<View>, DbError> {
        let mut statement = self.tx.prepare_cached(
            "SELECT container, pid, mountpoint, mounted, detached FROM views
             ORDER BY mounted, container",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(View {
                container: parsed(row, 0)?,
                pid: row.get(1)?,
                mountpoint: OsString::from_vec(row.get(2)?).into(),
                mounted: parsed(row, 3)?,
                detached: row.get(4)?,
                pins: Vec::new(),
            })
        })?;
        let mut views: Vec<View> = rows.collect::<Result<_, _>>()?;
        let mut pins = self
            .tx
            .prepare_cached("SELECT layer FROM pins WHERE view = ? ORDER BY layer")?;
        for view in &mut views {
            let rows = pins.query_map([view.container.hex()], |row| row.get(0))?;
            view.pins = rows.collect::<Result<_, _>>()?;
        }
        Ok(views)
    }

    /// The view of one container.
    pub fn view(&self, container: &ContainerId) -> Result<Option<View>, DbError> {
        Ok(self
            .views()?
            .into_iter()
            .find(|v| v.container == *container))
    }

    /// Add a view and its pins, with a `pin` event each.
    pub fn insert_view(&self, view: &NewView<'_>) -> Result<(), DbError> {
        self.tx.execute(
            "INSERT INTO views (container, pid, mountpoint, mounted) VALUES (?, ?, ?, ?)",
            params![
                view.container.hex(),
                view.pid,
                view.mountpoint.as_os_str().as_bytes(),
                self.now.to_string()
            ],
        )?;
        for layer in view.pins {
            self.tx.execute(
                "INSERT INTO pins (view, layer) VALUES (?, ?)",
                params![view.container.hex(), layer],
            )?;
        }
        self.record_pins(Action::Pin, view.container, view.pins)
    }

    /// Remove a view and its pins, with an `unpin` event each. False if it was gone already: of
    /// those who find a dead view at once, one records its end.
    pub fn delete_view(&self, view: &View) -> Result<bool, DbError> {
        let condition = "container = ? AND pid = ? AND mounted = ?";
        let key = params![view.container.hex(), view.pid, view.mounted.to_string()];
        let mut found = self
            .tx
            .prepare_cached(&format!("SELECT 1 FROM views WHERE {condition}"))?;
        if !found.exists(key)? {
            return Ok(false);
        }
        self.record_pins(Action::Unpin, &view.container, &view.pins)?;
        self.tx
            .execute("DELETE FROM pins WHERE view = ?", [view.container.hex()])?;
        self.tx.execute(
            "DELETE FROM views WHERE container = ?",
            [view.container.hex()],
        )?;
        Ok(true)
    }

    /// The views that have a pin on a layer on record, oldest first.
    pub fn holders_of(&self, layer: i64) -> Result<Vec<Holder>, DbError> {
        let mut statement = self.tx.prepare_cached(
            "SELECT container, pid FROM pins JOIN views ON view = container
             WHERE layer = ? ORDER BY mounted, container",
        )?;
        let rows = statement.query_map([layer], |row| {
            Ok(Holder {
                container: parsed(row, 0)?,
                pid: row.get(1)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Note that a view was detached from its mount point.
    pub fn set_view_detached(&self, container: &ContainerId) -> Result<(), DbError> {
        self.tx.execute(
            "UPDATE views SET detached = 1 WHERE container = ?",
            [container.hex()],
        )?;
        Ok(())
    }

    fn record_pins(
        &self,
        action: Action,
        container: &ContainerId,
        pins: &[i64],
    ) -> Result<(), DbError> {
        for id in pins {
            if let Some(layer) = self.layer(*id)? {
                let detail = format!("container {}", container.short());
                self.record(action, &layer.chain, Some(layer.bytes), &detail)?;
            }
        }
        Ok(())
    }
}
