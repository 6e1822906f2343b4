//! `history`: how an image was made.

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::list::ListArgs;
use crate::cli::time;
use crate::image::{config, resolve};
use crate::model::human;

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tag, ID, or unambiguous prefix of an ID
    image: String,
    #[command(flatten)]
    list: ListArgs,
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
            created_by: if args.list.no_trunc { by } else { shorten(&by) },
            size: human::size(size),
            comment: step.comment,
        });
    }
    rows.reverse();
    if let Some(top) = rows.first_mut() {
        top.id = args.list.id(&image.id, image.id.short());
    }
    let headings = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"];
    args.list.print(
        cx,
        &rows,
        |row| row.id.clone(),
        headings,
        |row| {
            [
                &row.id,
                &row.created_since,
                &row.created_by,
                &row.size,
                &row.comment,
            ]
            .map(String::clone)
        },
    )
}

/// To 45 characters, as Docker does; tabs become blanks.
fn shorten(text: &str) -> String {
    let text = text.replace('\t', " ");
    match text.chars().count() > 45 {
        true => text.chars().take(44).chain(['…']).collect(),
        false => text,
    }
}
