//! Somebody else on the same file system, who reads, writes and syncs little things all the time, as a
//! database does: what does it wait for while a large layer goes?

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::BenchError;
use super::figures::percentile;

/// What the neighbour does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// 4 KiB at a random place of a file of 64 MiB, past the page cache where that may be done (O_DIRECT).
    Read,
    /// 4 KiB to a random place of another such file, into the page cache.
    Write,
    /// fsync(2) after 4 KiB were written to a log of 8 MiB that is written again and again.
    Fsync,
}

impl Operation {
    /// All of them, in the order in which they are done.
    pub const ALL: [Operation; 3] = [Operation::Read, Operation::Write, Operation::Fsync];
}

/// How long one operation took.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// When it began: seconds since the beginning of the recording.
    pub at: f64,
    /// What was done.
    pub operation: Operation,
    /// Seconds.
    pub took: f64,
}

/// A neighbour at work.
#[derive(Debug)]
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Latency>>>,
    directory: std::path::PathBuf,
}

const BLOCK: usize = 4096;
const DATA: u64 = 64 << 20;
const LOG: u64 = 8 << 20;
/// Between two rounds of its operations.
const PAUSE: Duration = Duration::from_millis(1);

impl Neighbour {
    /// Move in: into a new directory, with files that are written and synced. Then begin; times count from
    /// `start`.
    pub fn start(directory: &Path, start: Instant) -> Result<Neighbour, BenchError> {
        std::fs::create_dir(directory).map_err(BenchError::at("create", directory))?;
        let files = Files::make(directory).map_err(BenchError::at("write in", directory))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("neighbour".to_owned())
            .spawn(move || files.work(start, &flag))
            .map_err(BenchError::at("start a thread for", directory))?;
        Ok(Neighbour {
            stop,
            thread,
            directory: directory.to_owned(),
        })
    }

    /// Move out. Gives what was recorded.
    pub fn finish(self) -> Result<Vec<Latency>, BenchError> {
        self.stop.store(true, Ordering::Relaxed);
        let failed = || Err(io::Error::other("the neighbour has failed"));
        let recorded = self.thread.join().unwrap_or_else(|_| failed());
        let recorded = recorded.map_err(BenchError::at("work in", &self.directory))?;
        let removed = std::fs::remove_dir_all(&self.directory);
        removed.map_err(BenchError::at("delete", &self.directory))?;
        Ok(recorded)
    }
}

struct Files {
    read: File,
    write: File,
    log: File,
}

/// Aligned as O_DIRECT wants its buffers.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

impl Files {
    fn make(directory: &Path) -> io::Result<Files> {
        let make = |name, size| -> io::Result<File> {
            let path = directory.join(name);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?;
            let chunk = vec![7; 1 << 20];
            for at in 0..size >> 20 {
                file.write_all_at(&chunk, at << 20)?;
            }
            file.sync_all()?;
            Ok(file)
        };
        let cached = make("read", DATA)?;
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(directory.join("read"));
        Ok(Files {
            // Some file systems have no O_DIRECT.
            read: direct.unwrap_or(cached),
            write: make("write", DATA)?,
            log: make("log", LOG)?,
        })
    }

    fn work(&self, start: Instant, stop: &AtomicBool) -> io::Result<Vec<Latency>> {
        let mut recorded = Vec::new();
        let mut block = Box::new(Block([1; BLOCK]));
        // Marsaglia's xorshift64.
        let mut random = 88_172_645_463_325_252_u64;
        let mut blocks_of_log = (0..LOG / BLOCK as u64).cycle();
        while !stop.load(Ordering::Relaxed) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = random % (DATA / BLOCK as u64) * BLOCK as u64;
            let log_at = blocks_of_log.next().unwrap_or(0) * BLOCK as u64;
            for operation in Operation::ALL {
                if operation == Operation::Fsync {
                    self.log.write_all_at(&block.0, log_at)?;
                }
                let began = Instant::now();
                match operation {
                    Operation::Read => self.read.read_exact_at(&mut block.0, at)?,
                    Operation::Write => self.write.write_all_at(&block.0, at)?,
                    Operation::Fsync => self.log.sync_all()?,
                }
                recorded.push(Latency {
                    at: began.duration_since(start).as_secs_f64(),
                    operation,
                    took: began.elapsed().as_secs_f64(),
                });
            }
            std::thread::sleep(PAUSE);
        }
        Ok(recorded)
    }
}

/// Percentiles of how long an operation took, in seconds; `None` where there were too few
/// ([`percentile`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many there were.
    pub count: usize,
    /// The median.
    pub p50: Option<f64>,
    /// Of a hundred, one took longer.
    pub p99: Option<f64>,
    /// Of a thousand, one took longer.
    pub p99_9: Option<f64>,
}

/// How long an operation took that began in one of these spans of time, each with its own recording.
pub fn percentiles<'a>(
    recordings: impl IntoIterator<Item = (&'a [Latency], Range<f64>)>,
    operation: Operation,
) -> Percentiles {
    let mut took = Vec::new();
    for (recorded, span) in recordings {
        let within = |l: &&Latency| l.operation == operation && span.contains(&l.at);
        took.extend(recorded.iter().filter(within).map(|l| l.took));
    }
    Percentiles {
        count: took.len(),
        p50: percentile(&took, 50.0),
        p99: percentile(&took, 99.0),
        p99_9: percentile(&took, 99.9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_everything_and_moves_out() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let neighbour = Neighbour::start(&home, Instant::now()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let recorded = neighbour.finish().unwrap();
        let of = |operation| percentiles([(recorded.as_slice(), 0.0..f64::MAX)], operation).count;
        assert!(of(Operation::Fsync) > 0);
        assert_eq!(of(Operation::Fsync), of(Operation::Read));
        assert!(!home.exists());
    }

    #[test]
    fn spans_of_several_recordings() {
        let latency = |at, took| Latency {
            at,
            operation: Operation::Fsync,
            took,
        };
        let (a, b) = ([latency(1.0, 5.0), latency(2.0, 7.0)], [latency(1.5, 9.0)]);
        let of = |operation| percentiles([(&a[..], 1.5..3.0), (&b[..], 1.0..2.0)], operation);
        assert_eq!(of(Operation::Fsync).count, 2);
        assert_eq!(of(Operation::Fsync).p50, Some(7.0));
        assert_eq!(of(Operation::Fsync).p99, None);
        assert_eq!(of(Operation::Read).count, 0);
    }
}
