//! What a container's process has written, with times: a file of lines as Kubernetes' container
//! runtimes and Podman write it
//! ([CRI logging](https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md)):
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P a piece of a line, the rest of which follows
//! ```
//!
//! All bytes but the end of the line are the process's own.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;

/// One of the two streams of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// A log that is being written.
#[derive(Debug)]
pub struct OutputLog {
    file: File,
    /// That it could not be written was told already.
    has_failed: bool,
}

impl OutputLog {
    /// Go on with the log at `path`, or begin one.
    pub fn open(path: &Path) -> io::Result<OutputLog> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path)?;
        Ok(OutputLog {
            file,
            has_failed: false,
        })
    }

    /// Note what the process has written. On a full disk it is left out, and the process goes on.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) {
        let lines = lines(Timestamp::now(), stream, bytes);
        let mut left = lines.as_slice();
        while !left.is_empty() {
            match self.file.write(left) {
                Ok(written) if written > 0 => left = &left[written..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    let why = failed.err().unwrap_or(io::ErrorKind::WriteZero.into());
                    return self.take_back(lines.len() - left.len(), &why);
                }
            }
        }
    }

    /// Half a line would be taken for the beginning of the next. It is at the end, wherever that is:
    /// somebody may have cut the log to make room.
    fn take_back(&mut self, written: usize, why: &io::Error) {
        if !self.has_failed {
            tracing::warn!("the container's output is not logged: {why}");
            self.has_failed = true;
        }
        let length = self.file.metadata().map(|m| m.len());
        let cut = length.and_then(|l| self.file.set_len(l.saturating_sub(written as u64)));
        if let Err(e) = cut {
            tracing::warn!("cannot cut the container's log: {e}");
        }
    }
}

fn lines(time: Timestamp, stream: Stream, bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len() + 64);
    for piece in bytes.split_inclusive(|b| *b == b'\n') {
        let (text, tag) = match piece.strip_suffix(b"\n") {
            Some(line) => (line, 'F'),
            None => (piece, 'P'),
        };
        let head = format!("{time:.9} {} {tag} ", stream.name());
        lines.extend_from_slice(head.as_bytes());
        lines.extend_from_slice(text);
        lines.push(b'\n');
    }
    lines
}

/// What a process wrote at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub time: Timestamp,
    /// Where to.
    pub stream: Stream,
    /// What, with the end of the line if it is one.
    pub bytes: Vec<u8>,
}

/// Read the next record: `None` at the end of what is there, and for a line that has no end yet, which
/// stays in `line`. What is no record is passed over.
pub fn next(log: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<Record>> {
    loop {
        log.read_until(b'\n', line)?;
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let record = parse(line);
        line.clear();
        if record.is_some() {
            return Ok(record);
        }
    }
}

fn parse(line: &[u8]) -> Option<Record> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let is_whole = match fields.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let mut bytes = fields.next()?.to_vec();
    if !is_whole {
        bytes.pop();
    }
    Some(Record {
        time,
        stream,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(path: &Path) -> Vec<(Stream, Vec<u8>)> {
        let mut log = io::BufReader::new(File::open(path).unwrap());
        let mut line = Vec::new();
        std::iter::from_fn(|| next(&mut log, &mut line).unwrap())
            .map(|record| (record.stream, record.bytes))
            .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let mut log = OutputLog::open(&path).unwrap();
        log.append(Stream::Stdout, b"one\ntwo");
        log.append(Stream::Stderr, b"\xff\0 x \n");
        let mut log = OutputLog::open(&path).unwrap();
        log.append(Stream::Stdout, b" more\n\n");
        let text = |stream, bytes: &[u8]| (stream, bytes.to_vec());
        assert_eq!(
            all(&path),
            [
                text(Stream::Stdout, b"one\n"),
                text(Stream::Stdout, b"two"),
                text(Stream::Stderr, b"\xff\0 x \n"),
                text(Stream::Stdout, b" more\n"),
                text(Stream::Stdout, b"\n"),
            ]
        );
    }

    #[test]
    fn a_line_is_read_once_it_is_whole() {
        let time = Timestamp::UNIX_EPOCH;
        let bytes = lines(time, Stream::Stdout, b"hello\n");
        let (first, rest) = bytes.split_at(20);
        let mut line = Vec::new();
        assert_eq!(next(&mut &first[..], &mut line).unwrap(), None);
        let record = next(&mut &rest[..], &mut line).unwrap().unwrap();
        assert_eq!(
            (record.time, record.bytes.as_slice()),
            (time, &b"hello\n"[..])
        );
        let mut damaged = &b"nonsense\n1970-01-01T00:00:00Z stdout F x\n"[..];
        let record = next(&mut damaged, &mut line).unwrap().unwrap();
        assert_eq!(record.bytes, b"x\n");
    }
}
