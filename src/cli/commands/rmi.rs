//! `rmi`: remove images, now or as soon as nothing reads them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::for_each;
use crate::cli::Format;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain};
use crate::db::Snapshot;
use crate::image::ResolveError;
use crate::image::removal::{self, RemovalError, Unfollowed};
use crate::image::removal_plan::{Manner, PlannedLayer, Refusal, RemovalPlan, apply, removal_plan};
use crate::model::{ChainId, ContainerId, ImageId, human};
use crate::reclaim::execute::{Outcome, reclaim};
use crate::store::usage::measure;

/// Arguments of `rmi`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove all tags and the image, whoever uses it; layers in use are deferred
    #[arg(short, long)]
    force: bool,
    /// Keep the layers that nothing refers to any longer, for `prune`
    #[arg(long)]
    no_prune: bool,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: table or JSON
    #[arg(long, value_enum, default_value_t, requires = "dry_run")]
    format: Format,
    /// Tags, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Run `rmi`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let manner = Manner {
        force: args.force,
        prune: !args.no_prune,
    };
    if args.dry_run {
        return dry_run(&args, manner, cx);
    }
    let mut gone: Vec<ImageId> = Vec::new();
    for_each(cx, &args.images, |cx, name| {
        match removal::remove(&mut cx.db, name, manner) {
            Ok(plan) => {
                gone.extend(plan.deleted.clone());
                report(cx, &plan)
            }
            Err(RemovalError::Refused(refusal)) => refuse(&refusal, manner, name, &gone),
            Err(e) => Err(e.into()),
        }
    })
}

/// A missing image is reported, but with `--force` no failure: Docker's rule. One that is missing
/// because this very command has removed it is no matter: `rmi $(images -q)` names an image as often
/// as it has tags.
fn refuse(
    refusal: &Refusal,
    manner: Manner,
    name: &str,
    gone: &[ImageId],
) -> Result<(), CommandError> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_gone = !hex.is_empty() && gone.iter().any(|id| id.hex().starts_with(hex));
    match refusal {
        Refusal::Resolve(ResolveError::NoSuchImage(_)) if is_gone => Ok(()),
        Refusal::Resolve(ResolveError::NoSuchImage(_)) if manner.force => {
            complain(refusal);
            Ok(())
        }
        _ => Err(refusal.into()),
    }
}

/// Say what happened, and reclaim what nothing holds. All that can be done is done, and each failure
/// reported: the decision stands.
fn report(cx: &mut Context, plan: &RemovalPlan) -> Result<(), CommandError> {
    for tag in &plan.untagged {
        cx.line(format_args!("Untagged: {tag}"))?;
    }
    if let Some(image) = &plan.deleted {
        cx.line(format_args!("Deleted: {image}"))?;
    }
    let are_held = plan.layers.iter().all(|layer| !layer.pinned_by.is_empty());
    let unfollowed = match are_held {
        true => removal::follow_up_held(&mut cx.db, &cx.store, plan)?,
        false => removal::follow_up(&mut cx.db, &cx.store, plan.deleted.as_slice())?,
    };
    let mut fates: HashMap<i64, Fate> = HashMap::new();
    let mut failed = false;
    for Unfollowed { layer, error } in unfollowed {
        let row = layer.map(|layer| layer.id);
        // Of another image's layers has been warned already.
        if row.is_none_or(|row| plan.layers.iter().any(|l| l.row == row)) {
            cx.flush_and_go_on();
            complain(&error);
            failed = true;
            fates.extend(row.map(|row| (row, Fate::Failed)));
        }
    }
    for (chain, layer) in plan.places() {
        let fate = match fates.entry(layer.row) {
            Entry::Occupied(known) => known.into_mut(),
            // Held when it was decided: whoever lets go of it finds it marked, and reclaims it.
            Entry::Vacant(new) if are_held => new.insert(Fate::Held(layer.pinned_by.clone())),
            Entry::Vacant(new) => new.insert(match reclaim_planned(cx, layer) {
                Err(CommandError::Message(text)) => {
                    cx.flush_and_go_on();
                    complain(&text);
                    Fate::Failed
                }
                other => other?,
            }),
        };
        layer_line(cx, chain, layer, fate)?;
    }
    match failed || fates.values().any(|fate| matches!(fate, Fate::Failed)) {
        true => Err(CommandError::Reported),
        false => Ok(()),
    }
}

/// What becomes of a layer that was marked.
enum Fate {
    /// It is gone.
    Gone,
    /// The views of these containers hold it.
    Held(Vec<ContainerId>),
    /// Another process reclaims it, or holds it for a moment.
    Busy,
    /// It could not be renamed or deleted; this has been reported.
    Failed,
}

