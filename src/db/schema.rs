//! The tables, and how an older database becomes a current one.
//!
//! `PRAGMA user_version` counts the migrations that were applied. Each is one transaction together
//! with the new count, so that a crash leaves the version before or the version after.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::DbError;

/// One script a version, oldest first. A script that was released is never edited.
const MIGRATIONS: [&str; 3] = [V1, V2, V3];

/// Times are RFC 3339 in UTC, digests begin with `sha256:`, sizes are bytes.
const V1: &str = "
CREATE TABLE images (
    id      TEXT PRIMARY KEY,           -- digest of the config, which is in images/<hex>/config
    created TEXT NOT NULL,              -- as its config has it (RFC 3339), or empty
    loaded  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tags (
    reference TEXT PRIMARY KEY,         -- familiar form, with tag
    image     TEXT NOT NULL REFERENCES images (id)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_image ON tags (image);

-- A row a directory: present or marking in layers/<hex>, marked or reclaiming in marked/<hex>.<id>.
CREATE TABLE layers (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    diff    TEXT NOT NULL,
    chain   TEXT NOT NULL,              -- of the image that brought it, or that gave it up
    size    INTEGER NOT NULL,           -- contents of its regular files
    bytes   INTEGER NOT NULL,           -- allocated on disk, hard links once
    entries INTEGER NOT NULL,
    has_root INTEGER NOT NULL,          -- its tar says what the root directory is
    phase   TEXT NOT NULL CHECK (phase IN ('present', 'marking', 'marked', 'reclaiming'))
) STRICT;
CREATE UNIQUE INDEX layers_present ON layers (diff) WHERE phase = 'present';

CREATE TABLE image_layers (
    image    TEXT NOT NULL REFERENCES images (id),
    position INTEGER NOT NULL,          -- 0 is the lowest
    diff     TEXT NOT NULL,
    chain    TEXT NOT NULL,
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE containers (
    id        TEXT PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE,
    image     TEXT NOT NULL,            -- outlives its row in images
    reference TEXT NOT NULL,            -- as it was given to create
    command   TEXT NOT NULL,            -- JSON array
    created   TEXT NOT NULL,
    ended     TEXT,                     -- when its last view ended
    exit_code INTEGER
) STRICT, WITHOUT ROWID;

-- A row for each view that is served; outlives its container where that was removed by force.
CREATE TABLE views (
    container  TEXT PRIMARY KEY,
    pid        INTEGER NOT NULL,
    mountpoint BLOB NOT NULL,
    mounted    TEXT NOT NULL,
    detached   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE pins (
    view  TEXT NOT NULL REFERENCES views (container),
    layer INTEGER NOT NULL REFERENCES layers (id),
    PRIMARY KEY (view, layer)
) STRICT, WITHOUT ROWID;
CREATE INDEX pins_by_layer ON pins (layer);

CREATE TABLE events (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    time   TEXT NOT NULL,
    action TEXT NOT NULL,
    id     TEXT NOT NULL,
    bytes  INTEGER,
    detail TEXT NOT NULL
) STRICT;
";

/// Containers that run.
const V2: &str = "
ALTER TABLE containers ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';  -- JSON
ALTER TABLE containers ADD COLUMN started TEXT;             -- when its process last began to run
ALTER TABLE containers ADD COLUMN error TEXT NOT NULL DEFAULT '';   -- why it last did not

-- The process that a view's server holds; NULL where it only serves the view.
ALTER TABLE views ADD COLUMN process INTEGER;
ALTER TABLE views ADD COLUMN started TEXT;
ALTER TABLE views ADD COLUMN runtime BLOB;                  -- path of the OCI runtime

ALTER TABLE views ADD COLUMN purpose TEXT NOT NULL DEFAULT 'mount'; -- mount, transient or run
-- In the stack of the view, 0 is the topmost: still to be known when the image is gone.
ALTER TABLE pins ADD COLUMN position INTEGER NOT NULL DEFAULT 0;
";

/// What goes with an image, what its views keep of it, and what serves them.
const V3: &str = "
-- The image with whose removal the layer was marked; NULL where prune took what had none.
ALTER TABLE layers ADD COLUMN removed_with TEXT;
CREATE INDEX layers_removed ON layers (removed_with) WHERE removed_with IS NOT NULL;
-- The image whose merged index the view has mapped; NULL in a view of an earlier version.
ALTER TABLE views ADD COLUMN image TEXT;
ALTER TABLE views ADD COLUMN driver TEXT NOT NULL DEFAULT 'fuse';   -- fuse or overlay
-- st_dev of the files of an overlay, as stat(2) gives it; NULL until it is mounted, and of other views.
ALTER TABLE views ADD COLUMN device INTEGER;
";

const KNOWN: u32 = MIGRATIONS.len() as u32;

fn version(connection: &Connection) -> Result<u32, DbError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Refuse a database of a later version, without changing it.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), DbError> {
    match version(connection)? {
        found if found > KNOWN => Err(DbError::Newer {
            path: path.to_owned(),
            found,
            known: KNOWN,
        }),
        _ => Ok(()),
    }
}

/// Apply what is missing. Two processes may do so at once: the second finds it done.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), DbError> {
    if version(connection)? == KNOWN {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    check(&tx, path)?;
    for (script, number) in MIGRATIONS.iter().zip(1..).skip(version(&tx)? as usize) {
        tx.execute_batch(script)?;
        tx.pragma_update(None, "user_version", number)?;
    }
    tx.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Db;
    use super::*;

    #[test]
    fn a_new_store_has_the_current_version_and_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        drop(Db::open(&path).unwrap());
        drop(Db::open(&path).unwrap());
        assert_eq!(version(&Connection::open(&path).unwrap()).unwrap(), KNOWN);
    }

    #[test]
    fn a_store_of_the_first_version_keeps_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let id = "ab".repeat(32);
        let old = Connection::open(&path).unwrap();
        old.execute_batch(V1).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        old.execute_batch(&format!(
            "INSERT INTO containers (id, name, image, reference, command, created)
             VALUES ('{id}', 'web', 'sha256:{id}', 'app:1', '[\"sh\"]', '2024-01-01T00:00:00Z');
             INSERT INTO views (container, pid, mountpoint, mounted)
             VALUES ('{id}', 7, CAST('/v' AS BLOB), '2024-01-01T00:00:00Z');"
        ))
        .unwrap();
        drop(old);
        let mut db = Db::open(&path).unwrap();
        let snapshot = crate::db::Snapshot::take(&mut db).unwrap();
        assert_eq!(
            snapshot.containers[0].settings,
            crate::model::Settings::default()
        );
        assert_eq!(snapshot.containers[0].command, ["sh"]);
        assert_eq!(snapshot.views[0].process, None);
        assert_eq!(snapshot.views[0].driver, crate::model::Driver::Fuse);
        assert_eq!(snapshot.views[0].image, None);
    }

    #[test]
    fn a_newer_store_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Db::open(&path).unwrap_err().to_string();
        assert!(error.contains("is of version 99"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        std::fs::write(
            &path,
            "this is not a database at all, and long enough to be looked at",
        )
        .unwrap();
        let error = Db::open(&path).unwrap_err().to_string();
        assert!(error.starts_with("cannot open the database"), "{error}");
    }
}
