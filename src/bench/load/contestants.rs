//! Who loads: each with a store of its own, which it empties after every turn.

use std::path::Path;

use super::forms::Archive;
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::layerctl::Layerctl;
use crate::bench::peers::{Containerd, Docker, ImageStore, Podman, Skopeo, Tar, Umoci};
use crate::bench::program::Ran;
use crate::bench::stop::Stop;

/// A kind of contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This program.
    Layerctl,
    /// What the others are compared with.
    Tar,
    /// A daemon.
    Docker,
    /// Without one.
    Podman,
    /// Into the store that Podman and CRI-O use.
    Skopeo,
    /// All layers into one tree.
    Umoci,
    /// containerd, by its client.
    Ctr,
}

impl Kind {
    /// As its command line is called.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Layerctl => "layerctl",
            Kind::Tar => "tar",
            Kind::Docker => "docker",
            Kind::Podman => "podman",
            Kind::Skopeo => "skopeo",
            Kind::Umoci => "umoci",
            Kind::Ctr => "ctr",
        }
    }
}

/// A contestant that is ready to load; its daemon ends when it goes.
pub enum Contestant {
    /// This program.
    Layerctl(Layerctl),
    /// See [`Kind::Tar`].
    Tar(Tar),
    /// See [`Kind::Umoci`].
    Umoci(Umoci),
    /// All others.
    Store(Box<dyn ImageStore>),
}

impl Contestant {
    /// Make it ready.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(
        kind: Kind,
        disk: &Disk,
        layerctl: &Path,
        stop: &Stop,
    ) -> Result<Contestant, BenchError> {
        Ok(match kind {
            Kind::Layerctl => {
                Contestant::Layerctl(Layerctl::new(layerctl, disk.top().join("layerctl")))
            }
            Kind::Tar => Contestant::Tar(Tar::start(disk, stop)?),
            Kind::Umoci => Contestant::Umoci(Umoci::start(disk, stop)?),
            Kind::Docker => Contestant::Store(Box::new(Docker::start(disk, stop)?)),
            Kind::Podman => Contestant::Store(Box::new(Podman::start(disk, stop)?)),
            Kind::Skopeo => Contestant::Store(Box::new(Skopeo::start(disk, stop)?)),
            Kind::Ctr => Contestant::Store(Box::new(Containerd::start(disk, stop)?)),
        })
    }

    /// Its version, and what of its configuration explains a figure.
    pub fn version(&self) -> &str {
        match self {
            Contestant::Layerctl(_) => env!("CARGO_PKG_VERSION"),
            Contestant::Tar(tar) => tar.version(),
            Contestant::Umoci(umoci) => umoci.version(),
            Contestant::Store(store) => store.version(),
        }
    }

    /// Whether the process that is measured is but the client of the one that loads.
    pub fn has_daemon(&self) -> bool {
        matches!(self, Contestant::Store(store) if store.has_daemon())
    }

    /// Load.
    ///
    /// # Errors
    /// It fails.
    pub fn load(&self, archive: &Archive, stop: &Stop) -> Result<Ran, BenchError> {
        match self {
            Contestant::Layerctl(layerctl) => layerctl.load(&archive.path, stop),
            Contestant::Tar(tar) => tar.unpack(&archive.layers, archive.form.decompress(), stop),
            Contestant::Umoci(umoci) => umoci.unpack(&archive.layout, Archive::LAYOUT_TAG, stop),
            Contestant::Store(store) => store.load(&archive.path, stop),
        }
    }

    /// Remove what was loaded: the next load must find nothing.
    ///
    /// # Errors
    /// It fails.
    pub fn clear(&self, stop: &Stop) -> Result<(), BenchError> {
        match self {
            Contestant::Layerctl(layerctl) => {
                let store = layerctl.root();
                std::fs::remove_dir_all(store).map_err(BenchError::at("delete", store))
            }
            Contestant::Tar(tar) => tar.clear(),
            Contestant::Umoci(umoci) => umoci.clear(),
            Contestant::Store(store) => store.remove_all(stop).map(drop),
        }
    }
}
