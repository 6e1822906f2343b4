//! Tests of the files: made, damaged, made anew.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::PathBuf;

use super::*;
use crate::model::index::{Inode, Kind, MAX_NAME};
use crate::store::usage::measure;

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
    image: ImageId,
    /// Topmost first.
    diffs: Vec<DiffId>,
}

impl Fixture {
    /// A store with an image of two layers, as a load leaves it.
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        store.furnish().unwrap();
        let diffs = vec![DiffId::of(b"top"), DiffId::of(b"bottom")];
        let image = ImageId::of(b"image");
        fs::create_dir(store.image(&image)).unwrap();
        for (diff, text) in diffs.iter().zip(["top", "bottom!"]) {
            let tree = store.layer(diff).join("tree");
            fs::create_dir_all(tree.join("d/e")).unwrap();
            fs::write(tree.join("d/file"), text).unwrap();
            fs::hard_link(tree.join("d/file"), tree.join(text)).unwrap();
            symlink("nowhere", tree.join("d/e/link")).unwrap();
            make(&store, &store.layer(diff), diff).unwrap();
        }
        prepare(&store, &image, &diffs).unwrap();
        Fixture {
            _dir: dir,
            store,
            image,
            diffs,
        }
    }

    fn directories(&self) -> Vec<OwnedFd> {
        let open = |diff| open_directory(&self.store.layer(diff)).unwrap();
        self.diffs.iter().map(open).collect()
    }

    fn merged(&self) -> Index<Map> {
        self.merged_of(&self.directories()).unwrap()
    }

    fn merged_of(&self, directories: &[OwnedFd]) -> Result<Index<Map>, StoreError> {
        let layers = self.diffs.iter().zip(directories);
        let layers: Vec<_> = layers
            .map(|(diff, directory)| LayerAt {
                diff,
                directory: directory.as_fd(),
            })
            .collect();
        merged(&self.store, &self.image, &layers)
    }

    /// The three files: the image's, and those of its layers.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.store.image_index(&self.image)];
        files.extend(
            self.diffs
                .iter()
                .map(|diff| self.store.layer(diff).join(NAME)),
        );
        files
    }
}

/// What a view would show: all that is asked, in the order of the numbers.
fn shown(index: &Index<Map>) -> String {
    let mut out = String::new();
    for at in 0..index.len() {
        let names: Vec<_> = index.names(at).collect();
        // Reading a tree may change these.
        let inode = index.inode(at).map(|inode| Inode {
            atime: Default::default(),
            ..inode
        });
        let target = index.target(at);
        out += &format!("{at} {names:?} {inode:?} {target:?}\n");
    }
    out
}

#[test]
fn an_index_says_what_stat_says() {
    let f = Fixture::new();
    let tree = f.store.layer(&f.diffs[0]).join("tree");
    let longest = "x".repeat(MAX_NAME);
    fs::write(tree.join(&longest), "").unwrap();
    let usage = make(&f.store, &f.store.layer(&f.diffs[0]), &f.diffs[0]).unwrap();
    assert_eq!(usage, measure(&tree).unwrap());
    let directory = open_directory(&f.store.layer(&f.diffs[0])).unwrap();
    let index = read_layer(&directory, &f.diffs[0]).unwrap();
    // The root, d, top, the long name, d/e, d/e/link; d/file is top.
    assert_eq!(index.len(), 6);
    let mut seen = 0;
    for path in ["", "d", "top", &longest, "d/file", "d/e", "d/e/link"] {
        let components = path.split('/').filter(|c| !c.is_empty());
        let found = components.fold(0, |at, name| index.child(at, name.as_bytes()).unwrap());
        let inode = index.inode(found).unwrap();
        let meta = fs::symlink_metadata(tree.join(path)).unwrap();
        assert_eq!(inode.mode, meta.mode() & 0o7777, "{path}");
        assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()));
        assert_eq!((inode.size, inode.blocks), (meta.size(), meta.blocks()));
        assert_eq!(u64::from(inode.nlink), meta.nlink(), "{path}");
        let time = |t: crate::model::index::Time| (t.secs, i64::from(t.nanos));
        assert_eq!(time(inode.mtime), (meta.mtime(), meta.mtime_nsec()));
        assert_eq!(time(inode.ctime), (meta.ctime(), meta.ctime_nsec()));
        assert_eq!(inode.kind == Kind::Directory, meta.is_dir());
        seen += 1;
    }
    assert_eq!(seen, 7);
    assert_eq!(
        check_layer(&f.store.layer(&f.diffs[0]), &f.diffs[0])
            .unwrap()
            .1,
        Condition::Sound
    );
    fs::write(tree.join("d/file"), "changed, and longer").unwrap();
    let (_, condition) = check_layer(&f.store.layer(&f.diffs[0]), &f.diffs[0]).unwrap();
    assert_eq!(condition, Condition::Differs("\"top\"".to_owned()));
}

#[test]
fn the_merged_one_is_of_the_topmost() {
    let f = Fixture::new();
    let index = f.merged();
    assert_eq!(index.diffs().collect::<Vec<_>>(), f.diffs);
    let d = index.child(0, b"d").unwrap();
    let file = index.child(d, b"file").unwrap();
    assert_eq!(index.inode(file).unwrap().size, 3);
    assert_eq!(
        index
            .inode(index.child(0, b"bottom!").unwrap())
            .unwrap()
            .layer,
        1
    );
    assert_eq!(
        index
            .inode(index.child(0, b"bottom!").unwrap())
            .unwrap()
            .nlink,
        1
    );
    assert_eq!(check_image(&f.store, &f.image, &f.diffs), Condition::Sound);
    let other = [f.diffs[1].clone(), f.diffs[0].clone()];
    assert!(matches!(
        check_image(&f.store, &f.image, &other),
        Condition::Damaged(_)
    ));
}

