//! The monitor of a running container: it holds its first process, which is its child, with the other
//! ends of its standard streams.
//!
//! What the process writes goes to its log and to those who have joined (`container::attach`); one
//! that does not read holds the process up, as a pipe would. When the process has ended, what it has
//! written is delivered; a reader that is slower than the end of the view has it in its socket. The
//! monitor lives in the process that serves the view: neither outlives the other.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::attach::Frame;
use super::bundle::RunDir;
use super::entry::House;
use super::output_log::{OutputLog, Stream};
use super::runtime::{Files, Streams, path_for_others};
use crate::model::Settings;
use crate::sys::children;
use crate::sys::descriptors::receive;
use crate::sys::terminal;

/// How much is read and passed on at once.
const CHUNK: usize = 16 << 10;

/// What a reader may lag behind: while the process runs, and at its end, when all that is left in pipes
/// and threads must fit as well. (The kernel doubles both: socket(7).) A thread that waits for room is
/// woken only when a quarter of the room is used at most, so the first is less than a quarter of the second,
/// by more than a frame; and that is the most there is by default.
const LAG: usize = 32 << 10;
const LAG_AT_THE_END: usize = 208 << 10;

/// How long what the process left in its pipes may take to be passed on, once it has ended: something
/// outside of the container may have them open.
const PATIENCE: Duration = Duration::from_secs(5);

/// Our ends of a process's standard streams.
#[derive(Debug)]
pub struct Ends {
    /// Standard input, where it is open.
    stdin: Option<File>,
    /// Standard output and error, or the terminal.
    outputs: Vec<(Stream, File)>,
    /// The terminal.
    terminal: Option<File>,
}

/// The process's ends.
#[derive(Debug)]
pub enum Theirs {
    /// Pipes.
    Files(Files),
    /// The runtime makes a terminal and sends ours.
    Terminal(ConsoleSocket),
}

impl Theirs {
    /// As the runtime takes them; where to ask for the terminal.
    pub fn streams(self) -> (Streams, Option<ConsoleSocket>) {
        match self {
            Theirs::Files(files) => (Streams::Files(files), None),
            Theirs::Terminal(socket) => (Streams::Terminal(socket.path.clone()), Some(socket)),
        }
    }
}

/// Where the runtime sends the terminal that it has made.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    _directory: OwnedFd,
}

