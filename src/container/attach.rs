//! How a command joins a running container: the socket of its monitor, and what goes over it.
//!
//! A stream of frames: a byte that says what it is, its length as four bytes in little-endian order,
//! and so many bytes. Whoever connects says first what for. The end of the stream is the end of the
//! view: what the container held is let go then.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bundle::RunDir;
use crate::store::layout::open_directory;
use crate::sys::terminal::Size;

/// No frame is larger; what is longer is sent in several.
pub const LARGEST: usize = 64 << 10;

/// What goes from the monitor to those who joined, and from them to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// First word: output is wanted, and input comes.
    Attach,
    /// First word: only the end is waited for.
    Wait,
    /// First word: one more process is wanted (`container::entry`).
    Enter(Vec<u8>),
    /// It runs.
    Started,
    /// It does not, with this exit code, and why.
    Refused(u8, String),
    /// The process wrote this to its standard output, or its terminal.
    Stdout(Vec<u8>),
    /// The process wrote this to its standard error.
    Stderr(Vec<u8>),
    /// The process has ended, and how.
    Exit(i32),
    /// To its standard input.
    Stdin(Vec<u8>),
    /// No more of it.
    StdinEnd,
    /// The terminal of whoever joined has this size.
    Resize(Size),
    /// A signal for the process.
    Signal(i32),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Attach => 1,
            Frame::Wait => 2,
            Frame::Stdout(_) => 3,
            Frame::Stderr(_) => 4,
            Frame::Exit(_) => 5,
            Frame::Stdin(_) => 6,
            Frame::StdinEnd => 7,
            Frame::Resize(_) => 8,
            Frame::Signal(_) => 9,
            Frame::Enter(_) => 10,
            Frame::Started => 11,
            Frame::Refused(..) => 12,
        }
    }

    /// Sends it, in one write where the socket takes as much.
    pub fn send(&self, to: &mut impl Write) -> io::Result<()> {
        let body = match self {
            Frame::Attach | Frame::Wait | Frame::StdinEnd | Frame::Started => Vec::new(),
            Frame::Stdout(bytes)
            | Frame::Stderr(bytes)
            | Frame::Stdin(bytes)
            | Frame::Enter(bytes) => bytes.clone(),
            Frame::Refused(code, text) => {
                let text = text.as_bytes();
                [&[*code], &text[..text.len().min(LARGEST - 1)]].concat()
            }
            Frame::Exit(number) | Frame::Signal(number) => number.to_le_bytes().to_vec(),
            Frame::Resize((rows, columns)) => [rows.to_le_bytes(), columns.to_le_bytes()].concat(),
        };
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(5 + body.len());
        frame.push(self.kind());
        frame.extend(length.to_le_bytes());
        frame.extend(body);
        to.write_all(&frame)
    }

    /// Receives the next one; `None` at the end of the stream.
    ///
    /// # Errors
    /// `InvalidData` for what is none, `UnexpectedEof` for one that is cut short.
    pub fn receive(from: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut kind = [0];
        loop {
            match from.read(&mut kind) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        let invalid = || io::Error::from(ErrorKind::InvalidData);
        if length > LARGEST {
            return Err(invalid());
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        let number = |body: &[u8]| {
            body.try_into()
                .map(i32::from_le_bytes)
                .map_err(|_| invalid())
        };
        Ok(Some(match (kind[0], body.as_slice()) {
            (1, []) => Frame::Attach,
            (2, []) => Frame::Wait,
            (3, _) => Frame::Stdout(body),
            (4, _) => Frame::Stderr(body),
            (5, number_of) => Frame::Exit(number(number_of)?),
            (6, _) => Frame::Stdin(body),
            (7, []) => Frame::StdinEnd,
            (8, &[a, b, c, d]) => {
                Frame::Resize((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
            }
            (9, number_of) => Frame::Signal(number(number_of)?),
            (10, _) => Frame::Enter(body),
            (11, []) => Frame::Started,
            (12, [code, text @ ..]) => {
                Frame::Refused(*code, String::from_utf8_lossy(text).into_owned())
            }
            _ => return Err(invalid()),
        }))
    }
}

/// A path of a Unix socket must be short: so it goes through the open directory. (Each connection
/// keeps the path only for as long as it is made.)
fn through(directory: &OwnedFd, name: &str) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name)
}

/// The monitor's side.
pub fn listen(run: &RunDir) -> io::Result<UnixListener> {
    let directory = open_directory(run.path()).map_err(io::Error::other)?;
    UnixListener::bind(through(&directory, "attach"))
}

/// The side of a command.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` where nothing runs.
pub fn connect(run: &RunDir) -> io::Result<UnixStream> {
    let directory = File::open(run.path())?;
    UnixStream::connect(through(&directory.into(), "attach"))
}

/// How long a monitor may take to do what it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Send a frame to a container's monitor; when this returns it has done what that says.
///
/// # Errors
/// As [`connect`]; `TimedOut` or `WouldBlock` if it does not answer.
pub fn tell(run: &RunDir, frame: &Frame) -> io::Result<()> {
    let mut monitor = connect(run)?;
    monitor.set_read_timeout(Some(PATIENCE))?;
    Frame::Wait.send(&mut monitor)?;
    frame.send(&mut monitor)?;
    // It lets go of one who has nothing more to say, once it has heard all.
    monitor.shutdown(Shutdown::Write)?;
    while Frame::receive(&mut monitor)?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let frames = [
            Frame::Attach,
            Frame::Wait,
            Frame::Stdout(b"out".to_vec()),
            Frame::Stderr(vec![0; LARGEST]),
            Frame::Exit(-1),
            Frame::Stdin(Vec::new()),
            Frame::StdinEnd,
            Frame::Resize((24, 300)),
            Frame::Signal(15),
            Frame::Enter(b"{}".to_vec()),
            Frame::Started,
            Frame::Refused(127, "no such program".to_owned()),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.send(&mut bytes).unwrap();
        }
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::receive(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(Frame::receive(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bytes in [
            &[0, 0, 0, 0, 0][..],
            &[1, 1, 0, 0, 0, 7],
            &[5, 1, 0, 0, 0, 7],
            &[3, 0xff, 0xff, 0xff, 0xff],
            &[3, 2, 0, 0, 0, 7],
            &[3, 2],
        ] {
            let mut from = bytes;
            assert!(Frame::receive(&mut from).is_err(), "{bytes:?}");
        }
    }
}
