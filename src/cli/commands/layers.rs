//! `layers`: where every byte is, and what holds it.

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::list::ListArgs;
use crate::model::{ChainId, ContainerId, DiffId, ImageId, LayerState, human};

/// Arguments of `layers`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    chain_id: ChainId,
    diff_id: DiffId,
    bytes: u64,
    entries: u64,
    state: LayerState,
    images: Vec<ImageId>,
    pinned_by: Vec<ContainerId>,
}

/// Run `layers`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let rows = snapshot.layers.iter().map(|layer| Row {
        chain_id: snapshot.chain_of(layer).clone(),
        diff_id: layer.diff.clone(),
        bytes: layer.bytes,
        entries: layer.entries,
        state: snapshot.layer_state(layer),
        images: snapshot.named_by(layer).into_iter().cloned().collect(),
        pinned_by: snapshot.pinned_by(layer).into_iter().cloned().collect(),
    });
    let rows: Vec<Row> = rows.collect();
    let diff = |row: &Row| args.list.id(&row.diff_id, row.diff_id.short());
    let headings = [
        "CHAIN ID",
        "DIFF ID",
        "SIZE",
        "ENTRIES",
        "STATE",
        "IMAGES",
        "PINNED BY",
    ];
    args.list.print(cx, &rows, diff, headings, |row| {
        [
            args.list.id(&row.chain_id, row.chain_id.short()),
            diff(row),
            human::size(row.bytes),
            row.entries.to_string(),
            row.state.to_string(),
            list(row.images.iter().map(ImageId::short)),
            list(row.pinned_by.iter().map(ContainerId::short)),
        ]
    })
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.collect::<Vec<_>>().join(",")
}
