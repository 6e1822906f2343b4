//! `exec`: run one more process in a running container.
//!
//! The container's monitor has it started (`container::entry`). Its standard input and output are this
//! command's own, or a terminal between them.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::ArgAction;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, major, minor};
use rustix::io::Errno;

use super::start::end_with;
use crate::cli::container_options::set_variables;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::interrupt::on_signals;
use crate::cli::joined::{self, Manner, PASSED_ON};
use crate::container::attach::Frame;
use crate::container::bundle::{self, RunDir, hostname, open_root};
use crate::container::entry::{self, Request};
use crate::container::monitor::ConsoleSocket;
use crate::container::process::{self, ProcessError, require_running};
use crate::container::view::mount_of;
use crate::container::{find, spec};
use crate::db::{Container, Process, View};
use crate::store::StoreError;
use crate::sys::processes::open_files_of;
use crate::sys::reason;
use crate::sys::terminal::{self, Raw};

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a variable; without a value, the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]", action = ArgAction::Append)]
    env: Vec<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User name or ID, and group, of the container's /etc/passwd and /etc/group
    #[arg(short, long, value_name = "USER[:GROUP]", allow_hyphen_values = true)]
    user: Option<String>,
    /// Name, ID, or unambiguous prefix of an ID
    container: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Run `exec`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let container = find(&snapshot, &args.container)?;
    let first = require_running(&snapshot, container)?;
    let Some(view) = snapshot.view(&container.id) else {
        return Err(ProcessError::NotRunning(container.id.clone()).into());
    };
    if process::is_paused(&cx.store, &snapshot, container)? {
        return Err(ProcessError::PausedForExec(args.container).into());
    }
    let manner = Manner {
        input: args.interactive && !args.detach,
        tty: args.tty && !args.detach,
    };
    joined::check(manner)?;
    let code =
        exec(cx, &args, manner, container, view, first).map_err(
            |error| match process::has_ended(&cx.store, &container.id, first) {
                true if !matches!(error, CommandError::BrokenPipe) => {
                    ProcessError::NotRunning(container.id.clone()).into()
                }
                _ => error,
            },
        )?;
    end_with(code)
}

/// The files that describe the process to the runtime; they go when it has read them.
struct Scratch {
    process: PathBuf,
    pid: PathBuf,
    console: String,
}

impl Scratch {
    fn new(run: &RunDir) -> Scratch {
        // In another PID namespace another command may have the same ID.
        let now = jiff::Timestamp::now().as_nanosecond();
        let name = format!("exec-{}-{now}", std::process::id());
        Scratch {
            process: run.path().join(&name),
            pid: run.path().join(format!("{name}.pid")),
            console: format!("{name}.console"),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let console = self.process.with_file_name(&self.console);
        for path in [&self.process, &self.pid, &console] {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    tracing::debug!("{}: {e}", path.display());
                }
                _ => {}
            }
        }
    }
}

fn exec(
    cx: &mut Context,
    args: &Args,
    manner: Manner,
    container: &Container,
    view: &View,
    first: &Process,
) -> Result<i32, CommandError> {
    let run = RunDir::of(&cx.store, &container.id);
    let scratch = Scratch::new(&run);
    let description = describe(cx, args, container, (view, first))?;
    run.write_process(&name_of(&scratch.process), &description)?;
    let mut request = Request {
        process: name_of(&scratch.process),
        pid: name_of(&scratch.pid),
        console: None,
    };
    if args.tty {
        let socket = ConsoleSocket::new(&run, &scratch.console)?;
        request.console = Some(socket.path().to_owned());
        let entered = Entered::start(&run, &request, None)?;
        let terminal = socket.terminal()?;
        drop(scratch);
        return match args.detach {
            true => Ok(0),
            false => with_terminal(terminal, manner, entered),
        };
    }
    cx.flush_and_go_on();
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let stdin = if manner.input {
        stdin.as_fd()
    } else {
        null.as_fd()
    };
    if args.detach {
        Entered::start(&run, &request, Some([stdin, null.as_fd(), null.as_fd()]))?;
        return Ok(0);
    }
    let (errors, theirs) = io::pipe()?;
    let streams = [stdin, stdout.as_fd(), theirs.as_fd()];
    let entered = Entered::start(&run, &request, Some(streams))?;
    drop((scratch, theirs));
    with_our_streams(errors, entered)
}

