//! Loading an archive: its layers are unpacked beside the store, and all of it becomes visible at
//! once.
//!
//! Until the one transaction at the end nothing of a load is to be seen; what it refuses leaves the
//! store as it was. A load that is killed leaves complete layers in `staging/`, which the next one
//! that wants them takes over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};

use rustix::fs::{AtFlags, CWD, linkat};

use super::removal::{self, RemovalError};
use super::tag::give_tag;
use crate::archive::{Archive, ArchiveError, ArchivedImage, ArchivedLayer, Input};
use crate::db::{Action, Db, DbError, ImageLayer, NewImage, Tx};
use crate::model::{ChainId, DiffId, ImageId, Layer, Phase, Reference};
use crate::store::layout::{open_directory, sync_directory};
use crate::store::remove_tree::remove_tree;
use crate::store::staging::{LayerSizes, Staged};
use crate::store::unpack::{UnpackError, unpack};
use crate::store::{Store, StoreError, index, reserve};

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
    /// Of following up an earlier removal.
    #[error(transparent)]
    Removal(#[from] RemovalError),
    /// It failed at its very end, and something of it stays as an orphan.
    #[error("{error}; what was loaded stays as orphans, for gc to remove: {left}")]
    Left {
        /// Why it failed.
        error: Box<LoadError>,
        /// Why it could not be taken back.
        left: Box<LoadError>,
    },
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
    let images = archive.images()?;
    let mut configs = Vec::new();
    for image in &images {
        configs.push(unnamed_config(store, image)?);
    }
    let mut staged: BTreeMap<DiffId, Staged> = BTreeMap::new();
    loop {
        for layer in images.iter().flat_map(|image| &image.layers) {
            let diff = &layer.diff_id;
            if !staged.contains_key(diff) && db.read(|tx| tx.present_layer(diff))?.is_none() {
                staged.insert(diff.clone(), stage(store, &archive, layer, cancel)?);
            }
        }
        let mut named = Vec::new();
        // The layers may have left no room for the rows.
        reserve::spend(store.root())?;
        let published = db.write(|tx| {
            let published = publish(tx, store, &images, &configs, &mut staged, &mut named)?;
            sync_names(store, &staged, &named)?;
            Ok(published)
        });
        let published = match published {
            Ok(published) => published,
            Err(error) => return Err(take_back(db, store, &mut staged, &named, error)),
        };
        if published {
            break;
        }
        // A layer that was present when it was looked for has been marked meanwhile.
    }
    // Their locks first, for they are in use now; then those that another load has brought as well.
    staged.retain(|_, staged| !staged.is_published());
    drop(staged);
    for image in &images {
        let layers = image.layers.iter().rev();
        let layers: Vec<DiffId> = layers.map(|layer| layer.diff_id.clone()).collect();
        // It is loaded: what cannot be made now is made by its first view.
        if let Err(e) = index::prepare(store, &image.id, &layers) {
            tracing::warn!(
                "{e}; the first view of {} makes its index",
                image.id.short()
            );
        }
    }
    Ok(images
        .into_iter()
        .map(|image| Loaded {
            id: image.id,
            tags: image.tags,
        })
        .collect())
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
    let tree = open_directory(&staged.tree())?;
    let mut reader = archive.open_layer(layer)?;
    let unpacked = unpack(&mut reader, tree.as_fd(), cancel).map_err(|source| match source {
        UnpackError::Interrupted => LoadError::Interrupted,
        source => LoadError::Layer {
            layer: layer.name.clone(),
            source,
        },
    })?;
    reader.finish(cancel)?;
    if unpacked.diff_id != layer.diff_id {
        return Err(LoadError::WrongDigest {
            layer: layer.name.clone(),
            found: unpacked.diff_id,
            wanted: layer.diff_id.clone(),
        });
    }
    staged.complete(store, &layer.diff_id, unpacked.size, unpacked.has_root)?;
    Ok(staged)
}

/// Bring the names to the disk that were given, all at once: a sync for each layer would keep all
/// others from the database for as long. Before the commit: the rows that say that something is there
/// must not outlive a power cut alone. (The other way round it is an orphan.)
fn sync_names(
    store: &Store,
    staged: &BTreeMap<DiffId, Staged>,
    named: &[ImageId],
) -> Result<(), StoreError> {
    if staged.values().any(Staged::is_published) {
        sync_directory(&store.layers())?;
    }
    if !named.is_empty() {
        sync_directory(&store.images())?;
    }
    Ok(())
}

