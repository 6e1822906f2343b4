//! Giving an image another name.

use super::resolve::{ResolveError, resolve};
use crate::db::{Action, Db, DbError, Snapshot, Tx};
use crate::model::{ImageId, ParseReferenceError, Reference};

/// Why an image got no tag.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The source leads to no image.
    #[error(transparent)]
    Source(#[from] ResolveError),
    /// The target is no reference.
    #[error("{0:?} is not a valid repository/tag: {1}")]
    Target(String, ParseReferenceError),
    /// Of the database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Let `target` name the image that `source` means; an image that it named before keeps its other
/// tags, or becomes dangling.
pub fn tag(db: &mut Db, source: &str, target: &str) -> Result<(), TagError> {
    let reference: Reference = target
        .parse()
        .map_err(|e| TagError::Target(target.to_owned(), e))?;
    db.write(|tx| {
        let snapshot = Snapshot::of(tx)?;
        let image = &resolve(&snapshot, source)?.image.id;
        Ok(give_tag(tx, &reference, image)?)
    })
}

/// An image that had the tag loses it, and is dangling if it was its last.
pub fn give_tag(tx: &Tx<'_>, tag: &Reference, image: &ImageId) -> Result<(), DbError> {
    match tx.tagged(tag)? {
        Some(same) if same == *image => return Ok(()),
        Some(other) => tx.record(Action::Untag, &other, None, &tag.to_string())?,
        None => {}
    }
    tx.set_tag(tag, image)?;
    tx.record(Action::Tag, image, None, &tag.to_string())
}
