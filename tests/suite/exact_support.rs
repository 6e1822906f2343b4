//! Who else shows an image: a Docker daemon and a Podman of our own; and how what they show is compared.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::archives_support::{overlay_of, scratch};
use crate::harness::store::mounts_below;
use crate::harness::tree::{self, Entry};
use crate::harness::{Run, Store};

pub type Tree = BTreeMap<PathBuf, Entry>;

/// A Docker daemon of our own, with overlay2; it ends, and all it has goes, with the last who uses it.
pub struct Docker {
    dir: TempDir,
    /// Where paths are as short as sockets want them.
    short: TempDir,
    child: Child,
}

/// One for all that use it at the same time: to start it takes seconds.
static DOCKER: Mutex<Weak<Docker>> = Mutex::new(Weak::new());

impl Docker {
    /// The one that runs, or a new one.
    #[track_caller]
    pub fn shared() -> Arc<Docker> {
        let mut shared = DOCKER.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Docker::start());
            *shared = Arc::downgrade(&new);
            new
        })
    }

    #[track_caller]
    fn start() -> Docker {
        let dir = scratch();
        let short = tempfile::tempdir_in("/tmp").unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .arg("--storage-driver=overlay2")
            .arg("--data-root")
            .arg(dir.path().join("data"))
            .arg("--exec-root")
            .arg(short.path().join("exec"))
            .arg("-p")
            .arg(short.path().join("pid"))
            .arg("-H")
            .arg(format!("unix://{}", short.path().join("s").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let docker = Docker { dir, short, child };
        let socket = docker.short.path().join("s");
        for _ in 0..300 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                return docker;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!(
            "{}",
            fs::read_to_string(docker.dir.path().join("log")).unwrap()
        );
    }

    /// What its client's `DOCKER_HOST` must be.
    pub fn host(&self) -> String {
        format!("unix://{}", self.short.path().join("s").display())
    }

    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(
            Command::new("docker")
                .args(args)
                .env("DOCKER_HOST", self.host()),
        )
    }

    /// What it shows of an image: the directories of its layers, mounted as it mounts them for a container.
    #[track_caller]
    pub fn tree(&self, image: &str) -> Tree {
        let data = "{{.GraphDriver.Data.UpperDir}}:{{.GraphDriver.Data.LowerDir}}";
        let dirs = self.run(&["image", "inspect", "-f", data, image]).ok();
        let mut dirs: Vec<PathBuf> = dirs
            .trim()
            .split(':')
            // An image of one layer has no lower ones: `<no value>`.
            .filter(|dir| dir.starts_with('/'))
            .map(PathBuf::from)
            .collect();
        dirs.reverse();
        tree::read_overlayfs(&overlay_of(&dirs).path())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its containerd and unmounts.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(pid, Signal::TERM).ok();
        }
        self.child.wait().ok();
    }
}

/// Podman and Buildah with storage of our own, of which nothing is left when it goes.
pub struct Podman {
    driver: &'static str,
    dir: TempDir,
    /// Where paths are as short as they want them.
    short: TempDir,
}

impl Podman {
    pub fn new() -> Podman {
        Podman::on("overlay")
    }

    /// With this storage driver.
    pub fn on(driver: &'static str) -> Podman {
        Podman {
            driver,
            dir: scratch(),
            short: tempfile::tempdir_in("/tmp").unwrap(),
        }
    }

    /// One of the two.
    #[track_caller]
    pub fn program(&self, name: &str, args: &[&str]) -> Run {
        let mut command = Command::new(name);
        command.arg("--root").arg(self.dir.path());
        command.arg("--runroot").arg(self.short.path());
        command.args(["--storage-driver", self.driver]).args(args);
        Run::of(&mut command)
    }

    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Run {
        self.program("podman", args)
    }

    /// What it shows of an image.
    #[track_caller]
    pub fn tree(&self, image: &str) -> Tree {
        let mounted = self.run(&["image", "mount", image]).ok();
        let tree = tree::read_overlayfs(Path::new(mounted.trim()));
        self.run(&["image", "unmount", image]).ok();
        tree
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // It mounts its storage on itself.
        for mount_point in mounts_below(self.dir.path()).iter().rev() {
            unmount(mount_point, UnmountFlags::DETACH).ok();
        }
    }
}

/// What a view shows of an image.
#[track_caller]
pub fn view_of(store: &Store, image: &str) -> Tree {
    let (container, view) = store.create_mounted(image);
    let tree = tree::read(&view);
    store.ok(&["umount", &container]);
    store.ok(&["rm", &container]);
    tree
}

/// The path of a file, as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("our own paths are UTF-8")
}

/// Fails unless the two trees differ in exactly the entries `but`. Not taken as different are:
///
/// - times of what no tar has, the root or a parent: there others have the time when they unpacked it, we 1970
///   (and of such a root Podman has another mode);
/// - link counts: a view counts the names that there are, overlayfs those of the layer, hidden ones as well.
#[track_caller]
pub fn assert_same_but(what: &str, theirs: &Tree, ours: &Tree, but: &[&str]) {
    let mut names: HashMap<&Path, u64> = HashMap::new();
    for entry in ours.values() {
        *names.entry(&entry.same_as).or_default() += 1;
    }
    let mut paths: Vec<&PathBuf> = theirs.keys().chain(ours.keys()).collect();
    paths.sort();
    paths.dedup();
    let mut found = Vec::new();
    let mut said = String::new();
    for path in paths {
        let (their, our) = (theirs.get(path), ours.get(path));
        if let (Some(their), Some(our)) = (their, our) {
            if *our == as_ours(their, our, names[our.same_as.as_path()]) {
                continue;
            }
            if path.as_os_str().is_empty() && is_now(their.mtime) && is_now(our.mtime) {
                continue;
            }
        }
        found.push(path.to_string_lossy().into_owned());
        let side = |e: Option<&Entry>| e.map_or("nothing".to_owned(), |e| format!("{e:?}"));
        said += &format!(
            "{}:\n  theirs {}\n  ours   {}\n",
            path.display(),
            side(their),
            side(our)
        );
    }
    let mut but = but.to_vec();
    but.sort_unstable();
    found.sort();
    assert!(theirs.len() > 1, "{what}: nothing to compare with");
    assert_eq!(found, but, "{what} differs:\n{said}");
}

/// Theirs with what cannot be the same replaced by ours.
fn as_ours(their: &Entry, our: &Entry, names: u64) -> Entry {
    let mut their = their.clone();
    if our.mtime == (0, 0) && is_now(their.mtime) {
        their.mtime = our.mtime;
    }
    if their.links >= names && our.links == names {
        their.links = names;
    }
    their
}

/// Whether a time is of this run of the tests: nothing in their archives is of an hour like this one.
pub fn is_now(time: (i64, i64)) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs().cast_signed().abs_diff(time.0) < 3600
}
