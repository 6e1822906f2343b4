//! The process behind a mounted view.
//!
//! It pins the image's layers, serves the union, runs the container's process in it if it is told to
//! (`process`), and when that ends, unpins the layers and reclaims those that were marked meanwhile. `mount` starts it as a hidden command of the same program, and reads
//! from its standard output whether the view is ready; what it has to say later goes to the
//! container's log.

mod mounting;
mod process;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum as _;
use tracing::{error, info};

use super::context::Context;
use super::daemon;
use super::error::CommandError;
use crate::container::bundle::{RunDir, cgroup};
use crate::container::lifecycle::LifecycleError;
use crate::container::lock::ServerLock;
use crate::container::view;
use crate::db::{Container, View};
use crate::image::removal;
use crate::model::{ContainerId, DiffId, Driver, Phase, Purpose};
use crate::reclaim::execute::{Outcome, reclaim};
use crate::reclaim::pins::Pin;
use crate::store::index;
use crate::store::lock::Attempt;
use crate::store::{Store, StoreError};
use crate::sys::reason;
use crate::union::IoMode;
use mounting::mount_pinned;
pub use process::stop_signal;
use process::{Running, Serving};

/// Arguments of the hidden command.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    container: String,
    #[arg(long)]
    mountpoint: PathBuf,
    #[arg(long)]
    read_only: bool,
    #[arg(long)]
    volatile: bool,
    #[arg(long)]
    io: Io,
    #[arg(long)]
    driver: Driver,
    #[arg(long)]
    transient: bool,
    /// Run the container's process
    #[arg(long)]
    run: bool,
    /// Standard input is a socket over which the caller joins
    #[arg(long)]
    attached: bool,
}

/// A view to be served.
#[derive(Debug, Clone)]
pub struct Service {
    /// Whose.
    pub container: ContainerId,
    /// Where: an absolute path.
    pub mountpoint: PathBuf,
    /// Refuse all changes.
    pub read_only: bool,
    /// Do not sync what is copied up.
    pub volatile: bool,
    /// How files are read and written, by our own union.
    pub io: Io,
    /// What serves it.
    pub driver: Driver,
    /// For the command alone that starts the server: the view goes with it, and leaves no trace in
    /// the container's state.
    pub transient: bool,
    /// Whether the container's process runs in it.
    pub run: Run,
}

impl Service {
    fn purpose(&self) -> Purpose {
        match (self.run, self.transient) {
            (Run::Detached | Run::Attached, _) => Purpose::Run,
            (Run::No, true) => Purpose::Transient,
            (Run::No, false) => Purpose::Mount,
        }
    }
}

/// Whether a view's server runs the container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Run {
    /// It only serves the view.
    #[default]
    No,
    /// It does.
    Detached,
    /// It does, and its standard input is a socket over which its caller has joined.
    Attached,
}

/// How files are read and written, as it is said on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Io {
    /// Files of the container directly from and to the disk, past the view's server
    #[default]
    Passthrough,
    /// All through the kernel's cache; opening a file does not ask the view's server
    Cached,
}

impl From<Io> for IoMode {
    fn from(io: Io) -> IoMode {
        match io {
            Io::Passthrough => IoMode::Passthrough,
            Io::Cached => IoMode::Cached,
        }
    }
}

/// The command line that serves a view.
pub fn arguments(service: &Service) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["serve".into(), "--container".into()];
    arguments.push(service.container.hex().into());
    arguments.extend(["--mountpoint".into(), service.mountpoint.clone().into()]);
    arguments.extend(service.read_only.then(|| "--read-only".into()));
    arguments.extend(service.volatile.then(|| "--volatile".into()));
    arguments.extend(service.transient.then(|| "--transient".into()));
    if let Some(io) = service.io.to_possible_value() {
        arguments.extend(["--io".into(), io.get_name().into()]);
    }
    arguments.extend(["--driver".into(), service.driver.as_str().into()]);
    arguments.extend((service.run != Run::No).then(|| "--run".into()));
    arguments.extend((service.run == Run::Attached).then(|| "--attached".into()));
    arguments
}

