//! `overlay`: the union filesystem alone, on any directories, with the command line of
//! fuse-overlayfs.
//!
//! Podman and Buildah call it as their `mount_program`, with `-o OPTIONS MOUNTPOINT`; mount(8) with
//! `SOURCE MOUNTPOINT -o OPTIONS`. Both may call the program by another name or by its own, without
//! the name of the command: [`arguments`] puts that in.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, mkdirat, openat};
use rustix::io::Errno;
use tracing::{Level, debug, error, info};

use crate::cli::daemon::{self, Started};
use crate::cli::error::CommandError;
use crate::cli::interrupt::on_interrupt;
use crate::cli::overlay_options::{MountFlag, OverlayOptions};
use crate::sys::mounts::{mount_at, unmount};
use crate::sys::reason;
use crate::union::{Layers, MountOptions, Mounted, Options, Union, mount};

const OPTIONS_HELP: &str = "\
Options of -o, separated by commas (a backslash takes the next character as it is):
  lowerdir=DIR[:DIR…]     the lower directories, topmost first; a colon in a name is written \\:
  upperdir=DIR            takes the changes; read-only without
  workdir=DIR             on the file system of upperdir, for one mount at a time
  ro                      refuse all changes
  volatile                never wait for the disk: not for what is copied up, nor at fsync
  fsync=0                 do nothing at fsync
  redirect_dir=off        renaming a directory that has a part in lowerdir fails with EXDEV
  metacopy=off            chmod, chown and touch of a lower file copy its data, too
  squash_to_root, squash_to_uid=UID, squash_to_gid=GID
                          everything is shown, and made, as owned by these
  uidmapping=DISK:SHOWN:LENGTH[:…], gidmapping=…
                          how IDs on disk are shown; others are shown as 65534
  xattr_permissions=1|2   keep owner and mode in security.fuseoverlayfs.override_stat (1) or
                          user.containers.override_stat (2), not in the inode
  static_nlink            every directory has one link
  noacl, noxattrs=1       no access control lists, no extended attributes
  io=passthrough|cached   how files are read and written: past this server, directly on their disk,
                          or through the kernel's cache [default: passthrough where it can be]
  threaded=0              one thread
  fsname=NAME             the source that /proc/mounts shows
  allow_other, nodev, nosuid, noexec, noatime, context=…
                          as for mount(8)
Others are accepted and do nothing; --debug names them.

Whiteouts of both forms are read: character devices 0:0 with trusted.overlay.opaque or
user.overlay.opaque, and files .wh.NAME and .wh..wh..opq. The lower directories must not change
while they are mounted, nor the upper one but through the mount.";

/// Arguments of `overlay`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "layerctl overlay [-f] -o OPTION[,…] [SOURCE] MOUNTPOINT")]
#[command(after_long_help = OPTIONS_HELP, after_help = "--help tells the options of -o.")]
pub struct Args {
    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPTION[,…]")]
    options: Vec<OsString>,
    /// Serve from this process, until it is unmounted or interrupted; log to standard error
    #[arg(short = 'f', long)]
    foreground: bool,
    /// The same, and log everything
    #[arg(short = 'd', long)]
    debug: bool,
    /// Where; a source may stand before it, as mount(8) passes it
    #[arg(value_name = "MOUNTPOINT", required = true, num_args = 1..=2)]
    places: Vec<PathBuf>,
    /// The process behind the mount.
    #[arg(long, hide = true)]
    serve: bool,
    /// mount(8): the type.
    #[arg(short = 't', hide = true)]
    kind: Option<OsString>,
    /// mount(8): tolerate unknown options.
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    /// mount(8): say what is done.
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    /// mount(8): write no mtab.
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
}

impl Args {
    /// How much is logged.
    pub fn level(&self) -> Level {
        let debug = || OverlayOptions::parse(&self.options).is_ok_and(|options| options.debug);
        match (self.debug || debug(), self.foreground) {
            (true, _) => Level::DEBUG,
            (false, true) => Level::INFO,
            (false, false) => Level::WARN,
        }
    }

