//! The part of a view's server that runs the container's process in the view.
//!
//! The view is served by threads of its own meanwhile: what is done here, and by the OCI runtime, uses
//! it. In the order of its life: the bundle, the runtime's `create`, the record, the runtime's `start`,
//! the end of the process, the record, the end of the view.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::mounting::Mounted;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::bundle::{self, RunDir};
use crate::container::entry::House;
use crate::container::lifecycle::LifecycleError;
use crate::container::monitor::{FirstProcess, Monitor, ends};
use crate::container::output_log::OutputLog;
use crate::container::runtime::Runtime;
use crate::container::{attach, remains};
use crate::db::{Container, DbError, Tx, View};
use crate::model::signal;
use crate::store::{StoreError, reserve};
use crate::sys::descriptors::apart;
use crate::sys::processes::Program;
use crate::sys::reason;
use crate::sys::{cgroups, children};

/// How long a process that is told to end by the end of its server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a process may take to become what it is to run.
const EXEC_PATIENCE: Duration = Duration::from_secs(1);

/// The process that is running, for those who must end it.
#[derive(Debug, Clone)]
pub struct Running {
    process: Arc<Mutex<Option<FirstProcess>>>,
    /// It may be frozen: then it gets no signal before it is not.
    cgroup: String,
}

impl Running {
    /// None yet, of the container that has this cgroup.
    pub fn new(cgroup: String) -> Running {
        Running {
            process: Arc::default(),
            cgroup,
        }
    }

    /// Tell it to end, and see to it; false if there is none.
    pub fn stop(&self, stop_signal: i32) -> bool {
        let Some(process) = self.process.lock().clone() else {
            return false;
        };
        self.send(&process, stop_signal);
        let running = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep(PATIENCE);
            running.send(&process, libc::SIGKILL);
        });
        true
    }

    fn kill(&self) {
        if let Some(process) = self.process.lock().as_ref() {
            self.send(process, libc::SIGKILL);
        }
    }

    fn send(&self, process: &FirstProcess, number: i32) {
        if let Err(e) = process.signal(number) {
            error!("cannot send signal {number} to the container's process: {e}");
        }
        if let Err(e) = cgroups::thaw(&self.cgroup) {
            error!("cannot let the container's processes go on: {e}");
        }
    }
}

/// The signal that ends a container's process.
pub fn stop_signal(container: &Container) -> i32 {
    let wanted = container.settings.stop_signal.as_str();
    match wanted {
        "" => libc::SIGTERM,
        // It was checked when the container was created; an image may say anything.
        text => signal::number(text).unwrap_or(libc::SIGTERM),
    }
}

/// The threads that serve a view.
pub struct Serving(JoinHandle<io::Result<()>>);

impl Serving {
    /// Serve it from now on. If it ends before the process does, so does the process: there is
    /// nothing left that it could read.
    pub fn start(mounted: Mounted, running: &Running) -> io::Result<Serving> {
        let running = running.clone();
        let thread = std::thread::Builder::new().name("view".to_owned());
        let thread = thread.spawn(move || {
            let served = mounted.serve();
            running.kill();
            served
        })?;
        Ok(Serving(thread))
    }

    /// Wait until the view is over.
    pub fn join(self) -> io::Result<()> {
        let ended = self.0.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("a thread that served it has panicked")))
    }
}

/// A container's process, and what belongs to it.
pub struct Held {
    runtime: Runtime,
    run: RunDir,
    monitor: Monitor,
}

/// Make the container and run its process. When this fails nothing of it is left, but the view.
///
/// `first` is the command that started it, if that wants to see what the process writes.
pub fn start(
    cx: &mut Context,
    container: &Container,
    view: &View,
    running: &Running,
    first: Option<UnixStream>,
    open_files: (u64, u64),
) -> Result<Held, CommandError> {
    let started = try_start(cx, container, view, running, first, open_files);
    if started.is_err() {
        running.kill();
        running.process.lock().take();
        if let Err(e) = cx.db.write(|tx| tx.clear_view_process(view)) {
            error!("{e}");
        }
        remains::clear(&cx.store, &container.id, None);
    }
    started
}

