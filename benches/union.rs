//! What the union does for a request, without a mount: no kernel, no round trip, the disk's cache warm.
//! Directories are made below `LAYERCTL_TEST_DIR`, else the directory for temporary files; an ext4 without
//! a journal makes copy-ups several times slower after the deletions of the run before.
//!
//! Each is measured on plain directories, as `layerctl overlay` has them, and on indexed layers, as
//! a store has them.

// A benchmark that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use layerctl::model::{DiffId, ImageId};
use layerctl::store::Store;
use layerctl::store::index::{LayerAt, merged};
use layerctl::union::{Caller, Layers, LowerIndex, Options, ROOT_INO, SetAttr, Union};
use rustix::fs::OFlags;

const ROOT: Caller = Caller { uid: 0, gid: 0 };
const LAYERS: usize = 8;
/// Entries of the wide directory, over all layers.
const WIDE: usize = 4000;
/// Files that are copied up, one after the other; then a new view begins with the next ones.
const SMALL: usize = 256;

/// Layers with a wide directory that all of them have, a deep path, and small files; and where a
/// union's changes go.
struct Ground {
    below: tempfile::TempDir,
    indexed: bool,
}

impl Ground {
    fn new(indexed: bool) -> Ground {
        let at = std::env::var_os("LAYERCTL_TEST_DIR").map_or_else(std::env::temp_dir, Into::into);
        let below = tempfile::Builder::new()
            .prefix("layerctl-bench-")
            .tempdir_in::<PathBuf>(at)
            .unwrap();
        let ground = Ground { below, indexed };
        for layer in 0..LAYERS {
            let root = ground.layer(layer);
            fs::create_dir_all(root.join("wide")).unwrap();
            for number in (layer..WIDE).step_by(LAYERS) {
                File::create(root.join(format!("wide/{number}"))).unwrap();
            }
        }
        let lowest = ground.layer(LAYERS - 1);
        fs::create_dir_all(lowest.join("usr/share/doc/deep/er")).unwrap();
        fs::write(lowest.join("usr/share/doc/deep/er/file"), "x").unwrap();
        fs::create_dir(lowest.join("small")).unwrap();
        for number in 0..SMALL {
            fs::write(lowest.join(format!("small/{number}")), [7; 4096]).unwrap();
        }
        ground
    }

    fn layer(&self, number: usize) -> PathBuf {
        self.below.path().join(format!("l{number}/tree"))
    }

    /// A union that nothing has been asked of, with an empty upper directory.
    fn union(&self) -> Union {
        let changed = |name: &str| {
            let path = self.below.path().join(name);
            if path.exists() {
                fs::remove_dir_all(&path).unwrap();
            }
            fs::create_dir(&path).unwrap();
            open(&path)
        };
        let trees: Vec<PathBuf> = (0..LAYERS).map(|layer| self.layer(layer)).collect();
        let layers = Layers {
            index: self.indexed.then(|| index_of(self.below.path(), &trees)),
            lowers: trees.iter().map(|tree| open(tree)).collect(),
            upper: Some(changed("upper")),
            work: Some(changed("work")),
        };
        let options = Options {
            volatile: true,
            ..Options::default()
        };
        Union::new(layers, options).unwrap()
    }
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// The index of layers, as a store makes it of its own.
fn index_of(below: &Path, layers: &[PathBuf]) -> LowerIndex {
    let store = Store::open(&below.join("store")).unwrap();
    store.furnish().unwrap();
    let opened: Vec<(DiffId, OwnedFd)> = layers
        .iter()
        .map(|tree| {
            let directory = tree.parent().unwrap();
            let diff = DiffId::of(directory.as_os_str().as_encoded_bytes());
            (diff, open(directory))
        })
        .collect();
    let layers: Vec<LayerAt<'_>> = opened
        .iter()
        .map(|(diff, directory)| LayerAt {
            diff,
            directory: directory.as_fd(),
        })
        .collect();
    merged(&store, &ImageId::of(b"image"), &layers).unwrap()
}

/// The number of what a path leads to; all on the way is held until the union goes.
fn walk(union: &Union, path: &str) -> u64 {
    path.split('/').fold(ROOT_INO, |parent, name| {
        let entry = union.lookup(parent, name.as_bytes()).unwrap();
        let ino = entry.attr.ino;
        entry.node.leave_to_kernel();
        ino
    })
}

/// A copy-up wants a file that has not been copied up: a union is good for so many.
struct Fresh<'a> {
    ground: &'a Ground,
    union: Union,
    files: Vec<u64>,
}

impl<'a> Fresh<'a> {
    fn new(ground: &'a Ground) -> Fresh<'a> {
        Fresh {
            ground,
            union: ground.union(),
            files: Vec::new(),
        }
        .filled()
    }

    fn filled(mut self) -> Self {
        self.files = (0..SMALL)
            .map(|number| walk(&self.union, &format!("small/{number}")))
            .collect();
        // The directory is copied up with its first file: that is not measured.
        let first = self.files.pop().unwrap();
        let handle = self.union.open(first, OFlags::WRONLY, ROOT).unwrap();
        self.union.release(handle).unwrap();
        self
    }

    fn next(&mut self) -> u64 {
        if self.files.is_empty() {
            *self = Fresh::new(self.ground);
        }
        self.files.pop().unwrap()
    }
}

fn union(c: &mut Criterion) {
    for indexed in [false, true] {
        let ground = Ground::new(indexed);
        let id = |what: &str| BenchmarkId::new(what, if indexed { "indexed" } else { "plain" });
        let mut group = c.benchmark_group("union");

        let view = ground.union();
        let parent = walk(&view, "usr/share/doc/deep/er");
        group.bench_function(id("lookup"), |b| {
            // Given back each time, so that the union knows nothing of it.
            b.iter(|| black_box(view.lookup(parent, b"file").unwrap()));
        });
        group.bench_function(id("lookup of nothing"), |b| {
            b.iter(|| black_box(view.lookup(parent, b"nothing").unwrap_err()));
        });

        let wide = walk(&view, "wide");
        group.throughput(Throughput::Elements(WIDE as u64));
        group.bench_function(id("readdir merge of 8 layers"), |b| {
            b.iter(|| {
                let (mut position, mut seen) = (0, 0);
                loop {
                    let listing = view.list(wide, position).unwrap();
                    let Some(last) = listing.items().last() else {
                        break;
                    };
                    position = last.position;
                    seen += listing.items().len();
                }
                assert_eq!(black_box(seen), WIDE + 2);
            });
        });
        group.throughput(Throughput::Elements(1));

        let fresh = std::cell::RefCell::new(Fresh::new(&ground));
        group.bench_function(id("copy-up of 4 KiB"), |b| {
            b.iter_batched(
                || fresh.borrow_mut().next(),
                |ino| {
                    let union = &fresh.borrow().union;
                    let handle = union.open(ino, OFlags::WRONLY, ROOT).unwrap();
                    union.release(handle).unwrap();
                },
                BatchSize::PerIteration,
            );
        });
        *fresh.borrow_mut() = Fresh::new(&ground);
        let set = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        group.bench_function(id("copy-up of metadata"), |b| {
            b.iter_batched(
                || fresh.borrow_mut().next(),
                |ino| fresh.borrow().union.setattr(ino, &set, ROOT).unwrap(),
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(30);
    targets = union
}
criterion_main!(benches);
