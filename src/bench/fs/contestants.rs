//! Who is compared: what mounts the layers, or has them as plain files; and how it is mounted and unmounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Settings;
use super::layers::{self, PREPARING, TAG};
use super::workloads::{Changes, Workload};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::program::{Program, find_or_lack};
use crate::bench::stop::Stop;
use crate::sys::mounts::{abort, mount_at, unmount};

/// Something that shows the tree of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// The kernel's.
    Overlayfs,
    /// A view of a store, files of its upper directory read and written by the kernel.
    Layerctl,
    /// A view of a store, all through the kernel's cache of the view.
    LayerctlCached,
    /// `layerctl overlay`, on the directories of the layers.
    LayerctlOverlay,
    /// On the directories of the layers.
    FuseOverlayfs,
    /// The merged tree as plain files.
    Directory,
}

impl Contestant {
    /// All of them, in the order of tables.
    pub const ALL: [Contestant; 6] = [
        Contestant::Overlayfs,
        Contestant::Layerctl,
        Contestant::LayerctlCached,
        Contestant::LayerctlOverlay,
        Contestant::FuseOverlayfs,
        Contestant::Directory,
    ];

    /// Those that are measured if nothing else is said.
    pub const USUAL: [Contestant; 5] = [
        Contestant::Overlayfs,
        Contestant::Layerctl,
        Contestant::LayerctlCached,
        Contestant::FuseOverlayfs,
        Contestant::Directory,
    ];

    /// As users name it.
    pub fn name(self) -> &'static str {
        match self {
            Contestant::Overlayfs => "overlayfs",
            Contestant::Layerctl => "layerctl",
            Contestant::LayerctlCached => "layerctl-cached",
            Contestant::LayerctlOverlay => "layerctl-overlay",
            Contestant::FuseOverlayfs => "fuse-overlayfs",
            Contestant::Directory => "directory",
        }
    }

    /// What it is.
    pub fn what(self) -> &'static str {
        match self {
            Contestant::Overlayfs => "the kernel's, on the directories of the layers",
            Contestant::Layerctl => "a view of a store, mount --io passthrough",
            Contestant::LayerctlCached => "a view of a store, mount --io cached",
            Contestant::LayerctlOverlay => "layerctl overlay, on the directories of the layers",
            Contestant::FuseOverlayfs => "where installed, on the directories of the layers",
            Contestant::Directory => "the merged tree as plain files",
        }
    }

    /// How `layerctl mount` is to read and write; `None` for what is no view of a store.
    fn io(self) -> Option<&'static str> {
        match self {
            Contestant::Layerctl => Some("passthrough"),
            Contestant::LayerctlCached => Some("cached"),
            _ => None,
        }
    }
}

/// Where all of it is. Paths of what is mounted are relative to `top`: they stand in lists with colons and
/// commas, and `top` may have its own.
pub struct Ground<'a> {
    /// The disk.
    pub disk: &'a Disk,
    /// This program.
    pub program: &'a Path,
    /// Whether to go on.
    pub stop: &'a Stop,
    /// How long each step of a run may take.
    pub limit: Duration,
    /// The top of the disk.
    top: PathBuf,
    /// The layers, the topmost first.
    names: Vec<String>,
}

/// One tree, to be ended by [`Ground::end`].
pub struct Tree {
    /// Its top.
    pub top: PathBuf,
    container: Option<String>,
    is_mounted: bool,
}

