//! The physical deletion of marked layers and of orphans.
//!
//! A layer goes in three steps, each of which can be repeated after a crash: the row says
//! `reclaiming` (from here on its tree is no longer whole), the entries are deleted, the row goes.
//! The exclusive lock is held from before the first to after the last, so two never delete the
//! same layer, and files may be cut before they go.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::pace::Pace;
use super::plan::{self, Listing};
use crate::db::{Action, Db, DbError, Holder, Snapshot};
use crate::model::{Layer, Phase, human};
use crate::store::layout::names_in;
use crate::store::lock::{self, Attempt};
use crate::store::remove_tree::{remove_tree, remove_tree_steered};
use crate::store::staging::remove_leftover;
use crate::store::usage::measure;
use crate::store::{Store, StoreError};
use crate::sys::io_priority::Idle;

/// An error of reclaiming.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// Of the database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Of the store's files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone.
    Reclaimed,
    /// These views pin it: at least one, oldest first.
    Pinned(Vec<Holder>),
    /// Another process has it locked without a pin on record: it reclaims it, or is a server on
    /// its way in or out.
    Busy,
}

/// Reclaim a marked layer, if nothing holds it, at this pace.
///
/// # Errors
/// An entry that cannot be deleted; the layer stays `reclaiming`, and an event tells why.
pub fn reclaim(
    db: &mut Db,
    store: &Store,
    layer: &Layer,
    pace: &mut Pace,
) -> Result<Outcome, ReclaimError> {
    let path = store.marked_layer(layer);
    let lock = match lock::try_exclusive(&path)? {
        Attempt::Locked(lock) => Some(lock),
        // Deleted, but the row was not: a crash between the two, or another process is about to.
        Attempt::Gone => None,
        Attempt::Busy => {
            let holders = db.read(|tx| tx.holders_of(layer.id))?;
            return Ok(match holders.is_empty() {
                false => Outcome::Pinned(holders),
                true => Outcome::Busy,
            });
        }
    };
    let begun = db.write(|tx| -> Result<_, DbError> {
        let Some(now) = tx.layer(layer.id)? else {
            return Ok(Err(Outcome::Reclaimed));
        };
        let holders = tx.holders_of(layer.id)?;
        if !holders.is_empty() {
            // The server died a moment ago, and its end is not recorded yet.
            return Ok(Err(Outcome::Pinned(holders)));
        }
        match now.phase {
            Phase::Present | Phase::Marking => return Ok(Err(Outcome::Busy)),
            Phase::Marked => {
                tx.set_layer_reclaiming(layer.id)?;
                tx.record(Action::ReclaimStart, &now.chain, Some(now.bytes), "")?;
            }
            // Resumed after a crash: it has been told.
            Phase::Reclaiming => {}
        }
        Ok(Ok(now))
    })?;
    let layer = match begun {
        Ok(layer) => layer,
        Err(outcome) => return Ok(outcome),
    };
    let (begin, before) = (Instant::now(), pace.gone().entries);
    if let Err(error) = at_pace(pace, |pace| remove_tree_steered(&path, pace)) {
        let detail = error.to_string();
        db.write(|tx| {
            tx.record(
                Action::ReclaimFailed,
                &layer.chain,
                Some(layer.bytes),
                &detail,
            )
        })?;
        return Err(error.into());
    }
    let price = human::price(pace.gone().entries - before, begin.elapsed());
    db.write(|tx| -> Result<_, DbError> {
        if tx.layer(layer.id)?.is_some() {
            tx.delete_layer(layer.id)?;
            tx.record(Action::ReclaimEnd, &layer.chain, Some(layer.bytes), &price)?;
        }
        Ok(())
    })?;
    drop(lock);
    Ok(Outcome::Reclaimed)
}

/// Delete something. Where that is steered, it is with idle I/O priority as well: who sets a rate wants
/// the others to come first. Unsteered it is not, for on a disk that is never idle it would never end.
/// The priority for the CPU stays: a thread that waits for it in the middle of a change of the file
/// system keeps the journal from committing, and every sync with it.
fn at_pace<T>(pace: &mut Pace, delete: impl FnOnce(&mut Pace) -> T) -> T {
    let idle = pace.is_steered().then(Idle::of_this_thread);
    let done = delete(pace);
    drop(idle);
    done
}

/// The names that are in the store's rooms now.
pub fn list(store: &Store) -> Result<Listing, StoreError> {
    Ok(Listing {
        layers: names_in(&store.layers())?,
        marked: names_in(&store.marked())?,
        images: names_in(&store.images())?,
        containers: names_in(&store.containers())?,
    })
}

/// What the removal of orphans has done.
#[derive(Debug, Default)]
pub struct Swept {
    /// How many went.
    pub count: u64,
    /// Their allocated bytes.
    pub bytes: u64,
    /// Those that stay, and why.
    pub failed: Vec<StoreError>,
}

/// Delete everything that no row explains, at this pace.
pub fn sweep_orphans(db: &mut Db, store: &Store, pace: &mut Pace) -> Result<Swept, ReclaimError> {
    // All that gets a name in a room gets it inside a write transaction; so in one of our own,
    // what has no row now will never have one, and can be renamed away.
    let set_aside = db.write(|tx| -> Result<Vec<PathBuf>, ReclaimError> {
        let snapshot = Snapshot::of(tx)?;
        let mut orphans = plan::orphans(store, &snapshot, &list(store)?);
        orphans.retain(|o| !matches!(lock::try_exclusive(o), Ok(Attempt::Busy)));
        let mut set_aside = Vec::new();
        for orphan in orphans {
            let aside = aside_name(store, &orphan)?;
            match std::fs::rename(&orphan, &aside) {
                Ok(()) => set_aside.push(aside),
                // Whoever removed its row was deleting it, after the commit.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    aside.parent().map_or(Ok(()), remove_tree)?;
                }
                Err(e) => return Err(StoreError::at("set aside", &orphan)(e).into()),
            }
        }
        Ok(set_aside)
    })?;
    let mut swept = Swept::default();
    let mut remove = |path: &Path, remove: &mut dyn FnMut(&Path) -> Result<bool, StoreError>| {
        let bytes = measure(path).map_or(0, |usage| usage.bytes);
        match remove(path) {
            Ok(true) => {
                swept.count += 1;
                swept.bytes += bytes;
            }
            Ok(false) => {}
            Err(e) => swept.failed.push(e),
        }
    };
    for path in &set_aside {
        remove(path, &mut |path| {
            at_pace(pace, |pace| remove_tree_steered(path, pace))?;
            path.parent().map_or(Ok(()), remove_tree).map(|()| true)
        });
    }
    for name in names_in(&store.staging())? {
        remove(&store.staging().join(name), &mut |path| {
            at_pace(pace, |pace| remove_leftover(path, pace))
        });
    }
    Ok(swept)
}

/// A path in `staging/`, in a directory of its own, for an orphan to be renamed to.
fn aside_name(store: &Store, orphan: &Path) -> Result<PathBuf, StoreError> {
    let staging = store.staging();
    let holder = tempfile::Builder::new()
        .prefix("orphan.")
        .tempdir_in(&staging);
    let holder = holder
        .map_err(StoreError::at("create a directory in", &staging))?
        .keep();
    Ok(holder.join(orphan.file_name().unwrap_or_default()))
}
