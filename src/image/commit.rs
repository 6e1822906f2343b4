//! Making an image of a container: the layers of its image, one more for what it has changed, and a
//! config.
//!
//! The layer's tar is not kept: it goes through the same unpacking as one that is loaded, into
//! `staging/`, and its digest is taken on the way. Then all of it becomes visible at once (see
//! [`publish`](super::publish)); what fails leaves the store as it was.

use std::collections::BTreeMap;
use std::io::{BufWriter, PipeWriter, Write as _, pipe};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::change::{self, ChangeError};
use super::config::raw;
use super::publish::{Newcomer, PublishError, finish, publish, unnamed_config};
use crate::archive::ImageConfig;
use crate::archive::tree_tar::{TreeTar, TreeTarError};
use crate::db::{Container, Db, DbError};
use crate::model::reference::with_default_tag;
use crate::model::settings::Settings;
use crate::model::{DiffId, ImageId, Reference};
use crate::store::staging::Staged;
use crate::store::unpack::UnpackError;
use crate::store::{Store, StoreError};
use crate::sys::reason;

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// The container's image is not there.
    #[error("No such image: {}", with_default_tag(.0))]
    NoSuchImage(String),
    /// Of an instruction of `--change`.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The config of the container's image makes no sense, or there is no room in it for more.
    #[error("the config of image {image}: {why}")]
    Config {
        /// Which image.
        image: ImageId,
        /// What is wrong.
        why: String,
    },
    /// The container's files cannot be read, or not be put into a layer.
    #[error(transparent)]
    Tree(TreeTarError),
    /// The layer cannot be unpacked.
    #[error("the layer of what was changed: {0}")]
    Layer(UnpackError),
    /// No pipe or thread for it.
    #[error("cannot write a layer: {}", reason(.0))]
    System(std::io::Error),
    /// Of the database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Of the store's files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// At its end.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// What an image is made with.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The container.
    pub container: &'a Container,
    /// Who makes it, or empty.
    pub author: &'a str,
    /// A remark, or empty.
    pub message: &'a str,
    /// Instructions that change how its containers run.
    pub changes: &'a [String],
    /// The name that it gets.
    pub tag: Option<Reference>,
}

/// The tar of a layer on its way to the store.
pub type LayerTar = TreeTar<BufWriter<PipeWriter>>;

/// The most layers that an image may have: no more can be loaded.
const MAX_LAYERS: usize = 512;
/// The longest config: no longer one can be loaded.
const MAX_CONFIG: usize = 4 << 20;

/// Make an image. `layer` writes what the container has changed, on a thread of its own; without it
/// there is nothing, and the image has no layer more. `cancel` is asked often.
///
/// # Errors
/// [`CommitError::NoSuchImage`] if the container's image is gone, also if it goes meanwhile.
pub fn commit(
    db: &mut Db,
    store: &Store,
    commit: &Commit<'_>,
    layer: Option<impl FnOnce(&mut LayerTar) -> Result<(), TreeTarError> + Send>,
    cancel: &(dyn Fn() -> bool + Sync),
) -> Result<ImageId, CommitError> {
    let container = commit.container;
    let gone = || CommitError::NoSuchImage(container.reference.clone());
    let base = base(db, store, commit)?;
    let parsed = ImageConfig::parse(&base).map_err(|why| bad(container, why))?;
    // Looked at before anything is written.
    config(&base, commit, None)?;
    let mut staged = BTreeMap::new();
    let mut new = None;
    if let Some(layer) = layer {
        let (diff, layer) = stage(store, container, layer, cancel)?;
        staged.insert(diff.clone(), layer);
        new = Some(diff);
    }
    let mut diffs = parsed.diff_ids;
    diffs.extend(new.clone());
    if diffs.len() > MAX_LAYERS {
        return Err(bad(
            container,
            format!("it would have more than {MAX_LAYERS} layers"),
        ));
    }
    let (created, config) = config(&base, commit, new.as_ref())?;
    let image = Newcomer {
        id: ImageId::of(&config),
        created,
        config: unnamed_config(store, &config)?,
        diffs,
        tags: commit.tag.iter().cloned().collect(),
    };
    let id = image.id.clone();
    let images = [image];
    if !publish(db, store, &images, &mut staged)? {
        return Err(gone());
    }
    finish(store, &images, staged);
    Ok(id)
}

/// The config of the container's image.
fn base(db: &mut Db, store: &Store, commit: &Commit<'_>) -> Result<Vec<u8>, CommitError> {
    let image = &commit.container.image;
    let mut is_there = || db.read(|tx| tx.has_image(image));
    let gone = || CommitError::NoSuchImage(commit.container.reference.clone());
    if !is_there()? {
        return Err(gone());
    }
    match raw(store, image) {
        // Removed between the two looks.
        Err(e) if e.is_not_found() && !is_there()? => Err(gone()),
        read => Ok(read?),
    }
}

