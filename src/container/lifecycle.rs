//! Creating and removing containers.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::rand::GetRandomFlags;

use super::lock::ServerLock;
use super::view::bury_predecessor;
use crate::db::{Container, Db, DbError, Tx, View};
use crate::model::reference::with_default_tag;
use crate::model::{ContainerId, ImageId, Settings, name};
use crate::store::lock::Attempt;
use crate::store::remove_tree::remove_tree;
use crate::store::{Store, StoreError};
use crate::sys::mounts::mounts;

/// Why something could not be done with a container. The texts are Docker's where it has the case.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The image that it would be made from, or was made from, is not there.
    #[error("No such image: {}", with_default_tag(.0))]
    NoSuchImage(String),
    /// It was removed a moment ago.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// Another container has the name.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". \
         You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: ContainerId,
    },
    /// The name breaks the rule.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    BadName(String),
    /// It would be called what it is called.
    #[error("Renaming a container with the same name as its current name")]
    SameName,
    /// It cannot have the name that it was to get.
    #[error("Error when allocating new name: {0}")]
    NotRenamed(Box<LifecycleError>),
    /// It is mounted.
    #[error(
        "cannot remove container \"/{0}\": container is running: stop the container before \
         removing or force remove"
    )]
    Active(String),
    /// Its processes are frozen.
    #[error("cannot remove container \"/{0}\": container is paused and must be unpaused first")]
    Paused(String),
    /// What is mounted there is not the container's to be deleted.
    #[error("cannot remove container \"/{name}\": something is mounted at {}", mountpoint.display())]
    MountedBelow {
        /// The container's.
        name: String,
        /// In its directory.
        mountpoint: PathBuf,
    },
    /// Its view goes on though its server was killed.
    #[error(
        "the view of container {} is still mounted or used by open handles, though its server (PID \
         {pid}) was killed",
        container.short()
    )]
    Unserved {
        /// Whose view.
        container: ContainerId,
        /// The server's process ID.
        pid: i32,
    },
    /// Of the database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Of the store's files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What `create` is given.
#[derive(Debug)]
pub struct NewContainer<'a> {
    /// `None`: one is made up.
    pub name: Option<&'a str>,
    /// The image to be made from.
    pub image: &'a ImageId,
    /// The image as the user named it.
    pub reference: &'a str,
    /// How its process is to run.
    pub settings: Settings,
}

/// Make a container.
pub fn create(
    db: &mut Db,
    store: &Store,
    new: &NewContainer<'_>,
) -> Result<ContainerId, LifecycleError> {
    if let Some(name) = new.name
        && !name::is_valid(name)
    {
        return Err(LifecycleError::BadName(name.to_owned()));
    }
    let id = ContainerId::from_random(random()?);
    let directory = store.container(&id);
    let made = db.write(|tx| {
        if !tx.has_image(new.image)? {
            return Err(LifecycleError::NoSuchImage(new.reference.to_owned()));
        }
        let name = match new.name {
            Some(name) => match tx.container_named(name)? {
                Some(holder) => {
                    return Err(LifecycleError::NameTaken {
                        name: name.to_owned(),
                        holder,
                    });
                }
                None => name.to_owned(),
            },
            None => {
                let mut attempt = 0;
                loop {
                    let name = name::made_up(random()?, attempt);
                    if tx.container_named(&name)?.is_none() {
                        break name;
                    }
                    attempt += 1;
                }
            }
        };
        tx.insert_container(&Container {
            id: id.clone(),
            name,
            image: new.image.clone(),
            reference: new.reference.to_owned(),
            command: new.settings.command(),
            settings: new.settings.clone(),
            created: Timestamp::now(),
            started: None,
            ended: None,
            exit_code: None,
            error: String::new(),
        })?;
        // Inside the transaction: until it is committed nobody takes the directory for an orphan.
        Ok(directory.create(root_of(tx, store, new.image)?.as_deref())?)
    });
    if let Err(error) = made {
        if let Err(e) = remove_tree(directory.path()) {
            // It stays as an orphan, which `df` shows and `gc` removes.
            tracing::warn!("{e}");
        }
        return Err(error);
    }
    Ok(id)
}

/// Give a container another name. A `/` before it, as `docker inspect` shows names, is left out.
pub fn rename(db: &mut Db, container: &Container, name: &str) -> Result<(), LifecycleError> {
    let name = name.strip_prefix('/').unwrap_or(name);
    db.write(|tx| {
        if !tx.has_container(&container.id)? {
            return Err(LifecycleError::NoSuchContainer(container.name.clone()));
        }
        match tx.container_named(name)? {
            Some(holder) if holder == container.id => Err(LifecycleError::SameName),
            _ if !name::is_valid(name) => {
                let bad = LifecycleError::BadName(format!("/{name}"));
                Err(LifecycleError::NotRenamed(Box::new(bad)))
            }
            Some(holder) => {
                let name = name.to_owned();
                let taken = LifecycleError::NameTaken { name, holder };
                Err(LifecycleError::NotRenamed(Box::new(taken)))
            }
            None => Ok(tx.set_container_name(&container.id, name)?),
        }
    })
}

/// A mount at or below a directory, whoever made it.
fn mount_below(directory: &Path) -> Result<Option<PathBuf>, StoreError> {
    let table = Path::new("/proc/self/mountinfo");
    let mounts = mounts().map_err(StoreError::at("read", table))?;
    let mut below = mounts
        .into_iter()
        .filter(|m| m.mountpoint.starts_with(directory));
    Ok(below.next().map(|m| m.mountpoint))
}

