//! Loading an archive: its layers are unpacked beside the store, and all of it becomes visible at
//! once.
//!
//! Until the one transaction at the end nothing of a load is to be seen; what it refuses leaves the
//! store as it was. A load that is killed leaves complete layers in `staging/`, which the next one
//! that wants them takes over.

use std::collections::BTreeMap;

use super::publish::{Newcomer, PublishError, finish, publish, unnamed_config};
use crate::archive::{Archive, ArchiveError, ArchivedImage, ArchivedLayer, Input};
use crate::db::{Db, DbError};
use crate::model::{DiffId, ImageId, Reference};
use crate::store::staging::Staged;
use crate::store::unpack::UnpackError;
use crate::store::{Store, StoreError};

/// Why an archive was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// Of the archive.
    #[error(transparent)]
    Archive(ArchiveError),
    /// Of a layer in it.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Its name in the archive.
        layer: String,
        /// Why.
        source: UnpackError,
    },
    /// A layer is not what the config says.
    #[error("layer {layer}: its digest is {found}, the image's config says {wanted}")]
    WrongDigest {
        /// Its name in the archive.
        layer: String,
        /// Of its uncompressed tar.
        found: DiffId,
        /// In the config.
        wanted: DiffId,
    },
    /// Of the database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Of the store's files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// At its end.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<ArchiveError> for LoadError {
    fn from(error: ArchiveError) -> LoadError {
        match error {
            ArchiveError::Interrupted => LoadError::Interrupted,
            other => LoadError::Archive(other),
        }
    }
}

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its ID.
    pub id: ImageId,
    /// The tags that the archive gave it.
    pub tags: Vec<Reference>,
}

/// Says whether to give up; asked often.
pub type Cancel<'a> = &'a (dyn Fn() -> bool + Sync);

/// Load every image of an archive.
///
/// # Errors
/// Whatever is wrong with any of them; then none was loaded.
pub fn load(
    db: &mut Db,
    store: &Store,
    input: Input,
    cancel: Cancel<'_>,
) -> Result<Vec<Loaded>, LoadError> {
    let archive = Archive::open(input, &store.staging(), cancel)?;
    let images = archive.images(cancel)?;
    let newcomers = newcomers(store, &images)?;
    let mut staged: BTreeMap<DiffId, Staged> = BTreeMap::new();
    loop {
        for layer in images.iter().flat_map(|image| &image.layers) {
            let diff = &layer.diff_id;
            if !staged.contains_key(diff) && db.read(|tx| tx.present_layer(diff))?.is_none() {
                staged.insert(diff.clone(), stage(store, &archive, layer, cancel)?);
            }
        }
        if publish(db, store, &newcomers, &mut staged)? {
            break;
        }
        // A layer that was present when it was looked for has been marked meanwhile.
    }
    finish(store, &newcomers, staged);
    Ok(images
        .into_iter()
        .map(|image| Loaded {
            id: image.id,
            tags: image.tags,
        })
        .collect())
}

/// The images as they are to be published, their configs on the disk.
fn newcomers(store: &Store, images: &[ArchivedImage]) -> Result<Vec<Newcomer>, StoreError> {
    let newcomer = |image: &ArchivedImage| {
        Ok(Newcomer {
            id: image.id.clone(),
            created: image.created.clone(),
            config: unnamed_config(store, &image.config)?,
            diffs: image.layers.iter().map(|l| l.diff_id.clone()).collect(),
            tags: image.tags.clone(),
        })
    };
    images.iter().map(newcomer).collect()
}

/// Bring a layer to `staging/`, complete and checked.
fn stage(
    store: &Store,
    archive: &Archive,
    layer: &ArchivedLayer,
    cancel: Cancel<'_>,
) -> Result<Staged, LoadError> {
    if let Some(staged) = Staged::adopt(store, &layer.diff_id)? {
        return Ok(staged);
    }
    let mut staged = Staged::create(store, &layer.diff_id)?;
    let told = |source| match source {
        UnpackError::Interrupted => LoadError::Interrupted,
        source => LoadError::Layer {
            layer: layer.name.clone(),
            source,
        },
    };
    let right = |found: DiffId| match found == layer.diff_id {
        true => Ok(()),
        false => Err(LoadError::WrongDigest {
            layer: layer.name.clone(),
            found,
            wanted: layer.diff_id.clone(),
        }),
    };
    let mut reader = archive.open_layer(layer)?;
    let unpacked = staged.unpack(&mut reader, cancel).map_err(told)?;
    reader.finish(cancel)?;
    right(unpacked.diff_id)?;
    if unpacked.has_replaced {
        let mut reader = archive.open_layer(layer)?;
        right(staged.split_again(&mut reader, cancel).map_err(told)?)?;
    }
    staged.complete(store, &layer.diff_id, unpacked.size, unpacked.has_root)?;
    Ok(staged)
}
