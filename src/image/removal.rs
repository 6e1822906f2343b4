//! Carrying a removal out: the tags go, the image goes, its layers are marked.
//!
//! Two transactions. The first is the promise: when it is committed, the image is gone and its
//! layers will be, whatever crashes. The second follows it up on disk: the layers' names go from
//! `layers/` to `marked/`, like an unlink, and the image's own files are set aside. For the layers it
//! can be repeated, and every command begins with it if it is due; files of an image that a crash has
//! left are orphans. The layers' space is `reclaim`'s; the image's own files are deleted here, when no
//! view shows the image any longer: views map its index, and blocks of a file without a name are to be
//! seen neither by `df` nor by `du`.

use std::collections::HashSet;

use jiff::Timestamp;

use super::removal_plan::{Manner, Refusal, RemovalPlan, removal_plan};
use crate::db::{Action, Db, DbError, Image, Snapshot, Tx};
use crate::model::{ChainId, DiffId, ImageId, Layer, Phase};
use crate::store::remove_tree::remove_tree;
use crate::store::{Store, StoreError};

/// An error of removing.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// It may not be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Of the database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Of the store's files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Decide that what `name` means goes: the promise. [`follow_up`] is due after it.
///
/// # Errors
/// [`RemovalError::Refused`] if the rules are against it; then nothing was changed.
pub fn remove(db: &mut Db, name: &str, manner: Manner) -> Result<RemovalPlan, RemovalError> {
    // Planned inside the transaction: nobody can mount or load between plan and deed.
    db.write(|tx| {
        let plan = removal_plan(&Snapshot::of(tx)?, name, manner)?;
        carry_out(tx, &plan)?;
        Ok(plan)
    })
}

/// Decide that an image goes if, now, it has no tag and no container: `None` if it has.
pub fn remove_dangling(db: &mut Db, image: &ImageId) -> Result<Option<RemovalPlan>, RemovalError> {
    remove_if(db, image, false, Snapshot::is_dangling)
}

/// Decide that an image goes, whoever uses it, if it is the one that was loaded then: `None` if it is
/// gone or, since then, loaded again.
pub fn remove_loaded(
    db: &mut Db,
    image: &ImageId,
    loaded: Timestamp,
) -> Result<Option<RemovalPlan>, RemovalError> {
    remove_if(db, image, true, |_, image| image.loaded == loaded)
}

fn remove_if(
    db: &mut Db,
    image: &ImageId,
    force: bool,
    is_so: impl FnOnce(&Snapshot, &Image) -> bool,
) -> Result<Option<RemovalPlan>, RemovalError> {
    db.write(|tx| {
        let snapshot = Snapshot::of(tx)?;
        if !snapshot
            .image(image)
            .is_some_and(|image| is_so(&snapshot, image))
        {
            return Ok(None);
        }
        let manner = Manner { force, prune: true };
        let plan = removal_plan(&snapshot, &image.to_string(), manner)?;
        carry_out(tx, &plan)?;
        Ok(Some(plan))
    })
}

fn carry_out(tx: &Tx<'_>, plan: &RemovalPlan) -> Result<(), DbError> {
    for tag in &plan.untagged {
        if let Some(image) = tx.tagged(tag)? {
            tx.record(Action::Untag, &image, None, &tag.to_string())?;
        }
        tx.delete_tag(tag)?;
    }
    if let Some(image) = &plan.deleted {
        tx.delete_image(image)?;
        tx.record(Action::Delete, image, None, "")?;
    }
    for layer in &plan.layers {
        let with = plan.deleted.as_ref();
        mark(tx, layer.row, layer.chain(), with, layer.bytes)?;
    }
    Ok(())
}

fn mark(
    tx: &Tx<'_>,
    row: i64,
    chain: &ChainId,
    with: Option<&ImageId>,
    bytes: u64,
) -> Result<(), DbError> {
    tx.mark_layer(row, chain, with)?;
    tx.record(Action::Mark, chain, Some(bytes), "")
}

/// Mark the layers that no image names and of which `which` is true: what `rmi --no-prune` left, for
/// `prune`. Gives their rows. [`follow_up`] is due after it.
pub fn mark_unused(db: &mut Db, which: impl Fn(&Layer) -> bool) -> Result<HashSet<i64>, DbError> {
    db.write(|tx| {
        let snapshot = Snapshot::of(tx)?;
        let present = snapshot
            .layers
            .iter()
            .filter(|l| l.phase == Phase::Present && which(l));
        let unused: Vec<_> = present
            .filter(|l| snapshot.named_by(l).is_empty())
            .collect();
        for layer in &unused {
            mark(tx, layer.id, &layer.chain, None, layer.bytes)?;
        }
        Ok(unused.iter().map(|l| l.id).collect())
    })
}

/// Where the tree could not follow a decision. It stays due: each command tries it again.
#[derive(Debug)]
pub struct Unfollowed {
    /// The layer that still has its name in `layers/`; `None` for the files of an image.
    pub layer: Option<Layer>,
    /// Why.
    pub error: StoreError,
}