fn bad(container: &Container, why: String) -> CommitError {
    CommitError::Config {
        image: container.image.clone(),
        why,
    }
}

/// Unpack the layer while it is written.
fn stage(
    store: &Store,
    container: &Container,
    layer: impl FnOnce(&mut LayerTar) -> Result<(), TreeTarError> + Send,
    cancel: &(dyn Fn() -> bool + Sync),
) -> Result<(DiffId, Staged), CommitError> {
    // Its digest is not known before its end. The name only says which layer a complete one is that
    // was left behind: this one is nobody's then, and goes as an orphan.
    let provisional = DiffId::of(container.id.hex().as_bytes());
    let mut staged = Staged::create(store, &provisional)?;
    let (reader, writer) = pipe().map_err(CommitError::System)?;
    let write = move || {
        let mut tar = TreeTar::new(BufWriter::with_capacity(128 << 10, writer));
        layer(&mut tar)?;
        tar.finish()?.flush().map_err(TreeTarError::Write)
    };
    let (written, unpacked) = std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().name("layer-write".to_owned());
        let writing = thread.spawn_scoped(threads, write)?;
        let unpacked = staged.unpack(reader, cancel);
        let panicked = || std::io::Error::other("the writing thread panicked");
        Ok((writing.join().map_err(|_| panicked())?, unpacked))
    })
    .map_err(CommitError::System)?;
    let unpacked = match (written, unpacked) {
        (_, Err(UnpackError::Interrupted)) => return Err(CommitError::Interrupted),
        // What cannot be read ends the tar too early; what cannot be unpacked closes the pipe.
        (Err(e @ TreeTarError::Write(_)), Ok(_)) => return Err(CommitError::Tree(e)),
        (Err(e), _) if !matches!(e, TreeTarError::Write(_)) => return Err(CommitError::Tree(e)),
        (_, unpacked) => unpacked.map_err(CommitError::Layer)?,
    };
    if unpacked.has_replaced {
        // Its tar is gone, and cannot be read again for its tar-split. What has changed is listed once.
        let twice = std::io::Error::other("a name comes twice");
        return Err(CommitError::System(twice));
    }
    staged.complete(store, &unpacked.diff_id, unpacked.size, unpacked.has_root)?;
    Ok((unpacked.diff_id, staged))
}

/// When the image is made, and its config: that of the container's image, changed.
fn config(
    base: &[u8],
    commit: &Commit<'_>,
    layer: Option<&DiffId>,
) -> Result<(String, Vec<u8>), CommitError> {
    let bad = |why: String| bad(commit.container, why);
    let mut config: Map<String, Value> =
        serde_json::from_slice(base).map_err(|e| bad(e.to_string()))?;
    let created = Timestamp::now().to_string();
    let mut run = match config.remove("config") {
        Some(Value::Object(run)) => run,
        _ => Map::new(),
    };
    let command = own_settings(&mut run, commit.container);
    change::apply(&mut run, commit.changes)?;
    config.insert("config".into(), run.into());
    // Of the container that the image was made of, and of the program that made it.
    for key in [
        "container",
        "container_config",
        "docker_version",
        "id",
        "parent",
    ] {
        config.remove(key);
    }
    let mut step = json!({ "created": created, "created_by": command.join(" ") });
    for (key, text) in [("author", commit.author), ("comment", commit.message)] {
        config.remove(key);
        if !text.is_empty() {
            config.insert(key.into(), text.into());
            step[key] = text.into();
        }
    }
    if layer.is_none() {
        step["empty_layer"] = true.into();
    }
    config.insert("created".into(), created.clone().into());
    match config.remove("history") {
        Some(Value::Array(mut history)) => {
            history.push(step);
            config.insert("history".into(), history.into());
        }
        _ => {
            config.insert("history".into(), vec![step].into());
        }
    }
    let rootfs = config.get_mut("rootfs").and_then(Value::as_object_mut);
    let rootfs = rootfs.ok_or_else(|| bad("no rootfs".to_owned()))?;
    if let Some(layer) = layer {
        let mut diffs = match rootfs.remove("diff_ids") {
            Some(Value::Array(diffs)) => diffs,
            _ => Vec::new(),
        };
        diffs.push(layer.to_string().into());
        rootfs.insert("diff_ids".into(), diffs.into());
    }
    let bytes = serde_json::to_vec(&config).map_err(|e| bad(e.to_string()))?;
    match bytes.len() > MAX_CONFIG {
        true => Err(bad(format!("it would have more than {MAX_CONFIG} bytes"))),
        false => Ok((created, bytes)),
    }
}

