//! Giving an image another name.

use super::resolve::{ResolveError, resolve};
use crate::db::{Action, Db, DbError, Snapshot};
use crate::model::{ParseReferenceError, Reference};

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
        tx.set_tag(&reference, image)?;
        tx.record(Action::Tag, image, None, &reference.to_string())?;
        Ok(())
    })
}