/// Let the tree follow what was decided: rename the layers that are marked, delete the files of
/// the images that are gone, unless views show them. What cannot be done keeps nothing else from being
/// done, and is given.
///
/// # Errors
/// Of the database, or of syncing what was renamed: then all of it is still due.
pub fn follow_up(
    db: &mut Db,
    store: &Store,
    images: &[ImageId],
) -> Result<Vec<Unfollowed>, RemovalError> {
    let of_image = |error| Unfollowed { layer: None, error };
    let mut failed = db.write(|tx| -> Result<_, RemovalError> {
        let mut failed = settle(tx, store)?;
        for image in images {
            // In the transaction: a load of the same image may have put new files there. Only renamed,
            // for others wait as long as this is open. Not synced: after a power cut it is an orphan
            // under either name.
            if !tx.has_image(image)? {
                failed.extend(store.set_image_aside(image).err().map(of_image));
            }
        }
        Ok(failed)
    })?;
    for image in images {
        failed.extend(discard(db, store, image)?.map(of_image));
    }
    Ok(failed)
}

/// As [`follow_up`] of a removal whose layers are all held by views: names go, but nothing is written
/// down and nothing is brought to the disk, so that it takes no time. The promise is on the disk; that it
/// was followed stays due, and after a power cut is done again, as after any other crash.
///
/// # Errors
/// Of the database.
pub fn follow_up_held(
    db: &mut Db,
    store: &Store,
    plan: &RemovalPlan,
) -> Result<Vec<Unfollowed>, RemovalError> {
    let of_image = |error| Unfollowed { layer: None, error };
    let mut failed = db.write(|tx| -> Result<_, RemovalError> {
        let mut failed = Vec::new();
        for planned in &plan.layers {
            // Looked at again: the name may be that of a layer that was loaded since.
            let layer = tx.layer(planned.row)?;
            if let Some(layer) = layer.filter(|layer| layer.phase == Phase::Marking)
                && let Err(error) = store.move_to_marked(&layer)
            {
                failed.push(Unfollowed {
                    layer: Some(layer),
                    error,
                });
            }
        }
        if let Some(image) = &plan.deleted
            && !tx.has_image(image)?
        {
            failed.extend(store.set_image_aside(image).err().map(of_image));
        }
        Ok(failed)
    })?;
    if let Some(image) = &plan.deleted {
        failed.extend(discard(db, store, image)?.map(of_image));
    }
    Ok(failed)
}

/// [`discard_files`], where what cannot be deleted keeps nothing else from being done.
fn discard(
    db: &mut Db,
    store: &Store,
    image: &ImageId,
) -> Result<Option<StoreError>, RemovalError> {
    match discard_files(db, store, image) {
        Ok(()) => Ok(None),
        Err(RemovalError::Store(error)) => Ok(Some(error)),
        Err(other) => Err(other),
    }
}

/// Delete the files that removals of this image have set aside, unless a view shows the image. Whoever
/// ends the last of those views does so; after a crash they are orphans.
///
/// # Errors
/// Of the database, or of a file that cannot be deleted.
pub fn discard_files(db: &mut Db, store: &Store, image: &ImageId) -> Result<(), RemovalError> {
    // Names are set aside, and views begin, in write transactions: in one of our own, what is listed
    // is what none of them maps.
    let aside = db.write(|tx| -> Result<_, RemovalError> {
        match tx.is_shown(image)? {
            true => Ok(Vec::new()),
            false => Ok(store.images_aside(image)?),
        }
    })?;
    let mut first = Ok(());
    for path in aside {
        first = first.and(remove_tree(&path));
    }
    Ok(first?)
}

/// Rename the layers whose marking is decided; gives those that keep their names because they cannot
/// be renamed. Inside a write transaction, so that no process renames a layer that another has
/// loaded under the same name meanwhile.
///
/// # Errors
/// As [`follow_up`].
pub fn settle(tx: &Tx<'_>, store: &Store) -> Result<Vec<Unfollowed>, RemovalError> {
    let (mut moved, mut failed) = (Vec::new(), Vec::new());
    for layer in tx.layers_to_move()? {
        match store.move_to_marked(&layer) {
            Ok(()) => moved.push(layer.id),
            Err(error) => failed.push(Unfollowed {
                layer: Some(layer),
                error,
            }),
        }
    }
    if !moved.is_empty() {
        // Once for all of them, for others wait as long as this transaction is open; and before any
        // row may say "marked": a power cut that takes the renames back must take the rows too.
        store.sync_moves()?;
    }
    for row in moved {
        tx.set_layer_moved(row)?;
    }
    Ok(failed)
}

/// Look whether any of these keeps the name of a layer that is needed now.
///
/// # Errors
/// Why the first that does could not be renamed.
pub fn in_the_way(
    unfollowed: Vec<Unfollowed>,
    is_needed: impl Fn(&DiffId) -> bool,
) -> Result<(), StoreError> {
    let mut errors = unfollowed.into_iter().filter_map(|u| {
        let layer = u.layer?;
        is_needed(&layer.diff).then_some(u.error)
    });
    errors.next().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::NewImage;

    #[test]
    fn an_image_that_was_loaded_again_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(&dir.path().join("store.db")).unwrap();
        let id = &ImageId::of(b"config");
        let mut load = || -> Timestamp {
            let image = NewImage {
                id,
                created: "",
                layers: &[],
            };
            let load = |tx: &Tx<'_>| tx.insert_image(&image);
            db.write(load).unwrap();
            let loaded = db.read(|tx| tx.image_loaded(id)).unwrap().unwrap();
            let removed = remove_loaded(&mut db, id, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(removed, None);
            let removed = remove_loaded(&mut db, id, loaded).unwrap();
            assert_eq!(removed.and_then(|plan| plan.deleted), Some(id.clone()));
            assert_eq!(remove_loaded(&mut db, id, loaded).unwrap(), None);
            loaded
        };
        assert_ne!(load(), load());
    }
}
