//! Bytes on the disk over time, by the file system's own counters, with what happened when.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::BenchError;
use super::disk::used;

/// What was recorded. Times are seconds since a moment that whoever began it has chosen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Recording {
    /// When, and how many bytes of the file system were in use.
    pub used: Vec<(f64, u64)>,
    /// When, and what happened, in a few words.
    pub events: Vec<(f64, String)>,
}

/// A recording that goes on.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    events: Vec<(f64, String)>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<(f64, u64)>, BenchError>>,
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

impl Recorder {
    /// Begin to record the file system on which `path` is; times count from `start`.
    pub fn start(path: PathBuf, start: Instant) -> Result<Recorder, BenchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("recorder".to_owned());
        let looks = path.clone();
        let look = move || {
            let mut samples: Vec<(f64, u64)> = Vec::new();
            while !flag.load(Ordering::Relaxed) {
                samples.push((start.elapsed().as_secs_f64(), used(&looks)?));
                std::thread::sleep(PAUSE);
            }
            samples.push((start.elapsed().as_secs_f64(), used(&looks)?));
            Ok(samples)
        };
        let thread = thread
            .spawn(look)
            .map_err(BenchError::at("start a thread for", &path))?;
        Ok(Recorder {
            start,
            events: Vec::new(),
            stop,
            thread,
        })
    }

    /// Seconds until now.
    pub fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Something happens now. Gives when that is.
    pub fn event(&mut self, what: &str) -> f64 {
        let at = self.now();
        self.events.push((at, what.to_owned()));
        at
    }

    /// End. Looks that have seen the same as those before and after them are left out.
    pub fn finish(self) -> Result<Recording, BenchError> {
        self.stop.store(true, Ordering::Relaxed);
        let failed = || Err(BenchError::Wrong("the recorder has failed".to_owned()));
        let used = self.thread.join().unwrap_or_else(|_| failed())?;
        Ok(Recording {
            used: turning_points(&used),
            events: self.events,
        })
    }
}

fn turning_points(samples: &[(f64, u64)]) -> Vec<(f64, u64)> {
    let is_between = |n: usize| {
        let value = |n: usize| samples.get(n).map(|s| s.1);
        n > 0 && value(n - 1) == value(n) && value(n) == value(n + 1)
    };
    let kept = samples.iter().enumerate().filter(|(n, _)| !is_between(*n));
    kept.map(|(_, sample)| *sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_and_the_turns_are_kept() {
        let samples = [1, 1, 1, 5, 5, 5, 5, 2].map(|v| (0.0, v));
        let kept: Vec<u64> = turning_points(&samples).iter().map(|s| s.1).collect();
        assert_eq!(kept, [1, 1, 5, 5, 2]);
        assert_eq!(turning_points(&[]), []);
    }

    #[test]
    fn events_are_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::start(dir.path().to_owned(), Instant::now()).unwrap();
        recorder.event("first");
        recorder.event("second");
        let recording = recorder.finish().unwrap();
        assert!(recording.events[0].0 <= recording.events[1].0);
        assert!(!recording.used.is_empty());
    }
}