/// Reclaim a layer that was marked a moment ago.
fn reclaim_planned(cx: &mut Context, planned: &PlannedLayer) -> Result<Fate, CommandError> {
    // A server on its way in or out has its locks for a moment without being on record.
    let patience = Instant::now() + Duration::from_secs(1);
    loop {
        let Some(layer) = cx.db.read(|tx| tx.layer(planned.row))? else {
            return Ok(Fate::Gone);
        };
        match reclaim(&mut cx.db, &cx.store, &layer, &mut cx.pace)? {
            Outcome::Reclaimed => return Ok(Fate::Gone),
            Outcome::Busy if Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Outcome::Busy => return Ok(Fate::Busy),
            Outcome::Pinned(holders) => {
                return Ok(Fate::Held(
                    holders.into_iter().map(|h| h.container).collect(),
                ));
            }
        }
    }
}

fn layer_line(
    cx: &mut Context,
    chain: &ChainId,
    layer: &PlannedLayer,
    fate: &Fate,
) -> Result<(), CommandError> {
    let size = human::size(layer.bytes);
    match fate {
        Fate::Gone => cx.line(format_args!("Deleted: {chain}")),
        Fate::Held(ids) => cx.line(format_args!(
            "Deferred: {chain} ({size} held by {})",
            containers(ids)
        )),
        Fate::Busy => cx.line(format_args!(
            "Deferred: {chain} ({size} held by another process)"
        )),
        Fate::Failed => Ok(()),
    }
}

/// `container 9b8a7c6d5e4f`, or `containers …, …`.
fn containers(ids: &[ContainerId]) -> String {
    let list: Vec<&str> = ids.iter().map(ContainerId::short).collect();
    format!(
        "container{} {}",
        if ids.len() == 1 { "" } else { "s" },
        list.join(", ")
    )
}

/// What `--dry-run --format json` prints. Bytes are those by which the shares of `df` change: of layers,
/// `live` loses what is freed and what is deferred, and `pending` gets what is deferred; of the images'
/// own files (config and merged index), `metadata` loses what is freed, and the rest later.
#[derive(Debug, Default, Serialize)]
struct DryRun {
    untagged: Vec<String>,
    deleted: Vec<String>,
    layers: Vec<DryRunLayer>,
    freed_bytes: u64,
    deferred_bytes: u64,
    metadata_freed_bytes: u64,
    metadata_deferred_bytes: u64,
}

#[derive(Debug, Serialize)]
struct DryRunLayer {
    chain_id: String,
    bytes: u64,
    pinned_by: Vec<ContainerId>,
}

impl DryRun {
    /// `own_files` are the bytes of the image's own files, if it goes.
    fn add(&mut self, plan: &RemovalPlan, own_files: u64) {
        match plan.shown_by.is_empty() {
            true => self.metadata_freed_bytes += own_files,
            false => self.metadata_deferred_bytes += own_files,
        }
        self.untagged
            .extend(plan.untagged.iter().map(ToString::to_string));
        self.deleted
            .extend(plan.deleted.iter().map(ToString::to_string));
        for layer in &plan.layers {
            match layer.pinned_by.is_empty() {
                true => self.freed_bytes += layer.bytes,
                false => self.deferred_bytes += layer.bytes,
            }
            self.layers.push(DryRunLayer {
                chain_id: layer.chain().to_string(),
                bytes: layer.bytes,
                pinned_by: layer.pinned_by.clone(),
            });
        }
    }
}

fn dry_run(args: &Args, manner: Manner, cx: &mut Context) -> Result<(), CommandError> {
    let mut snapshot: Snapshot = cx.snapshot()?;
    let mut total = DryRun::default();
    let mut gone: Vec<ImageId> = Vec::new();
    let result = for_each(cx, &args.images, |cx, name| {
        let plan = match removal_plan(&snapshot, name, manner) {
            Ok(plan) => plan,
            Err(refusal) => return refuse(&refusal, manner, name, &gone),
        };
        gone.extend(plan.deleted.clone());
        apply(&plan, &mut snapshot);
        let own_files = plan
            .deleted
            .as_ref()
            .map(|image| measure(&cx.store.image(image)));
        total.add(&plan, own_files.transpose()?.unwrap_or_default().bytes);
        if args.format == Format::Json {
            return Ok(());
        }
        for tag in &plan.untagged {
            cx.line(format_args!("Untagged: {tag}"))?;
        }
        if let Some(image) = &plan.deleted {
            cx.line(format_args!("Deleted: {image}"))?;
        }
        let mut places = plan.places().into_iter();
        places.try_for_each(|(chain, layer)| {
            let fate = match layer.pinned_by.as_slice() {
                [] => Fate::Gone,
                holders => Fate::Held(holders.to_vec()),
            };
            layer_line(cx, chain, layer, &fate)
        })
    });
    match args.format {
        Format::Json => cx.json(&total)?,
        Format::Table => cx.line(format_args!(
            "Would free {} now and {} later, and of metadata {} now and {} later; nothing was changed.",
            human::size(total.freed_bytes),
            human::size(total.deferred_bytes),
            human::size(total.metadata_freed_bytes),
            human::size(total.metadata_deferred_bytes)
        ))?,
    }
    result
}
