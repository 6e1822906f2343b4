//! Opening an input so that it can be read anywhere: in place, or from an unnamed copy in the store.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::decode::{Compression, MAGIC, explained};
use super::outer::Outer;
use super::{ArchiveError, Input};
use crate::model::tar::shown;

const COPY_BUFFER: usize = 256 << 10;

/// The bytes of a block of a tar.
const BLOCK: u64 = 512;

/// How long a pipe is waited for before `cancel` is asked again.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Opens and lists an archive.
pub(super) fn open(
    input: Input,
    spool_dir: &Path,
    cancel: &(dyn Fn() -> bool + Sync),
    copied: &dyn Fn(u64),
) -> Result<Outer, ArchiveError> {
    let in_place = |compression| compression == Compression::None;
    match seekable(input, spool_dir, in_place, cancel, copied)? {
        (label, Seekable::File(file)) => Outer::tar(label, file, cancel),
        (label, Seekable::Directory(directory)) => Ok(Outer::directory(label, directory.into())),
    }
}

/// An input that can be read anywhere.
pub(super) enum Seekable {
    File(File),
    Directory(File),
}

/// Opens an input: a file in place if what it begins with says `in_place`, else an uncompressed copy.
/// Gives its name for messages as well. `copied` is told how many bytes of a copy there are.
pub(super) fn seekable(
    input: Input,
    spool_dir: &Path,
    in_place: impl Fn(Compression) -> bool,
    cancel: &(dyn Fn() -> bool + Sync),
    copied: &dyn Fn(u64),
) -> Result<(String, Seekable), ArchiveError> {
    let (label, opened) = match input {
        Input::Path(path) => {
            let label = shown(path.as_os_str().as_encoded_bytes());
            // A pipe that nobody writes to yet is opened all the same, and waited for where that can be ended.
            let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits().cast_signed())
                .open(&path);
            (label, opened.map(Opened::File))
        }
        Input::Stdin => {
            let stdin = rustix::stdio::stdin().try_clone_to_owned();
            ("stdin".to_owned(), stdin.map(|fd| Opened::File(fd.into())))
        }
        Input::Stream(label, stream) => (label, Ok(Opened::Stream(stream))),
    };
    let read_error = |source| ArchiveError::Read {
        archive: label.clone(),
        source,
    };
    let stream: Box<dyn Read + Send + '_> = match opened.map_err(read_error)? {
        Opened::Stream(stream) => stream,
        Opened::File(mut file) => {
            let kind = file.metadata().map_err(read_error)?.file_type();
            if kind.is_dir() {
                return Ok((label, Seekable::Directory(file)));
            }
            // Only from its beginning can a file be read in place: standard input may stand elsewhere.
            let seekable = kind.is_file() && file.stream_position().map_err(read_error)? == 0;
            if seekable {
                let mut start = [0; MAGIC];
                let n = file.read_at(&mut start, 0).map_err(read_error)?;
                if in_place(Compression::of(&start[..n])) {
                    return Ok((label, Seekable::File(file)));
                }
            }
            Box::new(Patient { file, cancel })
        }
    };
    let copy = copy(&label, stream, spool_dir, cancel, copied)?;
    Ok((label, Seekable::File(copy)))
}

enum Opened {
    File(File),
    Stream(Box<dyn Read + Send>),
}

/// An unnamed file in `spool_dir` with what `stream` yields, uncompressed.
fn copy(
    label: &str,
    mut stream: Box<dyn Read + Send + '_>,
    spool_dir: &Path,
    cancel: &(dyn Fn() -> bool + Sync),
    copied: &dyn Fn(u64),
) -> Result<File, ArchiveError> {
    let read_error = |source: io::Error| match source.get_ref().is_some_and(|e| e.is::<Cancelled>())
    {
        true => ArchiveError::Interrupted,
        false => ArchiveError::Read {
            archive: label.to_owned(),
            source: explained(source),
        },
    };
    let write_error = |source| ArchiveError::Spool {
        archive: label.to_owned(),
        directory: shown(spool_dir.as_os_str().as_encoded_bytes()),
        source,
    };
    let mut start = Vec::new();
    stream
        .by_ref()
        .take(MAGIC as u64)
        .read_to_end(&mut start)
        .map_err(read_error)?;
    let compression = Compression::of(&start);
    let whole = BufReader::with_capacity(COPY_BUFFER, io::Cursor::new(start).chain(stream));
    let mut reader = compression.reader(whole).map_err(read_error)?;
    let mut copy = tempfile::tempfile_in(spool_dir).map_err(write_error)?;
    let mut buffer = vec![0; COPY_BUFFER];
    let mut block = Vec::new();
    reader
        .by_ref()
        .take(BLOCK)
        .read_to_end(&mut block)
        .map_err(read_error)?;
    if block.len() as u64 == BLOCK && block.iter().all(|b| *b == 0) {
        // The end of a tar at its beginning; /dev/zero would go on until the disk is full.
        return Err(ArchiveError::Unknown {
            archive: label.to_owned(),
            reason: "not an image archive: an empty tar",
        });
    }
    copy.write_all(&block).map_err(write_error)?;
    let mut written = block.len() as u64;
    loop {
        if cancel() {
            return Err(ArchiveError::Interrupted);
        }
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(copy),
            Ok(n) => {
                copy.write_all(&buffer[..n]).map_err(write_error)?;
                written += n as u64;
                copied(written);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(e)),
        }
    }
}

/// A file, pipe, socket or device that may let its reader wait: not longer than `cancel` allows.
struct Patient<'a> {
    file: File,
    cancel: &'a (dyn Fn() -> bool + Sync),
}

/// `cancel` has ended the waiting.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Cancelled;

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if (self.cancel)() {
                return Err(io::Error::other(Cancelled));
            }
            // A signal may come to this thread or to another one: hence not without a limit.
            match poll(
                &mut [PollFd::new(&self.file, PollFlags::IN)],
                Some(&PATIENCE),
            ) {
                Ok(0) | Err(Errno::INTR) => continue,
                other => other?,
            };
            match self.file.read(buffer) {
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                other => return other,
            }
        }
    }
}
