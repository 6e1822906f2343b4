//! `df`: how much of the disk the store takes, and for what.

use serde::Serialize;

use crate::cli::Format;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::table::table;
use crate::db::{Image, Snapshot};
use crate::model::{ChainId, ContainerId, DiffId, ImageId, LayerState, Phase, human};
use crate::reclaim::{execute, plan};
use crate::store::layout::{image_aside, names_in};
use crate::store::staging;
use crate::store::usage::{measure, measure_one};
use crate::store::{Store, StoreError, reserve};

/// Arguments of `df`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Each layer, image and container too
    #[arg(short, long)]
    verbose: bool,
    /// Table or JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A share of the store.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Share {
    /// How many layers, orphans, containers or files.
    pub count: u64,
    /// Allocated bytes.
    pub bytes: u64,
}

impl Share {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What the store takes: the sum is what `du` finds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Usage {
    /// Layers that an image names.
    pub live: Share,
    /// Complete layers that no image names.
    pub unused: Share,
    /// Marked layers that a view pins.
    pub pending: Share,
    /// Marked layers that nothing pins.
    pub reclaiming: Share,
    /// What no row explains.
    pub orphaned: Share,
    /// What containers wrote, and their logs.
    pub containers: Share,
    /// Database, configs, merged indexes (also of removed images that a view shows), and the
    /// directories themselves.
    pub metadata: Share,
}

/// What `-v` shows beside the shares.
#[derive(Debug, Default, Serialize)]
struct Details {
    by_layer: Vec<LayerPart>,
    by_image: Vec<ImagePart>,
    by_container: Vec<ContainerPart>,
}

/// A layer: those of a state add up to that state's share.
#[derive(Debug, Serialize)]
struct LayerPart {
    chain_id: ChainId,
    diff_id: DiffId,
    state: LayerState,
    bytes: u64,
    entries: u64,
    images: Vec<ImageId>,
    pinned_by: Vec<ContainerId>,
}

/// An image. Its layers' bytes are those of `by_layer`, seen from another side.
#[derive(Debug, Serialize)]
struct ImagePart {
    id: ImageId,
    tags: Vec<String>,
    /// Of its layers, each once.
    bytes: u64,
    /// Of those of them that another image names as well.
    shared_bytes: u64,
    /// Of those that go with it.
    unique_bytes: u64,
    /// Of its own files, config and merged index: part of `metadata`.
    metadata_bytes: u64,
    /// The containers that were made from it.
    containers: Vec<ContainerId>,
    /// False of one that was removed while a view shows it.
    present: bool,
}

/// A container: they add up to the share of `containers`.
#[derive(Debug, Serialize)]
struct ContainerPart {
    id: ContainerId,
    /// Empty of one that was removed by force while its view is served.
    name: String,
    image: Option<ImageId>,
    bytes: u64,
}

/// What `df -v --format json` prints.
#[derive(Debug, Serialize)]
struct Verbose<'a> {
    #[serde(flatten)]
    usage: &'a Usage,
    #[serde(flatten)]
    details: &'a Details,
}

/// Run `df`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let (usage, details) = measured(&cx.store, &snapshot)?;
    if args.format == Format::Json {
        return match args.verbose {
            true => cx.json(&Verbose {
                usage: &usage,
                details: &details,
            }),
            false => cx.json(&usage),
        };
    }
    let rows = [
        ("live layers", usage.live),
        ("unused layers", usage.unused),
        ("pending layers", usage.pending),
        ("reclaiming layers", usage.reclaiming),
        ("orphaned", usage.orphaned),
        ("containers", usage.containers),
        ("metadata", usage.metadata),
    ];
    let total = rows.iter().map(|(_, share)| share.bytes).sum();
    let rows = rows.into_iter().map(|(name, share)| {
        [
            name.to_owned(),
            share.count.to_string(),
            human::size(share.bytes),
        ]
    });
    let rows = rows.chain([["total".to_owned(), String::new(), human::size(total)]]);
    cx.line(table(["TYPE", "COUNT", "SIZE"], rows))?;
    if args.verbose {
        tell(cx, &snapshot, &details)?;
    }
    Ok(())
}