/// Run the hidden command: every error until the view is ready goes to whoever started it.
pub fn run(args: Args, root: Option<&Path>) -> Result<(), CommandError> {
    let service = Service {
        container: args.container.parse()?,
        mountpoint: args.mountpoint,
        read_only: args.read_only,
        volatile: args.volatile,
        io: args.io,
        driver: args.driver,
        transient: args.transient,
        run: match (args.run, args.attached) {
            (false, _) => Run::No,
            (true, false) => Run::Detached,
            (true, true) => Run::Attached,
        },
    };
    let mut is_ready = false;
    let result = Context::open(root).and_then(|mut cx| {
        serve(&mut cx, &service, |_| {
            is_ready = true;
            if service.transient {
                daemon::end_with_starter()?;
            }
            daemon::is_ready();
            // From here on nobody reads the pipe: what is printed goes to the log as well.
            Ok(rustix::stdio::dup2_stdout(std::io::stderr())?)
        })
    });
    if let Err(CommandError::Message(text) | CommandError::Refused { text, .. }) = &result {
        error!("{text}");
        if !is_ready {
            let code = match &result {
                Err(CommandError::Refused { code, .. }) => *code,
                _ => 1,
            };
            daemon::is_refused(text, code);
        }
        return Err(CommandError::Reported);
    }
    result
}

/// Serve a view until it is unmounted and the last handle is closed. `ready` is called when it can
/// be used.
pub fn serve(
    cx: &mut Context,
    service: &Service,
    ready: impl FnOnce(&mut Context) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let container = container(cx, &service.container)?;
    let directory = cx.store.container(&container.id);
    let lock = match ServerLock::acquire(directory.path())? {
        Attempt::Locked(lock) => lock,
        Attempt::Busy => {
            let name = &container.name;
            return Err(CommandError::new(format!(
                "container {name} is being mounted or removed"
            )));
        }
        Attempt::Gone if cx.db.read(|tx| tx.has_container(&container.id))? => {
            let gone = StoreError::at("open", directory.path())(rustix::io::Errno::NOENT);
            return Err(gone.into());
        }
        Attempt::Gone => return Err(LifecycleError::NoSuchContainer(container.name).into()),
    };
    // Whoever has the lock knows that a view on record is a dead server's.
    view::bury_predecessor(&mut cx.db, &cx.store, &service.container)?;
    let open_files = open_files_limit();
    let pins = match begin(cx, &container, service) {
        Ok(pins) => pins,
        Err(error) => {
            // Its pins may have kept a removal from reclaiming what it had marked.
            drop(lock);
            return first_of(Err(error), reclaim_all_marked(cx));
        }
    };
    let running = Running::new(cgroup(&cx.store, &container.id));
    let over = Arc::new(AtomicBool::new(false));
    let mounted = match mount_pinned(
        cx,
        &container,
        service,
        &directory,
        &pins,
        (&running, &over),
    ) {
        Ok(mounted) => mounted,
        Err(error) => {
            detach(&cx.store, &service.container);
            let cancelled = cancel(cx, &container, &pins);
            return first_of(Err(error), cancelled.and_then(|()| release(cx, pins, lock)));
        }
    };
    info!("mounted at {}", service.mountpoint.display());
    let serving = Serving::start(mounted, &running)?;
    let started = match service.run {
        Run::No => Ok(None),
        run => take_caller(run).and_then(|caller| {
            let view = &pins.view;
            process::start(cx, &container, view, &running, caller, open_files).map(Some)
        }),
    };
    let held = match started {
        Ok(held) => held,
        Err(error) => {
            detach(&cx.store, &service.container);
            note_refusal(cx, &container, &error);
            let run = RunDir::of(&cx.store, &container.id);
            let error = first_of(Err(error), run.remove().map_err(CommandError::from));
            let ended = serving.join().map_err(at(service, "serve the view"));
            let cancelled = ended.and_then(|()| cancel(cx, &container, &pins));
            return first_of(error, cancelled.and_then(|()| release(cx, pins, lock)));
        }
    };
    let told = ready(cx);
    let ended = match &held {
        Some(held) => process::wait(cx, &container, &pins.view, &running, held).map(|_| ()),
        None => Ok(()),
    };
    if held.is_some() || told.is_err() {
        // An interrupted or aborted view leaves its mount point behind.
        detach(&cx.store, &service.container);
    }
    let served = serving.join().map_err(at(service, "serve the view"));
    let result = told.and(ended).and(served);
    detach(&cx.store, &service.container);
    let code = i32::from(result.is_err());
    let ended = process::write_even_if_full(cx, |tx| view::end(tx, &pins.view, code));
    let released = ended.map_err(CommandError::from).and_then(|_| {
        info!("unmounted");
        let Pins {
            view, pins, image, ..
        } = pins;
        drop((pins, image));
        view::remove_abandoned(&mut cx.db, &cx.store, &view.container)?;
        drop(lock);
        // Before the bytes go, which may take its time.
        over.store(true, Ordering::Relaxed);
        if let Some(held) = &held {
            held.release();
        }
        discard_image(cx, &view);
        reclaim_marked(cx, view.pins)
    });
    first_of(result, released)
}

