//! Making new images visible, all at once: the last step of a load and of a commit.
//!
//! Until the one transaction here nothing of them is to be seen; one that fails leaves the store as it
//! was. Layers are complete and on the disk before (`store::staging`), so are the configs; their names
//! are given inside the transaction and brought to the disk before its commit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::fs::{AtFlags, CWD, linkat};

use super::removal::{self, RemovalError};
use super::tag::give_tag;
use crate::db::{Action, Db, DbError, ImageLayer, NewImage, Tx};
use crate::model::{ChainId, DiffId, ImageId, Layer, Phase, Reference};
use crate::store::layout::sync_directory;
use crate::store::remove_tree::remove_tree;
use crate::store::staging::{LayerSizes, Staged};
use crate::store::{Store, StoreError, index, reserve};

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
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
        error: Box<PublishError>,
        /// Why it could not be taken back.
        left: Box<PublishError>,
    },
}

/// An image that is to be visible.
#[derive(Debug)]
pub struct Newcomer {
    /// The digest of its config.
    pub id: ImageId,
    /// When it was made, as its config has it.
    pub created: String,
    /// The config, from [`unnamed_config`].
    pub config: File,
    /// Its layers, lowest first.
    pub diffs: Vec<DiffId>,
    /// The names that it gets.
    pub tags: Vec<Reference>,
}

/// Publish images with the layers in `staged` that they need. False, and nothing is changed, if a layer
/// is neither staged nor present any longer.
pub fn publish(
    db: &mut Db,
    store: &Store,
    images: &[Newcomer],
    staged: &mut BTreeMap<DiffId, Staged>,
) -> Result<bool, PublishError> {
    let mut named = Vec::new();
    // The layers may have left no room for the rows.
    reserve::spend(store.root())?;
    let published = db.write(|tx| {
        let published = enter(tx, store, images, staged, &mut named)?;
        sync_names(store, staged, &named)?;
        Ok(published)
    });
    published.map_err(|error| take_back(db, store, staged, &named, error))
}

/// What is left to be done once they are visible.
pub fn finish(store: &Store, images: &[Newcomer], mut staged: BTreeMap<DiffId, Staged>) {
    // Their locks first, for they are in use now; then those that another load has brought as well.
    staged.retain(|_, staged| !staged.is_published());
    drop(staged);
    for image in images {
        let layers: Vec<DiffId> = image.diffs.iter().rev().cloned().collect();
        // It is there: what cannot be made now is made by its first view.
        if let Err(e) = index::prepare(store, &image.id, &layers) {
            tracing::warn!(
                "{e}; the first view of {} makes its index",
                image.id.short()
            );
        }
    }
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
    error: PublishError,
) -> PublishError {
    if named.is_empty() && !staged.values().any(Staged::is_published) {
        return error;
    }
    let taken_back = db.write(|tx| -> Result<(), PublishError> {
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
        Err(left) => PublishError::Left {
            error: Box::new(error),
            left: Box::new(left),
        },
    }
}

/// Make everything visible, and note in `named` which images' directories are made. False, and
/// nothing is changed, if a layer is neither staged nor present any longer. [`sync_names`] is due.
fn enter(
    tx: &Tx<'_>,
    store: &Store,
    images: &[Newcomer],
    staged: &mut BTreeMap<DiffId, Staged>,
    named: &mut Vec<ImageId>,
) -> Result<bool, PublishError> {
    for diff in images.iter().flat_map(|image| &image.diffs) {
        if !staged.contains_key(diff) && tx.present_layer(diff)?.is_none() {
            return Ok(false);
        }
    }
    // What another process has marked but not yet renamed still has the name that is needed now.
    let unfollowed = removal::settle(tx, store)?;
    removal::in_the_way(unfollowed, |diff| staged.contains_key(diff))?;
    for image in images {
        let chains = ChainId::of_stack(&image.diffs);
        for (diff, chain) in image.diffs.iter().zip(&chains) {
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
            if tx.is_shown(&image.id)? {
                // A crash has left it where a view has its index mapped.
                store.set_image_aside(&image.id)?;
            }
            name_config(store, &image.id, &image.config)?;
            let places = image.diffs.iter().cloned().zip(chains);
            let layers: Vec<_> = places
                .map(|(diff, chain)| ImageLayer { diff, chain })
                .collect();
            tx.insert_image(&NewImage {
                id: &image.id,
                created: &image.created,
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
pub fn unnamed_config(store: &Store, config: &[u8]) -> Result<File, StoreError> {
    let directory = store.staging();
    let write = || -> io::Result<File> {
        let mut file = tempfile::tempfile_in(&directory)?;
        file.write_all(config)?;
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
