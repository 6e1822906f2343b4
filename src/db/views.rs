//! The views that are served, and the layers each of them pins.
//!
//! The locks that the servers hold decide what is pinned; these rows say by whom.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::params;

use super::{Action, DbError, Tx, parsed, parsed_if_there};
use crate::model::{ContainerId, Driver, ImageId, Purpose};

/// A view that is served, or whose server died a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Whose view it is. The container itself may have been removed by force.
    pub container: ContainerId,
    /// The image that it shows, and whose files it has mapped though the image may be gone; `None` of
    /// a view that an earlier version has begun.
    pub image: Option<ImageId>,
    /// The server's process ID.
    pub pid: i32,
    /// Where it was mounted.
    pub mountpoint: PathBuf,
    /// When it was mounted.
    pub mounted: Timestamp,
    /// Detached from its mount point; it lives on for the handles that are open.
    pub detached: bool,
    /// What it is served for.
    pub purpose: Purpose,
    /// What serves it.
    pub driver: Driver,
    /// `st_dev` of its files, of a view of kernel overlayfs that is mounted.
    pub device: Option<u64>,
    /// The container's process that its server holds, if it runs one.
    pub process: Option<Process>,
    /// The rows of the layers that it pins, topmost first.
    pub pins: Vec<i64>,
}

/// The first process of a container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process ID, in the server's PID namespace.
    pub pid: i32,
    /// When it was started.
    pub started: Timestamp,
    /// The OCI runtime that runs it.
    pub runtime: PathBuf,
}

impl View {
    /// Whether two rows tell of one view: a container may have had another in between, and that one
    /// even a server with the same process ID.
    pub fn is_same(&self, other: &View) -> bool {
        self.container == other.container && self.pid == other.pid && self.mounted == other.mounted
    }
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
    /// The image that it shows.
    pub image: &'a ImageId,
    /// The server's process ID.
    pub pid: i32,
    /// Where it is mounted.
    pub mountpoint: &'a Path,
    /// What it is served for.
    pub purpose: Purpose,
    /// What serves it.
    pub driver: Driver,
    /// The rows of the layers that it pins, each once, topmost first.
    pub pins: &'a [i64],
}

/// [`View::is_same`], asked of the table.
const SAME: &str = "container = ? AND pid = ? AND mounted = ?";

/// What both queries select, in the order in which `view` reads it.
const COLUMNS: &str = "container, pid, mountpoint, mounted, detached, process, started, runtime, \
     purpose, driver, device, image";

/// A view without its pins, which are in a table of their own.
fn view(row: &rusqlite::Row<'_>) -> rusqlite::Result<View> {
    let process = match (row.get(5)?, parsed_if_there(row, 6)?, row.get(7)?) {
        (Some(pid), Some(started), Some::<Vec<u8>>(runtime)) => Some(Process {
            pid,
            started,
            runtime: OsString::from_vec(runtime).into(),
        }),
        _ => None,
    };
    Ok(View {
        container: parsed(row, 0)?,
        image: parsed_if_there(row, 11)?,
        pid: row.get(1)?,
        mountpoint: OsString::from_vec(row.get(2)?).into(),
        mounted: parsed(row, 3)?,
        detached: row.get(4)?,
        purpose: parsed(row, 8)?,
        driver: parsed(row, 9)?,
        device: row.get::<_, Option<i64>>(10)?.map(i64::cast_unsigned),
        process,
        pins: Vec::new(),
    })
}