fn name_of(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What the container's own process was told, with the options over it.
fn describe(
    cx: &Context,
    args: &Args,
    container: &Container,
    (view, first): (&View, &Process),
) -> Result<oci_spec::runtime::Process, CommandError> {
    let root = root(cx, container, (view, first))?;
    let mut settings = container.settings.clone();
    set_variables(&mut settings.env, &args.env, |name| {
        std::env::var(name).ok()
    })?;
    if let Some(user) = &args.user {
        settings.user = user.clone();
    }
    if let Some(directory) = &args.workdir {
        if !directory.starts_with('/') {
            return Err(cannot_run(&"Cwd must be an absolute path"));
        }
        settings.working_dir = directory.clone();
    }
    let process = bundle::process(&root, &settings, args.command.clone(), args.tty);
    let process = process.map_err(|e| cannot_run(&e))?;
    let hostname = hostname(&container.id, &settings);
    // The same as its first process, whatever the monitor has raised its own to.
    let open_files = open_files_of(first.pid);
    Ok(spec::oci_process(&process, &hostname, open_files)?)
}

/// The container's own root directory, with all that is mounted there; or, if its process cannot be seen
/// from here, for it is in another PID namespace, that of its view.
fn root(
    cx: &Context,
    container: &Container,
    (view, first): (&View, &Process),
) -> Result<OwnedFd, CommandError> {
    let mount = mount_of(&cx.store, view)?;
    let path = PathBuf::from(format!("/proc/{}/root", first.pid));
    if let Ok(root) = open_root(&path) {
        let stat = fstat(&root).map_err(StoreError::at("open", &path))?;
        let device = (major(stat.st_dev), minor(stat.st_dev));
        // Its ID may be another's.
        if mount.as_ref().is_none_or(|mount| mount.device == device) {
            return Ok(root);
        }
    }
    match mount {
        Some(mount) => {
            let root = open_root(&mount.mountpoint);
            Ok(root.map_err(StoreError::at("open the view at", &mount.mountpoint))?)
        }
        // It has ended since.
        None => Err(ProcessError::NotRunning(container.id.clone()).into()),
    }
}

/// Docker's exit code for what keeps a program from being run.
fn cannot_run(why: &dyn std::fmt::Display) -> CommandError {
    CommandError::Refused {
        text: why.to_string(),
        code: 126,
    }
}

/// How long the runtime may take to make the process, once a signal has come for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process that the container's monitor has started for us.
struct Entered {
    monitor: UnixStream,
}

impl Entered {
    /// Ask for it, and wait until it runs. From now on signals are its own: whoever sees that it runs may
    /// send one at once. One that comes while the runtime makes no progress (what is a pipe in place of
    /// the container's /etc/passwd stops it for good) ends this program, and with it the runtime.
    fn start(
        run: &RunDir,
        request: &Request,
        streams: Option<[BorrowedFd<'_>; 3]>,
    ) -> Result<Entered, CommandError> {
        let runs = Arc::new((Mutex::new(None::<UnixStream>), Condvar::new()));
        let told = runs.clone();
        on_signals(&PASSED_ON, move |number| {
            let (monitor, changed) = &*told;
            let mut monitor = monitor.lock();
            changed.wait_while_for(&mut monitor, |monitor| monitor.is_none(), PATIENCE);
            match monitor.as_mut().map(|to| Frame::Signal(number).send(to)) {
                Some(Ok(())) => {}
                Some(Err(e)) => tracing::debug!("cannot pass signal {number} on: {e}"),
                None => std::process::exit(128 + number),
            }
        })?;
        let gone = |e: io::Error| {
            CommandError::new(format!("the container's monitor has gone: {}", reason(&e)))
        };
        let mut monitor = entry::ask(run, request, streams).map_err(gone)?;
        match Frame::receive(&mut monitor).map_err(gone)? {
            Some(Frame::Started) => {}
            Some(Frame::Refused(code, text)) => {
                let code = if code == 125 { 1 } else { code };
                return Err(CommandError::Refused { text, code });
            }
            _ => return Err(CommandError::new("the container's monitor has gone")),
        }
        let (known, changed) = &*runs;
        *known.lock() = Some(monitor.try_clone()?);
        changed.notify_all();
        Ok(Entered { monitor })
    }

    /// Wait for its end. Gives its exit code.
    fn wait(mut self) -> io::Result<i32> {
        loop {
            match Frame::receive(&mut self.monitor) {
                Ok(Some(Frame::Exit(code))) => return Ok(code),
                Ok(Some(_)) => {}
                // The monitor was killed: so are all the container's processes.
                Ok(None) => return Ok(128 + libc::SIGKILL),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                    return Ok(128 + libc::SIGKILL);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Wait for a process that has our standard input and output, and whose errors come through a pipe: at
/// its start the runtime has the other end, and says itself what is told by its log already.
fn with_our_streams(errors: io::PipeReader, process: Entered) -> Result<i32, CommandError> {
    let has_ended = Arc::new(AtomicBool::new(false));
    let passing = pass_on(errors, io::stderr(), has_ended.clone());
    let code = process.wait()?;
    has_ended.store(true, Ordering::Release);
    join(passing)?;
    Ok(code)
}

/// Wait for a process that has a terminal: between it and our own all keys and all output pass.
fn with_terminal(terminal: File, manner: Manner, process: Entered) -> Result<i32, CommandError> {
    let raw = match terminal::is_terminal(io::stdin()) {
        true => Some(Raw::new(io::stdin())?),
        false => None,
    };
    follow_size(&terminal)?;
    if manner.input {
        let mut to = terminal.try_clone()?;
        let _copying: JoinHandle<()> = std::thread::spawn(move || {
            if let Err(e) = io::copy(&mut io::stdin(), &mut to) {
                tracing::debug!("cannot pass input on: {e}");
            }
        });
    }
    let has_ended = Arc::new(AtomicBool::new(false));
    let passing = pass_on(terminal, io::stdout(), has_ended.clone());
    let code = process.wait()?;
    has_ended.store(true, Ordering::Release);
    join(passing)?;
    drop(raw);
    Ok(code)
}

/// How often it is looked whether a process has ended that has no more to say.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Pass on what comes until the other end is closed or, once the process has ended, nothing more is
/// there: what it has left behind may have the other end for ever.
fn pass_on(
    mut from: impl Read + AsFd + Send + 'static,
    mut to: impl Write + Send + 'static,
    has_ended: Arc<AtomicBool>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        loop {
            // Before the look: what it wrote at its end is there then.
            let is_last = has_ended.load(Ordering::Acquire);
            let polled = poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&PAUSE));
            if polled == Ok(0) && is_last {
                return;
            } else if matches!(polled, Ok(0) | Err(Errno::INTR)) {
                continue;
            }
            let written = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => to.write_all(&buffer[..length]).and_then(|()| to.flush()),
                Err(e) if e.kind() == ErrorKind::Interrupted => Ok(()),
                // EIO: no process has the terminal any more.
                Err(_) => return,
            };
            if let Err(e) = written {
                tracing::debug!("cannot pass output on: {e}");
                return;
            }
        }
    })
}

fn join(passing: JoinHandle<()>) -> Result<(), CommandError> {
    let joined = passing.join();
    joined.map_err(|_| CommandError::new("a thread that passed output on has panicked"))
}

fn follow_size(terminal: &File) -> io::Result<()> {
    let terminal = terminal.try_clone()?;
    let tell = move || {
        let size = terminal::size(io::stdin()).or_else(|_| terminal::size(io::stdout()));
        if let Ok(size) = size
            && let Err(e) = terminal::set_size(terminal.as_fd(), size)
        {
            tracing::debug!("cannot tell the terminal its size: {e}");
        }
    };
    tell();
    on_signals(&[libc::SIGWINCH], move |_| tell())
}
