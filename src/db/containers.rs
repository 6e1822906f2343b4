//! Containers: what they were made from, and how their last view ended.

use jiff::Timestamp;
use rusqlite::params;

use super::{DbError, Tx, parsed, parsed_if_there};
use crate::model::{ContainerId, ImageId, Settings};

/// A container of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its ID.
    pub id: ContainerId,
    /// Its name, unique in the store.
    pub name: String,
    /// The image it was made from, which may be gone.
    pub image: ImageId,
    /// The image as it was named to `create`.
    pub reference: String,
    /// The command given to `create`, or the image's.
    pub command: Vec<String>,
    /// How its process is to run.
    pub settings: Settings,
    /// When it was created.
    pub created: Timestamp,
    /// When its process last began to run; `None` if it never has.
    pub started: Option<Timestamp>,
    /// When its process or, where it never had one, its last view ended; `None` if that was never.
    pub ended: Option<Timestamp>,
    /// How its process ended, as a shell counts; without one, how its last view did: 0, 1 if it could
    /// not be served, 137 for a server that was killed. Of one whose process could not be started,
    /// what that exits with.
    pub exit_code: Option<i32>,
    /// Why its process could not be started the last time, or empty.
    pub error: String,
}

const COLUMNS: &str = "id, name, image, reference, command, settings, created, started, ended, \
                       exit_code, error";

fn container(row: &rusqlite::Row<'_>) -> rusqlite::Result<Container> {
    Ok(Container {
        id: parsed(row, 0)?,
        name: row.get(1)?,
        image: parsed(row, 2)?,
        reference: row.get(3)?,
        command: json(row, 4)?,
        settings: json(row, 5)?,
        created: parsed(row, 6)?,
        started: parsed_if_there(row, 7)?,
        ended: parsed_if_there(row, 8)?,
        exit_code: row.get(9)?,
        error: row.get(10)?,
    })
}

fn json<T: serde::de::DeserializeOwned>(
    row: &rusqlite::Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, e.into())
    })
}

impl Tx<'_> {
    /// All containers, oldest first.
    pub fn containers(&self) -> Result<Vec<Container>, DbError> {
        let mut statement = self.tx.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM containers ORDER BY created, id"
        ))?;
        let rows = statement.query_map([], container)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether a container has this name.
    pub fn container_named(&self, name: &str) -> Result<Option<ContainerId>, DbError> {
        let mut statement = self
            .tx
            .prepare_cached("SELECT id FROM containers WHERE name = ?")?;
        let mut rows = statement.query_map([name], |row| parsed(row, 0))?;
        Ok(rows.next().transpose()?)
    }

    /// Whether the store has this container.
    pub fn has_container(&self, id: &ContainerId) -> Result<bool, DbError> {
        Ok(self
            .tx
            .prepare_cached("SELECT 1 FROM containers WHERE id = ?")?
            .exists([id.hex()])?)
    }

    /// One container.
    pub fn container(&self, id: &ContainerId) -> Result<Option<Container>, DbError> {
        let mut statement = self
            .tx
            .prepare_cached(&format!("SELECT {COLUMNS} FROM containers WHERE id = ?"))?;
        let mut rows = statement.query_map([id.hex()], container)?;
        Ok(rows.next().transpose()?)
    }

    /// Add a container; its name must be free.
    pub fn insert_container(&self, c: &Container) -> Result<(), DbError> {
        let command = serde_json::Value::from(c.command.clone()).to_string();
        let settings = serde_json::to_string(&c.settings)
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        self.tx.execute(
            "INSERT INTO containers (id, name, image, reference, command, settings, created)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                c.id.hex(),
                c.name,
                c.image.to_string(),
                c.reference,
                command,
                settings,
                c.created.to_string()
            ],
        )?;
        Ok(())
    }

    /// Note that a container's process, or the view of one that never had a process, has ended.
    pub fn set_container_ended(&self, id: &ContainerId, exit_code: i32) -> Result<(), DbError> {
        self.tx.execute(
            "UPDATE containers SET ended = ?, exit_code = ? WHERE id = ?",
            params![self.now.to_string(), exit_code, id.hex()],
        )?;
        Ok(())
    }

    /// Give a container another name, which must be free.
    pub fn set_container_name(&self, id: &ContainerId, name: &str) -> Result<(), DbError> {
        self.tx.execute(
            "UPDATE containers SET name = ? WHERE id = ?",
            params![name, id.hex()],
        )?;
        Ok(())
    }

    /// Note that a container's process runs.
    pub fn set_container_started(&self, id: &ContainerId) -> Result<(), DbError> {
        self.tx.execute(
            "UPDATE containers SET started = ?, error = '' WHERE id = ?",
            params![self.now.to_string(), id.hex()],
        )?;
        Ok(())
    }

    /// Note why a container's process could not be started, and what that exits with.
    pub fn set_container_error(
        &self,
        id: &ContainerId,
        exit_code: i32,
        error: &str,
    ) -> Result<(), DbError> {
        self.tx.execute(
            "UPDATE containers SET exit_code = ?, error = ? WHERE id = ?",
            params![exit_code, error, id.hex()],
        )?;
        Ok(())
    }

    /// Forget a container.
    pub fn delete_container(&self, id: &ContainerId) -> Result<(), DbError> {
        self.tx
            .execute("DELETE FROM containers WHERE id = ?", [id.hex()])?;
        Ok(())
    }
}