fn try_start(
    cx: &mut Context,
    container: &Container,
    view: &View,
    running: &Running,
    first: Option<UnixStream>,
    open_files: (u64, u64),
) -> Result<Held, CommandError> {
    let settings = &container.settings;
    let refused = |code: u8| {
        move |why: &dyn std::fmt::Display| CommandError::Refused {
            text: why.to_string(),
            code,
        }
    };
    let runtime = Runtime::find(&settings.runtime).map_err(|e| refused(125)(&e))?;
    let directory = cx.store.container(&container.id);
    let log = directory.output();
    let log = OutputLog::open(&log).map_err(StoreError::at("open", &log))?;
    let cannot = |what: &'static str| {
        move |e: io::Error| CommandError::new(format!("cannot {what}: {}", reason(&e)))
    };
    // It looks into the view that is served here.
    let store = &cx.store;
    let prepared = apart(|| bundle::prepare(store, container, &view.mountpoint, open_files));
    let run = prepared
        .map_err(cannot("make the container ready"))?
        .map_err(|e| refused(125)(&e))?;
    children::adopt_orphans().map_err(cannot("wait for the container's process"))?;
    let listener = attach::listen(&run).map_err(cannot("listen for commands"))?;
    let (mut ours, theirs) =
        ends(settings, &run).map_err(cannot("make the container's standard streams"))?;
    let (streams, console) = theirs.streams();
    let created = runtime.create(&run, &container.id, streams);
    let pid = created.map_err(|e| refused(e.exit_code())(&e))?;
    let process = FirstProcess::made(pid);
    *running.process.lock() = Some(process.clone());
    if let Some(console) = console {
        let terminal = console.terminal().and_then(|t| ours.set_terminal(t));
        terminal.map_err(cannot("get the container's terminal"))?;
    }
    cx.db.write(|tx| match tx.has_container(&container.id)? {
        true => Ok(tx.set_view_process(view, pid, runtime.program())?),
        // Removed by force meanwhile: nobody would see its process.
        false => Err(LifecycleError::NoSuchContainer(container.name.clone())),
    })?;
    let house = House {
        runtime: runtime.clone(),
        run: run.clone(),
        id: container.id.clone(),
    };
    let monitor = Monitor::start(ours, process.clone(), log, listener, first, house)
        .map_err(cannot("pass on the container's output"))?;
    let before = Program::of(pid);
    runtime
        .start(&run, &container.id)
        .map_err(|e| refused(e.exit_code())(&e))?;
    // The runtime has said so, but its own part of the process may not have made way yet.
    before.wait_for_another(EXEC_PATIENCE);
    process.runs().map_err(cannot("pass a signal on"))?;
    cx.db.write(|tx| tx.set_container_started(&container.id))?;
    info!("started process {pid} with {}", runtime.program().display());
    Ok(Held {
        runtime,
        run,
        monitor,
    })
}

/// Wait for the end of the process, and write it down. Gives its exit code.
pub fn wait(
    cx: &mut Context,
    container: &Container,
    view: &View,
    running: &Running,
    held: &Held,
) -> Result<i32, CommandError> {
    let waited = held.monitor.wait();
    running.process.lock().take();
    let code = waited?;
    info!("the process has ended: {code}");
    if let Err(e) = held.runtime.delete(&held.run, &container.id) {
        warn!("{e}");
    }
    remains::clear_cgroups(&cx.store, &container.id);
    let noted = write_even_if_full(cx, |tx| {
        tx.clear_view_process(view)?;
        tx.set_view_detached(view)?;
        match container.settings.auto_remove {
            // Its files go with the view, as those of any container that was removed meanwhile.
            true => tx.delete_container(&container.id),
            false => tx.set_container_ended(&container.id, code),
        }
    });
    held.monitor.finish(code);
    // Not before: whoever wants to know how it ended asks there.
    if let Err(e) = held.run.remove() {
        warn!("{e}");
    }
    noted?;
    Ok(code)
}

/// Write down what nobody else can: how a process has ended is lost otherwise, and what a view held is
/// not reclaimed. On a full disk the room that is kept for such is given up.
pub fn write_even_if_full<T>(
    cx: &mut Context,
    change: impl Fn(&Tx<'_>) -> Result<T, DbError>,
) -> Result<T, DbError> {
    let mut tries = 3;
    loop {
        tries -= 1;
        match cx.db.write(&change) {
            Err(error) if error.is_full() && tries > 0 => {
                if let Err(e) = reserve::spend(cx.store.root()) {
                    warn!("{e}");
                }
            }
            written => return written,
        }
    }
}

impl Held {
    /// The view is over: those who wait for that may go on.
    pub fn release(&self) {
        self.monitor.release();
    }
}
