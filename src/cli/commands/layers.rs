//! `layers`: where every byte is, and what holds it.

use serde::Serialize;

use crate::cli::Format;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::table::table;
use crate::model::{ChainId, ContainerId, DiffId, ImageId, LayerState, human};

/// Arguments of `layers`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the diff IDs
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Table or JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
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
    match (args.quiet, args.format) {
        (true, _) if args.no_trunc => rows.iter().try_for_each(|row| cx.line(&row.diff_id)),
        (true, _) => rows.iter().try_for_each(|row| cx.line(row.diff_id.short())),
        (_, Format::Json) => rows.iter().try_for_each(|row| cx.json(row)),
        (_, Format::Table) => {
            let full = args.no_trunc;
            let rows = rows.iter().map(|row| {
                [
                    if full {
                        row.chain_id.to_string()
                    } else {
                        row.chain_id.short().to_owned()
                    },
                    if full {
                        row.diff_id.to_string()
                    } else {
                        row.diff_id.short().to_owned()
                    },
                    human::size(row.bytes),
                    row.entries.to_string(),
                    row.state.to_string(),
                    list(row.images.iter().map(ImageId::short)),
                    list(row.pinned_by.iter().map(ContainerId::short)),
                ]
            });
            let headings = [
                "CHAIN ID",
                "DIFF ID",
                "SIZE",
                "ENTRIES",
                "STATE",
                "IMAGES",
                "PINNED BY",
            ];
            cx.line(table(headings, rows))
        }
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.collect::<Vec<_>>().join(",")
}