impl ConsoleSocket {
    /// A socket of this name in a container's directory. Its path is short, however long the store's.
    pub fn new(run: &RunDir, name: &str) -> io::Result<ConsoleSocket> {
        let directory =
            crate::store::layout::open_directory(run.path()).map_err(io::Error::other)?;
        let path = path_for_others(&directory)?.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        Ok(ConsoleSocket {
            listener: UnixListener::bind(&path)?,
            path,
            _directory: directory,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal, once the runtime has ended and must have sent it.
    pub fn terminal(&self) -> io::Result<File> {
        self.listener.set_nonblocking(true)?;
        let (socket, _) = self.listener.accept()?;
        socket.set_nonblocking(false)?;
        let mut received = receive::<1>(&socket)?;
        received
            .pop()
            .map(File::from)
            .ok_or_else(|| io::Error::other("the OCI runtime sent no terminal"))
    }
}

/// Both ends of the standard streams that a container's settings ask for.
pub fn ends(settings: &Settings, run: &RunDir) -> io::Result<(Ends, Theirs)> {
    if settings.tty {
        let ours = Ends {
            stdin: None,
            outputs: Vec::new(),
            terminal: None,
        };
        return Ok((ours, Theirs::Terminal(ConsoleSocket::new(run, "console")?)));
    }
    let (stdout, their_stdout) = io::pipe()?;
    let (stderr, their_stderr) = io::pipe()?;
    let (stdin, their_stdin) = match settings.open_stdin {
        true => {
            let (theirs, ours) = io::pipe()?;
            (Some(File::from(OwnedFd::from(ours))), Stdio::from(theirs))
        }
        false => (None, Stdio::null()),
    };
    let file = |pipe: io::PipeReader| File::from(OwnedFd::from(pipe));
    let ours = Ends {
        stdin,
        outputs: vec![
            (Stream::Stdout, file(stdout)),
            (Stream::Stderr, file(stderr)),
        ],
        terminal: None,
    };
    let theirs = Files {
        stdin: their_stdin,
        stdout: their_stdout.into(),
        stderr: their_stderr.into(),
    };
    Ok((ours, Theirs::Files(theirs)))
}

impl Ends {
    /// The terminal that the runtime has sent is the one stream there is.
    pub fn set_terminal(&mut self, terminal: File) -> io::Result<()> {
        self.stdin = Some(terminal.try_clone()?);
        self.outputs = vec![(Stream::Stdout, terminal.try_clone()?)];
        self.terminal = Some(terminal);
        Ok(())
    }
}

/// The first process, for as long as it has not been waited for.
#[derive(Debug, Clone)]
pub struct FirstProcess(Arc<Mutex<Life>>);

/// How far a process is.
#[derive(Debug)]
enum Life {
    /// The OCI runtime has made it, and it does not run its own program yet. A signal would kill the
    /// runtime's part of it: these have come, and are kept.
    Made(i32, Vec<i32>),
    /// It runs.
    Running(i32),
    /// It was waited for.
    Over,
}

impl FirstProcess {
    /// A child of this process, which runs.
    pub fn new(pid: i32) -> FirstProcess {
        FirstProcess(Arc::new(Mutex::new(Life::Running(pid))))
    }

    /// A child of this process, which the OCI runtime has yet to start.
    pub fn made(pid: i32) -> FirstProcess {
        FirstProcess(Arc::new(Mutex::new(Life::Made(pid, Vec::new()))))
    }

    /// It runs its own program: it gets the signals that were kept for it.
    pub fn runs(&self) -> io::Result<()> {
        let mut life = self.0.lock();
        if let Life::Made(pid, kept) = &mut *life {
            let (pid, kept) = (*pid, std::mem::take(kept));
            *life = Life::Running(pid);
            for number in kept {
                children::signal(pid, number)?;
            }
        }
        Ok(())
    }

    /// Send it a signal; nothing happens if it has ended.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        match &mut *self.0.lock() {
            Life::Made(pid, _) if number == libc::SIGKILL => children::signal(*pid, number),
            Life::Made(_, kept) => {
                kept.push(number);
                Ok(())
            }
            Life::Running(pid) => children::signal(*pid, number),
            Life::Over => Ok(()),
        }
    }

    /// Wait for its end. Gives its exit code.
    pub fn wait(&self) -> io::Result<i32> {
        let pid = match *self.0.lock() {
            Life::Made(pid, _) | Life::Running(pid) => pid,
            Life::Over => return Err(ErrorKind::NotFound.into()),
        };
        children::wait_for_end(pid)?;
        // As long as it is not reaped its ID is nobody else's; nobody may use it afterwards.
        let mut life = self.0.lock();
        *life = Life::Over;
        children::wait(pid)
    }
}

/// What the threads of a monitor share.
#[derive(Debug)]
struct Hub {
    log: Mutex<OutputLog>,
    clients: Mutex<Vec<Arc<Client>>>,
    /// How the process has ended, once those who have joined are being told.
    ended: Mutex<Option<i32>>,
    stdin: Mutex<Option<File>>,
    terminal: Option<File>,
    /// Standard input ends when the first who joined goes: nobody else was meant to be there.
    closes_stdin: bool,
    process: FirstProcess,
    house: House,
}

/// One who has joined.
#[derive(Debug)]
struct Client {
    socket: UnixStream,
    wants_output: bool,
    /// Held while a frame is sent, so that frames of two streams do not get mixed.
    sending: Mutex<()>,
}

impl Client {
    /// Waits for room as long as need be.
    fn send(&self, frame: &Frame) -> io::Result<()> {
        let _sending = self.sending.lock();
        frame.send(&mut &self.socket)
    }

