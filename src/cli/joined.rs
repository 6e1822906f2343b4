//! The side of a command that has joined a running container: its output comes to ours, our input goes
//! to it, and signals are passed on (`container::attach`).

use std::io::{self, ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::{CommandError, output};
use super::interrupt::on_signals;
use crate::container::attach::{self, Frame};
use crate::container::bundle::RunDir;
use crate::sys::reason;
use crate::sys::terminal::{self, Raw};

/// How long the end of the view is waited for, once the process has ended: somebody else may use it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The signals that are the container's and not ours.
pub const PASSED_ON: [i32; 6] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// How a command has joined.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Our standard input is passed on.
    pub input: bool,
    /// The container has a terminal: ours is put into raw mode, and its size is told.
    pub tty: bool,
}

/// A container that has been joined.
#[derive(Debug)]
pub struct Joined {
    socket: UnixStream,
    raw: Option<Raw>,
}

/// Refuses what cannot be, in Docker's words: a terminal for a standard input that is none.
pub fn check(manner: Manner) -> Result<(), CommandError> {
    match manner.input && manner.tty && !terminal::is_terminal(io::stdin()) {
        true => Err(CommandError::Refused {
            text: "the input device is not a TTY".to_owned(),
            code: 1,
        }),
        false => Ok(()),
    }
}

/// From now on signals are the container's, which is told later: one that comes while it is being made or
/// started is kept for it.
pub fn pass_signals_on() -> io::Result<mpsc::Sender<RunDir>> {
    let (sender, told) = mpsc::channel();
    let container = Mutex::new((None, told));
    on_signals(&PASSED_ON, move |number| {
        let (known, told) = &mut *container.lock();
        if known.is_none() {
            *known = told.recv().ok();
        }
        let Some(run) = known else {
            // It could not be made.
            return;
        };
        let end = Instant::now() + PATIENCE;
        // Not through the connection for input: there, much that nobody reads may be in front.
        while let Err(e) = attach::tell(run, &Frame::Signal(number)) {
            if Instant::now() > end {
                return tracing::warn!("nobody is there for signal {number}: {e}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })?;
    Ok(sender)
}

impl Joined {
    /// Begin to pass on input and the terminal's size.
    pub fn start(socket: UnixStream, run: RunDir, manner: Manner) -> Result<Joined, CommandError> {
        let is_terminal = terminal::is_terminal(io::stdin());
        let raw = match manner.tty && is_terminal {
            true => Some(Raw::new(io::stdin())?),
            false => None,
        };
        if manner.tty {
            tell_size(&run);
            on_signals(&[libc::SIGWINCH], move |_| tell_size(&run))?;
        }
        if manner.input {
            let sender = socket.try_clone()?;
            std::thread::Builder::new()
                .name("input".to_owned())
                .spawn(move || pass_input_on(sender))?;
        }
        Ok(Joined { socket, raw })
    }

    /// Pass the output on until the process has ended. Gives its exit code, or `None` if the monitor
    /// has gone without a word: it was killed.
    ///
    /// # Errors
    /// Of our own output.
    pub fn finish(mut self) -> Result<Option<i32>, CommandError> {
        let code = pass_output_on(&mut self.socket);
        drop(self.raw);
        let code = code?;
        if code.is_some() {
            self.socket.set_read_timeout(Some(PATIENCE))?;
            wait_for_end(&mut self.socket);
        }
        Ok(code)
    }
}

/// The end of the stream is the end of the view.
pub fn wait_for_end(socket: &mut UnixStream) {
    loop {
        match Frame::receive(socket) {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

fn pass_output_on(socket: &mut UnixStream) -> Result<Option<i32>, CommandError> {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    loop {
        match Frame::receive(socket) {
            Ok(Some(Frame::Stdout(bytes))) => write(&mut out, &bytes)?,
            Ok(Some(Frame::Stderr(bytes))) => write(&mut err, &bytes)?,
            Ok(Some(Frame::Exit(code))) => return Ok(Some(code)),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => {
                return Err(CommandError::new(format!(
                    "cannot read the container's output: {}",
                    reason(&e)
                )));
            }
        }
    }
}

fn write(to: &mut impl io::Write, bytes: &[u8]) -> Result<(), CommandError> {
    let written = to.write_all(bytes).and_then(|()| to.flush());
    written.map_err(output)
}

fn pass_input_on(mut sender: UnixStream) {
    let mut stdin = io::stdin().lock();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let frame = match stdin.read(&mut buffer) {
            Ok(0) => Frame::StdinEnd,
            Ok(length) => Frame::Stdin(buffer[..length].to_vec()),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => {
                tracing::debug!("cannot read standard input: {e}");
                Frame::StdinEnd
            }
        };
        let sent = frame.send(&mut sender);
        if sent.is_err() || frame == Frame::StdinEnd {
            return;
        }
    }
}

/// As a signal, not behind input that nobody may read.
fn tell_size(run: &RunDir) {
    let size = terminal::size(io::stdin()).or_else(|_| terminal::size(io::stdout()));
    if let Ok(size) = size
        && let Err(e) = attach::tell(run, &Frame::Resize(size))
    {
        tracing::debug!("nobody is there for the terminal's size: {e}");
    }
}
