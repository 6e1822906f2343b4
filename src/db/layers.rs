//! The layers on disk, a row a directory.

use rusqlite::params;

use super::{DbError, Tx, from_sql, parsed, to_sql};
use crate::model::{ChainId, DiffId, Layer, Phase};

const COLUMNS: &str = "id, diff, chain, size, bytes, entries, has_root, phase, moved";

fn layer(row: &rusqlite::Row<'_>) -> rusqlite::Result<Layer> {
    let phase: String = row.get(7)?;
    let moved: bool = row.get(8)?;
    Ok(Layer {
        id: row.get(0)?,
        diff: parsed(row, 1)?,
        chain: parsed(row, 2)?,
        size: from_sql(row, 3)?,
        bytes: from_sql(row, 4)?,
        entries: from_sql(row, 5)?,
        has_root: row.get(6)?,
        phase: match (phase.as_str(), moved) {
            ("present", _) => Phase::Present,
            (_, false) => Phase::Marking,
            ("marked", true) => Phase::Marked,
            (_, true) => Phase::Reclaiming,
        },
    })
}

impl Tx<'_> {
    fn layers_where(
        &self,
        condition: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Layer>, DbError> {
        let sql = format!("SELECT {COLUMNS} FROM layers WHERE {condition} ORDER BY id");
        let mut statement = self.tx.prepare_cached(&sql)?;
        let rows = statement.query_map(parameters, layer)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Every layer on disk.
    pub fn layers(&self) -> Result<Vec<Layer>, DbError> {
        self.layers_where("1", [])
    }

    /// The layer that may be used for this diff, if the store has one.
    pub fn present_layer(&self, diff: &DiffId) -> Result<Option<Layer>, DbError> {
        Ok(self
            .layers_where("phase = 'present' AND diff = ?", [diff.to_string()])?
            .pop())
    }

    /// The layers whose marking is decided but whose directories are not yet renamed.
    pub fn layers_to_move(&self) -> Result<Vec<Layer>, DbError> {
        self.layers_where("phase <> 'present' AND moved = 0", [])
    }

    /// The layers that are marked, renamed or not, and not yet gone.
    pub fn marked_layers(&self) -> Result<Vec<Layer>, DbError> {
        self.layers_where("phase <> 'present'", [])
    }

    /// One layer, by its row.
    pub fn layer(&self, id: i64) -> Result<Option<Layer>, DbError> {
        Ok(self.layers_where("id = ?", [id])?.pop())
    }

    /// Add a layer that is in `layers/` from now on. Its `id` and `phase` are not looked at.
    pub fn insert_layer(&self, layer: &Layer) -> Result<(), DbError> {
        self.tx.execute(
            "INSERT INTO layers (diff, chain, size, bytes, entries, has_root, phase)
             VALUES (?, ?, ?, ?, ?, ?, 'present')",
            params![
                layer.diff.to_string(),
                layer.chain.to_string(),
                to_sql(layer.size),
                to_sql(layer.bytes),
                to_sql(layer.entries),
                layer.has_root
            ],
        )?;
        Ok(())
    }

    /// Decide that a layer goes; `chain` is the one by which its image knew it.
    pub fn mark_layer(&self, id: i64, chain: &ChainId) -> Result<(), DbError> {
        self.tx.execute(
            "UPDATE layers SET phase = 'marked', moved = 0, chain = ? WHERE id = ?",
            params![chain.to_string(), id],
        )?;
        Ok(())
    }

    /// Note that a marked layer's directory now lies in `marked/`.
    pub fn set_layer_moved(&self, id: i64) -> Result<(), DbError> {
        self.tx
            .execute("UPDATE layers SET moved = 1 WHERE id = ?", [id])?;
        Ok(())
    }

    /// Note that the deletion of a marked layer's entries begins.
    pub fn set_layer_reclaiming(&self, id: i64) -> Result<(), DbError> {
        self.tx
            .execute("UPDATE layers SET phase = 'reclaiming' WHERE id = ?", [id])?;
        Ok(())
    }

    /// Forget a layer that is gone.
    pub fn delete_layer(&self, id: i64) -> Result<(), DbError> {
        self.tx.execute("DELETE FROM layers WHERE id = ?", [id])?;
        Ok(())
    }
}