    fn tell_the_end(&self, exit_code: i32) {
        // One that is still being sent something has no room for this either.
        let sending = self.sending.try_lock();
        if sending.is_some()
            && let Err(e) = Frame::Exit(exit_code).send(&mut &self.socket)
        {
            tracing::debug!("somebody who had joined has gone: {e}");
        }
    }
}

/// A monitor at work.
#[derive(Debug)]
pub struct Monitor {
    hub: Arc<Hub>,
    /// Each output thread says when its stream has ended.
    drained: mpsc::Receiver<()>,
    outputs: usize,
}

impl Monitor {
    /// Begin to pass on what the process writes, and to let others join. `first` has joined already.
    pub fn start(
        ends: Ends,
        process: FirstProcess,
        log: OutputLog,
        listener: UnixListener,
        first: Option<UnixStream>,
        house: House,
    ) -> io::Result<Monitor> {
        let hub = Arc::new(Hub {
            log: Mutex::new(log),
            clients: Mutex::new(Vec::new()),
            ended: Mutex::new(None),
            stdin: Mutex::new(ends.stdin),
            closes_stdin: first.is_some() && ends.terminal.is_none(),
            terminal: ends.terminal,
            process,
            house,
        });
        if let Some(first) = first {
            let first = hub.add(first, true)?;
            let hub = hub.clone();
            spawn("input", move || hub.listen_to(&first, true))?;
        }
        let (done, drained) = mpsc::channel();
        let outputs = ends.outputs.len();
        for (stream, file) in ends.outputs {
            let (hub, done) = (hub.clone(), done.clone());
            spawn("output", move || {
                hub.pass_on(stream, file);
                // Nobody waits for it any more if it took too long.
                done.send(()).unwrap_or_default();
            })?;
        }
        let accepting = hub.clone();
        spawn("joining", move || {
            for client in listener.incoming() {
                let joined = client.and_then(|client| accepting.let_in(client));
                if let Err(e) = joined {
                    tracing::warn!("nobody can join the container: {e}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        })?;
        Ok(Monitor {
            hub,
            drained,
            outputs,
        })
    }

    /// Wait for the end of the process. Gives its exit code.
    pub fn wait(&self) -> io::Result<i32> {
        self.hub.process.wait()
    }

    /// Pass on what the process has left, and tell all who have joined how it ended.
    pub fn finish(&self, exit_code: i32) {
        for client in self.hub.all() {
            // This wakes a thread that waits for room, too.
            if let Err(e) = set_socket_send_buffer_size(&client.socket, LAG_AT_THE_END) {
                tracing::debug!("a reader has no more room: {e}");
            }
        }
        let end = Instant::now() + PATIENCE;
        for _ in 0..self.outputs {
            let left = end.saturating_duration_since(Instant::now());
            if self.drained.recv_timeout(left).is_err() {
                tracing::warn!("the container's output was held open after its end");
                break;
            }
        }
        // Whoever joins from here on is told when joining.
        *self.hub.ended.lock() = Some(exit_code);
        for client in self.hub.all() {
            client.tell_the_end(exit_code);
        }
    }

    /// Let go of all who have joined: for them this is the end of the view.
    pub fn release(&self) {
        for client in self.hub.all() {
            // Not connected any more is well.
            client.socket.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }
}

impl Hub {
    /// From the process to the log and to all who have joined, until the stream ends.
    fn pass_on(&self, stream: Stream, mut output: File) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let bytes = match output.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => &buffer[..length],
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                // EIO: no process has the terminal any more.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return,
                Err(e) => return tracing::warn!("cannot read the container's output: {e}"),
            };
            self.log.lock().append(stream, bytes);
            let frame = match stream {
                Stream::Stdout => Frame::Stdout(bytes.to_vec()),
                Stream::Stderr => Frame::Stderr(bytes.to_vec()),
            };
            for client in self.all() {
                if client.wants_output && client.send(&frame).is_err() {
                    self.remove(&client);
                }
            }
        }
    }

    fn all(&self) -> Vec<Arc<Client>> {
        self.clients.lock().clone()
    }

    /// Somebody joins.
    fn let_in(self: &Arc<Hub>, mut client: UnixStream) -> io::Result<()> {
        let hub = self.clone();
        spawn("input", move || {
            let wants_output = match Frame::receive(&mut client) {
                Ok(Some(Frame::Attach)) => true,
                Ok(Some(Frame::Wait)) => false,
                Ok(Some(Frame::Enter(request))) => {
                    if let Err(e) = hub.house.let_in(&client, &request) {
                        tracing::debug!("a command that wanted a process has gone: {e}");
                    }
                    return;
                }
                _ => return,
            };
            match hub.add(client, wants_output) {
                Ok(client) => hub.listen_to(&client, false),
                Err(e) => tracing::warn!("somebody cannot join the container: {e}"),
            }
        })
    }

    fn add(&self, socket: UnixStream, wants_output: bool) -> io::Result<Arc<Client>> {
        set_socket_send_buffer_size(&socket, LAG)?;
        let client = Arc::new(Client {
            socket,
            wants_output,
            sending: Mutex::new(()),
        });
        self.clients.lock().push(client.clone());
        if let Some(exit_code) = *self.ended.lock() {
            client.tell_the_end(exit_code);
        }
        Ok(client)
    }

    fn remove(&self, client: &Arc<Client>) {
        self.clients.lock().retain(|c| !Arc::ptr_eq(c, client));
    }

    /// What one who has joined sends, until it goes.
    fn listen_to(&self, client: &Arc<Client>, is_first: bool) {
        loop {
            let done = match Frame::receive(&mut &client.socket) {
                Ok(Some(Frame::Stdin(bytes))) => self.feed(&bytes),
                Ok(Some(Frame::Resize(size))) => match &self.terminal {
                    Some(terminal) => terminal::set_size(terminal, size),
                    None => Ok(()),
                },
                Ok(Some(Frame::Signal(number))) => self.process.signal(number),
                Ok(Some(Frame::StdinEnd)) => {
                    self.end_stdin(is_first);
                    Ok(())
                }
                // It is gone, or does not know how to speak.
                Ok(Some(_) | None) | Err(_) => {
                    self.end_stdin(is_first);
                    return self.remove(client);
                }
            };
            if let Err(e) = done {
                tracing::warn!("cannot do what was asked of the container: {e}");
            }
        }
    }

    fn end_stdin(&self, is_first: bool) {
        if is_first && self.closes_stdin {
            self.stdin.lock().take();
        }
    }

    fn feed(&self, bytes: &[u8]) -> io::Result<()> {
        // Not locked while it is written: the process may never read, and the end must come all the same.
        let stdin = self
            .stdin
            .lock()
            .as_ref()
            .map(File::try_clone)
            .transpose()?;
        let Some(mut stdin) = stdin else {
            return Ok(());
        };
        match stdin.write_all(bytes) {
            // The process has closed it.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(()),
            other => other,
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
}
