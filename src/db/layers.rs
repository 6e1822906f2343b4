//! The layers on disk, a row a directory.

use rusqlite::params;

use super::{DbError, Tx, from_sql, parsed, to_sql};
use crate::model::{ChainId, DiffId, ImageId, Layer, Phase};

const COLUMNS: &str = "id, diff, chain, size, bytes, entries, has_root, phase";

fn layer(row: &rusqlite::Row<'_>) -> rusqlite::Result<Layer> {
    Ok(Layer {
        id: row.get(0)?,
        diff: parsed(row, 1)?,
        chain: parsed(row, 2)?,
        size: from_sql(row, 3)?,
        bytes: from_sql(row, 4)?,
        entries: from_sql(row, 5)?,
        has_root: row.get(6)?,
        phase: parsed(row, 7)?,
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
        self.layers_where("phase = 'marking'", [])
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

    /// The layers that were marked with the removal of an image, however often it was loaded
    /// and removed, and are not yet gone.
    pub fn layers_removed_with(&self, image: &ImageId) -> Result<Vec<Layer>, DbError> {
        self.layers_where("removed_with = ?", [image.to_string()])
    }

    /// Decide that a layer goes; `chain` is the one by which its image knew it, `image` the one that
    /// goes with it, if any does.
    pub fn mark_layer(
        &self,
        id: i64,
        chain: &ChainId,
        image: Option<&ImageId>,
    ) -> Result<(), DbError> {
        self.tx
            .prepare_cached("UPDATE layers SET chain = ?, removed_with = ? WHERE id = ?")?
            .execute(params![
                chain.to_string(),
                image.map(ToString::to_string),
                id
            ])?;
        self.set_phase(id, Phase::Marking)
    }

    /// Note that a marked layer's directory now lies in `marked/`.
    pub fn set_layer_moved(&self, id: i64) -> Result<(), DbError> {
        self.set_phase(id, Phase::Marked)
    }

    /// Note that the deletion of a marked layer's entries begins.
    pub fn set_layer_reclaiming(&self, id: i64) -> Result<(), DbError> {
        self.set_phase(id, Phase::Reclaiming)
    }

    fn set_phase(&self, id: i64, phase: Phase) -> Result<(), DbError> {
        self.tx
            .prepare_cached("UPDATE layers SET phase = ? WHERE id = ?")?
            .execute(params![phase.as_str(), id])?;
        Ok(())
    }

    /// Forget a layer that is gone.
    pub fn delete_layer(&self, id: i64) -> Result<(), DbError> {
        self.tx.execute("DELETE FROM layers WHERE id = ?", [id])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Db;
    use super::*;

    #[test]
    fn each_phase_is_read_as_it_was_written_and_an_unknown_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(&dir.path().join("store.db")).unwrap();
        let (diff, chain) = (DiffId::of(b"diff"), ChainId::of(b"chain"));
        let new = Layer {
            id: 0,
            diff,
            chain,
            size: 1,
            bytes: 2,
            entries: 3,
            has_root: true,
            phase: Phase::Present,
        };
        db.write(|tx| {
            tx.insert_layer(&new)?;
            let phase = |tx: &Tx<'_>| Ok::<_, DbError>(tx.layer(1)?.map(|l| l.phase));
            assert_eq!(phase(tx)?, Some(Phase::Present));
            let image = ImageId::of(b"config");
            tx.mark_layer(1, &ChainId::of(b"other"), Some(&image))?;
            assert_eq!(tx.layers_removed_with(&image)?, tx.layers()?);
            assert_eq!(tx.layers_removed_with(&ImageId::of(b"another"))?, []);
            assert_eq!(phase(tx)?, Some(Phase::Marking));
            tx.set_layer_moved(1)?;
            assert_eq!(phase(tx)?, Some(Phase::Marked));
            tx.set_layer_reclaiming(1)?;
            assert_eq!(phase(tx)?, Some(Phase::Reclaiming));
            tx.tx.execute_batch(
                "PRAGMA ignore_check_constraints = 1; UPDATE layers SET phase = 'later';",
            )?;
            let error = tx.layer(1).unwrap_err().to_string();
            assert!(error.contains("later"), "{error}");
            Ok::<_, DbError>(())
        })
        .unwrap();
    }
}