#[test]
fn whatever_becomes_of_the_files_the_numbers_are_the_same() {
    let f = Fixture::new();
    let whole = shown(&f.merged());
    let stranger = Fixture::new();
    let other = stranger.files();
    type Harm = fn(&Path, &Path);
    let harms: [(&str, Harm); 8] = [
        ("deleted", |file, _| fs::remove_file(file).unwrap()),
        ("emptied", |file, _| drop(fs::File::create(file).unwrap())),
        ("cut short", |file, _| {
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_len(100).unwrap();
        }),
        ("longer", |file, _| {
            let longer = [&fs::read(file).unwrap()[..], b"x"].concat();
            fs::write(file, longer).unwrap();
        }),
        ("a bit flipped", |file, _| {
            let mut bytes = fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(file, bytes).unwrap();
        }),
        ("of another version", |file, _| {
            let mut bytes = fs::read(file).unwrap();
            bytes[8] += 1;
            fs::write(file, bytes).unwrap();
        }),
        ("another's", |file, other| {
            assert!(fs::copy(other, file).unwrap() > 0)
        }),
        ("zeros", |file, _| {
            let length = fs::metadata(file).unwrap().len() as usize;
            fs::write(file, vec![0; length]).unwrap();
        }),
    ];
    for (what, harm) in harms {
        // The image's alone, then one of the layers' with it.
        for harmed in [&[0][..], &[0, 1], &[0, 1, 2]] {
            for at in harmed {
                // The files of the other layer, and of no layer of this image.
                let stranger = if *at == 0 { &f.files()[2] } else { &other[0] };
                let stranger = stranger.clone();
                harm(&f.files()[*at], &stranger);
            }
            assert_eq!(shown(&f.merged()), whole, "{what}");
            assert_eq!(
                check_image(&f.store, &f.image, &f.diffs),
                Condition::Sound,
                "{what}"
            );
            for diff in &f.diffs {
                let (_, condition) = check_layer(&f.store.layer(diff), diff).unwrap();
                assert_eq!(condition, Condition::Sound, "{what}");
            }
        }
    }
    assert!(fs::read_dir(f.store.staging()).unwrap().next().is_none());
}

#[test]
fn an_image_or_layer_that_has_lost_its_name_can_still_be_shown() {
    let f = Fixture::new();
    let whole = shown(&f.merged());
    let directories = f.directories();
    fs::remove_dir_all(f.store.image(&f.image)).unwrap();
    for diff in &f.diffs {
        let marked = f.store.marked().join(diff.hex());
        fs::remove_file(f.store.layer(diff).join(NAME)).unwrap();
        fs::rename(f.store.layer(diff), marked).unwrap();
    }
    assert_eq!(shown(&f.merged_of(&directories).unwrap()), whole);
    assert!(!f.store.image(&f.image).exists());
    for diff in &f.diffs {
        assert!(f.store.marked().join(diff.hex()).join(NAME).exists());
    }
}

#[test]
fn without_room_on_the_disk_it_stays_in_memory() {
    let f = Fixture::new();
    // More than is in memory anyway, while it is made.
    let layer = f.store.layer(&f.diffs[0]);
    for nth in 0..4_000 {
        fs::write(layer.join(format!("tree/{nth}")), "").unwrap();
    }
    make(&f.store, &layer, &f.diffs[0]).unwrap();
    fs::remove_file(f.store.image_index(&f.image)).unwrap();
    let whole = shown(&f.merged());
    fs::remove_file(f.store.image_index(&f.image)).unwrap();
    // Nothing can be made there, as on a full disk.
    fs::remove_dir(f.store.staging()).unwrap();
    assert_eq!(shown(&f.merged()), whole);
    assert!(prepare(&f.store, &f.image, &f.diffs).is_err());
    assert!(!f.store.image_index(&f.image).exists());
}

#[test]
fn two_at_once_both_have_one() {
    let f = Fixture::new();
    let whole = shown(&f.merged());
    for _ in 0..20 {
        for file in f.files() {
            fs::write(file, "damaged").unwrap();
        }
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| assert_eq!(shown(&f.merged()), whole));
            }
        });
        assert_eq!(check_image(&f.store, &f.image, &f.diffs), Condition::Sound);
    }
}

#[test]
fn a_tree_may_be_deeper_than_a_path_is_long() {
    let dir = tempfile::tempdir().unwrap();
    let mut at = open_directory(dir.path()).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    let mut depth = 0;
    let name = "d".repeat(200);
    while depth < 100 {
        rustix::fs::mkdirat(&at, &name, mode).unwrap();
        rustix::fs::mkdirat(&at, "beside", mode).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        at = openat(&at, &name, flags, Mode::empty()).unwrap();
        depth += 1;
    }
    let tree = open_directory(dir.path()).unwrap();
    let walked = walk::walk(tree, &DiffId::of(b""), Place::Memory, dir.path()).unwrap();
    assert_eq!(walked.usage.entries, 201);
    let file = Place::Memory.write(walked.index).unwrap();
    let index = Index::open(Map::of(&file).unwrap()).unwrap();
    assert_eq!(index.len(), 201);
    crate::sys::remove_tree::empty(open_directory(dir.path()).unwrap()).unwrap();
}
