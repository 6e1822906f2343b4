//! What the tests of hostile archives share: a store with something beside it that nothing may touch.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use layerctl::archive::write::{DockerArchive, ImageSpec, Layer, LayerBuilder};
use layerctl::model::Reference;

use crate::archives_support::xattr;
use crate::bad_input::state;
use crate::harness::store::names_in;
use crate::harness::{Run, Store, tree};

/// A store, and beside it a directory that must stay as it is.
pub struct Target {
    pub store: Store,
    canary: BTreeMap<PathBuf, tree::Entry>,
}

impl Target {
    pub fn new() -> Target {
        let store = Store::new();
        let outside = store.new_dir("outside");
        fs::create_dir(outside.join("deep")).unwrap();
        fs::write(outside.join("deep/file"), "untouched").unwrap();
        fs::hard_link(outside.join("deep/file"), outside.join("again")).unwrap();
        symlink("deep/file", outside.join("link")).unwrap();
        fs::set_permissions(outside.join("deep"), fs::Permissions::from_mode(0o2750)).unwrap();
        store.ok(&["images"]);
        let canary = tree::read(&outside);
        Target { store, canary }
    }

    /// The directory that must stay as it is.
    pub fn outside(&self) -> PathBuf {
        self.store.beside("outside")
    }

    /// It is as it was: names, contents, modes, owners, times, links, attributes.
    #[track_caller]
    pub fn check_outside(&self) {
        tree::assert_same(&self.canary, &tree::read(&self.outside()));
        assert_eq!(xattr(&self.outside(), "trusted.overlay.opaque"), None);
    }

    pub fn load(&self, archive: &[u8]) -> Run {
        let file = self.store.beside("evil.tar");
        fs::write(&file, archive).unwrap();
        let run = self.store.run(&["load", "-i", file.to_str().unwrap()]);
        fs::remove_file(file).unwrap();
        run
    }

    /// Refused with one line that has all of these; the store and what is outside are as before.
    #[track_caller]
    pub fn refuses(&self, what: &str, archive: &[u8], parts: &[&str]) {
        let before = state(&self.store);
        let run = self.load(archive);
        assert_eq!(run.code, Some(1), "{what}: {run:#?}");
        run.refused_saying(parts);
        assert_eq!(before, state(&self.store), "{what}");
        self.check_staging();
        self.check_outside();
    }

    /// Loaded whole, and nothing else is there.
    #[track_caller]
    pub fn takes(&self, what: &str, archive: &[u8]) {
        let run = self.load(archive);
        assert_eq!(run.code, Some(0), "{what}: {run:#?}");
        self.check_staging();
        self.store.check_at_rest();
        self.check_outside();
    }

    /// No partial layer stays.
    #[track_caller]
    pub fn check_staging(&self) {
        assert_eq!(names_in(&self.store.root().join("staging")), [""; 0]);
        let beside = names_in(self.store.root().parent().unwrap());
        let own = self.store.root().file_name().unwrap().to_str().unwrap();
        let foreign = |name: &&String| *name != own && *name != "outside";
        assert_eq!(beside.iter().filter(foreign).count(), 0, "{beside:?}");
    }
}

/// The tar of a layer.
pub fn layer(build: impl FnOnce(&mut LayerBuilder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = LayerBuilder::default();
    build(&mut tar);
    tar.finish().unwrap()
}

/// A docker-archive of one image with these layers, the lowest first.
pub fn archive(tag: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let tags: Vec<Reference> = vec![tag.parse().unwrap()];
    let spec = ImageSpec::new(tags, &["sh"], "2024-01-01T00:00:00Z");
    let layers: Vec<Layer> = layers.iter().cloned().map(Layer::Bytes).collect();
    let mut archive = DockerArchive::new(Vec::new());
    archive.image(&spec, &layers).unwrap();
    archive.finish().unwrap()
}

/// The blocks of one entry by hand: whatever the header says, these are its data.
pub fn entry(name: &str, flag: u8, size: u64, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// PAX records as an `x` header.
pub fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        text += &format!("{length} {key}={value}\n");
    }
    entry("pax", b'x', text.len() as u64, "", text.as_bytes())
}

/// Entries as a tar.
pub fn joined(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// What a store has unpacked of the only layer in it.
pub fn only_layer(store: &Store) -> PathBuf {
    let layers = store.root().join("layers");
    let names = names_in(&layers);
    assert_eq!(names.len(), 1, "{names:?}");
    layers.join(&names[0]).join("tree")
}

/// Names below a directory, sorted, without the directory itself.
pub fn names_below(root: &Path) -> Vec<String> {
    let paths = tree::read(root).into_keys();
    let names = paths.map(|path| path.to_str().unwrap().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}
