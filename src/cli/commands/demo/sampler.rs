//! What the store takes, looked at again and again while the story is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cli::commands::df::{Usage, usage};
use crate::cli::error::CommandError;
use crate::db::{Db, Snapshot};
use crate::store::Store;

/// The store at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Seconds since the story began.
    pub at: f64,
    /// What it took.
    pub usage: Usage,
}

const PAUSE: Duration = Duration::from_millis(20);

impl Sample {
    /// Look now.
    pub fn take(db: &mut Db, store: &Store, start: Instant) -> Result<Sample, CommandError> {
        let snapshot = Snapshot::take(db)?;
        let usage = usage(store, &snapshot)?;
        Ok(Sample {
            at: start.elapsed().as_secs_f64(),
            usage,
        })
    }
}

/// A thread that takes samples.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Sample>, CommandError>>,
}

impl Sampler {
    /// Begin; times are counted from `start`.
    pub fn start(root: PathBuf, start: Instant) -> Result<Sampler, CommandError> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("sampler".into())
            .spawn(move || {
                let store = Store::open(&root)?;
                let mut db = Db::open(&store.database())?;
                store.furnish()?;
                let mut samples = Vec::new();
                while !flag.load(Ordering::Relaxed) {
                    samples.push(Sample::take(&mut db, &store, start)?);
                    std::thread::sleep(PAUSE);
                }
                Ok(samples)
            })?;
        Ok(Sampler { stop, thread })
    }

    /// End, and give the samples.
    pub fn stop(self) -> Result<Vec<Sample>, CommandError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(CommandError::new("the sampler failed")))
    }
}
