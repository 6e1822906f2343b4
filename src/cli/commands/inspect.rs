//! `inspect`: everything about images and containers, as JSON.

use serde_json::{Value, json};

use super::for_each;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::bundle::hostname;
use crate::container::view::mount_of;
use crate::container::{FindError, find, process};
use crate::db::{Container, Image, Snapshot};
use crate::image::{ResolveError, config, resolve};
use crate::model::ContainerState;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Containers and images, by name, tag, ID, or unambiguous prefix of an ID
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Run `inspect`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let mut found = Vec::new();
    let result = for_each(cx, &args.names, |cx, name| {
        let image = resolve(&snapshot, name);
        let is_tag = image.as_ref().is_ok_and(|found| found.by_tag.is_some());
        match find(&snapshot, name) {
            Ok(container) => {
                found.push(inspect_container(cx, &snapshot, container)?);
                return Ok(());
            }
            // A tag is a name in full; an image's ID may have the same beginning as containers'.
            Err(ambiguous @ FindError::Ambiguous(_)) if !is_tag => return Err(ambiguous.into()),
            Err(FindError::Ambiguous(_) | FindError::NoSuchContainer(_)) => {}
        }
        match image {
            Ok(resolved) => found.push(inspect_image(cx, &snapshot, resolved.image)?),
            Err(ResolveError::NoSuchImage(_)) => {
                return Err(CommandError::new(format!("No such object: {name}")));
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    });
    let text = serde_json::to_string_pretty(&found)?;
    cx.line(text)?;
    result
}

/// Under Docker's names, as far as it has them.
fn inspect_image(cx: &Context, snapshot: &Snapshot, image: &Image) -> Result<Value, CommandError> {
    // The archive's own words: what this program does not read is shown as well.
    let config: Value = serde_json::from_slice(&config::raw(&cx.store, &image.id)?)?;
    let layers: Vec<Value> = image
        .layers
        .iter()
        .map(|place| {
            json!({
                "DiffID": place.diff,
                "ChainID": place.chain,
                "Directory": cx.store.layer(&place.diff).join("tree"),
            })
        })
        .collect();
    Ok(json!({
        "Id": image.id,
        "RepoTags": image.tags,
        "Created": config["created"],
        "Loaded": image.loaded,
        "Author": config["author"],
        "Architecture": config["architecture"],
        "Variant": config["variant"],
        "Os": config["os"],
        "Size": snapshot.size_of(image),
        "Config": config["config"],
        "RootFS": {
            "Type": "layers",
            "Layers": image.layers.iter().map(|l| &l.diff).collect::<Vec<_>>(),
        },
        "Layers": layers,
    }))
}

fn inspect_container(
    cx: &Context,
    snapshot: &Snapshot,
    container: &Container,
) -> Result<Value, CommandError> {
    let directory = cx.store.container(&container.id);
    let state = process::state(&cx.store, snapshot, container)?;
    let view = snapshot.view(&container.id);
    let process = view.and_then(|view| view.process.as_ref());
    let mount = view
        .map(|view| mount_of(&cx.store, view))
        .transpose()?
        .flatten();
    let settings = &container.settings;
    let mounts: Vec<Value> = settings
        .binds
        .iter()
        .map(|bind| {
            json!({
                "Type": "bind",
                "Source": bind.source,
                "Destination": bind.destination,
                "RW": !bind.read_only,
            })
        })
        .collect();
    Ok(json!({
        "Id": container.id,
        "Created": container.created,
        "Name": format!("/{}", container.name),
        "Path": container.command.first(),
        "Args": container.command.get(1..).unwrap_or_default(),
        "Image": container.image,
        "ImagePresent": snapshot.image(&container.image).is_some(),
        "Config": {
            "Image": container.reference,
            "Hostname": hostname(&container.id, settings),
            "User": settings.user,
            "Env": settings.env,
            "Entrypoint": settings.entrypoint,
            "Cmd": settings.cmd,
            "WorkingDir": settings.working_dir,
            "Tty": settings.tty,
            "OpenStdin": settings.open_stdin,
            "StopSignal": settings.stop_signal,
        },
        "HostConfig": {
            "Binds": settings.binds.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "NetworkMode": settings.network,
            "ReadonlyRootfs": settings.read_only,
            "AutoRemove": settings.auto_remove,
            "Runtime": settings.runtime,
        },
        "Mounts": mounts,
        "State": {
            "Status": state,
            "Running": process.is_some(),
            "Paused": state == ContainerState::Paused,
            // Of one that is only mounted, its server's.
            "Pid": process.map(|p| p.pid).or(view.map(|v| v.pid)).unwrap_or(0),
            "ServerPid": view.map_or(0, |v| v.pid),
            "ExitCode": container.exit_code.unwrap_or(0),
            "Error": container.error,
            "StartedAt": process
                .map(|p| p.started)
                .or(view.map(|v| v.mounted))
                .or(container.started),
            "FinishedAt": container.ended,
        },
        "LogPath": directory.output(),
        "ServerLogPath": directory.log(),
        "GraphDriver": {
            "Name": "layerctl",
            "Data": {
                // Of the view that it has now.
                "Driver": view.map(|view| view.driver),
                "UpperDir": directory.upper(),
                "WorkDir": directory.work(),
                "MergedDir": mount.map(|m| m.mountpoint),
            },
        },
    }))
}
