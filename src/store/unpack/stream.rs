//! The layer's bytes on their way from the reader to the unpacker.
//!
//! Reading (which mostly is decompressing) and hashing each run on a thread of their own, beside the
//! writing; from one to the next go buffers, which are used again, so that memory stays flat. Every byte
//! to the end of the stream is hashed, also those behind the end of the tar.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use sha2::{Digest as _, Sha256};

use super::error::Cancelled;
use crate::model::DiffId;

/// Large enough that the channel costs nothing, small enough to stay in the CPU's cache.
const BUFFER: usize = 256 << 10;
const BUFFERS: usize = 6;

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
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn run(self, reader: impl Read) -> io::Result<DiffId> {
        let Pump { full, free } = self;
        let (read, to_hash) = sync_channel(BUFFERS);
        std::thread::scope(|threads| {
            let hasher = std::thread::Builder::new()
                .name("layer-hash".to_owned())
                .spawn_scoped(threads, move || hash(&to_hash, &full))?;
            pass_on(reader, &free, &read);
            drop(read);
            let panicked = |_| io::Error::other("the hashing thread panicked");
            hasher.join().map_err(panicked)
        })
    }
}

/// Reads to the end, or till nobody listens any more: they have an error of their own to report then.
fn pass_on(
    mut reader: impl Read,
    free: &Receiver<Vec<u8>>,
    read: &SyncSender<io::Result<Vec<u8>>>,
) {
    let mut made = 0;
    loop {
        let mut buffer = match free.try_recv() {
            Ok(buffer) => buffer,
            Err(_) if made < BUFFERS => {
                made += 1;
                vec![0; BUFFER]
            }
            Err(_) => match free.recv() {
                Ok(buffer) => buffer,
                Err(_) => return,
            },
        };
        buffer.resize(BUFFER, 0);
        let (part, is_last) = match fill(&mut reader, &mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                buffer.truncate(n);
                (Ok(buffer), false)
            }
            Err(error) => (Err(error), true),
        };
        if read.send(part).is_err() || is_last {
            return;
        }
    }
}

/// The digest of all that comes, which goes on to the writer.
fn hash(to_hash: &Receiver<io::Result<Vec<u8>>>, full: &SyncSender<io::Result<Vec<u8>>>) -> DiffId {
    let mut hash = Sha256::new();
    for buffer in to_hash {
        if let Ok(bytes) = &buffer {
            hash.update(bytes);
        }
        if full.send(buffer).is_err() {
            break;
        }
    }
    DiffId::from_sha256(hash.finalize().as_slice())
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