/// The socket over which the caller has joined.
fn take_caller(run: Run) -> Result<Option<UnixStream>, CommandError> {
    if run != Run::Attached {
        return Ok(None);
    }
    let socket = rustix::stdio::stdin().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(Some(socket.into()))
}

/// The view was never used: the container is what it was before, or gone if it was to go at its end.
fn cancel(cx: &mut Context, container: &Container, pins: &Pins) -> Result<(), CommandError> {
    view::cancel(&mut cx.db, &pins.view)?;
    if container.settings.auto_remove {
        cx.db.write(|tx| tx.delete_container(&container.id))?;
    }
    Ok(())
}

/// `inspect` shows why the process could not be started.
fn note_refusal(cx: &mut Context, container: &Container, error: &CommandError) {
    if let CommandError::Refused { text, code } = error {
        let noted = cx
            .db
            .write(|tx| tx.set_container_error(&container.id, i32::from(*code), text));
        if let Err(e) = noted {
            error!("{e}");
        }
    }
}

/// What went wrong first is what the user is told; what then goes wrong in cleaning up is logged.
fn first_of(
    result: Result<(), CommandError>,
    cleaned_up: Result<(), CommandError>,
) -> Result<(), CommandError> {
    if let (Err(_), Err(CommandError::Message(text))) = (&result, &cleaned_up) {
        error!("{text}");
    }
    result.and(cleaned_up)
}

/// Soft and hard limit of open files as this process was given them: the union raises its own.
fn open_files_limit() -> (u64, u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let or_none = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    (or_none(limit.current), or_none(limit.maximum))
}

fn container(cx: &mut Context, id: &ContainerId) -> Result<Container, CommandError> {
    let snapshot = cx.snapshot()?;
    Ok(crate::container::find(&snapshot, id.hex())?.clone())
}

/// The image's layers, pinned, and on record.
struct Pins {
    /// Topmost first, as often as they lie in the image's stack.
    stack: Vec<DiffId>,
    /// Each once.
    pins: Vec<(DiffId, Pin)>,
    /// The image's own files: the view maps the index that is there.
    image: Option<OwnedFd>,
    view: View,
}

