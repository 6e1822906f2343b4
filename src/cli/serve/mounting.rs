//! Mounting a view whose layers are pinned: as our own union, or by kernel overlayfs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing::{error, info};

use super::process::{Running, stop_signal};
use super::{Pins, Service, at, detach};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::exit_code::Exit;
use crate::cli::interrupt::on_interrupt;
use crate::container::view::{mount_of, mount_source};
use crate::db::{Container, Db};
use crate::model::Driver;
use crate::store::StoreError;
use crate::store::index::{self, LayerAt};
use crate::store::layout::{ContainerDir, open_directory};
use crate::union::{
    self, Layers, MountOptions, Options, OverlayDirs, OverlayMounted, OverlayOptions, Union,
    mount_overlayfs,
};

/// A mounted view.
#[derive(Debug)]
pub enum Mounted {
    /// Our own union. Requests wait until it is served.
    Fuse(Box<union::Mounted>),
    /// The kernel serves it.
    Overlay(OverlayMounted),
}

impl Mounted {
    /// Serve it until it is over: unmounted, and the last handle closed.
    pub fn serve(self) -> io::Result<()> {
        match self {
            Mounted::Fuse(mounted) => mounted.serve(),
            Mounted::Overlay(mounted) => mounted.wait(),
        }
    }
}

/// Mount the view. From before it is mounted, signals detach it; when it is `over` and its server only
/// reclaims, they end that.
pub fn mount_pinned(
    cx: &mut Context,
    container: &Container,
    service: &Service,
    directory: &ContainerDir,
    pins: &Pins,
    (running, over): (&Running, &Arc<AtomicBool>),
) -> Result<Mounted, CommandError> {
    let mut lowers: Vec<OwnedFd> = Vec::new();
    let mut layers = Vec::new();
    for diff in &pins.stack {
        for (_, pin) in pins.pins.iter().filter(|(d, _)| d == diff) {
            let tree = cx.store.layer(diff).join("tree");
            lowers.push(pin.open_tree().map_err(StoreError::at("open", &tree))?);
            let directory = pin.directory();
            layers.push(LayerAt { diff, directory });
        }
    }
    // A read-only view shows what the container wrote as well; the mount refuses all changes.
    let upper = open_directory(&directory.upper())?;
    let work = open_directory(&directory.work())?;
    let fs_name = mount_source(&cx.store, &container.id);
    match service.driver {
        Driver::Fuse => {
            let image = pins.image.as_ref();
            let index = index::merged_in(&cx.store, &container.image, image, &layers)?;
            let layers = Layers {
                lowers,
                index: Some(index),
                upper: Some(upper),
                work: Some(work),
            };
            let options = Options {
                volatile: service.volatile,
                ..Options::default()
            };
            let union = Union::new(layers, options).map_err(at(service, "prepare the view"))?;
            let options = MountOptions {
                fs_name,
                read_only: service.read_only,
                io: service.io.into(),
                ..MountOptions::default()
            };
            detached_by_signals(cx, container, pins, (running, over), || {
                union::mount(union, &service.mountpoint, &options)
                    .map(|mounted| Mounted::Fuse(mounted.into()))
                    .map_err(at(service, "mount"))
            })
        }
        Driver::Overlay => {
            let dirs = OverlayDirs {
                lowers,
                empty: open_directory(&directory.merged())?,
                upper,
                work,
            };
            let options = OverlayOptions {
                fs_name,
                read_only: service.read_only,
                volatile: service.volatile,
            };
            let mounted = detached_by_signals(cx, container, pins, (running, over), || {
                mount_overlayfs(dirs, &service.mountpoint, &options)
                    .map(Mounted::Overlay)
                    .map_err(at(service, "mount"))
            })?;
            note_device(cx, pins)?;
            Ok(mounted)
        }
    }
}

/// Mount with `mount`. Signals from now on detach the view.
fn detached_by_signals(
    cx: &Context,
    container: &Container,
    pins: &Pins,
    (running, over): (&Running, &Arc<AtomicBool>),
    mount: impl FnOnce() -> Result<Mounted, CommandError>,
) -> Result<Mounted, CommandError> {
    let (store, view) = (cx.store.clone(), pins.view.clone());
    let mounting = Arc::new(Mutex::new(()));
    let until_mounted = mounting.clone();
    let mount_point = mounting.lock();
    // Detached, not killed: those who still have files open keep them. From before it is mounted on,
    // for what is told then must not end a server that has a mount by a moment later.
    let (running, stop_signal) = (running.clone(), stop_signal(container));
    let over = over.clone();
    on_interrupt(move || {
        // It only reclaims any more, which may be steered and take long; what is left then is gc's, as
        // after a SIGKILL.
        if over.load(Ordering::Relaxed) {
            info!("interrupted: what is not reclaimed yet is left to gc");
            std::process::exit(Exit::Interrupted.code().into());
        }
        let _mounted = until_mounted.lock();
        // The view ends when the process has.
        if running.stop(stop_signal) {
            return;
        }
        detach(&store, &view.container);
        let noted = Db::open(&store.database())
            .and_then(|mut db| db.write(|tx| tx.set_view_detached(&view)));
        if let Err(e) = noted {
            error!("{e}");
        }
    })?;
    let mounted = mount()?;
    drop(mount_point);
    Ok(mounted)
}

/// By the device the users of the view are found also when it is mounted nowhere and its server is dead.
fn note_device(cx: &mut Context, pins: &Pins) -> Result<(), CommandError> {
    // Unmounted already, it has no users.
    if let Some(mount) = mount_of(&cx.store, &pins.view)? {
        let (major, minor) = mount.device;
        let device = rustix::fs::makedev(major, minor);
        cx.db.write(|tx| tx.set_view_device(&pins.view, device))?;
    }
    Ok(())
}
