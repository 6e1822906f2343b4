//! `mount`: serve a container's view, and print where.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::cli::context::Context;
use crate::cli::daemon::{self, Started};
use crate::cli::error::CommandError;
use crate::cli::serve::{self, Io, Run, Service};
use crate::cli::view_access;
use crate::container::find;
use crate::container::lifecycle::LifecycleError;
use crate::container::unserved::server_in_words;
use crate::container::view::{self, mounts_of};
use crate::model::Driver;
use crate::store::StoreError;
use crate::sys::mounts::mount_at;
use crate::sys::{overlayfs, reason};

/// Arguments of `mount`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Refuse all changes
    #[arg(long)]
    read_only: bool,
    /// Do not sync a file that is copied up before its name appears: faster, not crash-safe
    #[arg(long)]
    volatile: bool,
    /// What serves the view: our own union over FUSE, or kernel overlayfs (fuse, overlay)
    #[arg(long, value_name = "DRIVER", default_value_t)]
    driver: Driver,
    /// How files are read and written, over FUSE [default: passthrough]
    #[arg(long, value_name = "MODE", value_enum)]
    io: Option<Io>,
    /// Serve the view from this process, until it is unmounted or interrupted; log to standard error
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Name, ID, or unambiguous prefix of an ID
    container: String,
    /// An empty directory, instead of one in the store
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Run `mount`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    if args.driver == Driver::Overlay && args.io.is_some() {
        let text = "the argument '--io <MODE>' cannot be used with '--driver overlay'";
        return Err(CommandError::Usage(text.to_owned()));
    }
    let service = prepare(cx, &args.container, args.directory.as_deref(), args.driver)?;
    let service = Service {
        read_only: args.read_only,
        volatile: args.volatile,
        io: args.io.unwrap_or_default(),
        ..service
    };
    if !args.foreground {
        spawn(cx, &service)?;
        return cx.line(service.mountpoint.display());
    }
    serve::serve(cx, &service, |cx| {
        cx.line(service.mountpoint.display())?;
        cx.flush()
    })
}

/// Check all that can be checked before there is a server.
pub fn prepare(
    cx: &mut Context,
    container: &str,
    directory: Option<&Path>,
    driver: Driver,
) -> Result<Service, CommandError> {
    view_access::wait_for_transient(cx, container)?;
    let snapshot = cx.snapshot()?;
    let container = find(&snapshot, container)?;
    if let Some(view) = snapshot.view(&container.id) {
        let is_seen = !mounts_of(&cx.store, &container.id)?.is_empty();
        let (name, server) = (&container.name, server_in_words(&cx.store, view)?);
        return Err(CommandError::new(match (view.detached, is_seen) {
            (true, _) => format!(
                "container {name} was detached, but its view is still used by open handles \
                 ({server})"
            ),
            (false, true) => format!(
                "container {name} is already mounted at {}",
                view.mountpoint.display()
            ),
            // On record it is a moment earlier.
            (false, false) => format!(
                "container {name} is being mounted, or was unmounted by hand and is still used by \
                 open handles ({server})"
            ),
        }));
    }
    if snapshot.image(&container.image).is_none() {
        return Err(LifecycleError::NoSuchImage(container.reference.clone()).into());
    }
    // Looked at here, before anything is on record.
    match driver {
        Driver::Fuse => check_fuse()?,
        Driver::Overlay => overlayfs::check()?,
    }
    let merged = cx.store.container(&container.id).merged();
    let mountpoint = match check_mountpoint(cx, directory.unwrap_or(&merged), &merged) {
        // Removed since it was found, and its directories with it.
        Err(_) if !cx.db.read(|tx| tx.has_container(&container.id))? => {
            return Err(LifecycleError::NoSuchContainer(container.name.clone()).into());
        }
        checked => checked?,
    };
    Ok(Service {
        container: container.id.clone(),
        mountpoint,
        read_only: false,
        volatile: false,
        io: Io::default(),
        driver,
        transient: false,
        run: Run::No,
    })
}

fn check_fuse() -> Result<(), CommandError> {
    let fuse = Path::new("/dev/fuse");
    let opened = OpenOptions::new().read(true).write(true).open(fuse);
    match opened {
        // fusermount3 may, where this user may not.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {}
        other => drop(other.map_err(StoreError::at("open", fuse))?),
    }
    Ok(())
}

/// A mount point must be an empty directory that nothing is mounted on. Gives its absolute path.
fn check_mountpoint(cx: &mut Context, path: &Path, merged: &Path) -> Result<PathBuf, CommandError> {
    let look = || -> std::io::Result<PathBuf> {
        let absolute = path.canonicalize()?;
        match std::fs::read_dir(&absolute)?.next() {
            Some(_) => Err(ErrorKind::DirectoryNotEmpty.into()),
            None => Ok(absolute),
        }
    };
    let looked = match look() {
        // A server has died there since this command began.
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            view::bury_the_dead(&mut cx.db, &cx.store)?;
            look()
        }
        other => other,
    };
    let why = match path.canonicalize().map(|absolute| mount_at(&absolute)) {
        Ok(Ok(Some(_))) => "something is mounted there already".to_owned(),
        _ => match looked {
            Ok(absolute) if absolute.starts_with(cx.store.root()) && absolute != merged => {
                "it lies in the store".to_owned()
            }
            Ok(absolute) => return Ok(absolute),
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => "it is not empty".to_owned(),
            Err(e) if e.kind() == ErrorKind::NotADirectory => "it is not a directory".to_owned(),
            Err(e) => reason(&e),
        },
    };
    Err(CommandError::new(format!(
        "cannot mount at {}: {why}",
        path.display()
    )))
}

/// Start the server, and wait until the view is ready or cannot be.
pub fn spawn(cx: &mut Context, service: &Service) -> Result<(), CommandError> {
    spawn_with(cx, service, Stdio::null())
}

/// The same with something for the server's standard input.
pub fn spawn_with(cx: &mut Context, service: &Service, stdin: Stdio) -> Result<(), CommandError> {
    let log = cx.store.container(&service.container).log();
    let log_file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log)
        .map_err(StoreError::at("open", &log))?;
    let mut command = daemon::this_program();
    command
        .arg("--root")
        .arg(cx.store.root())
        .args(serve::arguments(service))
        .stdin(stdin)
        .stderr(log_file)
        .current_dir("/");
    // What it says before it is ready comes through the pipe, the rest goes to the log.
    match daemon::start(&mut command)? {
        Started::Ready => Ok(()),
        Started::Refused(text, 1) => Err(CommandError::Message(text)),
        Started::Refused(text, code) => Err(CommandError::Refused { text, code }),
        Started::Ended(status) => Err(CommandError::new(format!(
            "the view's server ended before the view was ready ({status}); its log is {}",
            log.display()
        ))),
    }
}
