//! The layer's bytes on their way from the reader to the unpacker.
//!
//! Reading (which mostly is decompressing) and hashing run on a thread of their own, beside the
//! writing; between them goes a bounded channel of buffers that are used again, so that memory stays
//! flat. Every byte to the end of the stream is hashed, also those behind the end of the tar.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use sha2::{Digest as _, Sha256};

use super::error::Cancelled;
use crate::model::DiffId;

/// Large enough that the channel costs nothing, small enough to stay in the CPU's cache.
const BUFFER: usize = 256 << 10;
const BUFFERS: usize = 4;

/// The receiving end: what the thread has read and hashed.
pub(super) struct Stream<'a> {
    full: Receiver<io::Result<Vec<u8>>>,
    free: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    cancel: &'a (dyn Fn() -> bool + Sync),
}

/// The reading end, to be run on its own thread.
pub(super) struct Pump {
    full: SyncSender<io::Result<Vec<u8>>>,
    free: Receiver<Vec<u8>>,
}

/// The two ends.
pub(super) fn stream<'a>(cancel: &'a (dyn Fn() -> bool + Sync)) -> (Pump, Stream<'a>) {
    let (full_in, full_out) = sync_channel(BUFFERS);
    let (free_in, free_out) = channel();
    let pump = Pump {
        full: full_in,
        free: free_out,
    };
    let stream = Stream {
        full: full_out,
        free: free_in,
        buffer: Vec::new(),
        at: 0,
        ended: false,
        cancel,
    };
    (pump, stream)
}

impl Pump {
    /// Reads to the end and returns the digest; stops early when the other end is gone or the reader fails,
    /// and then the digest means nothing.
    pub(super) fn run(self, mut reader: impl Read) -> DiffId {
        let mut hash = Sha256::new();
        let mut made = 0;
        loop {
            let mut buffer = match self.free.try_recv() {
                Ok(buffer) => buffer,
                Err(_) if made < BUFFERS => {
                    made += 1;
                    vec![0; BUFFER]
                }
                Err(_) => match self.free.recv() {
                    Ok(buffer) => buffer,
                    Err(_) => break,
                },
            };
            buffer.resize(BUFFER, 0);
            match fill(&mut reader, &mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hash.update(&buffer[..n]);
                    buffer.truncate(n);
                    if self.full.send(Ok(buffer)).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    // If nobody listens any more, they have an error of their own to report.
                    drop(self.full.send(Err(error)));
                    break;
                }
            }
        }
        DiffId::from_sha256(hash.finalize().as_slice())
    }
}

/// As much as fits, less only at the end.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match reader.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

impl Stream<'_> {
    /// The bytes at hand; none at the end of the stream.
    fn at_hand(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() && !self.ended {
            if (self.cancel)() {
                return Err(io::Error::other(Cancelled));
            }
            let used = std::mem::take(&mut self.buffer);
            self.at = 0;
            if used.capacity() > 0 {
                // The thread may have ended already and need no more.
                drop(self.free.send(used));
            }
            match self.full.recv() {
                Ok(Ok(buffer)) => self.buffer = buffer,
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => self.ended = true,
            }
        }
        Ok(&self.buffer[self.at..])
    }

    /// Passes over up to `count` bytes, and shows them to `each`. Gives how many there were, fewer only
    /// at the end.
    pub(super) fn pass(
        &mut self,
        count: u64,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut left = count;
        while left > 0 {
            let bytes = self.at_hand()?;
            if bytes.is_empty() {
                break;
            }
            let n = usize::try_from(left).map_or(bytes.len(), |l| l.min(bytes.len()));
            each(&bytes[..n])?;
            self.at += n;
            left -= n as u64;
        }
        Ok(count - left)
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.at_hand()?;
        let n = bytes.len().min(buffer.len());
        buffer[..n].copy_from_slice(&bytes[..n]);
        self.at += n;
        Ok(n)
    }
}
