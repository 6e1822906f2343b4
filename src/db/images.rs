//! Images, their tags and their stacks of layers.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::{DbError, Tx, parsed};
use crate::model::{ChainId, DiffId, ImageId, Reference};

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of its config.
    pub id: ImageId,
    /// When it was made; `None` where its config does not say so, or not in RFC 3339.
    pub created: Option<Timestamp>,
    /// When it was loaded first.
    pub loaded: Timestamp,
    /// Its tags, in the order of the full references.
    pub tags: Vec<Reference>,
    /// Its layers, lowest first.
    pub layers: Vec<ImageLayer>,
}

/// A place in an image's stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// Which layer lies there.
    pub diff: DiffId,
    /// That layer with all below it.
    pub chain: ChainId,
}

/// What `insert_image` records.
#[derive(Debug)]
pub struct NewImage<'a> {
    /// Digest of its config.
    pub id: &'a ImageId,
    /// When it was made, as its config has it, or empty: listings need no config for it.
    pub created: &'a str,
    /// Its layers, lowest first.
    pub layers: &'a [ImageLayer],
}

impl Tx<'_> {
    /// Whether the store has this image.
    pub fn has_image(&self, id: &ImageId) -> Result<bool, DbError> {
        Ok(self
            .tx
            .prepare_cached("SELECT 1 FROM images WHERE id = ?")?
            .exists([id.to_string()])?)
    }

    /// When the image was loaded that the store has now under this ID: another time if it was removed
    /// and loaded again.
    pub fn image_loaded(&self, id: &ImageId) -> Result<Option<Timestamp>, DbError> {
        Ok(self
            .tx
            .prepare_cached("SELECT loaded FROM images WHERE id = ?")?
            .query_row([id.to_string()], |row| parsed(row, 0))
            .optional()?)
    }

    /// All images, in the order of their IDs.
    pub fn images(&self) -> Result<Vec<Image>, DbError> {
        let mut statement = self
            .tx
            .prepare_cached("SELECT id, created, loaded FROM images ORDER BY id")?;
        let rows = statement.query_map([], |row| {
            let created: String = row.get(1)?;
            // Written by whoever made the image, so not known to be a time.
            Ok((parsed(row, 0)?, created.parse().ok(), parsed(row, 2)?))
        })?;
        let mut images = Vec::new();
        for row in rows {
            let (id, created, loaded) = row?;
            let (tags, layers) = (self.tags_of(&id)?, self.layers_of(&id)?);
            images.push(Image {
                id,
                created,
                loaded,
                tags,
                layers,
            });
        }
        Ok(images)
    }

    fn tags_of(&self, image: &ImageId) -> Result<Vec<Reference>, DbError> {
        let mut statement = self
            .tx
            .prepare_cached("SELECT reference FROM tags WHERE image = ? ORDER BY reference")?;
        let rows = statement.query_map([image.to_string()], |row| parsed(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The stack of an image, lowest first; empty where there is no such image.
    pub fn layers_of(&self, image: &ImageId) -> Result<Vec<ImageLayer>, DbError> {
        let mut statement = self.tx.prepare_cached(
            "SELECT diff, chain FROM image_layers WHERE image = ? ORDER BY position",
        )?;
        let rows = statement.query_map([image.to_string()], |row| {
            Ok(ImageLayer {
                diff: parsed(row, 0)?,
                chain: parsed(row, 1)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Add an image without tags.
    pub fn insert_image(&self, image: &NewImage<'_>) -> Result<(), DbError> {
        self.tx.execute(
            "INSERT INTO images (id, created, loaded) VALUES (?, ?, ?)",
            params![image.id.to_string(), image.created, self.now.to_string()],
        )?;
        let mut statement = self.tx.prepare_cached(
            "INSERT INTO image_layers (image, position, diff, chain) VALUES (?, ?, ?, ?)",
        )?;
        for (layer, position) in image.layers.iter().zip(0_i64..) {
            statement.execute(params![
                image.id.to_string(),
                position,
                layer.diff.to_string(),
                layer.chain.to_string()
            ])?;
        }
        Ok(())
    }

    /// Remove an image and its stack; its tags must be gone.
    pub fn delete_image(&self, id: &ImageId) -> Result<(), DbError> {
        self.tx
            .execute("DELETE FROM image_layers WHERE image = ?", [id.to_string()])?;
        self.tx
            .execute("DELETE FROM images WHERE id = ?", [id.to_string()])?;
        Ok(())
    }

    /// The image that a reference names.
    pub fn tagged(&self, reference: &Reference) -> Result<Option<ImageId>, DbError> {
        Ok(self
            .tx
            .prepare_cached("SELECT image FROM tags WHERE reference = ?")?
            .query_row([reference.to_string()], |row| parsed(row, 0))
            .optional()?)
    }

    /// Let a reference name this image, and no other any longer.
    pub fn set_tag(&self, reference: &Reference, image: &ImageId) -> Result<(), DbError> {
        self.tx.execute(
            "INSERT INTO tags (reference, image) VALUES (?1, ?2)
             ON CONFLICT (reference) DO UPDATE SET image = ?2",
            params![reference.to_string(), image.to_string()],
        )?;
        Ok(())
    }

    /// Remove a reference.
    pub fn delete_tag(&self, reference: &Reference) -> Result<(), DbError> {
        self.tx.execute(
            "DELETE FROM tags WHERE reference = ?",
            [reference.to_string()],
        )?;
        Ok(())
    }
}