fn tell(cx: &mut Context, snapshot: &Snapshot, details: &Details) -> Result<(), CommandError> {
    let rows = details.by_layer.iter().map(|layer| {
        [
            layer.chain_id.short().to_owned(),
            layer.diff_id.short().to_owned(),
            layer.state.to_string(),
            human::size(layer.bytes),
            layer.entries.to_string(),
            list(layer.images.iter().map(|id| name_of(snapshot, id))),
            list(layer.pinned_by.iter().map(|id| id.short().to_owned())),
        ]
    });
    let headings = [
        "CHAIN ID",
        "DIFF ID",
        "STATE",
        "SIZE",
        "ENTRIES",
        "IMAGES",
        "PINNED BY",
    ];
    cx.line("")?;
    cx.line(table(headings, rows))?;
    let rows = details.by_image.iter().map(|image| {
        [
            image.id.short().to_owned(),
            match (image.present, image.tags.is_empty()) {
                (false, _) => "<removed>".to_owned(),
                (true, true) => "<none>".to_owned(),
                (true, false) => list(image.tags.iter().cloned()),
            },
            human::size(image.bytes),
            human::size(image.shared_bytes),
            human::size(image.unique_bytes),
            human::size(image.metadata_bytes),
            image.containers.len().to_string(),
        ]
    });
    let headings = [
        "IMAGE ID",
        "TAGS",
        "SIZE",
        "SHARED SIZE",
        "UNIQUE SIZE",
        "METADATA",
        "CONTAINERS",
    ];
    cx.line("")?;
    cx.line(table(headings, rows))?;
    let rows = details.by_container.iter().map(|container| {
        [
            container.id.short().to_owned(),
            container.name.clone(),
            container
                .image
                .as_ref()
                .map_or_else(String::new, |id| name_of(snapshot, id)),
            human::size(container.bytes),
        ]
    });
    cx.line("")?;
    cx.line(table(["CONTAINER ID", "NAME", "IMAGE", "SIZE"], rows))
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// The tags of an image, or what else it can be called by.
fn name_of(snapshot: &Snapshot, id: &ImageId) -> String {
    let tags = snapshot.image(id).map(|image| image.tags.as_slice());
    match tags {
        Some([_, ..]) => list(tags.into_iter().flatten().map(ToString::to_string)),
        Some([]) | None => id.short().to_owned(),
    }
}

/// Measure the store. Layers are as large as they were when they became complete, for they do not
/// change; those that are being deleted, and all the rest, are measured now.
pub fn usage(store: &Store, snapshot: &Snapshot) -> Result<Usage, StoreError> {
    measured(store, snapshot).map(|(usage, _)| usage)
}

/// The shares, and the parts of those that have any, measured once.
fn measured(store: &Store, snapshot: &Snapshot) -> Result<(Usage, Details), StoreError> {
    let mut usage = Usage::default();
    let mut details = Details::default();
    for layer in &snapshot.layers {
        let bytes = match layer.phase {
            Phase::Reclaiming => measure(&store.layer_directory(layer))?.bytes,
            Phase::Present | Phase::Marking | Phase::Marked => layer.bytes,
        };
        let share = match snapshot.layer_state(layer) {
            LayerState::Live => &mut usage.live,
            LayerState::Unused => &mut usage.unused,
            LayerState::Pending => &mut usage.pending,
            LayerState::Reclaiming => &mut usage.reclaiming,
        };
        share.add(bytes);
        details.by_layer.push(LayerPart {
            chain_id: snapshot.chain_of(layer).clone(),
            diff_id: layer.diff.clone(),
            state: snapshot.layer_state(layer),
            bytes,
            entries: layer.entries,
            images: snapshot.named_by(layer).into_iter().cloned().collect(),
            pinned_by: snapshot.pinned_by(layer).into_iter().cloned().collect(),
        });
    }
    let listing = execute::list(store)?;
    for orphan in plan::orphans(store, snapshot, &listing) {
        usage.orphaned.add(measure(&orphan)?.bytes);
    }
    for name in names_in(&store.staging())? {
        let path = store.staging().join(name);
        let bytes = measure(&path)?.bytes;
        // What a load is filling has no row yet, but somebody who answers for it.
        match staging::is_held(&path)? {
            true => usage.metadata.add(bytes),
            false => usage.orphaned.add(bytes),
        }
    }
    let mut add_container = |id: &ContainerId, name: &str, image: Option<&ImageId>| {
        let bytes = measure(store.container(id).path())?.bytes;
        usage.containers.add(bytes);
        details.by_container.push(ContainerPart {
            id: id.clone(),
            name: name.to_owned(),
            image: image.cloned(),
            bytes,
        });
        Ok::<_, StoreError>(())
    };
    for container in &snapshot.containers {
        add_container(&container.id, &container.name, Some(&container.image))?;
    }
    for view in &snapshot.views {
        if !snapshot.containers.iter().any(|c| c.id == view.container) {
            add_container(&view.container, "", view.image.as_ref())?;
        }
    }
    for image in &snapshot.images {
        let bytes = measure(&store.image(&image.id))?.bytes;
        usage.metadata.add(bytes);
        details.by_image.push(image_part(snapshot, image, bytes));
    }
    for path in plan::images_aside(store, snapshot, &listing) {
        let bytes = measure(&path)?.bytes;
        usage.metadata.add(bytes);
        if let Some(id) = path.file_name().and_then(image_aside) {
            details.by_image.push(ImagePart {
                containers: snapshot.containers_of(&id).map(|c| c.id.clone()).collect(),
                id,
                tags: Vec::new(),
                bytes: 0,
                shared_bytes: 0,
                unique_bytes: 0,
                metadata_bytes: bytes,
                present: false,
            });
        }
    }
    let own = [
        store.layers(),
        store.marked(),
        store.staging(),
        store.images(),
        store.containers(),
    ];
    for path in own
        .iter()
        .map(std::path::PathBuf::as_path)
        .chain([store.root()])
    {
        usage.metadata.bytes += measure_one(path)?;
    }
    // The log and its index are this command's own where no server has the database open, and go
    // with it.
    let shared: &[&str] = match snapshot.views.is_empty() {
        true => &[],
        false => &["store.db-wal", "store.db-shm"],
    };
    for name in ["store.db", reserve::NAME].iter().chain(shared) {
        let path = store.root().join(name);
        if path.exists() {
            usage.metadata.add(measure_one(&path)?);
        }
    }
    Ok((usage, details))
}

fn image_part(snapshot: &Snapshot, image: &Image, metadata_bytes: u64) -> ImagePart {
    let (mut shared_bytes, mut unique_bytes) = (0, 0);
    for layer in &snapshot.layers {
        let named_by = snapshot.named_by(layer);
        if named_by.contains(&image.id) {
            match named_by.len() {
                1 => unique_bytes += layer.bytes,
                _ => shared_bytes += layer.bytes,
            }
        }
    }
    ImagePart {
        id: image.id.clone(),
        tags: image.tags.iter().map(ToString::to_string).collect(),
        bytes: shared_bytes + unique_bytes,
        shared_bytes,
        unique_bytes,
        metadata_bytes,
        containers: snapshot
            .containers_of(&image.id)
            .map(|c| c.id.clone())
            .collect(),
        present: true,
    }
}