/// How long unmounting and removing may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl<'a> Ground<'a> {
    /// On a disk, with the layers that are in its top, for these settings.
    pub fn new(
        disk: &'a Disk,
        settings: &'a Settings,
        names: Vec<String>,
        stop: &'a Stop,
    ) -> Ground<'a> {
        Ground {
            disk,
            program: &settings.program,
            stop,
            limit: settings.limit,
            top: disk.top().to_owned(),
            names,
        }
    }

    /// The plain merged tree.
    pub fn merged(&self) -> PathBuf {
        self.top.join("merged")
    }

    /// For what workloads read from elsewhere.
    pub fn beside(&self) -> PathBuf {
        self.top.join("beside")
    }

    /// What a run has for itself; nothing of it is there between runs.
    fn run(&self) -> PathBuf {
        self.top.join("run")
    }

    /// This program's own benchmark process: see [`work_in_process`](super::work_in_process).
    pub fn work(&self, step: &str, name: &str, top: &Path) -> Program {
        Program::new(self.program)
            .args(["bench", "fs-work", step, name])
            .args([top, &self.beside()])
            .limit(self.limit)
            .works_on(&self.run().join("view"))
    }

    fn store(&self) -> Program {
        Program::new(self.program)
            .arg("--root")
            .arg(self.top.join("store"))
            .limit(self.limit)
    }

    /// Its version, as far as it has one of its own.
    ///
    /// # Errors
    /// It is not installed.
    pub fn version(&self, contestant: Contestant) -> Result<Option<String>, BenchError> {
        match contestant {
            Contestant::FuseOverlayfs => {
                let program = find_or_lack("fuse-overlayfs")?;
                let ran = Program::new(program).arg("--version").run(self.stop)?;
                let line = ran
                    .out
                    .lines()
                    .find_map(|l| l.strip_prefix("fuse-overlayfs:"));
                let version = line.and_then(|line| line.split_whitespace().last());
                Ok(version.map(str::to_owned))
            }
            Contestant::Overlayfs | Contestant::Directory => Ok(None),
            _ => Ok(Some(env!("CARGO_PKG_VERSION").to_owned())),
        }
    }

    /// Load the layers into a store.
    pub fn load(&self) -> Result<(), BenchError> {
        let archive = layers::archive(&self.names, &self.top, self.stop)?;
        let load = self.store().args(["load", "-q", "-i"]).arg(&archive);
        let loaded = load.limit(PREPARING).run(self.stop);
        fs::remove_file(&archive).map_err(BenchError::at("delete", &archive))?;
        loaded.map(drop)
    }

    /// Mount a contestant's tree, or make it, for a run of a workload; with an upper layer in which nothing is.
    pub fn begin(
        &self,
        contestant: Contestant,
        workload: Option<&Workload>,
    ) -> Result<Tree, BenchError> {
        for name in ["", "upper", "work", "view"] {
            let path = self.run().join(name);
            fs::create_dir(&path).map_err(BenchError::at("create", &path))?;
        }
        let mut tree = Tree {
            top: self.run().join("view"),
            container: None,
            is_mounted: contestant != Contestant::Directory,
        };
        let begun = match contestant {
            Contestant::Directory => self.plain(&mut tree, workload),
            _ => self
                .disk
                .cool()
                .and_then(|_| self.mount(contestant, &mut tree)),
        };
        match begun {
            Ok(()) => Ok(tree),
            Err(e) => self.end(tree, Err(e)),
        }
    }

    /// The tree as plain files: the one that there is if nobody changes it, else a copy.
    fn plain(&self, tree: &mut Tree, workload: Option<&Workload>) -> Result<(), BenchError> {
        match workload.map_or(Changes::Nothing, |workload| workload.changes) {
            Changes::Nothing => tree.top = self.merged(),
            Changes::Adds => {}
            Changes::Layers => {
                for path in workload.map_or(&[][..], |workload| workload.needs) {
                    let to = tree.top.join(path);
                    let parent = to.parent().unwrap_or(&tree.top);
                    fs::create_dir_all(parent).map_err(BenchError::at("create", parent))?;
                    layers::copy(&self.merged().join(path), parent, self.stop)?;
                }
            }
        }
        self.disk.cool().map(drop)
    }

    fn mount(&self, contestant: Contestant, tree: &mut Tree) -> Result<(), BenchError> {
        let options = format!(
            "lowerdir={},upperdir=run/upper,workdir=run/work",
            self.names.join(":")
        );
        let mount = match (contestant, contestant.io()) {
            (_, Some(io)) => {
                let made = self.store().args(["create", TAG]).run(self.stop)?;
                let id = tree.container.insert(made.out.trim().to_owned());
                self.store()
                    .args(["mount", "--io", io])
                    .arg(id)
                    .arg(&tree.top)
            }
            (Contestant::FuseOverlayfs, _) => Program::new(find_or_lack("fuse-overlayfs")?)
                .args(["-o", &options, "run/view"])
                .within(&self.top),
            (Contestant::LayerctlOverlay, _) => Program::new(self.program)
                .args(["overlay", "-o", &options, "run/view"])
                .within(&self.top),
            _ => Program::new(find_or_lack("mount")?)
                .args(["-t", "overlay", "overlay", "-o", &options, "run/view"])
                .within(&self.top),
        };
        mount.limit(self.limit).run(self.stop)?;
        // fuse-overlayfs returns before.
        let end = Instant::now() + PATIENCE;
        let mountinfo = Path::new("/proc/self/mountinfo");
        while mount_at(&tree.top)
            .map_err(BenchError::at("read", mountinfo))?
            .is_none()
        {
            self.stop.check()?;
            if Instant::now() > end {
                return Err(BenchError::Wrong(format!(
                    "{} has mounted nothing",
                    contestant.name()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Unmount a tree, and remove all that its run has left, also when everybody is to stop; gives what the run
    /// gave, or what went wrong here.
    pub fn end<T>(&self, tree: Tree, gave: Result<T, BenchError>) -> Result<T, BenchError> {
        let unmounted = self.unmount(&tree, gave.is_err());
        let removed = match &tree.container {
            // Its server has something to do still, and must not find that all is gone.
            Some(id) => {
                let remove = self.store().args(["rm", "-f", id]).limit(PATIENCE);
                remove.run(&Stop::default()).map(drop)
            }
            None => Ok(()),
        };
        let run = self.run();
        let deleted = match unmounted {
            // What is below is not ours to delete.
            Err(_) => Ok(()),
            Ok(()) => fs::remove_dir_all(&run).map_err(BenchError::at("delete", &run)),
        };
        let gave = gave?;
        unmounted.and(removed).and(deleted).map(|()| gave)
    }

    /// After a failure nobody answers perhaps: then whoever waits for an answer gets an error.
    fn unmount(&self, tree: &Tree, has_failed: bool) -> Result<(), BenchError> {
        if !tree.is_mounted {
            return Ok(());
        }
        let view = self.run().join("view");
        if has_failed {
            abort(&view).map_err(BenchError::at("unmount", &view))?;
        }
        let end = Instant::now() + PATIENCE;
        while unmount(&view, false).is_err() {
            if Instant::now() > end {
                return unmount(&view, true).map_err(BenchError::at("unmount", &view));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