impl Tx<'_> {
    /// All views, oldest first.
    pub fn views(&self) -> Result<Vec<View>, DbError> {
        let mut statement = self.tx.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM views ORDER BY mounted, container"
        ))?;
        let rows = statement.query_map([], view)?;
        let mut views: Vec<View> = rows.collect::<Result<_, _>>()?;
        for view in &mut views {
            view.pins = self.pins_of(&view.container)?;
        }
        Ok(views)
    }

    /// The view of one container.
    pub fn view(&self, container: &ContainerId) -> Result<Option<View>, DbError> {
        let mut statement = self
            .tx
            .prepare_cached(&format!("SELECT {COLUMNS} FROM views WHERE container = ?"))?;
        let mut rows = statement.query_map([container.hex()], view)?;
        let Some(mut view) = rows.next().transpose()? else {
            return Ok(None);
        };
        view.pins = self.pins_of(container)?;
        Ok(Some(view))
    }

    /// Whether a view that shows this image is on record: as long as one is, the image's files stay.
    pub fn is_shown(&self, image: &ImageId) -> Result<bool, DbError> {
        Ok(self
            .tx
            .prepare_cached("SELECT 1 FROM views WHERE image = ?")?
            .exists([image.to_string()])?)
    }

    fn pins_of(&self, container: &ContainerId) -> Result<Vec<i64>, DbError> {
        let mut statement = self
            .tx
            .prepare_cached("SELECT layer FROM pins WHERE view = ? ORDER BY position, layer")?;
        let rows = statement.query_map([container.hex()], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether the order of a view's pins is on record: it is not of one that a server of an earlier
    /// version has begun.
    pub fn pins_are_in_order(&self, container: &ContainerId) -> Result<bool, DbError> {
        let mut statement = self.tx.prepare_cached(
            "SELECT count(*) = count(DISTINCT position) FROM pins WHERE view = ?",
        )?;
        Ok(statement.query_row([container.hex()], |row| row.get(0))?)
    }

    /// Add a view and its pins, with a `pin` event each. Gives the view as it is on record now.
    pub fn insert_view(&self, view: &NewView<'_>) -> Result<View, DbError> {
        self.tx.execute(
            "INSERT INTO views (container, image, pid, mountpoint, mounted, purpose, driver)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                view.container.hex(),
                view.image.to_string(),
                view.pid,
                view.mountpoint.as_os_str().as_bytes(),
                self.now.to_string(),
                view.purpose.as_str(),
                view.driver.as_str()
            ],
        )?;
        for (layer, position) in view.pins.iter().zip(0_i64..) {
            self.tx.execute(
                "INSERT INTO pins (view, layer, position) VALUES (?, ?, ?)",
                params![view.container.hex(), layer, position],
            )?;
        }
        self.record_pins(Action::Pin, view.container, view.pins)?;
        Ok(View {
            container: view.container.clone(),
            image: Some(view.image.clone()),
            pid: view.pid,
            mountpoint: view.mountpoint.to_owned(),
            mounted: self.now,
            detached: false,
            purpose: view.purpose,
            driver: view.driver,
            device: None,
            process: None,
            pins: view.pins.to_vec(),
        })
    }

    /// Remove a view and its pins, with an `unpin` event each. False if it was gone already: of
    /// those who find a dead view at once, one records its end.
    pub fn delete_view(&self, view: &View) -> Result<bool, DbError> {
        let key = params![view.container.hex(), view.pid, view.mounted.to_string()];
        let mut found = self
            .tx
            .prepare_cached(&format!("SELECT 1 FROM views WHERE {SAME}"))?;
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

    /// Note that a view was detached from its mount point. Nothing happens if it has ended: another
    /// that the container has by now is not meant.
    pub fn set_view_detached(&self, view: &View) -> Result<(), DbError> {
        self.tx.execute(
            &format!("UPDATE views SET detached = 1 WHERE {SAME}"),
            params![view.container.hex(), view.pid, view.mounted.to_string()],
        )?;
        Ok(())
    }

    /// Note what `st_dev` the files of a view have.
    pub fn set_view_device(&self, view: &View, device: u64) -> Result<(), DbError> {
        self.tx.execute(
            &format!("UPDATE views SET device = ? WHERE {SAME}"),
            params![
                device.cast_signed(),
                view.container.hex(),
                view.pid,
                view.mounted.to_string()
            ],
        )?;
        Ok(())
    }

    /// Note that a view's server runs the container's process, since now. Gives what is on record.
    pub fn set_view_process(
        &self,
        view: &View,
        pid: i32,
        runtime: &Path,
    ) -> Result<Process, DbError> {
        self.tx.execute(
            &format!("UPDATE views SET process = ?, started = ?, runtime = ? WHERE {SAME}"),
            params![
                pid,
                self.now.to_string(),
                runtime.as_os_str().as_bytes(),
                view.container.hex(),
                view.pid,
                view.mounted.to_string()
            ],
        )?;
        Ok(Process {
            pid,
            started: self.now,
            runtime: runtime.to_owned(),
        })
    }

    /// Note that the process of a view has ended; the view may live on for those who use it. False
    /// if that is on record already.
    pub fn clear_view_process(&self, view: &View) -> Result<bool, DbError> {
        let changed = self.tx.execute(
            &format!(
                "UPDATE views SET process = NULL, started = NULL, runtime = NULL
                 WHERE {SAME} AND process IS NOT NULL"
            ),
            params![view.container.hex(), view.pid, view.mounted.to_string()],
        )?;
        Ok(changed > 0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;

    /// Begins a view of a container, as a server does.
    fn begin(db: &mut Db, container: &ContainerId, mountpoint: &str) -> View {
        let new = NewView {
            container,
            image: &ImageId::of(b"config"),
            pid: 7,
            mountpoint: Path::new(mountpoint),
            purpose: Purpose::Mount,
            driver: Driver::Overlay,
            pins: &[],
        };
        db.write(|tx| tx.insert_view(&new)).unwrap()
    }

    #[test]
    fn what_is_inserted_is_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(&dir.path().join("store.db")).unwrap();
        let [one, other] = [1, 2].map(|n| ContainerId::from_random([n; 32]));
        let views = [begin(&mut db, &one, "/a"), begin(&mut db, &other, "/b")];
        let read = |tx: &Tx<'_>| -> Result<_, DbError> { Ok((tx.views()?, tx.view(&other)?)) };
        let (all, second) = db.read(read).unwrap();
        assert_eq!(all, views);
        assert_eq!(second.as_ref(), Some(&views[1]));
        let noted = db.write(|tx| {
            tx.set_view_device(&views[1], 53)?;
            tx.view(&other)
        });
        assert_eq!(noted.unwrap().unwrap().device, Some(53));
        db.write(|tx| tx.delete_view(&views[1])).unwrap();
        assert_eq!(db.read(|tx| tx.view(&other)).unwrap(), None);
    }

    #[test]
    fn a_view_that_has_ended_does_not_make_its_successor_a_detached_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(&dir.path().join("store.db")).unwrap();
        let container = ContainerId::from_random([1; 32]);
        let ended = begin(&mut db, &container, "/a");
        db.write(|tx| tx.delete_view(&ended)).unwrap();
        let current = begin(&mut db, &container, "/a");
        assert!(!current.is_same(&ended));
        let mut detached = |view: &View| {
            db.write(|tx| tx.set_view_detached(view)).unwrap();
            let now = db.read(|tx| tx.view(&container)).unwrap().unwrap();
            now.detached
        };
        assert!(!detached(&ended));
        assert!(detached(&current));
    }
}
