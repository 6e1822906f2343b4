//! `why`: what keeps a layer or an image.

use jiff::Timestamp;
use rustix::fs::{major, minor};
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::{Format, time};
use crate::container::unserved::is_unserved;
use crate::container::view::mount_of;
use crate::db::{Image, Snapshot, View};
use crate::image::{ResolveError, resolve};
use crate::model::{ChainId, ContainerId, DiffId, Driver, ImageId, Layer, LayerState, human};
use crate::store::Store;
use crate::sys::processes::{Holder, holders};

/// Arguments of `why`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An image, also a removed one by its ID, or the chain ID or diff ID of a layer; prefixes will do
    #[arg(value_name = "LAYER|IMAGE")]
    name: String,
    /// Text or JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Reason {
    chain_id: ChainId,
    diff_id: DiffId,
    bytes: u64,
    state: LayerState,
    images: Vec<NamedBy>,
    views: Vec<HeldBy>,
}

#[derive(Debug, Serialize)]
struct NamedBy {
    id: ImageId,
    tags: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
struct HeldBy {
    container: ContainerId,
    name: String,
    pid: i32,
    driver: Driver,
    /// Of kernel overlayfs one may have been killed, and the view goes on.
    server_is_dead: bool,
    mountpoint: String,
    since: Timestamp,
    processes: Vec<Process>,
}

#[derive(Debug, Clone, Serialize)]
struct Process {
    pid: i32,
    name: String,
    uses: Vec<String>,
    /// When the process was started.
    started: Option<Timestamp>,
    /// The later of its start and of the view's mount: all that it holds it has since then or later. When
    /// it opened or mapped a file the kernel does not record.
    held_after: Timestamp,
    files: Vec<File>,
}

#[derive(Debug, Clone, Serialize)]
struct File {
    /// From the view's root.
    path: String,
    #[serde(rename = "use")]
    how: String,
    /// It has no name in the view any more.
    deleted: bool,
}

/// How many files of a process the text names.
const NAMED: usize = 4;

/// Run `why`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let layers = match find_layers(&snapshot, &args.name) {
        Err(error) => match removed_with(cx, &snapshot, &args.name)? {
            layers if layers.is_empty() => return Err(error),
            layers => layers,
        },
        found => found?,
    };
    let views = views_of(&cx.store, &snapshot, &layers)?;
    for layer in layers {
        let reason = reason(&snapshot, layer, &views);
        match args.format {
            Format::Json => cx.json(&reason)?,
            Format::Table => tell(cx, &reason)?,
        }
    }
    Ok(())
}

/// The layers of an image, or those that bear this ID: one may be live and, loaded before and
/// marked since, pending as well.
fn find_layers<'a>(snapshot: &'a Snapshot, name: &str) -> Result<Vec<&'a Layer>, CommandError> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let layers: Vec<&Layer> = snapshot
        .layers
        .iter()
        .filter(|l| {
            let chain = snapshot.chain_of(l);
            is_hex && (chain.hex().starts_with(hex) || l.diff.hex().starts_with(hex))
        })
        .collect();
    let image = resolve(snapshot, name);
    match (layers.as_slice(), image) {
        ([], Ok(found)) => Ok(layers_of(snapshot, found.image)),
        ([], Err(ResolveError::NoSuchImage(_))) => {
            Err(CommandError::new(format!("No such layer or image: {name}")))
        }
        ([], Err(e)) => Err(e.into()),
        (_, Ok(found)) if found.by_tag.is_some() => Ok(layers_of(snapshot, found.image)),
        ([first, rest @ ..], Err(_)) if rest.iter().all(|l| l.diff == first.diff) => Ok(layers),
        _ => Err(CommandError::new(format!(
            "multiple IDs found with provided prefix: {name}"
        ))),
    }
}

/// The layers that are left of an image that was removed, by its ID.
fn removed_with<'a>(
    cx: &mut Context,
    snapshot: &'a Snapshot,
    name: &str,
) -> Result<Vec<&'a Layer>, CommandError> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let rows = cx.db.read(|tx| match tx.removed_images(hex)?.as_slice() {
        [image] => tx.layers_removed_with(image),
        _ => Ok(Vec::new()),
    })?;
    let layers = snapshot.layers.iter();
    Ok(layers
        .filter(|layer| rows.iter().any(|row| row.id == layer.id))
        .collect())
}

fn layers_of<'a>(snapshot: &'a Snapshot, image: &Image) -> Vec<&'a Layer> {
    let named = |l: &&Layer| snapshot.named_by(l).contains(&image.id);
    snapshot.layers.iter().filter(named).collect()
}

