//! Where everything lies in a store, and the renames by which it gets there.
//!
//! ```text
//! ROOT/
//!   store.db             the database; the tree follows it
//!   reserve              room for the database when the disk is full
//!   layers/<hex>/        one unpacked layer: tree/, tar-split (see `store::tar_split`), index (see
//!                        `store::index`) and complete
//!   staging/<unique>/    a layer being unpacked (see `store::staging`)
//!   marked/<hex>.<row>/  a layer without a name, still read by the views that pin it
//!   images/<hex>/        config, and index: the merged one of its layers
//!   images/<hex>.<n>/    the same of an image that was removed, while a view shows it
//!   containers/<hex>/    upper/ work/ merged/ log output; run/ (see `container::bundle`)
//! ```
//!
//! This room does not decide what goes where: it is told by those who have a transaction of the
//! database open, for the renames between `staging/`, `layers/` and `marked/` are serialized by
//! SQLite's write lock. Whatever no row explains is an orphan.
//!
//! Locks (`store::lock`): a `flock` on `layers/<hex>` or `marked/…` is a pin (`reclaim::pins`), on a directory in
//! `staging/` that of the process that fills it, on `containers/<hex>` that of its view's server.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown,
    fgetxattr, flistxattr, fsetxattr, fstat, futimens, removexattr, renameat_with,
};
use rustix::io::Errno;

use super::StoreError;
use crate::model::xattr::is_private;
use crate::model::{ContainerId, DiffId, ImageId, Layer, Phase};

/// An open store: the paths below its root.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    identity: String,
}

const ROOMS: [&str; 5] = ["layers", "staging", "marked", "images", "containers"];

impl Store {
    /// Open the store at `root`, making it where it is missing. The way to it must be searchable
    /// by others (a view's users), what it holds not: layers contain set-user-ID programs.
    ///
    /// # Errors
    /// What the system says of the directory that cannot be made or used.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        if root.exists() {
            refuse_foreign(root)?;
        } else {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o711);
            builder
                .create(root)
                .and_then(|()| drop_acls(root, 0o711))
                .map_err(StoreError::at("create the store", root))?;
        }
        let root = root
            .canonicalize()
            .map_err(StoreError::at("open the store", root))?;
        let meta = fs::metadata(&root).map_err(StoreError::at("open the store", &root))?;
        let identity = format!("{:x}.{:x}", meta.dev(), meta.ino());
        Ok(Store { root, identity })
    }

    /// Make those of the store's directories that are missing. To be called once the database is
    /// known to be of a version that has them.
    pub fn furnish(&self) -> Result<(), StoreError> {
        for room in ROOMS {
            let mode = if room == "containers" { 0o711 } else { 0o700 };
            let path = self.root.join(room);
            let made = DirBuilder::new().mode(mode).create(&path);
            match made.and_then(|()| drop_acls(&path, mode)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other.map_err(StoreError::at("create", &path)),
            }?;
        }
        Ok(())
    }

    /// Tells this store apart from a copy of it, as long as the machine runs.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The store's own directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database's file.
    pub fn database(&self) -> PathBuf {
        self.root.join("store.db")
    }

    /// The directory of the layers that may be used.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// The directory of the layers that go.
    pub fn marked(&self) -> PathBuf {
        self.root.join("marked")
    }

    /// The directory of what is being unpacked.
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// The directory of the images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The directory of the containers.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Where a layer that may be used lies.
    pub fn layer(&self, diff: &DiffId) -> PathBuf {
        self.layers().join(diff.hex())
    }

    /// Where a layer lies once it is marked. The row's number tells apart two that hold the same
    /// diff, one loaded after the other was marked.
    pub fn marked_layer(&self, layer: &Layer) -> PathBuf {
        self.marked()
            .join(format!("{}.{}", layer.diff.hex(), layer.id))
    }

    /// Where a layer's directory is to be found according to its row.
    pub fn layer_directory(&self, layer: &Layer) -> PathBuf {
        match layer.phase {
            Phase::Present | Phase::Marking => self.layer(&layer.diff),
            Phase::Marked | Phase::Reclaiming => self.marked_layer(layer),
        }
    }

    /// Where an image's files lie.
    pub fn image(&self, id: &ImageId) -> PathBuf {
        self.images().join(id.hex())
    }

    /// An image's config, as it was in the archive, byte for byte.
    pub fn image_config(&self, id: &ImageId) -> PathBuf {
        self.image(id).join("config")
    }

    /// An image's merged index. A cache: it may be missing at any time.
    pub fn image_index(&self, id: &ImageId) -> PathBuf {
        self.image(id).join(super::index::NAME)
    }

    /// Take the name of an image's files away, if they are there; they keep it with a number. To be
    /// called inside a write transaction that has found the image gone.
    pub fn set_image_aside(&self, id: &ImageId) -> Result<(), StoreError> {
        let from = self.image(id);
        for number in 0_u64.. {
            let to = self.images().join(format!("{}.{number}", id.hex()));
            match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
                // Of an earlier removal; a view shows that one still.
                Err(Errno::EXIST) => {}
                Ok(()) | Err(Errno::NOENT) => break,
                Err(e) => return Err(StoreError::at("set aside", &from)(e)),
            }
        }
        Ok(())
    }

    /// The directories that [`Store::set_image_aside`] has left of an image.
    pub fn images_aside(&self, id: &ImageId) -> Result<Vec<PathBuf>, StoreError> {
        let mut names = match names_in(&self.images()) {
            Err(e) if e.is_not_found() => return Ok(Vec::new()),
            names => names?,
        };
        names.retain(|name| image_aside(name).as_ref() == Some(id));
        Ok(names.iter().map(|name| self.images().join(name)).collect())
    }

    /// Where a container's files lie.
    pub fn container(&self, id: &ContainerId) -> ContainerDir {
        ContainerDir(self.containers().join(id.hex()))
    }

    /// Take a layer's name in `layers/` away, as its row says. Done already is well.
    ///
    /// To be called inside a write transaction that has read the row; [`Store::sync_moves`] is due
    /// before a row says that it was done.
    pub fn move_to_marked(&self, layer: &Layer) -> Result<(), StoreError> {
        let (from, to) = (self.layer(&layer.diff), self.marked_layer(layer));
        match fs::rename(&from, &to) {
            Ok(()) => Ok(()),
            // Done before, by a process that may have died before its syncs.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            // The rename was done, but not recorded; what has the name since, no row explains.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(StoreError::at("mark", &from)(e)),
        }
    }

    /// Bring to the disk what [`Store::move_to_marked`] has renamed, all of it at once.
    ///
    /// Before a row may say "marked": after a power cut the name must not be back in `layers/`,
    /// where no row explains it and the next load of the same diff would find it taken. The new
    /// names first: a layer may have both then, but never neither.
    pub fn sync_moves(&self) -> Result<(), StoreError> {
        sync_directory(&self.marked())?;
        sync_directory(&self.layers())
    }
}

