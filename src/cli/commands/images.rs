//! `images`: list images.

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::list::ListArgs;
use crate::cli::time;
use crate::db::Image;
use crate::model::{Reference, human, reference};

/// Arguments of `images`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those of this repository, or with this tag
    #[arg(value_name = "REPOSITORY[:TAG]")]
    filter: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// Under the names of `docker images --format json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    repository: String,
    tag: String,
    size: String,
    created_at: String,
    created_since: String,
}

/// Run `images`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let wanted = args.filter.as_deref().map(Filter::parse).transpose()?;
    let mut images: Vec<&Image> = snapshot.images.iter().collect();
    // The newest first, as Docker lists them.
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let mut rows = Vec::new();
    for image in images {
        let id = args.list.id(&image.id, image.id.short());
        for tag in names(image, wanted.as_ref()) {
            let none = || "<none>".to_owned();
            rows.push(Row {
                id: id.clone(),
                repository: tag.map_or_else(none, |t| t.repository().to_owned()),
                tag: tag.map_or_else(none, |t| t.tag().to_owned()),
                size: human::size(snapshot.size_of(image)),
                created_at: image
                    .created
                    .map_or_else(|| "N/A".to_owned(), time::absolute),
                created_since: image.created.map_or_else(|| "N/A".to_owned(), time::ago),
            });
        }
    }
    let headings = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    args.list.print(
        cx,
        &rows,
        |row| row.id.clone(),
        headings,
        |row| {
            [
                &row.repository,
                &row.tag,
                &row.id,
                &row.created_since,
                &row.size,
            ]
            .map(String::clone)
        },
    )
}

/// The tags under which an image is listed; a dangling one is listed once without.
fn names<'a>(image: &'a Image, filter: Option<&Filter>) -> Vec<Option<&'a Reference>> {
    let matching = |tag: &&Reference| filter.is_none_or(|f| f.matches(tag));
    match (image.tags.is_empty(), filter) {
        (true, None) => vec![None],
        _ => image.tags.iter().filter(matching).map(Some).collect(),
    }
}

struct Filter {
    repository: String,
    tag: Option<String>,
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, CommandError> {
        Ok(match text.rsplit_once(':') {
            Some((_, tag)) if !tag.contains('/') => {
                let reference: Reference = text.parse()?;
                let tag = Some(reference.tag().to_owned());
                Filter {
                    repository: reference.repository().to_owned(),
                    tag,
                }
            }
            _ => Filter {
                repository: reference::familiar(text)?,
                tag: None,
            },
        })
    }

    fn matches(&self, tag: &Reference) -> bool {
        tag.repository() == self.repository && self.tag.as_deref().is_none_or(|t| t == tag.tag())
    }
}
