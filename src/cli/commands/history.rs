//! `history`: how an image was made.

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::table::table;
use crate::cli::{Format, time};
use crate::image::{config, resolve};
use crate::model::human;

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tag, ID, or unambiguous prefix of an ID
    image: String,
    /// Only the IDs
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Table or JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Under the names of `docker history --format json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    created_at: String,
    created_since: String,
    created_by: String,
    size: String,
    comment: String,
}

/// Run `history`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let image = resolve(&snapshot, &args.image)?.image;
    let config = config::read(&cx.store, &image.id)?;
    let mut layers = image.layers.iter();
    let mut rows = Vec::new();
    for step in config.history {
        let layer = if step.empty_layer {
            None
        } else {
            layers.next()
        };
        let size = layer.map_or(0, |place| snapshot.size_of_layer(&place.diff));
        let created = step.created.parse::<Timestamp>().ok();
        let by = step.created_by;
        rows.push(Row {
            id: "<missing>".to_owned(),
            created_at: created.map_or_else(|| "N/A".to_owned(), |t| t.to_string()),
            created_since: created.map_or_else(|| "N/A".to_owned(), time::ago),
            created_by: if args.no_trunc { by } else { shorten(&by) },
            size: human::size(size),
            comment: step.comment,
        });
    }
    rows.reverse();
    if let Some(top) = rows.first_mut() {
        let full = args.no_trunc || args.format == Format::Json;
        top.id = if full {
            image.id.to_string()
        } else {
            image.id.short().to_owned()
        };
    }
    match (args.quiet, args.format) {
        (true, _) => rows.iter().try_for_each(|row| cx.line(&row.id)),
        (_, Format::Json) => rows.iter().try_for_each(|row| cx.json(row)),
        (_, Format::Table) => {
            let rows = rows
                .into_iter()
                .map(|r| [r.id, r.created_since, r.created_by, r.size, r.comment]);
            cx.line(table(
                ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
                rows,
            ))
        }
    }
}

/// To 45 characters, as Docker does; tabs become blanks.
fn shorten(text: &str) -> String {
    let text = text.replace('\t', " ");
    match text.chars().count() > 45 {
        true => text.chars().take(44).chain(['…']).collect(),
        false => text,
    }
}
