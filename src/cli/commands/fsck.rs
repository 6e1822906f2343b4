//! `fsck`: the store's files against its database.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain, warn};
use crate::db::{Image, Snapshot};
use crate::image::config;
use crate::image::removal::{self, Unfollowed};
use crate::model::{ImageId, Layer, Phase};
use crate::reclaim::pins::Pin;
use crate::reclaim::{execute, plan};
use crate::store::layout::ContainerDir;
use crate::store::usage::measure;
use crate::store::{Store, StoreError};

/// Arguments of `fsck`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also walk every layer: its entries and allocated bytes must be those it was unpacked with
    #[arg(long)]
    deep: bool,
    /// Remove the images that are damaged, so that they can be loaded again, and reclaim the rest
    #[arg(long)]
    repair: bool,
}

/// Run `fsck`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let mut damage = check(cx, args.deep)?;
    if args.repair {
        repair(cx, &damage)?;
        damage = check(cx, args.deep)?;
    }
    if damage.count > 0 {
        Err(CommandError::Reported)
    } else {
        Ok(())
    }
}

fn check(cx: &mut Context, deep: bool) -> Result<Damage, CommandError> {
    let mut damage = Damage::default();
    for line in cx.db.read(|tx| tx.integrity())? {
        damage.found(format_args!("the database: {line}"));
    }
    // Others work on the store meanwhile. What is found counts only if it is still on record as it
    // was when it was looked at: otherwise it went, or came again, and is no damage.
    let snapshot = cx.snapshot()?;
    for layer in &snapshot.layers {
        let found = check_layer(&cx.store, layer, deep);
        let now = cx.db.read(|tx| tx.layer(layer.id))?;
        if now.as_ref().is_some_and(|l| l.phase != Phase::Present) {
            reclaim_held_up(cx, layer);
        }
        if let Err(why) = found
            && now.as_ref() == Some(layer)
        {
            damage.found(format_args!("layer {}: {why}", snapshot.chain_of(layer)));
            damage.layers.insert(layer.id);
            let images = snapshot.named_by(layer).into_iter();
            let images = images.filter_map(|id| snapshot.image(id));
            damage
                .images
                .extend(images.map(|i| (i.id.clone(), i.loaded)));
        }
    }
    for image in &snapshot.images {
        if let Err(why) = check_image(&cx.store, &snapshot, image)
            && cx.db.read(|tx| tx.image_loaded(&image.id))? == Some(image.loaded)
        {
            damage.found(format_args!("image {}: {why}", image.id));
            damage.images.insert(image.id.clone(), image.loaded);
        }
    }
    for container in &snapshot.containers {
        if let Err(why) = check_container(&cx.store.container(&container.id))
            && cx.db.read(|tx| tx.has_container(&container.id))?
        {
            damage.found(format_args!("container {}: {why}", container.id.short()));
        }
    }
    for orphan in plan::orphans(&cx.store, &snapshot, &execute::list(&cx.store)?) {
        // No damage: a crash leaves them, and gc removes them.
        cx.line(format_args!("Orphaned: {}", orphan.display()))?;
    }
    cx.line(format_args!(
        "Checked {} images, {} layers and {} containers: {} found",
        snapshot.images.len(),
        snapshot.layers.len(),
        snapshot.containers.len(),
        match damage.count {
            0 => "nothing".to_owned(),
            1 => "1 damage".to_owned(),
            n => format!("{n} damages"),
        }
    ))?;
    Ok(damage)
}

#[derive(Default)]
struct Damage {
    count: u64,
    /// The rows of the layers that are damaged.
    layers: BTreeSet<i64>,
    /// The images that are, or whose layers are, and when they were loaded.
    images: BTreeMap<ImageId, Timestamp>,
}

impl Damage {
    fn found(&mut self, what: impl Display) {
        complain(&what);
        self.count += 1;
    }
}

/// Entries in a layer's directory beside those of the tree: itself, and the note that it is complete.
const BESIDE_THE_TREE: u64 = 2;

fn check_layer(store: &Store, layer: &Layer, deep: bool) -> Result<(), String> {
    let directory = store.layer_directory(layer);
    if matches!(layer.phase, Phase::Reclaiming | Phase::Marking) {
        // On its way out, with or without its files.
        return Ok(());
    }
    is_directory(&directory.join("tree"))?;
    if !deep {
        return Ok(());
    }
    // As long as it is measured it is not to be reclaimed.
    let _pin = match layer.phase {
        Phase::Present => Pin::acquire(store, &layer.diff).map_err(|e| e.to_string())?,
        _ => None,
    };
    let found = measure(&directory).map_err(|e| e.to_string())?;
    if found.entries != layer.entries + BESIDE_THE_TREE {
        let found = found.entries.saturating_sub(BESIDE_THE_TREE);
        return Err(format!("{found} entries, {} were unpacked", layer.entries));
    }
    if found.bytes != layer.bytes {
        return Err(format!(
            "{} bytes are allocated, {} were when it was unpacked",
            found.bytes, layer.bytes
        ));
    }
    Ok(())
}

/// A layer was marked while it was checked: the pin may have kept the removal from reclaiming it.
fn reclaim_held_up(cx: &mut Context, layer: &Layer) {
    if layer.phase == Phase::Present
        && let Err(error) = execute::reclaim(&mut cx.db, &cx.store, layer)
    {
        warn(&error);
    }
}

fn check_image(store: &Store, snapshot: &Snapshot, image: &Image) -> Result<(), String> {
    let config = config::raw(store, &image.id).map_err(|e| e.to_string())?;
    let found = ImageId::of(&config);
    if found != image.id {
        return Err(format!("its config has the digest {found}"));
    }
    for place in &image.layers {
        let is_it = |l: &&Layer| l.phase == Phase::Present && l.diff == place.diff;
        if !snapshot.layers.iter().any(|l| is_it(&l)) {
            return Err(format!("the store has no layer {}", place.diff));
        }
    }
    Ok(())
}

fn check_container(directory: &ContainerDir) -> Result<(), String> {
    is_directory(&directory.upper())?;
    is_directory(&directory.work())?;
    match fs::symlink_metadata(directory.merged()) {
        // Whatever else the mount point of a view says: it is there.
        Err(e) if e.kind() != io::ErrorKind::NotFound => Ok(()),
        _ => is_directory(&directory.merged()),
    }
}

fn is_directory(path: &Path) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is no directory", path.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(format!("{} is missing", path.display()))
        }
        Err(e) => Err(StoreError::at("read", path)(e).to_string()),
    }
}

fn repair(cx: &mut Context, damage: &Damage) -> Result<(), CommandError> {
    for (image, loaded) in &damage.images {
        // Looked at again: it may have been loaded anew, and whole, since the check.
        if removal::remove_loaded(&mut cx.db, image, *loaded)?.is_some() {
            cx.line(format_args!("Removed: {image} (load it again)"))?;
        }
    }
    let images: Vec<ImageId> = damage.images.keys().cloned().collect();
    removal::mark_unused(&mut cx.db, |layer| damage.layers.contains(&layer.id))?;
    for Unfollowed { layer, error } in removal::follow_up(&mut cx.db, &cx.store, &images)? {
        // Of a layer gc reports it; an image's files are an orphan, which it removes.
        if layer.is_none() {
            warn(&error);
        }
    }
    super::gc::run(super::gc::Args {}, cx)
}
