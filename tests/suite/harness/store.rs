//! A store of its own for each test, and the program that works on it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;

use super::image::{Archive, Built, Image};
use super::{Run, cgroups, disk, json_lines, number, process, text, tree, wait_until};

/// The program under test.
pub const LAYERCTL: &str = env!("CARGO_BIN_EXE_layerctl");

/// A store; when it goes, so do its mounts, its servers and its files.
pub struct Store {
    /// Beside the root: archives, mount points.
    scratch: tempfile::TempDir,
    root: PathBuf,
    /// What serves its views, if not what does by default.
    driver: Option<&'static str>,
}

thread_local! {
    static DRIVER: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs a test with the views of its stores served by kernel overlayfs.
pub fn by_overlayfs(run: fn()) {
    DRIVER.set(Some("overlay"));
    run();
    DRIVER.set(None);
}

impl Store {
    /// An empty one.
    #[track_caller]
    pub fn new() -> Store {
        Store::below(disk::base_dir().expect("a disk filesystem"))
    }

    /// An empty one in a directory, such as a disk of its own.
    #[track_caller]
    pub fn below(dir: &Path) -> Store {
        let scratch = tempfile::Builder::new().prefix("store-").tempdir_in(dir);
        let scratch = scratch.unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let root = scratch.path().join("root");
        Store {
            scratch,
            root,
            driver: DRIVER.get(),
        }
    }

    /// The store's root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path beside the store's root.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A new, empty directory beside the store's root.
    #[track_caller]
    pub fn new_dir(&self, name: &str) -> PathBuf {
        let dir = self.beside(name);
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        dir
    }

    /// The program with these arguments, not yet run.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(LAYERCTL);
        command.arg("--root").arg(&self.root);
        let mut args = args.iter().map(AsRef::as_ref).peekable();
        if let Some(driver) = self.driver
            && let Some(mount) = args.next_if(|arg| *arg == OsStr::new("mount"))
        {
            command.arg(mount).args(["--driver", driver]);
        }
        command
            .args(args)
            .env_remove("LAYERCTL_ROOT")
            .env_remove("LAYERCTL_RECLAIM_RATE")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        Run::of(&mut self.command(args))
    }

    /// Runs the program, which must succeed; gives its standard output.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        self.run(args).ok()
    }

    /// Puts an image in; checks what `load` says.
    #[track_caller]
    pub fn load(&self, image: &Image) -> Built {
        let (archive, built) = Archive::of(image);
        let file = self.beside("load.tar");
        archive.write(&file);
        let expected: String = match built.tags.is_empty() {
            true => format!("Loaded image ID: {}\n", built.id),
            false => built
                .tags
                .iter()
                .map(|t| format!("Loaded image: {t}\n"))
                .collect(),
        };
        let run = self.run(&[OsStr::new("load"), OsStr::new("-i"), file.as_os_str()]);
        assert_eq!(run.stdout, expected, "{run:#?}");
        run.ok();
        fs::remove_file(&file).expect("remove the archive");
        built
    }

    /// Makes a container; gives its 64 digits.
    #[track_caller]
    pub fn create(&self, image: &str) -> String {
        let id = self.ok(&["create", image]);
        let id = id.strip_suffix('\n').unwrap_or(&id).to_owned();
        assert!(
            id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "a container ID: {id:?}"
        );
        id
    }

    /// Mounts a container's view where the store has its place; gives the path that `mount` prints.
    #[track_caller]
    pub fn mount(&self, container: &str) -> PathBuf {
        let path = self.ok(&["mount", container]);
        let path = PathBuf::from(path.strip_suffix('\n').expect("a line"));
        assert!(is_mounted(&path), "{} is a mount point", path.display());
        path
    }

    /// Makes a container of an image and mounts it: its ID and its view.
    #[track_caller]
    pub fn create_mounted(&self, image: &str) -> (String, PathBuf) {
        let container = self.create(image);
        let view = self.mount(&container);
        (container, view)
    }

    /// The objects that a listing prints with `--format json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        json_lines(&self.ok(&[args, &["--format", "json"]].concat()))
    }

    /// The one object of `df`.
    #[track_caller]
    pub fn df(&self) -> Value {
        let mut objects = self.json(&["df"]);
        assert_eq!(objects.len(), 1, "df prints one object");
        objects.remove(0)
    }

    /// The layers by chain ID: state and bytes; `None` where `layers` does not name it.
    #[track_caller]
    pub fn layer(&self, chain: &str) -> Option<Value> {
        self.json(&["layers"])
            .into_iter()
            .find(|layer| text(layer, "chain_id") == chain)
    }

    /// The state of a layer, `gone` when there is none.
    #[track_caller]
    pub fn layer_state(&self, chain: &str) -> String {
        self.layer(chain)
            .map_or("gone".to_owned(), |layer| text(&layer, "state"))
    }

    /// The line of `ps -a` for a container.
    #[track_caller]
    pub fn container(&self, id: &str) -> Value {
        self.json(&["ps", "-a"])
            .into_iter()
            .find(|row| text(row, "ID") == id)
            .unwrap_or_else(|| panic!("{id} is in ps -a"))
    }

    /// The state of a container in `ps -a`.
    #[track_caller]
    pub fn container_state(&self, id: &str) -> String {
        text(&self.container(id), "State")
    }

    /// The view servers of this store that run.
    pub fn servers(&self) -> Vec<i32> {
        process::users_of(Path::new(LAYERCTL), self.scratch.path())
    }

    /// The one view server that runs.
    #[track_caller]
    pub fn server(&self) -> i32 {
        let mut found = Vec::new();
        // A process that another thread has just started has copies of this one's descriptors until
        // it runs its own program.
        wait_until("one server runs", || {
            found = self.servers();
            found.len() == 1
        });
        found[0]
    }

    /// Waits till no view server runs.
    #[track_caller]
    pub fn wait_for_servers_to_end(&self) {
        wait_until("the view servers end", || self.servers().is_empty());
    }

    /// What must hold whenever nothing is going on: nothing is left over, the sums are right, and
    /// the history is complete.
    #[track_caller]
    pub fn check_at_rest(&self) {
        let df = self.df();
        for part in ["orphaned", "reclaiming"] {
            assert_eq!(number(&df[part], "count"), 0, "nothing {part}: {df}");
            assert_eq!(number(&df[part], "bytes"), 0, "nothing {part}: {df}");
        }
        tree::check_df(self.root(), &df);
        self.check_events();
        self.ok(&["fsck", "--deep"]);
    }

    /// The trees of an image's layers as they lie in the store, entry by entry: of a whole one they
    /// are always the same.
    #[track_caller]
    pub fn stored(&self, image: &Built) -> BTreeMap<PathBuf, tree::Entry> {
        let mut all = BTreeMap::new();
        for layer in 0..image.diffs.len() {
            let dir = Path::new("layers")
                .join(image.layer_dir(layer))
                .join("tree");
            for (name, mut entry) in tree::read(&self.root.join(&dir)) {
                // Neither the root nor a whiteout is in the tar, and has times from it.
                let is_whiteout = entry.mode & 0o170000 == 0o020000 && entry.device == 0;
                if name == Path::new("") || is_whiteout {
                    entry.mtime = (0, 0);
                }
                all.insert(dir.join(name), entry);
            }
        }
        all
    }

    /// Nothing of any image is left on disk.
    #[track_caller]
    pub fn check_no_layers(&self) {
        assert_eq!(self.json(&["layers"]), Vec::<Value>::new());
        for dir in ["layers", "marked", "staging", "images"] {
            let left = names_in(&self.root.join(dir));
            assert!(left.is_empty(), "left in {dir}: {left:?}");
        }
    }

    /// As many unpins as pins when no view is there; one mark, one start and one end of reclaiming
    /// for each layer that went.
    #[track_caller]
    pub fn check_events(&self) {
        let events = self.json(&["events"]);
        let ids = |action: &str| -> Vec<String> {
            let mut ids: Vec<String> = events
                .iter()
                .filter(|e| text(e, "action") == action)
                .map(|e| text(e, "id"))
                .collect();
            ids.sort();
            ids
        };
        if self.servers().is_empty() {
            assert_eq!(ids("pin"), ids("unpin"), "each pin has its unpin");
        }
        assert_eq!(
            ids("reclaim-start"),
            ids("reclaim-end"),
            "each reclaim ends"
        );
        let (marks, ends) = (ids("mark"), ids("reclaim-end"));
        assert!(ends.len() <= marks.len(), "{ends:?} of {marks:?}");
        let pending = number(&self.df()["pending"], "count");
        if pending == 0 {
            assert_eq!(marks, ends, "what was marked and is not pinned is gone");
        }
    }
}

impl Store {
    /// Ends what works on the store, without any courtesy: mounts and servers.
    pub fn end_all(&self) {
        // In the reverse order of mounting; a server that serves a mount ends with it or is killed.
        for mount_point in mounts_below(self.scratch.path()).iter().rev() {
            // By force: a server that is killed while it waits for itself ends only so.
            unmount(mount_point, UnmountFlags::DETACH | UnmountFlags::FORCE).ok();
        }
        self.servers().into_iter().for_each(process::kill_hard);
        for container in names_in(&self.root.join("containers")) {
            cgroups::end(&container);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// The names in a directory; none where there is no directory.
pub fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("read a directory").file_name();
    entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}

/// Mount points at or below a path, as the kernel lists them.
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(field.replace("\\040", " ")))
        .filter(|mount_point| mount_point.starts_with(path))
        .collect()
}

/// Whether this very path is a mount point.
pub fn is_mounted(path: &Path) -> bool {
    mounts_below(path).iter().any(|p| p == path)
}