/// How the container was told to run becomes how the image's containers run, as far as an image says
/// that. What is the same stays as it stands in the config. Gives the command without the entry point.
fn own_settings(run: &mut Map<String, Value>, container: &Container) -> Vec<String> {
    let settings = &container.settings;
    // One of an older version has none but its command.
    if *settings != Settings::default() {
        let lists = [
            ("Entrypoint", &settings.entrypoint),
            ("Cmd", &settings.cmd),
            ("Env", &settings.env),
        ];
        for (key, own) in lists {
            if *own != words(run, key) {
                run.insert(key.to_owned(), own.clone().into());
            }
        }
        let texts = [
            ("WorkingDir", &settings.working_dir),
            ("User", &settings.user),
            ("StopSignal", &settings.stop_signal),
        ];
        for (key, own) in texts {
            if run.get(key).and_then(Value::as_str).unwrap_or_default() != own {
                run.insert(key.to_owned(), own.clone().into());
            }
        }
    }
    let own = container
        .command
        .strip_prefix(words(run, "Entrypoint").as_slice());
    match own {
        Some(own) if own != words(run, "Cmd") => {
            run.insert("Cmd".into(), own.to_vec().into());
        }
        Some(_) | None => {}
    }
    words(run, "Cmd")
}

/// A list of strings of the config; empty where it has none.
fn words(run: &Map<String, Value>, key: &str) -> Vec<String> {
    let list = run.get(key).and_then(Value::as_array);
    let words = list.into_iter().flatten().filter_map(Value::as_str);
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(command: &[&str]) -> Container {
        Container {
            id: crate::model::ContainerId::from_random([1; 32]),
            name: "web".into(),
            image: ImageId::of(b"image"),
            reference: "app:1".into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            created: Timestamp::UNIX_EPOCH,
            settings: Settings::default(),
            started: None,
            ended: None,
            exit_code: None,
            error: String::new(),
        }
    }

    #[test]
    fn the_config_is_the_images_with_what_is_new() {
        let base = json!({
            "architecture": "amd64", "os": "linux", "author": "before", "container": "x",
            "created": "2020-01-01T00:00:00Z",
            "config": { "Entrypoint": ["sh"], "Cmd": ["-c", "old"], "Env": ["A=b"] },
            "history": [{ "created_by": "COPY" }],
            "rootfs": { "type": "layers", "diff_ids": [DiffId::of(b"lower").to_string()] },
            "variant": null, "unknown": 7,
        });
        let base = serde_json::to_vec(&base).unwrap();
        let container = container(&["sh", "-c", "new"]);
        let changes = ["USER x".to_owned()];
        let mut commit = Commit {
            container: &container,
            author: "me",
            message: "why",
            changes: &changes,
            tag: None,
        };
        let upper = DiffId::of(b"upper");
        let (created, bytes) = config(&base, &commit, Some(&upper)).unwrap();
        let made: Value = serde_json::from_slice(&bytes).unwrap();
        let expected = json!({
            "architecture": "amd64", "os": "linux", "author": "me", "comment": "why",
            "created": created,
            "config": { "Entrypoint": ["sh"], "Cmd": ["-c", "new"], "Env": ["A=b"], "User": "x" },
            "history": [
                { "created_by": "COPY" },
                { "created": created, "created_by": "-c new", "author": "me", "comment": "why" },
            ],
            "rootfs": {
                "type": "layers",
                "diff_ids": [DiffId::of(b"lower").to_string(), upper.to_string()],
            },
            "variant": null, "unknown": 7,
        });
        assert_eq!(made, expected);
        assert!(created.parse::<Timestamp>().is_ok());
        let mut other = container.clone();
        other.command = vec!["/x".into()];
        other.settings = Settings {
            cmd: vec!["/x".into()],
            env: vec!["A=b".into(), "C=d".into()],
            user: "7".into(),
            ..Settings::default()
        };
        commit.container = &other;
        let (_, bytes) = config(&base, &commit, Some(&upper)).unwrap();
        let made: Value = serde_json::from_slice(&bytes).unwrap();
        let expected =
            json!({ "Entrypoint": [], "Cmd": ["/x"], "Env": ["A=b", "C=d"], "User": "x" });
        assert_eq!(made["config"], expected);
        (commit.author, commit.message) = ("", "");
        let (_, bytes) = config(&base, &commit, None).unwrap();
        let made: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(made.get("author"), None);
        assert_eq!(made["history"][1]["empty_layer"], json!(true));
        assert_eq!(made["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
    }
}
