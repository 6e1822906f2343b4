//! Those who remove an image: this program in its ways, its peers, and plain `rm -rf`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Subject;
use crate::bench::BenchError;
use crate::bench::layerctl::Layerctl;
use crate::bench::peers::ImageStore;
use crate::bench::program::{Program, Ran, find_or_lack};
use crate::bench::stop::Stop;

/// Somebody who has images, and removes them.
pub trait Contestant {
    /// Which version of it.
    fn version(&self) -> String;
    /// Bring the image in, which it does not have.
    fn load(&mut self, subject: &Subject, stop: &Stop) -> Result<(), BenchError>;
    /// Have the program itself in memory: caches were dropped, and reading it is not what is timed.
    fn warm_up(&mut self, stop: &Stop) -> Result<(), BenchError>;
    /// Remove the image, which nobody uses.
    fn remove(&mut self, subject: &Subject, stop: &Stop) -> Result<Ran, BenchError>;
    /// How it removes an image that is in use; `None` for those who do not defer that.
    fn deferring(&mut self) -> Option<&mut dyn Deferring>;
}

/// Somebody who removes an image that is in use, and gives its bytes back later.
pub trait Deferring {
    /// Use the image: mount a view of it.
    fn hold(&mut self, subject: &Subject, stop: &Stop) -> Result<(), BenchError>;
    /// Remove it by force.
    fn remove_held(&mut self, subject: &Subject, stop: &Stop) -> Result<Ran, BenchError>;
    /// Unmount the view: the last use ends, and the bytes go.
    fn release(&mut self, stop: &Stop) -> Result<Ran, BenchError>;
}

/// How long a reclaim may take that is to be slow.
const PATIENCE: Duration = Duration::from_secs(3600);
const CONTAINER: &str = "bench";

/// This program.
#[derive(Debug)]
pub struct Ours {
    layerctl: Layerctl,
    version: String,
    /// What `mount` is told besides.
    mount: &'static [&'static str],
}

impl Ours {
    /// With a store of its own at `root`, its views served by `driver`; with a rate, its reclaiming is
    /// steered.
    pub fn start(
        program: &Path,
        root: PathBuf,
        mount: &'static [&'static str],
        rate: Option<&str>,
        stop: &Stop,
    ) -> Result<Ours, BenchError> {
        let mut layerctl = Layerctl::new(program, root);
        if let Some(rate) = rate {
            layerctl = layerctl.env("LAYERCTL_RECLAIM_RATE", rate);
        }
        let version = layerctl.run(&["--version"], stop)?.out;
        let version = version.split_whitespace().nth(1).unwrap_or_default();
        Ok(Ours {
            version: version.to_owned(),
            layerctl,
            mount,
        })
    }

    /// Nothing of the last turn is there any longer.
    fn clear(&self, stop: &Stop) -> Result<(), BenchError> {
        for container in self.layerctl.json(&["ps", "-a"], stop)? {
            if let Some(id) = container["ID"].as_str() {
                self.layerctl.run(&["rm", "-f", id], stop)?;
            }
        }
        Ok(())
    }
}

impl Contestant for Ours {
    fn version(&self) -> String {
        self.version.clone()
    }

    fn load(&mut self, subject: &Subject, stop: &Stop) -> Result<(), BenchError> {
        self.clear(stop)?;
        subject.load_into(&self.layerctl, stop)
    }

    fn warm_up(&mut self, stop: &Stop) -> Result<(), BenchError> {
        self.layerctl.run(&["ps"], stop).map(drop)
    }

    fn remove(&mut self, subject: &Subject, stop: &Stop) -> Result<Ran, BenchError> {
        let remove = self.layerctl.command(&["rmi", &subject.name]);
        remove.limit(PATIENCE).run(stop)
    }

    fn deferring(&mut self) -> Option<&mut dyn Deferring> {
        Some(self)
    }
}

impl Deferring for Ours {
    fn hold(&mut self, subject: &Subject, stop: &Stop) -> Result<(), BenchError> {
        let create = ["create", "--name", CONTAINER, &subject.name];
        self.layerctl.run(&create, stop)?;
        let mount = [&["mount"], self.mount, &[CONTAINER]].concat();
        self.layerctl.run(&mount, stop)?;
        Ok(())
    }