/// The topmost layer whose root directory means something.
fn root_of(tx: &Tx<'_>, store: &Store, image: &ImageId) -> Result<Option<PathBuf>, DbError> {
    for place in tx.layers_of(image)?.iter().rev() {
        if let Some(layer) = tx.present_layer(&place.diff)?
            && layer.has_root
        {
            return Ok(Some(store.layer(&place.diff).join("tree")));
        }
    }
    Ok(None)
}

/// Remove a container that has no view, or one whose server is dead, with all that it wrote.
pub fn remove(db: &mut Db, store: &Store, container: &Container) -> Result<(), LifecycleError> {
    let directory = store.container(&container.id);
    if let Some(mountpoint) = mount_below(directory.path())? {
        return Err(LifecycleError::MountedBelow {
            name: container.name.clone(),
            mountpoint,
        });
    }
    let lock = match ServerLock::acquire(directory.path())? {
        Attempt::Locked(lock) => Some(lock),
        Attempt::Busy => return Err(LifecycleError::Active(container.name.clone())),
        // Removed meanwhile, row and all; or nothing is left but the row: a crash in an earlier
        // removal cannot leave that, a hand can.
        Attempt::Gone => None,
    };
    if lock.is_some() {
        // Whoever has the lock knows that a view on record is a dead server's.
        bury_predecessor(db, store, &container.id)?;
    }
    db.write(|tx| -> Result<(), LifecycleError> {
        if !tx.has_container(&container.id)? {
            return Err(LifecycleError::NoSuchContainer(container.name.clone()));
        }
        if tx.view(&container.id)?.is_some() {
            return Err(LifecycleError::Active(container.name.clone()));
        }
        Ok(tx.delete_container(&container.id)?)
    })?;
    // After the commit: a crash in between leaves an orphan, not a container without files.
    remove_tree(directory.path())?;
    drop(lock);
    Ok(())
}

/// Remove a container by force whose view was detached: the row now, the files when the view ends,
/// for its server then finds no row.
pub fn abandon(
    db: &mut Db,
    store: &Store,
    container: &Container,
    view: &View,
) -> Result<(), LifecycleError> {
    let has_ended = db.write(|tx| -> Result<bool, LifecycleError> {
        tx.delete_container(&container.id)?;
        match tx.view(&container.id)? {
            // Mounted anew meanwhile: that view is not detached. Or its process has been started.
            Some(now) if !now.is_same(view) || now.process.is_some() => {
                Err(LifecycleError::Active(container.name.clone()))
            }
            now => Ok(now.is_none()),
        }
    })?;
    if !has_ended {
        return Ok(());
    }
    let directory = store.container(&container.id);
    match ServerLock::acquire(directory.path())? {
        // Its server found the row still, and has left the files to their container.
        Attempt::Locked(_lock) => Ok(remove_tree(directory.path())?),
        // It found none, and is removing them or has done so.
        Attempt::Busy | Attempt::Gone => Ok(()),
    }
}

fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    // At most 256 bytes come at once, or none.
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(StoreError::at("read", Path::new("/dev/urandom")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Driver, Purpose};

    #[test]
    fn a_clean_up_that_fails_does_not_hide_why_it_was_needed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut db = Db::open(&store.database()).unwrap();
        // Neither made nor removed in a file.
        std::fs::write(store.root().join("containers"), "").unwrap();
        let image = ImageId::of(b"image");
        let new = NewContainer {
            name: None,
            image: &image,
            reference: "app:1",
            settings: Settings::default(),
        };
        let error = create(&mut db, &store, &new).unwrap_err();
        assert_eq!(error.to_string(), "No such image: app:1");
    }

    /// A container with files and a view on record.
    fn with_view(db: &mut Db, store: &Store) -> (Container, View) {
        let container = Container {
            id: ContainerId::from_random([1; 32]),
            name: "web".into(),
            image: ImageId::of(b"image"),
            reference: "app:1".into(),
            command: Vec::new(),
            settings: Settings::default(),
            created: Timestamp::now(),
            started: None,
            ended: None,
            exit_code: None,
            error: String::new(),
        };
        std::fs::create_dir_all(store.container(&container.id).upper()).unwrap();
        db.write(|tx| tx.insert_container(&container)).unwrap();
        let begun = db.write(|tx| {
            let how = (Purpose::Mount, Driver::Fuse);
            crate::container::view::begin(tx, &container, Path::new("/v"), how, &[])
        });
        (container, begun.unwrap())
    }

    #[test]
    fn a_container_goes_whose_server_died_a_moment_ago() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut db = Db::open(&store.database()).unwrap();
        let (container, view) = with_view(&mut db, &store);
        let directory = store.container(&container.id);
        let server = ServerLock::acquire(directory.path()).unwrap();
        let refused = remove(&mut db, &store, &container).unwrap_err();
        assert!(matches!(refused, LifecycleError::Active(_)), "{refused}");
        drop(server);
        remove(&mut db, &store, &container).unwrap();
        assert!(!directory.path().exists());
        assert_eq!(db.read(|tx| tx.view(&view.container)).unwrap(), None);
    }

    #[test]
    fn an_abandoned_container_keeps_its_files_as_long_as_its_view() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut db = Db::open(&store.database()).unwrap();
        let (container, view) = with_view(&mut db, &store);
        let directory = store.container(&container.id);
        abandon(&mut db, &store, &container, &view).unwrap();
        assert!(directory.path().exists());
        // The view has ended, and its server had found the container.
        db.write(|tx| crate::container::view::end(tx, &view, 0))
            .unwrap();
        abandon(&mut db, &store, &container, &view).unwrap();
        assert!(!directory.path().exists());
    }
}
