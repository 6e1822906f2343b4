//! What a running container has in its directory beside its files, from its start to its end:
//!
//! ```text
//! containers/<id>/run/
//!   config.json                     what the OCI runtime was told
//!   hosts, hostname, resolv.conf    seen in the container's /etc
//!   state/                          the runtime's own
//!   pid                             of the first process
//!   console                         where a terminal is handed over
//!   attach                          where others join in (`container::attach`)
//! ```
//!
//! What the process needs of the view (its user, its working directory) is looked up, and made, in
//! the mounted view, and never outside of it, whatever symbolic links lie there.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::spec::{self, NewProcess, Surroundings};
use super::users::{self, User, UserError};
use crate::db::Container;
use crate::model::ContainerId;
use crate::model::settings::{Network, Settings};
use crate::store::remove_tree::remove_tree;
use crate::store::{Store, StoreError};
use crate::sys::in_root::open_in_root;
use crate::sys::reason;

/// A list of users that is larger is none.
const LARGEST_FILE: u64 = 16 << 20;

/// Why a container cannot be made ready to run.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Neither the image nor the user says what is to be run.
    #[error("No command specified")]
    NoCommand,
    /// Of the container's user.
    #[error(transparent)]
    User(#[from] UserError),
    /// What is to be seen in the container is not there.
    #[error(
        "invalid mount config for type \"bind\": bind source path does not exist: {}",
        .0.display()
    )]
    NoSource(PathBuf),
    /// The working directory cannot be made.
    #[error("cannot use the working directory {} in the container: {}", path.display(), reason(why))]
    Directory {
        /// In the container.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The specification could not be put together.
    #[error("cannot describe the container to the OCI runtime: {0}")]
    Spec(#[from] oci_spec::OciSpecError),
    /// Of the store's files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The directory of what is there while a container runs.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// That of a container, which need not be there.
    pub fn of(store: &Store, id: &ContainerId) -> RunDir {
        RunDir(store.container(id).run())
    }

    /// The bundle, as runtimes call it.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the runtime keeps there.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Where the runtime writes the first process's ID.
    pub fn pid_file(&self) -> PathBuf {
        self.0.join("pid")
    }

    /// Make it anew, with nothing in it.
    pub fn make(&self) -> Result<(), StoreError> {
        remove_tree(&self.0)?;
        for path in [&self.0, &self.state()] {
            DirBuilder::new()
                .mode(0o700)
                .create(path)
                .map_err(StoreError::at("create", path))?;
        }
        Ok(())
    }

    /// Remove it, if it is there.
    pub fn remove(&self) -> Result<(), StoreError> {
        match self.0.exists() {
            true => remove_tree(&self.0),
            false => Ok(()),
        }
    }

    fn write(&self, name: &str, contents: &[u8]) -> Result<PathBuf, StoreError> {
        let path = self.0.join(name);
        fs::write(&path, contents).map_err(StoreError::at("write", &path))?;
        Ok(path)
    }

    /// Write what the runtime is told of one more process, under a name of its own.
    pub fn write_process(
        &self,
        name: &str,
        process: &oci_spec::runtime::Process,
    ) -> Result<PathBuf, StoreError> {
        let path = self.0.join(name);
        let text = serde_json::to_vec(process)
            .map_err(|e| StoreError::at("write", &path)(io::Error::other(e)))?;
        self.write(name, &text)
    }
}

/// The name of a container's cgroup. Copies of a store have containers of the same IDs.
pub fn cgroup(store: &Store, id: &ContainerId) -> String {
    format!("layerctl-{}-{}", id.hex(), store.identity())
}

/// The name that a container's machine has.
pub fn hostname(id: &ContainerId, settings: &Settings) -> String {
    match (settings.hostname.as_str(), settings.network) {
        ("", Network::None) => id.short().to_owned(),
        ("", Network::Host) => {
            let name = rustix::system::uname();
            name.nodename().to_string_lossy().into_owned()
        }
        (name, _) => name.to_owned(),
    }
}

/// Make and fill the directory that the runtime is given: to be called once the view is mounted at
/// `view`.
///
/// # Errors
/// What the container's settings ask for and cannot have.
pub fn prepare(
    store: &Store,
    container: &Container,
    view: &Path,
    open_files: (u64, u64),
) -> Result<RunDir, BundleError> {
    let settings = &container.settings;
    if container.command.is_empty() {
        return Err(BundleError::NoCommand);
    }
    check_binds(settings)?;
    let run = RunDir::of(store, &container.id);
    run.make()?;
    let hostname = hostname(&container.id, settings);
    let files = [
        (run.write("hosts", &hosts(settings))?, "/etc/hosts"),
        (
            run.write("hostname", format!("{hostname}\n").as_bytes())?,
            "/etc/hostname",
        ),
        (
            run.write("resolv.conf", &of_the_host("/etc/resolv.conf"))?,
            "/etc/resolv.conf",
        ),
    ];
    let root = open_root(view).map_err(StoreError::at("open", view))?;
    let process = process(&root, settings, container.command.clone(), settings.tty)?;
    make_directory(&root, &process.directory).map_err(|why| BundleError::Directory {
        path: process.directory.clone(),
        why,
    })?;
    let cgroup = cgroup(store, &container.id);
    let around = Surroundings {
        root: view,
        files: &files,
        hostname: &hostname,
        cgroup: &cgroup,
        unified_cgroups: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        in_user_namespace: in_user_namespace(),
        open_files,
    };
    let config = spec::spec(settings, &process, &around)?;
    let path = run.path().join("config.json");
    config.save(&path)?;
    Ok(run)
}

/// Whether all that is to be seen of the host in a container is there.
pub fn check_binds(settings: &Settings) -> Result<(), BundleError> {
    match settings.binds.iter().find(|bind| !bind.source.exists()) {
        Some(bind) => Err(BundleError::NoSource(bind.source.clone())),
        None => Ok(()),
    }
}

/// A container's root directory, to look things up in.
pub fn open_root(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// A process with a container's settings: its user is looked up in the container's own files.
pub fn process(
    root: &OwnedFd,
    settings: &Settings,
    args: Vec<String>,
    tty: bool,
) -> Result<NewProcess, BundleError> {
    Ok(NewProcess {
        args,
        env: settings.env.clone(),
        directory: settings.directory().to_owned(),
        user: user(root, &settings.user)?,
        tty,
    })
}

fn user(root: &OwnedFd, wanted: &str) -> Result<User, BundleError> {
    let read = |path: &str| {
        read_in_root(root, path).map_err(StoreError::at("read in the container", Path::new(path)))
    };
    Ok(users::resolve(
        wanted,
        &read("etc/passwd")?,
        &read("etc/group")?,
    )?)
}

/// The bytes of a regular file in the container; none where there is none.
fn read_in_root(root: &OwnedFd, path: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = match open_in_root(root.as_fd(), path.as_bytes(), flags) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(LARGEST_FILE).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Make a directory in the container with all above it, where it is missing.
fn make_directory(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut so_far = PathBuf::new();
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::ParentDir => {
                so_far.pop();
                continue;
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
        };
        let above = open_in_root(root.as_fd(), so_far.as_os_str().as_encoded_bytes(), flags)?;
        so_far.push(name);
        match open_in_root(root.as_fd(), so_far.as_os_str().as_encoded_bytes(), flags) {
            Ok(_) => {}
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::mkdirat(&above, name, mode)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Whether user IDs here are not all there are (user_namespaces(7)).
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<&str> = map.split_whitespace().collect();
    !map.is_empty() && fields != ["0", "0", "4294967295"]
}

fn hosts(settings: &Settings) -> Vec<u8> {
    let own = b"127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        ff00::0\tip6-mcastprefix\n\
        ff02::1\tip6-allnodes\n\
        ff02::2\tip6-allrouters\n";
    match settings.network {
        Network::Host => of_the_host("/etc/hosts"),
        Network::None => own.to_vec(),
    }
}

/// A host without the file is one whose containers have an empty one.
fn of_the_host(path: &str) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| {
        if e.kind() != io::ErrorKind::NotFound {
            tracing::warn!("cannot read {path}: {}", reason(&e));
        }
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_is_read_or_made_outside_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(dir.path().join("passwd"), "evil:x:5:5::/:\n").unwrap();
        symlink(dir.path().join("passwd"), root.join("etc/passwd")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        let fd = open_root(&root).unwrap();
        assert!(read_in_root(&fd, "etc/passwd").unwrap().is_empty());
        make_directory(&fd, Path::new("/up/made/deep")).unwrap();
        assert!(root.join("made/deep").is_dir());
        make_directory(&fd, Path::new("/a/../../b")).unwrap();
        assert!(root.join("b").is_dir());
        assert!(make_directory(&fd, Path::new("/etc/passwd")).is_err());
        // A file in place of a directory, and a pipe that nobody writes to.
        fs::write(root.join("etc/group"), "g:x:7:\n").unwrap();
        assert!(make_directory(&fd, Path::new("/etc/group/x")).is_err());
        assert_eq!(read_in_root(&fd, "etc/group").unwrap(), b"g:x:7:\n");
        rustix::fs::mknodat(
            &fd,
            "pipe",
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(read_in_root(&fd, "pipe").unwrap().is_empty());
    }
}
