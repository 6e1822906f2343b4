//! `exec`: run one more process in a running container.
//!
//! The OCI runtime starts it and ends; this command, which adopts orphans, is its parent then. Its
//! standard input and output are this command's own, or a terminal between them.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::ArgAction;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, major, minor};
use rustix::io::Errno;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::interrupt::on_signals;
use crate::cli::joined::{self, Manner, PASSED_ON};
use crate::container::bundle::{self, RunDir, hostname, open_root};
use crate::container::monitor::{ConsoleSocket, FirstProcess};
use crate::container::process::{self, ProcessError, require_running};
use crate::container::runtime::{Files, Runtime, RuntimeError, Streams};
use crate::container::view::mount_of;
use crate::container::{find, spec};
use crate::db::{Container, Process, View};
use crate::model::settings::set_env;
use crate::store::StoreError;
use crate::sys::children;
use crate::sys::descriptors::close_all_on_exec;
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
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(CommandError::Ended(code)),
        Err(_) => Err(CommandError::new(format!("the process ended with {code}"))),
    }
}

/// The files that describe the process to the runtime; they go when it has read them.
struct Scratch {
    process: PathBuf,
    pid: PathBuf,
    console: String,
}

impl Scratch {
    fn new(run: &RunDir) -> Scratch {
        let name = format!("exec-{}", std::process::id());
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
    children::adopt_orphans()?;
    // What our caller has open is not the container's.
    close_all_on_exec()?;
    let runtime = Runtime::at(&first.runtime);
    let id = &container.id;
    let refused = |e: RuntimeError| CommandError::Refused {
        code: match e.exit_code() {
            125 => 1,
            code => code,
        },
        text: e.to_string(),
    };
    let tell = match args.detach {
        true => None,
        false => Some(pass_signals_on()?),
    };
    let known = |pid| {
        let process = FirstProcess::new(pid);
        // The other side lives as long as this program.
        if let Some(tell) = &tell {
            tell.send(process.clone()).unwrap_or_default();
        }
        process
    };
    if args.tty {
        let socket = ConsoleSocket::new(&run, &scratch.console)?;
        let streams = Streams::Terminal(socket.path().to_owned());
        let pid = runtime
            .exec(&run, id, &scratch.process, streams, &scratch.pid)
            .map_err(refused)?;
        let process = known(pid);
        let terminal = socket.terminal()?;
        drop(scratch);
        return match args.detach {
            true => Ok(0),
            false => with_terminal(terminal, manner, process),
        };
    }
    cx.flush_and_go_on();
    let (stderr, errors) = match args.detach {
        true => (Stdio::null(), None),
        false => {
            let (ours, theirs) = io::pipe()?;
            (theirs.into(), Some(ours))
        }
    };
    let files = Files {
        stdin: inherited(manner.input, io::stdin())?,
        stdout: inherited(!args.detach, io::stdout())?,
        stderr,
    };
    let started = runtime.exec(
        &run,
        id,
        &scratch.process,
        Streams::Files(files),
        &scratch.pid,
    );
    let pid = started.map_err(refused)?;
    let process = known(pid);
    drop(scratch);
    match errors {
        Some(errors) => with_our_streams(errors, process),
        None => Ok(0),
    }
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
    // The container's own root directory, with all that is mounted there.
    let path = PathBuf::from(format!("/proc/{}/root", first.pid));
    let root = match open_root(&path) {
        // It has ended since.
        Err(Errno::NOENT | Errno::SRCH) => {
            return Err(ProcessError::NotRunning(container.id.clone()).into());
        }
        opened => opened.map_err(StoreError::at("open", &path))?,
    };
    // Its ID may be another's by now, or of another PID namespace.
    let stat = fstat(&root).map_err(StoreError::at("open", &path))?;
    if let Some(mount) = mount_of(&cx.store, view)?
        && mount.device != (major(stat.st_dev), minor(stat.st_dev))
    {
        return Err(ProcessError::NotRunning(container.id.clone()).into());
    }
    let mut settings = container.settings.clone();
    for setting in &args.env {
        let set = match setting.contains('=') {
            true => Some(setting.clone()),
            false => std::env::var(setting)
                .ok()
                .map(|value| format!("{setting}={value}")),
        };
        set_env(&mut settings.env, set);
    }
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
    Ok(spec::oci_process(&process, &hostname, None)?)
}

/// Docker's exit code for what keeps a program from being run.
fn cannot_run(why: &dyn std::fmt::Display) -> CommandError {
    CommandError::Refused {
        text: why.to_string(),
        code: 126,
    }
}

fn inherited(wanted: bool, stream: impl AsFd) -> io::Result<Stdio> {
    Ok(match wanted {
        true => stream.as_fd().try_clone_to_owned()?.into(),
        false => Stdio::null(),
    })
}

/// How long the runtime may take to make the process, once a signal has come for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// From now on signals are the process's, which is told later: whoever sees that it runs may send one
/// at once. If there is none in time (what is a pipe in place of the container's /etc/passwd stops the
/// runtime for good) the runtime is killed, which ends this program.
fn pass_signals_on() -> io::Result<mpsc::Sender<FirstProcess>> {
    let (sender, told) = mpsc::channel::<FirstProcess>();
    let process = Mutex::new((None, told));
    on_signals(&PASSED_ON, move |number| {
        let (known, told) = &mut *process.lock();
        if known.is_none() {
            match told.recv_timeout(PATIENCE) {
                Ok(process) => *known = Some(process),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(e) = children::kill_descendants() {
                        tracing::warn!("cannot end the OCI runtime: {e}");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        if let Some(Err(e)) = known.as_ref().map(|process| process.signal(number)) {
            tracing::debug!("cannot pass signal {number} on: {e}");
        }
    })?;
    Ok(sender)
}

/// Wait for a process that has our standard input and output, and whose errors come through a pipe: at
/// its start the runtime has the other end, and says itself what is told by its log already.
fn with_our_streams(errors: io::PipeReader, process: FirstProcess) -> Result<i32, CommandError> {
    let has_ended = Arc::new(AtomicBool::new(false));
    let passing = pass_on(errors, io::stderr(), has_ended.clone());
    let code = process.wait()?;
    has_ended.store(true, Ordering::Release);
    join(passing)?;
    Ok(code)
}

/// Wait for a process that has a terminal: between it and our own all keys and all output pass.
fn with_terminal(
    terminal: File,
    manner: Manner,
    process: FirstProcess,
) -> Result<i32, CommandError> {
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
