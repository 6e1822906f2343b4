//! `fsck`: the store's files against its database.

use std::collections::BTreeSet;
use std::fmt::Display;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain, warn};
use crate::db::{Image, Snapshot};
use crate::image::config;
use crate::image::removal::{self, RemovalError, Unfollowed};
use crate::image::removal_plan::Manner;
use crate::model::{ImageId, Layer, Phase};
use crate::reclaim::{execute, plan};
use crate::store::Store;
use crate::store::usage::measure;

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
    let snapshot = cx.snapshot()?;
    for layer in &snapshot.layers {
        if let Err(why) = check_layer(&cx.store, layer, deep) {
            damage.found(format_args!("layer {}: {why}", snapshot.chain_of(layer)));
            damage.layers.insert(layer.id);
            damage
                .images
                .extend(snapshot.named_by(layer).into_iter().cloned());
        }
    }
    for image in &snapshot.images {
        if let Err(why) = check_image(&cx.store, &snapshot, image) {
            damage.found(format_args!("image {}: {why}", image.id));
            damage.images.insert(image.id.clone());
        }
    }
    for orphan in plan::orphans(&cx.store, &snapshot, &execute::list(&cx.store)?) {
        // No damage: a crash leaves them, and gc removes them.
        cx.line(format_args!("Orphaned: {}", orphan.display()))?;
    }
    cx.line(format_args!(
        "Checked {} images and {} layers: {} found",
        snapshot.images.len(),
        snapshot.layers.len(),
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
    /// The images that are, or whose layers are.
    images: BTreeSet<ImageId>,
}

impl Damage {
    fn found(&mut self, what: impl Display) {
        complain(&what);
        self.count += 1;
    }
}

fn check_layer(store: &Store, layer: &Layer, deep: bool) -> Result<(), String> {
    let directory = store.layer_directory(layer);
    if matches!(layer.phase, Phase::Reclaiming | Phase::Marking) {
        // On its way out, with or without its files.
        return Ok(());
    }
    if !directory.join("tree").is_dir() {
        return Err(format!("{} is missing", directory.join("tree").display()));
    }
    if !deep {
        return Ok(());
    }
    let found = measure(&directory.join("tree"))
        .map_err(|e| e.to_string())?
        .entries;
    if found != layer.entries {
        return Err(format!("{found} entries, {} were unpacked", layer.entries));
    }
    let found = measure(&directory).map_err(|e| e.to_string())?.bytes;
    if found != layer.bytes {
        return Err(format!(
            "{found} bytes are allocated, {} were when it was unpacked",
            layer.bytes
        ));
    }
    Ok(())
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

fn repair(cx: &mut Context, damage: &Damage) -> Result<(), CommandError> {
    for image in &damage.images {
        let manner = Manner {
            force: true,
            prune: true,
        };
        match removal::remove(&mut cx.db, &image.to_string(), manner) {
            Ok(_) => cx.line(format_args!("Removed: {image} (load it again)"))?,
            // Removed by another process.
            Err(RemovalError::Refused(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let images: Vec<ImageId> = damage.images.iter().cloned().collect();
    removal::mark_unused(&mut cx.db, |layer| damage.layers.contains(&layer.id))?;
    for Unfollowed { layer, error } in removal::follow_up(&mut cx.db, &cx.store, &images)? {
        // Of a layer gc reports it; an image's files are an orphan, which it removes.
        if layer.is_none() {
            warn(&error);
        }
    }
    super::gc::run(super::gc::Args {}, cx)
}
