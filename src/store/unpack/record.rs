//! The layer's bytes as they pass by, all but the files' contents noted in its tar-split.

use std::io::{self, Read, Write};

use super::stream::Stream;
use crate::model::tar::Skip;
use crate::model::tar_split::TarSplitWriter;
use crate::sys::reason;

/// Reads a layer and notes what it reads, but for what it is told to leave out.
pub(super) struct Recorded<'a, W> {
    stream: Stream<'a>,
    split: &'a mut TarSplitWriter<W>,
    is_contents: bool,
}

impl<'a, W: Write> Recorded<'a, W> {
    pub(super) fn new(stream: Stream<'a>, split: &'a mut TarSplitWriter<W>) -> Recorded<'a, W> {
        Recorded {
            stream,
            split,
            is_contents: false,
        }
    }

    /// What is read from here on is a file's contents, which somebody else accounts for.
    pub(super) fn begin_contents(&mut self) {
        self.is_contents = true;
    }

    /// What is read from here on is noted again.
    pub(super) fn end_contents(&mut self) {
        self.is_contents = false;
    }

    /// Note that a file has the next bytes.
    pub(super) fn contents(&mut self, path: &[u8], offset: u64, length: u64) -> io::Result<()> {
        told(self.split.contents(path, offset, length))
    }

    /// Note bytes that no file has.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        told(self.split.bytes(bytes))
    }

    /// Passes over what follows the end of the tar: it counts in the digest.
    pub(super) fn drain(mut self) -> io::Result<()> {
        self.skip(u64::MAX).map(drop)
    }
}

/// An error of the tar-split is not one of what is read.
fn told(written: io::Result<()>) -> io::Result<()> {
    written.map_err(|e| {
        let text = format!("cannot write its tar-split: {}", reason(&e));
        io::Error::new(e.kind(), text)
    })
}

impl<W: Write> Read for Recorded<'_, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        if !self.is_contents {
            told(self.split.bytes(&buffer[..n]))?;
        }
        Ok(n)
    }
}

impl<W: Write> Skip for Recorded<'_, W> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let (split, is_contents) = (&mut self.split, self.is_contents);
        self.stream.pass(count, |bytes| match is_contents {
            true => Ok(()),
            false => told(split.bytes(bytes)),
        })
    }
}