    fn remove_held(&mut self, subject: &Subject, stop: &Stop) -> Result<Ran, BenchError> {
        let ran = self.layerctl.run(&["rmi", "-f", &subject.name], stop)?;
        match ran.out.contains("Deferred: ") {
            true => Ok(ran),
            false => Err(BenchError::Wrong("no layer was deferred".to_owned())),
        }
    }

    fn release(&mut self, stop: &Stop) -> Result<Ran, BenchError> {
        // It returns when the view's server has reclaimed what it held.
        let umount = self.layerctl.command(&["umount", CONTAINER]);
        umount.limit(PATIENCE).run(stop)
    }
}

/// `rm -rf` of what a store of ours has of the image.
#[derive(Debug)]
pub struct RmRf {
    rm: PathBuf,
    version: String,
    layerctl: Layerctl,
    /// What is to go.
    directories: Vec<PathBuf>,
}

impl RmRf {
    /// Its layers are brought by this program, to a store at `root`.
    pub fn start(program: &Path, root: PathBuf, stop: &Stop) -> Result<RmRf, BenchError> {
        let rm = find_or_lack("rm")?;
        let said = Program::new(&rm).arg("--version").run(stop);
        // Of those that have none.
        let said = said.map(|ran| ran.out).unwrap_or_default();
        let first = said.lines().next().unwrap_or_default();
        Ok(RmRf {
            rm,
            version: first.rsplit(' ').next().unwrap_or_default().to_owned(),
            layerctl: Layerctl::new(program, root),
            directories: Vec::new(),
        })
    }
}

impl Contestant for RmRf {
    fn version(&self) -> String {
        self.version.clone()
    }

    fn load(&mut self, subject: &Subject, stop: &Stop) -> Result<(), BenchError> {
        // Its store knows nothing of what rm has done: a new one each time.
        let root = self.layerctl.root();
        match std::fs::remove_dir_all(root) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(BenchError::at("delete", root)(e));
            }
            _ => {}
        }
        subject.load_into(&self.layerctl, stop)?;
        let layers = root.join("layers");
        let own = subject.own_layers(&self.layerctl, stop)?;
        let directory = |layer: &super::OwnLayer| layers.join(&layer.diff);
        self.directories = own.iter().map(directory).collect();
        Ok(())
    }

    fn warm_up(&mut self, stop: &Stop) -> Result<(), BenchError> {
        // Of nothing.
        Program::new(&self.rm).arg("-f").run(stop).map(drop)
    }

    fn remove(&mut self, _: &Subject, stop: &Stop) -> Result<Ran, BenchError> {
        let rm = Program::new(&self.rm).arg("-rf").args(&self.directories);
        rm.limit(PATIENCE).run(stop)
    }

    fn deferring(&mut self) -> Option<&mut dyn Deferring> {
        None
    }
}

/// A peer's store.
pub struct Peer<S> {
    store: S,
    list: fn(&S, &Stop) -> Result<Ran, BenchError>,
    remove: fn(&S, &str, &Stop) -> Result<Ran, BenchError>,
}

impl<S: ImageStore> Peer<S> {
    /// A store, how it lists its images, and its `rmi -f IMAGE`.
    pub fn new(
        store: S,
        list: fn(&S, &Stop) -> Result<Ran, BenchError>,
        remove: fn(&S, &str, &Stop) -> Result<Ran, BenchError>,
    ) -> Peer<S> {
        Peer {
            store,
            list,
            remove,
        }
    }
}

impl<S: ImageStore> Contestant for Peer<S> {
    fn version(&self) -> String {
        self.store.version().to_owned()
    }

    fn load(&mut self, subject: &Subject, stop: &Stop) -> Result<(), BenchError> {
        if let Some(other) = &subject.other {
            self.store.load(other, stop)?;
        }
        self.store.load(&subject.archive, stop)?;
        Ok(())
    }

    fn warm_up(&mut self, stop: &Stop) -> Result<(), BenchError> {
        (self.list)(&self.store, stop).map(drop)
    }

    fn remove(&mut self, subject: &Subject, stop: &Stop) -> Result<Ran, BenchError> {
        (self.remove)(&self.store, &subject.name, stop)
    }

    fn deferring(&mut self) -> Option<&mut dyn Deferring> {
        None
    }
}