/// Nothing of what is refused may stay, also if it was refused as late as at the commit, for which
/// the disk may have no room. In a transaction of its own, which looks at the rows: the names could
/// be another load's by now. Gives `error`, and with it what could not be taken back.
fn take_back(
    db: &mut Db,
    store: &Store,
    staged: &mut BTreeMap<DiffId, Staged>,
    named: &[ImageId],
    error: LoadError,
) -> LoadError {
    if named.is_empty() && !staged.values().any(Staged::is_published) {
        return error;
    }
    let taken_back = db.write(|tx| -> Result<(), LoadError> {
        let mut first = Ok(());
        for (diff, staged) in staged {
            if tx.present_layer(diff)?.is_none() {
                first = first.and(staged.unpublish(store, diff));
            }
        }
        for image in named {
            if !tx.has_image(image)? {
                first = first.and(remove_tree(&store.image(image)));
            }
        }
        Ok(first?)
    });
    match taken_back {
        Ok(()) => error,
        Err(left) => LoadError::Left {
            error: Box::new(error),
            left: Box::new(left),
        },
    }
}

/// Make everything visible, and note in `named` which images' directories are made. False, and
/// nothing is changed, if a layer is neither staged nor present any longer. [`sync_names`] is due.
fn publish(
    tx: &Tx<'_>,
    store: &Store,
    images: &[ArchivedImage],
    configs: &[File],
    staged: &mut BTreeMap<DiffId, Staged>,
    named: &mut Vec<ImageId>,
) -> Result<bool, LoadError> {
    let layers = || images.iter().flat_map(|image| &image.layers);
    for layer in layers() {
        if !staged.contains_key(&layer.diff_id) && tx.present_layer(&layer.diff_id)?.is_none() {
            return Ok(false);
        }
    }
    // What another process has marked but not yet renamed still has the name that is needed now.
    let unfollowed = removal::settle(tx, store)?;
    removal::in_the_way(unfollowed, |diff| staged.contains_key(diff))?;
    for (image, config) in images.iter().zip(configs) {
        let diffs: Vec<DiffId> = image.layers.iter().map(|l| l.diff_id.clone()).collect();
        let chains = ChainId::of_stack(&diffs);
        for (diff, chain) in diffs.iter().zip(&chains) {
            if tx.present_layer(diff)?.is_none()
                && let Some(staged) = staged.get_mut(diff)
            {
                staged.publish(store, diff)?;
                if let Some(sizes) = staged.sizes() {
                    insert_layer(tx, diff, chain, sizes)?;
                }
            }
        }
        if !tx.has_image(&image.id)? {
            named.push(image.id.clone());
            name_config(store, &image.id, config)?;
            let places = diffs.into_iter().zip(chains);
            let layers: Vec<_> = places
                .map(|(diff, chain)| ImageLayer { diff, chain })
                .collect();
            tx.insert_image(&NewImage {
                id: &image.id,
                created: &image.parsed.created,
                layers: &layers,
            })?;
        }
        let tags: Vec<String> = image.tags.iter().map(ToString::to_string).collect();
        tx.record(Action::Load, &image.id, None, &tags.join(" "))?;
        for tag in &image.tags {
            give_tag(tx, tag, &image.id)?;
        }
    }
    Ok(true)
}

fn insert_layer(
    tx: &Tx<'_>,
    diff: &DiffId,
    chain: &ChainId,
    sizes: LayerSizes,
) -> Result<(), DbError> {
    let LayerSizes {
        size,
        bytes,
        entries,
        has_root,
    } = sizes;
    let (diff, chain, phase) = (diff.clone(), chain.clone(), Phase::Present);
    tx.insert_layer(&Layer {
        id: 0,
        diff,
        chain,
        size,
        bytes,
        entries,
        has_root,
        phase,
    })
}

/// The config on the disk, but without a name: a load that is killed leaves nothing of it.
fn unnamed_config(store: &Store, image: &ArchivedImage) -> Result<File, StoreError> {
    let directory = store.staging();
    let write = || -> io::Result<File> {
        let mut file = tempfile::tempfile_in(&directory)?;
        file.write_all(&image.config)?;
        // Before the row that names it.
        file.sync_all()?;
        Ok(file)
    };
    write().map_err(StoreError::at("write a config in", &directory))
}

/// Give the config its name. What lies there without a row is a leftover. A sync of `images/` is due
/// before the commit.
fn name_config(store: &Store, image: &ImageId, config: &File) -> Result<(), StoreError> {
    let (directory, path) = (store.image(image), store.image_config(image));
    remove_tree(&directory)?;
    std::fs::create_dir(&directory).map_err(StoreError::at("create", &directory))?;
    let unnamed = format!("/proc/self/fd/{}", config.as_raw_fd());
    linkat(CWD, &unnamed, CWD, &path, AtFlags::SYMLINK_FOLLOW)
        .map_err(StoreError::at("create", &path))?;
    sync_directory(&directory)
}
