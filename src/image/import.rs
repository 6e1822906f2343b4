//! Making an image of the files in a tar: one layer, and a config that says little more than that.
//!
//! As with a load nothing is to be seen of it until the one transaction at its end (see
//! [`publish`](super::publish)).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::change::{self, ChangeError};
use super::publish::{Newcomer, PublishError, finish, publish, unnamed_config};
use crate::archive::platform::Platform;
use crate::archive::{ArchiveError, Input, RootTar};
use crate::db::Db;
use crate::model::{DiffId, ImageId, Reference};
use crate::store::staging::Staged;
use crate::store::unpack::UnpackError;
use crate::store::{Store, StoreError};

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// Of an instruction of `--change`.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The tar cannot be read.
    #[error(transparent)]
    Archive(ArchiveError),
    /// The tar cannot be unpacked.
    #[error("{archive}: {source}")]
    Layer {
        /// Its name.
        archive: String,
        /// Why.
        source: UnpackError,
    },
    /// It was another tar when it was read again.
    #[error("{archive} has changed while it was read")]
    Changed {
        /// Its name.
        archive: String,
    },
    /// Of the store's files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// At its end.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<ArchiveError> for ImportError {
    fn from(error: ArchiveError) -> ImportError {
        match error {
            ArchiveError::Interrupted => ImportError::Interrupted,
            other => ImportError::Archive(other),
        }
    }
}

/// What an image is made with.
#[derive(Debug)]
pub struct Import<'a> {
    /// A remark, or empty: then one that says that it was imported.
    pub message: &'a str,
    /// Instructions that say how its containers run.
    pub changes: &'a [String],
    /// What its programs run on.
    pub platform: &'a Platform,
    /// The name that it gets.
    pub tag: Option<Reference>,
}

/// Make an image of a tar, plain or compressed. `cancel` is asked often.
///
/// # Errors
/// Whatever is wrong with it; then the store is as it was.
pub fn import(
    db: &mut Db,
    store: &Store,
    input: Input,
    import: &Import<'_>,
    cancel: &(dyn Fn() -> bool + Sync),
) -> Result<ImageId, ImportError> {
    let mut run = Map::new();
    // Looked at before anything is written.
    change::apply(&mut run, import.changes)?;
    let tar = RootTar::open(input, &store.staging(), cancel)?;
    let (diff, layer) = stage(store, &tar, cancel)?;
    let created = Timestamp::now().to_string();
    let config = config(import, run, &created, &diff).to_string();
    let image = Newcomer {
        id: ImageId::of(config.as_bytes()),
        created,
        config: unnamed_config(store, config.as_bytes())?,
        diffs: vec![diff.clone()],
        tags: import.tag.iter().cloned().collect(),
    };
    let id = image.id.clone();
    let images = [image];
    let mut staged = BTreeMap::from([(diff, layer)]);
    // The layer is staged: there is none that could be missing.
    publish(db, store, &images, &mut staged)?;
    finish(store, &images, staged);
    Ok(id)
}

/// Unpack the tar.
fn stage(
    store: &Store,
    tar: &RootTar,
    cancel: &(dyn Fn() -> bool + Sync),
) -> Result<(DiffId, Staged), ImportError> {
    // Its digest is not known before its end; what a killed import leaves is an orphan.
    let mut staged = Staged::create(store, &DiffId::of(b"import"))?;
    let archive = || tar.label().to_owned();
    let failed = |source| match source {
        UnpackError::Interrupted => ImportError::Interrupted,
        source => ImportError::Layer {
            archive: archive(),
            source,
        },
    };
    let unpacked = staged.unpack(&mut tar.reader()?, cancel).map_err(failed)?;
    if unpacked.has_replaced {
        let again = staged.split_again(&mut tar.reader()?, cancel);
        if again.map_err(failed)? != unpacked.diff_id {
            return Err(ImportError::Changed { archive: archive() });
        }
    }
    staged.complete(store, &unpacked.diff_id, unpacked.size, unpacked.has_root)?;
    Ok((unpacked.diff_id, staged))
}

fn config(import: &Import<'_>, run: Map<String, Value>, created: &str, diff: &DiffId) -> Value {
    let comment = match import.message {
        // Docker's remark, which says the same of a file.
        "" => "Imported from -",
        message => message,
    };
    let mut config = json!({
        "architecture": import.platform.architecture,
        "os": import.platform.os,
        "created": created,
        "comment": comment,
        "config": run,
        "history": [{ "created": created, "comment": comment }],
        "rootfs": { "type": "layers", "diff_ids": [diff.to_string()] },
    });
    if !import.platform.variant.is_empty() {
        config["variant"] = import.platform.variant.clone().into();
    }
    config
}
