//! Containers: what they were made from, and how their last view ended.

use jiff::Timestamp;
use rusqlite::params;

use super::{DbError, Tx, parsed};
use crate::model::{ContainerId, ImageId};

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
    /// When it was created.
    pub created: Timestamp,
    /// When its last view ended; `None` if it never had one or has one now for the first time.
    pub ended: Option<Timestamp>,
    /// How its last view ended: 0, 1 if it could not be served, 137 for a server that was killed.
    pub exit_code: Option<i32>,
}

fn container(row: &rusqlite::Row<'_>) -> rusqlite::Result<Container> {
    let command: String = row.get(4)?;
    let bad = |e: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, e)
    };
    let ended: Option<String> = row.get(6)?;
    Ok(Container {
        id: parsed(row, 0)?,
        name: row.get(1)?,
        image: parsed(row, 2)?,
        reference: row.get(3)?,
        command: serde_json::from_str(&command).map_err(|e| bad(e.into()))?,
        created: parsed(row, 5)?,
        ended: ended
            .map(|t| t.parse())
            .transpose()
            .map_err(|e: jiff::Error| bad(e.into()))?,
        exit_code: row.get(7)?,
    })
}

impl Tx<'_> {
    /// All containers, oldest first.
    pub fn containers(&self) -> Result<Vec<Container>, DbError> {
        let mut statement = self.tx.prepare_cached(
            "SELECT id, name, image, reference, command, created, ended, exit_code
             FROM containers ORDER BY created, id",
        )?;
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

    /// Add a container; its name must be free.
    pub fn insert_container(&self, c: &Container) -> Result<(), DbError> {
        let command = serde_json::Value::from(c.command.clone()).to_string();
        self.tx.execute(
            "INSERT INTO containers (id, name, image, reference, command, created)
             VALUES (?, ?, ?, ?, ?, ?)",
            params![
                c.id.hex(),
                c.name,
                c.image.to_string(),
                c.reference,
                command,
                c.created.to_string()
            ],
        )?;
        Ok(())
    }

    /// Note that a container's view has ended.
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

    /// Forget a container.
    pub fn delete_container(&self, id: &ContainerId) -> Result<(), DbError> {
        self.tx
            .execute("DELETE FROM containers WHERE id = ?", [id.hex()])?;
        Ok(())
    }
}
