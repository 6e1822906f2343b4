//! Loading an archive: its layers are unpacked beside the store, and all of it becomes visible at
//! once.
//!
//! Until the one transaction at the end nothing of a load is to be seen; what it refuses leaves the
//! store as it was. A load that is killed leaves complete layers in `staging/`, which the next one
//! that wants them takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use super::crew::each;
use super::progress::{Done, Progress};
use super::publish::{Newcomer, PublishError, finish, publish, unnamed_config};
use crate::archive::{Archive, ArchiveError, ArchivedImage, ArchivedLayer, Input, LayerReader};
use crate::db::{Db, DbError};
use crate::model::{DiffId, ImageId, Reference};
use crate::store::staging::Staged;
use crate::store::unpack::UnpackError;
use crate::store::{Store, StoreError};
use crate::sys::descriptors::raise_limit_to;

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
    /// It has more layers than can be locked at once.
    #[error(
        "it takes {wanted} open files at once, and no more than {limit} are allowed: raise that limit (ulimit -n)"
    )]
    Descriptors {
        /// How many it takes.
        wanted: u64,
        /// How many this process may have.
        limit: u64,
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

/// The most layers that are unpacked at once: each takes a few megabytes and three threads' time.
const MOST_AT_ONCE: usize = 4;

/// Descriptors beside those of layers and images: standard ones, the database, the archive.
const OWN_DESCRIPTORS: u64 = 40;

/// Descriptors that the unpacking of a layer takes at most: mostly for directories, as they are indexed.
const DESCRIPTORS_AT_WORK: u64 = 72;

/// Load every image of an archive. Several layers are unpacked at once, where there are processors for it.
///
/// # Errors
/// Whatever is wrong with any of them; then none was loaded. Of several bad layers it is told of the first.
pub fn load(
    db: &mut Db,
    store: &Store,
    input: Input,
    cancel: Cancel<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>, LoadError> {
    let copied = |bytes| progress.copied(bytes);
    let archive = Archive::open_telling(input, &store.staging(), cancel, &copied)?;
    let images = archive.images(cancel)?;
    let layers = distinct_layers(&images);
    let workers = workers(db, &layers, images.len())?;
    let newcomers = newcomers(store, &images)?;
    let mut staged: BTreeMap<DiffId, Staged> = BTreeMap::new();
    loop {
        let wanted: Vec<&ArchivedLayer> = (layers.iter().copied())
            .filter(|layer| !staged.contains_key(&layer.diff_id))
            .collect();
        let looked_up = Mutex::new(&mut *db);
        let new = each(&wanted, workers, |layer, given_up| {
            let looked_up = || looked_up.lock().unwrap_or_else(PoisonError::into_inner);
            let present = looked_up().read(|tx| tx.present_layer(&layer.diff_id))?;
            if present.is_some() {
                progress.done(&layer.diff_id, Done::Present);
                return Ok(None);
            }
            let cancel = || cancel() || given_up();
            stage(store, &archive, layer, &cancel, progress).map(Some)
        })?;
        let diffs = wanted.iter().map(|layer| layer.diff_id.clone());
        staged.extend(diffs.zip(new).filter_map(|(diff, new)| Some((diff, new?))));
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

/// Every layer once, in the order in which they come.
fn distinct_layers(images: &[ArchivedImage]) -> Vec<&ArchivedLayer> {
    let mut seen = BTreeSet::new();
    let layers = images.iter().flat_map(|image| &image.layers);
    layers.filter(|l| seen.insert(&l.diff_id)).collect()
}

/// How many layers to unpack at once: one for each processor, and as descriptors allow. Each layer that is not
/// there keeps one till the end, its lock, and each image one, its config.
///
/// # Errors
/// Before anything is unpacked, that there are too few: a load that runs out of them could not even delete
/// what it has.
fn workers(db: &mut Db, layers: &[&ArchivedLayer], images: usize) -> Result<usize, LoadError> {
    let absent = db.read(|tx| -> Result<usize, DbError> {
        let mut absent = 0;
        for layer in layers {
            absent += usize::from(tx.present_layer(&layer.diff_id)?.is_none());
        }
        Ok(absent)
    })?;
    let kept = (absent + images) as u64 + OWN_DESCRIPTORS;
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_AT_ONCE));
    let limit = match raise_limit_to(kept + DESCRIPTORS_AT_WORK * processors as u64) {
        Ok(()) => return Ok(processors),
        Err(limit) => limit,
    };
    match usize::try_from(limit.saturating_sub(kept) / DESCRIPTORS_AT_WORK) {
        Ok(0) if absent > 0 => Err(LoadError::Descriptors {
            wanted: kept + DESCRIPTORS_AT_WORK,
            limit,
        }),
        workers => Ok(workers.unwrap_or(processors).clamp(1, processors)),
    }
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
    progress: &dyn Progress,
) -> Result<Staged, LoadError> {
    if let Some(staged) = Staged::adopt(store, &layer.diff_id)? {
        let size = staged.sizes().map_or(0, |sizes| sizes.size);
        progress.done(&layer.diff_id, Done::Adopted(size));
        return Ok(staged);
    }
    progress.begun(&layer.diff_id, layer.stored_size);
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
    let watched = Watched {
        reader: &mut reader,
        layer: &layer.diff_id,
        progress,
    };
    let unpacked = staged.unpack(watched, cancel).map_err(told)?;
    reader.finish(cancel)?;
    right(unpacked.diff_id)?;
    if unpacked.has_replaced {
        let mut reader = archive.open_layer(layer)?;
        right(staged.split_again(&mut reader, cancel).map_err(told)?)?;
    }
    staged.complete(store, &layer.diff_id, unpacked.size, unpacked.has_root)?;
    progress.done(&layer.diff_id, Done::Unpacked(unpacked.size));
    Ok(staged)
}

/// A layer's reader that tells how far it is.
struct Watched<'a> {
    reader: &'a mut LayerReader,
    layer: &'a DiffId,
    progress: &'a dyn Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.progress.read(self.layer, self.reader.stored_read());
        Ok(n)
    }
}
