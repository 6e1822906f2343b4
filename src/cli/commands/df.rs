//! `df`: how much of the disk the store takes, and for what.

use serde::Serialize;

use crate::cli::Format;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::table::table;
use crate::db::Snapshot;
use crate::model::{LayerState, Phase, human};
use crate::reclaim::{execute, plan};
use crate::store::layout::names_in;
use crate::store::staging;
use crate::store::usage::{measure, measure_one};
use crate::store::{Store, StoreError, reserve};

/// Arguments of `df`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Each layer too
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
    /// Database, configs, and the directories themselves.
    pub metadata: Share,
}

/// Run `df`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let usage = usage(&cx.store, &snapshot)?;
    if args.format == Format::Json {
        return cx.json(&usage);
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
        cx.line("")?;
        let rows = snapshot.layers.iter().map(|layer| {
            [
                snapshot.chain_of(layer).short().to_owned(),
                snapshot.layer_state(layer).to_string(),
                human::size(layer.bytes),
                layer.entries.to_string(),
            ]
        });
        cx.line(table(["CHAIN ID", "STATE", "SIZE", "ENTRIES"], rows))?;
    }
    Ok(())
}

/// Measure the store. Layers are as large as they were when they became complete, for they do not
/// change; those that are being deleted, and all the rest, are measured now.
pub fn usage(store: &Store, snapshot: &Snapshot) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
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
    }
    for orphan in plan::orphans(store, snapshot, &execute::list(store)?) {
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
    for container in &snapshot.containers {
        usage
            .containers
            .add(measure(store.container(&container.id).path())?.bytes);
    }
    for view in &snapshot.views {
        if !snapshot.containers.iter().any(|c| c.id == view.container) {
            usage
                .containers
                .add(measure(store.container(&view.container).path())?.bytes);
        }
    }
    for image in &snapshot.images {
        usage.metadata.add(measure(&store.image(&image.id))?.bytes);
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
    Ok(usage)
}