/// Pin the image's layers and write the view down.
fn begin(cx: &mut Context, container: &Container, service: &Service) -> Result<Pins, CommandError> {
    let gone = || LifecycleError::NoSuchImage(container.reference.clone());
    loop {
        let places = cx.db.read(|tx| match tx.has_image(&container.image)? {
            true => tx
                .layers_of(&container.image)
                .map(Some)
                .map_err(LifecycleError::from),
            false => Ok(None),
        })?;
        let stack: Vec<DiffId> = places
            .ok_or_else(gone)?
            .into_iter()
            .rev()
            .map(|place| place.diff)
            .collect();
        let mut pins: Vec<(DiffId, Pin)> = Vec::new();
        for diff in &stack {
            if pins.iter().all(|(d, _)| d != diff)
                && let Some(pin) = Pin::acquire(&cx.store, diff)?
            {
                pins.push((diff.clone(), pin));
            }
        }
        let store = &cx.store;
        let begun = cx.db.write(|tx| -> Result<Option<_>, CommandError> {
            // Names change in write transactions only, so what is looked at here stays so.
            let unfollowed = removal::settle(tx, store)?;
            removal::in_the_way(unfollowed, |diff| stack.contains(diff))?;
            if !tx.has_image(&container.image)? {
                return Err(gone().into());
            }
            let mut rows = Vec::new();
            for diff in &stack {
                let row = tx.present_layer(diff)?.ok_or_else(|| {
                    CommandError::new(format!(
                        "the store has no layer {diff}, though an image names it"
                    ))
                })?;
                let current = pins.iter().find(|(d, _)| d == diff).map(|(_, pin)| pin);
                match current.map(|pin| pin.is_current(store, diff)).transpose()? {
                    Some(true) if !rows.contains(&row.id) => rows.push(row.id),
                    Some(true) => {}
                    // It was marked and loaded anew between pin and transaction. Old and new must
                    // not be mixed: once more.
                    Some(false) | None if store.layer(diff).exists() => return Ok(None),
                    Some(false) | None => {
                        let path = store.layer(diff);
                        return Err(CommandError::new(format!(
                            "the layer {} is missing: it was not this program that deleted it",
                            path.display()
                        )));
                    }
                }
            }
            let how = (service.purpose(), service.driver);
            let view = view::begin(tx, container, &service.mountpoint, how, &rows)?;
            Ok(Some((view, index::directory_of(store, &container.image))))
        })?;
        if let Some((view, image)) = begun {
            return Ok(Pins {
                stack,
                pins,
                image,
                view,
            });
        }
    }
}

fn at(service: &Service, what: &'static str) -> impl FnOnce(std::io::Error) -> CommandError {
    let path = service.mountpoint.display().to_string();
    move |e| CommandError::new(format!("cannot {what} at {path}: {}", reason(&e)))
}

fn detach(store: &Store, container: &ContainerId) {
    if let Err(e) = view::detach(store, container) {
        error!("{e}");
    }
}

/// The record of the view is gone; now the pins, then the lock, then the bytes.
fn release(cx: &mut Context, pins: Pins, lock: ServerLock) -> Result<(), CommandError> {
    drop(pins.pins);
    view::remove_abandoned(&mut cx.db, &cx.store, &pins.view.container)?;
    drop(lock);
    discard_image(cx, &pins.view);
    reclaim_marked(cx, pins.view.pins)
}

/// Delete what a removal has left of the image's own files. What cannot be deleted is an orphan.
fn discard_image(cx: &mut Context, view: &View) {
    if let Err(e) = view::discard_image(&mut cx.db, &cx.store, view) {
        error!("{e}");
    }
}

/// Reclaim the marked layers that nothing holds.
fn reclaim_all_marked(cx: &mut Context) -> Result<(), CommandError> {
    let marked = cx.db.read(|tx| tx.marked_layers())?;
    reclaim_marked(cx, marked.into_iter().map(|layer| layer.id))
}

/// Reclaim those of these layers that are marked and that nothing holds.
fn reclaim_marked(
    cx: &mut Context,
    rows: impl IntoIterator<Item = i64>,
) -> Result<(), CommandError> {
    for unfollowed in removal::follow_up(&mut cx.db, &cx.store, &[])? {
        error!("{}", unfollowed.error);
    }
    for row in rows {
        let layer = cx.db.read(|tx| tx.layer(row))?;
        let Some(layer) = layer.filter(|l| l.phase != Phase::Present) else {
            continue;
        };
        match reclaim(&mut cx.db, &cx.store, &layer, &mut cx.pace) {
            Ok(Outcome::Reclaimed) => info!("reclaimed {} ({} bytes)", layer.chain, layer.bytes),
            Ok(Outcome::Pinned(_) | Outcome::Busy) => info!("{} is still in use", layer.chain),
            // It stays for gc, and `events` tells.
            Err(e) => error!("cannot reclaim {}: {e}", layer.chain),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_and_not_its_consequence() {
        let fail = |text| Err(CommandError::new(text));
        let told = |result, cleaned_up| match first_of(result, cleaned_up) {
            Err(CommandError::Message(text)) => text,
            other => format!("{other:?}"),
        };
        assert_eq!(told(fail("cause"), fail("consequence")), "cause");
        assert_eq!(told(fail("cause"), Ok(())), "cause");
        assert_eq!(told(Ok(()), fail("clean-up")), "clean-up");
        assert_eq!(told(Ok(()), Ok(())), "Ok(())");
    }
}
