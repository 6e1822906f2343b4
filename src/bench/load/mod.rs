//! How long it takes to load an image, beside tar and whatever else loads images here.
//!
//! The same image lies there as docker-archives whose layers are plain, compressed by gzip and by zstd. Each
//! contestant loads each of them in every round, into a store that has nothing: from the page cache, until
//! the file system is synced. tar, which unpacks the layers into a directory each, is what the others are
//! compared with.

pub mod contestants;
pub mod forms;
mod own_image;
pub mod rounds;

use std::path::PathBuf;

use super::BenchError;
use super::disk::Disk;
use super::stop::Stop;
use contestants::{Contestant, Kind};
use forms::{Form, Image};
use rounds::{Entry, take_turns};

/// What is to be measured.
#[derive(Debug)]
pub struct Plan {
    /// Anything that `layerctl load` takes; without one an image is made of this machine's own files.
    pub archive: Option<PathBuf>,
    /// In which forms it is loaded.
    pub forms: Vec<Form>,
    /// Who loads.
    pub contestants: Vec<Kind>,
    /// How often; at least once.
    pub rounds: usize,
    /// This program.
    pub layerctl: PathBuf,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// The image.
    pub image: Image,
    /// Each contestant of the plan, in its order.
    pub entries: Vec<Entry>,
    /// The largest resident set of this process, in bytes. What is started from it has had that for a
    /// moment: a smaller one cannot be told.
    pub least_memory: u64,
}

/// Measure, and say meanwhile what is being done.
///
/// # Errors
/// The image cannot be loaded or saved by this program, or somebody interrupts. A contestant that is missing
/// or fails is an [`Entry`] that says so.
pub fn measure(
    plan: &Plan,
    disk: &Disk,
    stop: &Stop,
    tell: &dyn Fn(&str),
) -> Result<Measured, BenchError> {
    tell("preparing the image");
    let image = Image::prepare(plan, disk, stop, tell)?;
    let (mut entries, mut ready) = (Vec::new(), Vec::new());
    for kind in &plan.contestants {
        match Contestant::start(*kind, disk, &plan.layerctl, stop) {
            Ok(contestant) => {
                let index = entries.len();
                entries.push(Entry::new(*kind, Ok(&contestant)));
                ready.push((index, contestant));
            }
            Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
            Err(e) => {
                tell(&format!("without {}: {e}", kind.name()));
                entries.push(Entry::new(*kind, Err(e)));
            }
        }
    }
    take_turns(&mut entries, &ready, &image, plan.rounds, disk, stop, tell)?;
    Ok(Measured {
        image,
        entries,
        least_memory: own_peak(),
    })
}

/// `VmHWM` of proc_pid_status(5), in bytes.
fn own_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    kib.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}
