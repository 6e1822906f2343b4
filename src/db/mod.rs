//! The store's database, `store.db`: SQLite in WAL mode, the truth that the tree follows.
//!
//! Several processes use it at once. A change is one short transaction that begins `IMMEDIATE`, so
//! that two writers wait for each other at its start and never fail in its middle; nobody holds one
//! while bytes are written or deleted. `synchronous=FULL`: what a command has reported is still so
//! after a power cut.
//!
//! This room knows rows, not files: which directory a row stands for is `store::layout`'s.

mod containers;
mod error;
mod events;
mod images;
mod layers;
mod schema;
mod snapshot;
mod views;

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

pub use containers::Container;
pub use error::DbError;
pub use events::{Action, Event, Removed, UnknownAction};
pub use images::{Image, ImageLayer, NewImage};
pub use snapshot::Snapshot;
pub use views::{Holder, NewView, Process, View};

/// How long a writer waits for the others before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// An open database.
#[derive(Debug)]
pub struct Db {
    connection: Connection,
}

impl Db {
    /// Open the database at `path`, making it where it is missing and bringing an older one up to
    /// date.
    ///
    /// # Errors
    /// [`DbError::Newer`] for one written by a later version; otherwise what SQLite says.
    pub fn open(path: &Path) -> Result<Db, DbError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection =
            Connection::open_with_flags(path, flags).map_err(DbError::opening(path))?;
        let prepare = |connection: &mut Connection| -> Result<(), DbError> {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            // The version comes first: of a newer store nothing is to be changed, the journal
            // mode neither.
            schema::check(connection, path)?;
            use_wal(connection)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            schema::migrate(connection, path)
        };
        prepare(&mut connection).map_err(|e| e.at(path))?;
        Ok(Db { connection })
    }

    /// Change the database in one transaction: all of `change` or, where it fails, nothing.
    pub fn write<T, E: From<DbError>>(
        &mut self,
        change: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(DbError::from)?;
        let tx = Tx {
            tx,
            now: Timestamp::now(),
        };
        let value = change(&tx)?;
        tx.tx.commit().map_err(DbError::from)?;
        Ok(value)
    }

    /// A number that is another one whenever another connection has committed since it was last asked for:
    /// what a loop asks that waits for news.
    pub fn data_version(&mut self) -> Result<i64, DbError> {
        let version = |row: &rusqlite::Row<'_>| row.get(0);
        Ok(self
            .connection
            .pragma_query_value(None, "data_version", version)?)
    }

    /// Look at the database as it is at one moment.
    pub fn read<T, E: From<DbError>>(
        &mut self,
        look: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Deferred)
            .map_err(DbError::from)?;
        look(&Tx {
            tx,
            now: Timestamp::now(),
        })
    }
}

/// Switch to write-ahead logging, once in a database's life. SQLite does not wait for the lock that
/// this takes: of several first commands of a store all but one are told that it is busy.
fn use_wal(connection: &Connection) -> Result<(), DbError> {
    let end = Instant::now() + BUSY_TIMEOUT;
    loop {
        let mode = connection
            .pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0))
            .and_then(|mode| match mode.as_str() {
                "wal" => Ok(()),
                _ => connection.pragma_update(None, "journal_mode", "WAL"),
            });
        match mode {
            Err(e)
                if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return Ok(other?),
        }
    }
}

/// An open transaction. Its methods, one file a table, are the only SQL of the program.
#[derive(Debug)]
pub struct Tx<'a> {
    tx: Transaction<'a>,
    now: Timestamp,
}

impl Tx<'_> {
    /// What SQLite finds wrong with the file; empty if all is well.
    pub fn integrity(&self) -> Result<Vec<String>, DbError> {
        let mut statement = self.tx.prepare("PRAGMA integrity_check")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        let lines: Vec<String> = rows.collect::<Result<_, _>>()?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    }
}

/// Read a column whose text was checked when it was written; what does not parse is damage.
fn parsed<T: std::str::FromStr>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|e: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

/// The same for a column that may be NULL.
fn parsed_if_there<T: std::str::FromStr>(
    row: &rusqlite::Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => parsed(row, column).map(Some),
    }
}

/// SQLite's integers are signed; no size or count here comes near their end.
fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back of [`to_sql`].
fn from_sql(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