/// The image of which a directory in `images/` was set aside; `None` of any other.
pub fn image_aside(name: &OsStr) -> Option<ImageId> {
    let (hex, number) = name.to_str()?.split_once('.')?;
    number.parse::<u64>().ok()?;
    ImageId::from_hex(hex).ok()
}

/// `gc` deletes what no row explains: so a directory that has something in the store's rooms, but
/// no database, is somebody else's.
fn refuse_foreign(root: &Path) -> Result<(), StoreError> {
    if root.join("store.db").exists() {
        return Ok(());
    }
    for room in ROOMS.map(|room| root.join(room)) {
        let foreign = match fs::symlink_metadata(&room) {
            Ok(meta) if meta.is_dir() => !names_in(&room)?.is_empty(),
            Ok(_) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(StoreError::at("open the store", root)(e)),
        };
        if foreign {
            let reason = format!("it has no store.db, but a {}", room.display());
            return Err(StoreError::at("use as a store", root)(io::Error::other(
                reason,
            )));
        }
    }
    Ok(())
}

/// A container's directory.
#[derive(Debug, Clone)]
pub struct ContainerDir(PathBuf);

impl ContainerDir {
    /// The directory itself; its lock is held by the view's server.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the container wrote.
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    /// Where the union makes things before they get a name in `upper`.
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// The mount point where no other was given.
    pub fn merged(&self) -> PathBuf {
        self.0.join("merged")
    }

    /// What is there while its process runs.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// What its process has written to its standard output and error.
    pub fn output(&self) -> PathBuf {
        self.0.join("output")
    }

    /// What the view's server has to say.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Make the directory with all that is in it. The view's root directory is that of `upper`: it
    /// gets owner, mode, times and extended attributes of `root`, the image's.
    pub fn create(&self, root: Option<&Path>) -> Result<(), StoreError> {
        for (path, mode) in [
            (self.0.clone(), 0o711),
            (self.upper(), 0o755),
            (self.work(), 0o700),
            (self.merged(), 0o755),
        ] {
            DirBuilder::new()
                .mode(mode)
                .create(&path)
                .map_err(StoreError::at("create", &path))?;
        }
        if let Some(root) = root {
            let (from, to) = (open_directory(root)?, open_directory(&self.upper())?);
            copy_directory_metadata(&from, &to).map_err(StoreError::at("dress", &self.upper()))?;
        }
        // Before the commit: a row must not outlive a power cut without its directories. Upper's
        // owner and mode first, then the names in the directory, then its own.
        sync_directory(&self.upper())?;
        sync_directory(&self.0)?;
        self.0.parent().map_or(Ok(()), sync_directory)
    }
}

/// Take from a new directory the access lists that it has inherited: everything in it would inherit them in its turn,
/// also the files of layers, which have those that their tars say. `mode` is what it should have had without.
fn drop_acls(path: &Path, mode: u32) -> io::Result<()> {
    let mut had_any = false;
    for name in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match removexattr(path, name) {
            Ok(()) => had_any = true,
            // There is none, or there can be none.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    match had_any {
        true => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        false => Ok(()),
    }
}

fn copy_directory_metadata(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = fstat(from)?;
    let mut names = vec![0; 64 << 10];
    let length = flistxattr(from, &mut names)?;
    let mut value = vec![0; 64 << 10];
    for name in names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        // An opaque root hides the layers below its own, and is nothing to the layer above.
        if !is_private(name) {
            let length = fgetxattr(from, name, &mut value)?;
            fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
        }
    }
    fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let time = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(futimens(to, &times)?)
}

/// Open a directory to lock it, sync it or work below it. A symlink is not followed.
pub fn open_directory(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(StoreError::at("open", path))
}

/// Bring the names in a directory to the disk.
pub fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = File::from(open_directory(path)?);
    directory.sync_all().map_err(StoreError::at("sync", path))
}

/// The names in a directory, sorted, so that what is done to them is done in the same order.
pub fn names_in(path: &Path) -> Result<Vec<OsString>, StoreError> {
    let entries = fs::read_dir(path).map_err(StoreError::at("read", path))?;
    let names: io::Result<Vec<_>> = entries.map(|e| e.map(|e| e.file_name())).collect();
    let mut names = names.map_err(StoreError::at("read", path))?;
    names.sort();
    Ok(names)
}

/// The bytes of a file, or `None` where there is none.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::at("read", path)(e)),
    }
}
