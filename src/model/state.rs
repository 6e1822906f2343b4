//! The states of layers and containers, under the names that JSON output shows.

use std::fmt;

/// Where a stored layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// An image names it.
    Live,
    /// Complete, but no image names it; `prune` takes it.
    Unused,
    /// Marked, and held by the pin of at least one view.
    Pending,
    /// Marked and not pinned, not yet gone.
    Reclaiming,
}

impl fmt::Display for LayerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LayerState::Live => "live",
            LayerState::Unused => "unused",
            LayerState::Pending => "pending",
            LayerState::Reclaiming => "reclaiming",
        })
    }
}

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Never mounted.
    Created,
    /// Its view is served, without a process of its own.
    Mounted,
    /// Its process runs.
    Running,
    /// Its process is there, and frozen.
    Paused,
    /// It was mounted or ran, and does so no more.
    Exited,
}

impl ContainerState {
    /// Whether the view is being served, and so pins the image's layers.
    pub fn is_active(self) -> bool {
        matches!(
            self,
            ContainerState::Mounted | ContainerState::Running | ContainerState::Paused
        )
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ContainerState::Created => "created",
            ContainerState::Mounted => "mounted",
            ContainerState::Running => "running",
            ContainerState::Paused => "paused",
            ContainerState::Exited => "exited",
        })
    }
}

/// What a view is served for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Purpose {
    /// Whoever looks into it.
    #[default]
    Mount,
    /// The command that has mounted it for itself: it goes with the command, and the container is then
    /// what it was before.
    Transient,
    /// The container's process, which is about to run, runs, or has ended.
    Run,
}

impl Purpose {
    const ALL: [Purpose; 3] = [Purpose::Mount, Purpose::Transient, Purpose::Run];

    /// As the database has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Mount => "mount",
            Purpose::Transient => "transient",
            Purpose::Run => "run",
        }
    }
}

/// What serves a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Our own union, over FUSE.
    #[default]
    Fuse,
    /// The kernel's overlayfs; the view's server holds the pins, and waits for its end.
    Overlay,
}

impl Driver {
    const ALL: [Driver; 2] = [Driver::Fuse, Driver::Overlay];

    /// As the database and the command line have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Driver::Fuse => "fuse",
            Driver::Overlay => "overlay",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no driver.
#[derive(Debug, thiserror::Error)]
#[error("there is no driver {0:?}, only fuse and overlay")]
pub struct UnknownDriver(String);

impl std::str::FromStr for Driver {
    type Err = UnknownDriver;

    fn from_str(text: &str) -> Result<Driver, UnknownDriver> {
        let mut all = Driver::ALL.into_iter();
        all.find(|driver| driver.as_str() == text)
            .ok_or_else(|| UnknownDriver(text.to_owned()))
    }
}

/// The text is no purpose.
#[derive(Debug, thiserror::Error)]
#[error("unknown purpose {0:?}")]
pub struct UnknownPurpose(String);

impl std::str::FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(text: &str) -> Result<Purpose, UnknownPurpose> {
        let mut all = Purpose::ALL.into_iter();
        all.find(|purpose| purpose.as_str() == text)
            .ok_or_else(|| UnknownPurpose(text.to_owned()))
    }
}
