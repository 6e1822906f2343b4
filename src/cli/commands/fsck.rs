//! `fsck`: the store's files against its database.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain, warn};
use crate::db::{Image, Snapshot};
use crate::image::config;
use crate::image::removal::{self, Unfollowed};
use crate::model::{BlobDigest, DiffId, ImageId, Layer, Phase};
use crate::reclaim::pins::Pin;
use crate::reclaim::{execute, plan};
use crate::store::index::{self, Condition};
use crate::store::layout::{ContainerDir, names_in, open_directory};
use crate::store::tar_split::{self, TarSplitError};
use crate::store::usage::{Usage, measure, measure_one};
use crate::store::{Store, StoreError};

/// Arguments of `fsck`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also walk and read every layer: its entries, allocated bytes and contents must be those that were
    /// unpacked, and its index must say what is there
    #[arg(long)]
    deep: bool,
    /// Remove the images that are damaged, so that they can be loaded again, and reclaim the rest; make
    /// damaged indexes anew
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
            let chain = snapshot.chain_of(layer);
            damage.found(format_args!("layer {chain}: {why}"));
            if matches!(why, Wrong::Index(_)) {
                damage.layer_indexes.push(layer.clone());
                continue;
            }
            damage.layers.insert(layer.id);
            let images = snapshot.named_by(layer).into_iter();
            let images = images.filter_map(|id| snapshot.image(id));
            damage
                .images
                .extend(images.map(|i| (i.id.clone(), i.loaded)));
        }
    }
    for image in &snapshot.images {
        if let Err(why) = check_image(&cx.store, &snapshot, image, deep)
            && cx.db.read(|tx| tx.image_loaded(&image.id))? == Some(image.loaded)
        {
            damage.found(format_args!("image {}: {why}", image.id));
            match why {
                Wrong::Index(_) => damage.image_indexes.push(image.clone()),
                Wrong::Itself(_) => drop(damage.images.insert(image.id.clone(), image.loaded)),
            }
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
    /// Layers that are sound but for their index.
    layer_indexes: Vec<Layer>,
    /// Images that are.
    image_indexes: Vec<Image>,
}

impl Damage {
    fn found(&mut self, what: impl Display) {
        complain(&what);
        self.count += 1;
    }
}

/// What is wrong with a layer or an image.
enum Wrong {
    /// With what it was loaded as: it can only be loaded again.
    Itself(String),
    /// With its index alone, which can be made anew.
    Index(String),
}

impl From<String> for Wrong {
    fn from(why: String) -> Wrong {
        Wrong::Itself(why)
    }
}

impl Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wrong::Itself(why) => f.write_str(why),
            Wrong::Index(why) => write!(f, "its index is damaged: {why}"),
        }
    }
}

fn check_layer(store: &Store, layer: &Layer, deep: bool) -> Result<(), Wrong> {
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
    let checked = index::check_layer(&directory, &layer.diff).map_err(|e| e.to_string())?;
    let (Usage { bytes, entries }, condition) = checked;
    if entries != layer.entries {
        let why = format!("{entries} entries, {} were unpacked", layer.entries);
        return Err(why.into());
    }
    let beside = bytes_beside_the_tree(&directory).map_err(|e| e.to_string())?;
    let index = measure_one(&directory.join("index")).map_err(|e| e.to_string())?;
    let bytes = bytes + beside;
    // Layers that an earlier version unpacked had no index then.
    let is_right = [bytes, bytes - index].contains(&layer.bytes);
    match condition {
        Condition::Sound | Condition::Missing if is_right => {
            Ok(check_contents(&directory, &layer.diff)?)
        }
        Condition::Sound => Err(Wrong::Itself(format!(
            "{bytes} bytes are allocated, {} were when it was unpacked",
            layer.bytes
        ))),
        Condition::Differs(name) => Err(Wrong::Itself(format!(
            "{name} is not what it was when it was unpacked"
        ))),
        // The bytes can be judged once it is whole.
        Condition::Missing => Err(Wrong::Index("it is missing".to_owned())),
        Condition::Damaged(why) => Err(Wrong::Index(why)),
    }
}

/// Whether the tar that the layer was loaded as can still be made of it. (None can that an earlier
/// version has unpacked.)
fn check_contents(directory: &Path, diff: &DiffId) -> Result<(), String> {
    let opened = open_directory(directory).map_err(|e| e.to_string())?;
    match tar_split::digest(opened.as_fd()) {
        Ok(found) if found == BlobDigest::of_layer(diff) => Ok(()),
        Ok(found) => Err(format!(
            "its contents are not what was unpacked: their digest is {found}"
        )),
        Err(TarSplitError::Missing) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

fn bytes_beside_the_tree(directory: &Path) -> Result<u64, StoreError> {
    let mut bytes = measure_one(directory)?;
    for name in names_in(directory)?.iter().filter(|name| *name != "tree") {
        bytes += measure(&directory.join(name))?.bytes;
    }
    Ok(bytes)
}

/// A layer was marked while it was checked: the pin may have kept the removal from reclaiming it.
fn reclaim_held_up(cx: &mut Context, layer: &Layer) {
    if layer.phase == Phase::Present
        && let Err(error) = execute::reclaim(&mut cx.db, &cx.store, layer, &mut cx.pace)
    {
        warn(&error);
    }
}

fn check_image(store: &Store, snapshot: &Snapshot, image: &Image, deep: bool) -> Result<(), Wrong> {
    let config = config::raw(store, &image.id).map_err(|e| e.to_string())?;
    let found = ImageId::of(&config);
    if found != image.id {
        return Err(format!("its config has the digest {found}").into());
    }
    for place in &image.layers {
        let is_it = |l: &&Layer| l.phase == Phase::Present && l.diff == place.diff;
        if !snapshot.layers.iter().any(|l| is_it(&l)) {
            return Err(format!("the store has no layer {}", place.diff).into());
        }
    }
    if !deep {
        return Ok(());
    }
    match index::check_image(store, &image.id, &top_down(image)) {
        Condition::Sound | Condition::Missing => Ok(()),
        Condition::Damaged(why) | Condition::Differs(why) => Err(Wrong::Index(why)),
    }
}

/// The layers of an image, topmost first.
fn top_down(image: &Image) -> Vec<DiffId> {
    let places = image.layers.iter().rev();
    places.map(|place| place.diff.clone()).collect()
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
    for layer in &damage.layer_indexes {
        // It is not to be reclaimed meanwhile.
        let _pin = match layer.phase {
            Phase::Present => Pin::acquire(&cx.store, &layer.diff)?,
            _ => None,
        };
        let directory = cx.store.layer_directory(layer);
        match index::repair_layer(&cx.store, &directory, &layer.diff) {
            Ok(()) => cx.line(format_args!("Made anew: the index of {}", layer.chain))?,
            Err(e) => warn(&e),
        }
    }
    for image in &damage.image_indexes {
        match index::repair_image(&cx.store, &image.id, &top_down(image)) {
            Ok(()) => cx.line(format_args!("Made anew: the index of {}", image.id))?,
            Err(e) => warn(&e),
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
    super::gc::run(super::gc::Args::default(), cx)
}