    fn mount_point(&self) -> &Path {
        self.places.last().map_or(Path::new(""), |path| path)
    }

    fn source(&self) -> Option<&Path> {
        (self.places.len() > 1).then(|| self.places[0].as_path())
    }
}

/// The arguments of this program, with the name of this command where the program was called in its
/// place: by the name of fuse-overlayfs or of a helper of mount(8), or with `-o` where a command
/// should be. (For `mount -t fuse.layerctl`, mount.fuse3 runs `layerctl SOURCE MOUNTPOINT -o …`.)
pub fn arguments(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if stands_for_overlay(&args) {
        let rest = args.split_off(args.len().min(1));
        args = vec!["layerctl".into(), "overlay".into()];
        args.extend(rest);
    }
    args
}

fn stands_for_overlay(args: &[OsString]) -> bool {
    let name = args.first().and_then(|name| Path::new(name).file_name());
    if name.is_some_and(|name| name == "fuse-overlayfs" || name == "mount.fuse.layerctl") {
        return true;
    }
    let lists_directories = |list: &OsString| {
        list.as_bytes()
            .windows(b"lowerdir=".len())
            .any(|part| part == b"lowerdir=")
    };
    match args.get(1..).unwrap_or_default() {
        [first, ..] if first.as_bytes().starts_with(b"-o") => true,
        [point, o, list] | [_, point, o, list, ..] if o == "-o" => {
            Path::new(point).is_absolute() && lists_directories(list)
        }
        _ => false,
    }
}

/// Run `overlay`.
pub fn run(args: Args) -> Result<(), CommandError> {
    let options = OverlayOptions::parse(&args.options).map_err(CommandError::new)?;
    if args.serve {
        return serve_for_a_command(&args, &options);
    }
    if args.foreground || args.debug || options.debug {
        return serve(&args, &options, || Ok(()));
    }
    let mut command = daemon::this_program();
    // Whatever the file's name is, and wherever the command was called with relative names.
    std::os::unix::process::CommandExt::arg0(&mut command, "layerctl");
    command.args(["overlay", "--serve"]);
    for list in &args.options {
        command.arg("-o").arg(list);
    }
    command.arg("--").args(&args.places);
    match daemon::start(command.stdin(Stdio::null()).stderr(Stdio::inherit()))? {
        Started::Ready => Ok(()),
        Started::Refused(why, _) => Err(CommandError::new(why)),
        Started::Ended(status) => Err(CommandError::new(format!(
            "the server ended before {} was mounted ({status})",
            args.mount_point().display()
        ))),
    }
}

/// In the server: every error until it is ready goes to the command that started it.
fn serve_for_a_command(args: &Args, options: &OverlayOptions) -> Result<(), CommandError> {
    let mut is_ready = false;
    let result = serve(args, options, || {
        is_ready = true;
        daemon::is_ready();
        // The caller waits for the end of its pipes.
        let nowhere = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nowhere)?;
        rustix::stdio::dup2_stderr(&nowhere)?;
        Ok(())
    });
    match result {
        Err(CommandError::Message(why)) if !is_ready => {
            daemon::is_refused(&why, 1);
            Err(CommandError::Reported)
        }
        other => other,
    }
}

