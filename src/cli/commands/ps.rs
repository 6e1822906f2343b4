//! `ps`: list containers.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::list::ListArgs;
use crate::cli::time;
use crate::container::process;
use crate::container::view::mount_of;
use crate::db::{Container, Snapshot};
use crate::model::{ContainerState, ImageId};
use crate::store::Store;

/// Arguments of `ps`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also those that neither run nor are mounted
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListArgs,
}

/// Under the names of `docker ps --format json`, and some of our own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    image: String,
    command: String,
    created_at: String,
    #[serde(skip)]
    created: String,
    status: String,
    names: String,
    state: ContainerState,
    #[serde(rename = "ImageID")]
    image_id: ImageId,
    image_present: bool,
    mountpoint: String,
}

/// Run `ps`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    // The newest first, as Docker lists them.
    let shown = snapshot.containers.iter().rev();
    let shown = shown.filter(|c| args.all || snapshot.state(c).is_active());
    let rows: Vec<Row> = shown
        .map(|c| row(&args, &cx.store, &snapshot, c))
        .collect::<Result<_, _>>()?;
    let headings = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "MOUNTPOINT",
        "NAMES",
    ];
    args.list.print(
        cx,
        &rows,
        |row| row.id.clone(),
        headings,
        |r| {
            [
                &r.id,
                &r.image,
                &r.command,
                &r.created,
                &r.status,
                &r.mountpoint,
                &r.names,
            ]
            .map(String::clone)
        },
    )
}

fn row(
    args: &Args,
    store: &Store,
    snapshot: &Snapshot,
    c: &Container,
) -> Result<Row, CommandError> {
    let state = process::state(store, snapshot, c)?;
    Ok(Row {
        id: args.list.id(&c.id, c.id.short()),
        image: image_name(snapshot, c),
        command: command(c, args.list.no_trunc),
        created_at: time::absolute(c.created),
        created: time::ago(c.created),
        status: status(snapshot, c, state),
        names: c.name.clone(),
        state,
        image_id: c.image.clone(),
        image_present: snapshot.image(&c.image).is_some(),
        mountpoint: mountpoint(store, snapshot, c)?.display().to_string(),
    })
}

/// As it was named to `create`, as long as that leads to the same image; else the image's ID.
fn image_name(snapshot: &Snapshot, c: &Container) -> String {
    match crate::image::resolve(snapshot, &c.reference) {
        Ok(found) if found.image.id == c.image => c.reference.clone(),
        _ => c.image.short().to_owned(),
    }
}

/// In quotes, shortened to 20 characters: Docker's column. Arguments with spaces are marked as one.
fn command(c: &Container, full: bool) -> String {
    let quoted = |arg: &String| match arg.contains(' ') {
        true => format!("'{arg}'"),
        false => arg.clone(),
    };
    let (program, args) = c.command.split_at(c.command.len().min(1));
    let words: Vec<String> = program
        .iter()
        .cloned()
        .chain(args.iter().map(quoted))
        .collect();
    let mut text = words.join(" ");
    if !full && text.chars().count() > 20 {
        text = text.chars().take(19).chain(['…']).collect();
    }
    format!("{text:?}")
}

fn status(snapshot: &Snapshot, c: &Container, state: ContainerState) -> String {
    let view = snapshot.view(&c.id);
    if let Some(process) = view.and_then(|view| view.process.as_ref()) {
        let up = format!("Up {}", time::since(process.started));
        return match state {
            ContainerState::Paused => format!("{up} (Paused)"),
            _ => up,
        };
    }
    match (view, c.ended) {
        (Some(view), _) if view.detached => "Detached, held by open handles".to_owned(),
        (Some(view), _) => format!("Mounted {}", time::since(view.mounted)),
        (None, Some(ended)) => {
            format!("Exited ({}) {}", c.exit_code.unwrap_or(0), time::ago(ended))
        }
        (None, None) => "Created".to_owned(),
    }
}

/// Where it is mounted, if it still is: somebody may have detached it by `umount -l`.
fn mountpoint(store: &Store, snapshot: &Snapshot, c: &Container) -> Result<PathBuf, CommandError> {
    let mount = match snapshot.view(&c.id) {
        Some(view) if !view.detached => mount_of(store, view)?,
        _ => None,
    };
    Ok(mount.map(|m| m.mountpoint).unwrap_or_default())
}