/// The views that pin one of these layers, and who uses them. To find that out all processes are
/// looked at: once for a view, however many layers it pins.
fn views_of<'a>(
    store: &Store,
    snapshot: &'a Snapshot,
    layers: &[&Layer],
) -> Result<Vec<(&'a View, HeldBy)>, CommandError> {
    let mut views = Vec::new();
    for view in &snapshot.views {
        if !layers.iter().any(|layer| view.pins.contains(&layer.id)) {
            continue;
        }
        let mount = mount_of(store, view)?;
        // Where it is not mounted here it may be that the device is on record.
        let on_record = view.device.map(|device| (major(device), minor(device)));
        let device = mount.as_ref().map(|mount| mount.device).or(on_record);
        let seen_at = mount.as_ref().map(|mount| mount.mountpoint.as_path());
        let processes = match device {
            Some(device) => holders(device, seen_at)?,
            None => Vec::new(),
        };
        let container = snapshot.containers.iter().find(|c| c.id == view.container);
        let held_by = HeldBy {
            container: view.container.clone(),
            name: container.map(|c| c.name.clone()).unwrap_or_default(),
            pid: view.pid,
            driver: view.driver,
            server_is_dead: is_unserved(store, view)?,
            mountpoint: mount
                .map(|m| m.mountpoint.display().to_string())
                .unwrap_or_default(),
            since: view.mounted,
            processes: processes
                .into_iter()
                .map(|holder| process(holder, view.mounted))
                .collect(),
        };
        views.push((view, held_by));
    }
    Ok(views)
}

fn reason(snapshot: &Snapshot, layer: &Layer, views: &[(&View, HeldBy)]) -> Reason {
    let named_by = snapshot.named_by(layer);
    let named = snapshot.images.iter().filter(|i| named_by.contains(&i.id));
    let images = named
        .map(|i| NamedBy {
            id: i.id.clone(),
            tags: i.tags.iter().map(ToString::to_string).collect(),
        })
        .collect();
    let held_by = views.iter().filter(|(v, _)| v.pins.contains(&layer.id));
    Reason {
        chain_id: snapshot.chain_of(layer).clone(),
        diff_id: layer.diff.clone(),
        bytes: layer.bytes,
        state: snapshot.layer_state(layer),
        images,
        views: held_by.map(|(_, held_by)| held_by.clone()).collect(),
    }
}

fn process(holder: Holder, mounted: Timestamp) -> Process {
    let uses = holder.uses.iter().map(ToString::to_string).collect();
    let started = holder
        .age
        .and_then(|age| Timestamp::now().checked_sub(age).ok());
    let files = holder.files.into_iter().map(|file| File {
        path: file.path.to_string_lossy().into_owned(),
        how: file.how.to_string(),
        deleted: file.deleted,
    });
    Process {
        pid: holder.pid,
        name: holder.name,
        uses,
        started,
        held_after: started.map_or(mounted, |started| started.max(mounted)),
        files: files.collect(),
    }
}

/// `for at most 5 seconds: /etc/services, /tmp/x (deleted) and 3 more`.
fn what_it_holds(process: &Process) -> String {
    let mut paths: Vec<String> = Vec::new();
    for file in &process.files {
        let deleted = if file.deleted { " (deleted)" } else { "" };
        let path = format!("{}{deleted}", escaped(&file.path));
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    let more = match paths.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    paths.truncate(NAMED);
    format!(
        "for at most {}: {}{more}",
        time::since(process.held_after),
        paths.join(", ")
    )
}

/// In one line, whatever the name of a file is.
fn escaped(path: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    path.chars().map(escape).collect()
}

fn tell(cx: &mut Context, reason: &Reason) -> Result<(), CommandError> {
    cx.line(format_args!(
        "{} is {} ({}, diff {})",
        reason.chain_id,
        reason.state,
        human::size(reason.bytes),
        reason.diff_id.short()
    ))?;
    for image in &reason.images {
        let tags = if image.tags.is_empty() {
            "no tag".into()
        } else {
            image.tags.join(", ")
        };
        cx.line(format_args!(
            "  named by image {} ({tags})",
            image.id.short()
        ))?;
    }
    for view in &reason.views {
        let place = match view.mountpoint.as_str() {
            "" => "detached".to_owned(),
            place => format!("mounted at {place}"),
        };
        let (pid, time) = (view.pid, time::since(view.since));
        let service = match (view.driver, view.server_is_dead) {
            (Driver::Fuse, _) => format!("served by PID {pid} for {time}"),
            (Driver::Overlay, false) => format!("kernel overlayfs, held by PID {pid} for {time}"),
            (Driver::Overlay, true) => {
                format!("kernel overlayfs for {time}, its server (PID {pid}) was killed")
            }
        };
        cx.line(format_args!(
            "  pinned by container {} ({}), {place}, {service}",
            view.container.short(),
            view.name
        ))?;
        for process in &view.processes {
            let uses = process.uses.join(", ");
            cx.line(format_args!(
                "    used by PID {} ({}): {uses}",
                process.pid, process.name
            ))?;
            cx.line(format_args!("      {}", what_it_holds(process)))?;
        }
    }
    if reason.images.is_empty() && reason.views.is_empty() {
        cx.line(match reason.state {
            LayerState::Unused => "  nothing: `layerctl prune` takes it",
            _ => "  nothing: `layerctl gc` takes it",
        })?;
    }
    Ok(())
}