/// Mount and serve until it is unmounted and the last handle is closed. `ready` is called when the
/// mount can be used.
fn serve(
    args: &Args,
    options: &OverlayOptions,
    ready: impl FnOnce() -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    for option in &options.ignored {
        debug!("the option {option} has no effect");
    }
    let at = |e: &io::Error| {
        let point = args.mount_point().display();
        CommandError::new(format!("cannot mount at {point}: {}", reason(e)))
    };
    let mount_point = args.mount_point().canonicalize().map_err(|e| at(&e))?;
    if !mount_point.is_dir() {
        return Err(at(&Errno::NOTDIR.into()));
    }
    let (union, _in_use) = open(options)?;
    // Locked until it is mounted: a signal in between waits, and then finds something to unmount.
    let ours = Arc::new(Mutex::new(None));
    let mut mounting = ours.lock();
    let interrupted = ours.clone();
    on_interrupt(move || {
        if let Some(ours) = &*interrupted.lock() {
            Ours::detach(ours);
        }
    })?;
    let mounted = mount(union, &mount_point, &mount_options(args, options)).map_err(|e| at(&e))?;
    let ours = mounting.insert(Ours::find(&mount_point)?).clone();
    drop(mounting);
    // No directory is kept busy by the server.
    std::env::set_current_dir("/")?;
    info!("mounted at {}", mount_point.display());
    let served = ready().and_then(|()| serve_mounted(mounted));
    // An aborted connection leaves its mount behind.
    ours.detach();
    info!("unmounted");
    served
}

fn serve_mounted(mounted: Mounted) -> Result<(), CommandError> {
    let served = mounted.serve();
    served.map_err(|e| CommandError::new(format!("cannot serve the mount: {}", reason(&e))))
}

/// The mount that this process serves: by its number, for anything may be mounted over it.
#[derive(Debug, Clone)]
struct Ours {
    point: PathBuf,
    id: Option<u64>,
}

impl Ours {
    fn find(point: &Path) -> io::Result<Ours> {
        Ok(Ours {
            point: point.to_owned(),
            id: mount_at(point)?.map(|mount| mount.id),
        })
    }

    fn detach(&self) {
        let at = self.point.display();
        match mount_at(&self.point) {
            Ok(Some(mount)) if Some(mount.id) == self.id => {
                if let Err(e) = unmount(&self.point, true) {
                    error!("cannot unmount {at}: {e}");
                }
            }
            Ok(_) => {}
            Err(e) => error!("cannot look for the mount at {at}: {e}"),
        }
    }
}

fn mount_options(args: &Args, options: &OverlayOptions) -> MountOptions {
    let source = args.source().map(|path| path.display().to_string());
    let has = |flag| options.flags.contains(&flag);
    MountOptions {
        fs_name: options
            .fs_name
            .clone()
            .or(source)
            .unwrap_or_else(|| MountOptions::default().fs_name),
        read_only: options.read_only,
        threads: options.threads,
        allow_other: options.allow_other,
        io: options.io,
        no_dev: has(MountFlag::NoDev),
        no_suid: has(MountFlag::NoSuid),
        no_exec: has(MountFlag::NoExec),
        no_atime: has(MountFlag::NoAtime),
        contexts: options.contexts.clone(),
    }
}

/// Opens the directories and makes a union of them, with the lock that says that they are in use.
fn open(options: &OverlayOptions) -> Result<(Union, Option<OwnedFd>), CommandError> {
    let lowers = options
        .lowers
        .iter()
        .map(|dir| Directory::open("lower", dir));
    let lowers = lowers.collect::<Result<Vec<_>, _>>()?;
    let mut layers = Layers {
        index: None,
        lowers: Vec::new(),
        upper: None,
        work: None,
    };
    let mut lock = None;
    if let (Some(upper), Some(work)) = (&options.upper, &options.work) {
        let upper = Directory::open("upper", upper)?;
        let work = Directory::open("work", work)?;
        // What is in the work directory is removed.
        if work.path.starts_with(&upper.path) || upper.path.starts_with(&work.path) {
            return Err(CommandError::new(format!(
                "the work directory {} and the upper directory {} must not lie in one another",
                work.path.display(),
                upper.path.display()
            )));
        }
        if let Some(lower) = lowers.iter().find(|l| l.path.starts_with(&work.path)) {
            return Err(CommandError::new(format!(
                "the lower directory {} must not lie in the work directory",
                lower.path.display()
            )));
        }
        let (inside, locked) = work.take()?;
        layers.work = Some(inside);
        layers.upper = Some(upper.reopen()?);
        lock = locked;
    }
    layers.lowers = lowers.into_iter().map(|dir| dir.fd).collect();
    let how = Options {
        volatile: options.volatile,
        no_fsync: options.volatile || options.no_fsync,
        no_redirects: options.no_redirects,
        no_metacopy: options.no_metacopy,
        static_nlink: options.static_nlink,
        no_acl: options.no_acl,
        no_xattrs: options.no_xattrs,
        plain: true,
        owners: options.owners.clone(),
    };
    let union = Union::new(layers, how)
        .map_err(|e| CommandError::new(format!("cannot prepare the union: {}", reason(&e))))?;
    Ok((union, lock))
}

