//! How long it takes to remove an image, and what that does to a neighbour.
//!
//! Two passes for each size of image. In the first the contestants take turns, for several rounds, with
//! nothing else going on; caches are dropped before each step, and what a step has left to write counts (those
//! that are steered take as long as they are told to, and no part in this). In
//! the second, for each of them, bytes on the disk are recorded and a neighbour works beside them.

pub mod contestants;
mod measure;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::BenchError;
use super::disk::Where;
use super::figures::{median, median_ratio};
use super::image::Size;
use super::layerctl::Layerctl;
use super::machine::Machine;
use super::neighbour::{Operation, Percentiles};
use super::space::Recording;
use super::stop::Stop;
pub use measure::measure;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program.
    pub program: PathBuf,
    /// On which disk.
    pub place: Where,
    /// Of which images.
    pub images: Vec<Source>,
    /// How often, at least 1.
    pub rounds: usize,
    /// How long the neighbour is watched before and after a removal; not at all if zero.
    pub neighbour: Duration,
    /// Beside full speed, steered by this (`LAYERCTL_RECLAIM_RATE`).
    pub rates: Vec<String>,
    /// Which contestants, beside the steered ones: all if this is empty.
    pub only: Vec<Kind>,
}

/// A kind of contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This program.
    Layerctl,
    /// The same, its views served by kernel overlayfs.
    Overlay,
    /// `rm -rf` of the layers.
    Rm,
    /// `docker rmi`.
    Docker,
    /// `podman rmi`.
    Podman,
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Kind; 5] = [
        Kind::Layerctl,
        Kind::Overlay,
        Kind::Rm,
        Kind::Docker,
        Kind::Podman,
    ];

    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Layerctl => "layerctl",
            Kind::Overlay => "layerctl, overlay driver",
            Kind::Rm => "rm -rf",
            Kind::Docker => "docker rmi",
            Kind::Podman => "podman rmi",
        }
    }
}

/// Where an image comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// It is made.
    Made(Size),
    /// An archive that `load` takes.
    Archive(PathBuf),
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// On which disk.
    pub disk: String,
    /// The most rounds.
    pub rounds: usize,
    /// An image each.
    pub cases: Vec<Case>,
}

/// What was measured of one image.
#[derive(Debug, Serialize)]
pub struct Case {
    /// What it is made of, if it was made.
    pub size: Option<Size>,
    /// The archive, if one was given.
    pub archive: Option<PathBuf>,
    /// Entries of the layers that go, directories included.
    pub entries: u64,
    /// Bytes that these take on the disk.
    pub bytes: u64,
    /// In the order of the table.
    pub contestants: Vec<Outcome>,
}

/// What became of one contestant.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// As the table names it.
    pub name: String,
    /// Of the program.
    pub version: String,
    /// Why it has no figures.
    pub left_out: Option<String>,
    /// Its times.
    pub rounds: Vec<Round>,
    /// What a neighbour met meanwhile.
    pub neighbour: Option<Met>,
}

/// Seconds of one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    /// Removing the image while nobody uses it: until the command returns.
    pub rmi: f64,
    /// The same, until the file system is synced.
    pub rmi_synced: f64,
    /// Removing it by force while a view is mounted: until the command returns.
    pub rmi_force: Option<f64>,
    /// From the beginning of `umount` until the layers are gone.
    pub reclaim: Option<f64>,
    /// The same, until the file system is synced.
    pub reclaim_synced: Option<f64>,
}

/// What a neighbour met while an image went.
#[derive(Debug, Serialize)]
pub struct Met {
    /// For each thing that it does.
    pub operations: Vec<Compared>,
    /// Seconds that the going took, with the neighbour at work: the median.
    pub took: f64,
    /// Bytes on the disk, of the first round.
    pub recording: Recording,
}

/// How long an operation took, before, during and after a removal.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// Of what.
    pub operation: Operation,
    /// Before it began.
    pub before: Percentiles,
    /// While the layers went.
    pub during: Percentiles,
    /// After they were gone.
    pub after: Percentiles,
}

impl Outcome {
    /// The median of what the rounds have of something.
    pub fn median(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.rounds.iter().map(of).collect();
        median(&values?)
    }

    /// Seconds until the bytes are back, synced: of the reclaim where it is deferred, else of the removal.
    pub fn back(round: &Round) -> f64 {
        round.reclaim_synced.unwrap_or(round.rmi_synced)
    }

    /// How often as long as another it takes until the bytes are back: the median of the rounds' ratios.
    pub fn ratio_to(&self, other: &Outcome) -> Option<f64> {
        let of = |outcome: &Outcome| outcome.rounds.iter().map(Self::back).collect::<Vec<_>>();
        median_ratio(&of(self), &of(other))
    }
}

/// The image that is measured.
#[derive(Debug)]
pub struct Subject {
    /// Its archive.
    pub archive: PathBuf,
    /// An archive of another one that shares layers with it, and stays.
    pub other: Option<PathBuf>,
    /// Its tag or ID.
    pub name: String,
    /// Entries of the layers that only it has.
    pub entries: u64,
    /// Bytes that these take.
    pub bytes: u64,
}

/// A layer that goes with the image.
#[derive(Debug)]
pub struct OwnLayer {
    /// The digits of its diff ID.
    pub diff: String,
    entries: u64,
    bytes: u64,
}

impl Subject {
    /// Bring both images into a store.
    pub fn load_into(&self, store: &Layerctl, stop: &Stop) -> Result<(), BenchError> {
        if let Some(other) = &self.other {
            store.load(other, stop)?;
        }
        store.load(&self.archive, stop)?;
        Ok(())
    }

    /// The layers of a store that go with the image.
    pub fn own_layers(&self, store: &Layerctl, stop: &Stop) -> Result<Vec<OwnLayer>, BenchError> {
        let image = store.run(&["inspect", &self.name], stop)?.out;
        let wrong = || BenchError::Wrong("layers and images do not tell what they are".to_owned());
        let image: Value = serde_json::from_str(&image).map_err(|_| wrong())?;
        let id = image[0]["Id"].clone();
        let layers = store.json(&["layers"], stop)?;
        let own = layers.iter().filter(|layer| {
            let images = layer["images"].as_array();
            images.is_some_and(|images| images.len() == 1 && images.first() == Some(&id))
        });
        own.map(|layer| {
            let diff = layer["diff_id"].as_str().and_then(|d| d.split_once(':'));
            Ok(OwnLayer {
                diff: diff.ok_or_else(wrong)?.1.to_owned(),
                entries: layer["entries"].as_u64().ok_or_else(wrong)?,
                bytes: layer["bytes"].as_u64().ok_or_else(wrong)?,
            })
        })
        .collect()
    }
}