/// One of the directories.
struct Directory {
    /// For messages.
    what: &'static str,
    path: PathBuf,
    /// `O_PATH`.
    fd: OwnedFd,
}

impl Directory {
    fn open(what: &'static str, name: &Path) -> Result<Directory, CommandError> {
        let failed = |e: io::Error| {
            let name = name.display();
            CommandError::new(format!(
                "cannot open the {what} directory {name}: {}",
                reason(&e)
            ))
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(name, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let path = name.canonicalize().map_err(failed)?;
        Ok(Directory { what, path, fd })
    }

    fn failed(&self, doing: &str, e: Errno) -> CommandError {
        let path = self.path.display();
        let reason = reason(&e.into());
        CommandError::new(format!(
            "cannot {doing} the {} directory {path}: {reason}",
            self.what
        ))
    }

    /// Readable, and to be synced.
    fn reopen(&self) -> Result<OwnedFd, CommandError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.fd, ".", flags, Mode::empty()).map_err(|e| self.failed("read", e))
    }

    /// The directory `work` in this one, which is the union's alone: whatever else somebody has put
    /// here by mistake stays. And a lock for as long as it is used: two servers on one upper
    /// directory would not see what the other does.
    fn take(&self) -> Result<(OwnedFd, Option<OwnedFd>), CommandError> {
        let lock = self.reopen()?;
        let lock = self.lock(&lock)?.then_some(lock);
        match mkdirat(&self.fd, "work", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(self.failed("write to", e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = openat(&self.fd, "work", flags, Mode::empty());
        Ok((inside.map_err(|e| self.failed("use", e))?, lock))
    }

    /// Whether it could be locked: not every file system has locks.
    fn lock(&self, fd: impl AsFd) -> Result<bool, CommandError> {
        // A server that has been unmounted a moment ago is still on its way out.
        for _ in 0..100 {
            match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(true),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(50)),
                Err(e) => {
                    debug!("{} cannot be locked: {e}", self.path.display());
                    return Ok(false);
                }
            }
        }
        Err(CommandError::new(format!(
            "the work directory {} is in use by another mount",
            self.path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_mean_this_command() {
        let words = |line: &str| -> Vec<OsString> { line.split(' ').map(Into::into).collect() };
        for line in [
            "/usr/bin/fuse-overlayfs -o lowerdir=/a /m",
            "fuse-overlayfs --version",
            "fuse-overlayfs",
            "/sbin/mount.fuse.layerctl none /m -o lowerdir=/a",
            "/opt/layerctl -o lowerdir=/a /m",
            "layerctl -olowerdir=/a /m",
            "layerctl none /m -o rw,lowerdir=/a",
            "layerctl none /m -o rw,lowerdir=/a -f",
            "layerctl /m -o lowerdir=/a",
        ] {
            let args = arguments(words(line));
            assert_eq!(args[1], "overlay", "{line}");
            assert_eq!(args.len(), words(line).len() + 1);
        }
        for line in [
            "layerctl",
            "layerctl overlay -o lowerdir=/a /m",
            "layerctl save -o file image",
            "layerctl save image -o lowerdir=x",
            "layerctl save image /m -o file",
            "/x/fuse-overlayfs/layerctl images",
        ] {
            assert_eq!(arguments(words(line)), words(line), "{line}");
        }
        assert_eq!(arguments([]), Vec::<OsString>::new());
    }
}
