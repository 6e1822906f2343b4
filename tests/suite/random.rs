//! Random operations beside a model that knows one rule: nothing that an image names or a view pins
//! is ever deleted, and nothing else stays.
//!
//! The seeds are fixed, so that a failure comes back; `LAYERCTL_TEST_SEED` tries another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::process::kill_hard;
use crate::harness::{
    Archive, Built, Image, Layer, Random, Store, noise, strings, text, wait_until,
};

const IMAGES: usize = 4;
const STEPS: usize = 80;

/// A container as it must be.
struct Container {
    image: usize,
    view: Option<PathBuf>,
    /// Open files of the view; they outlive its lazy unmount.
    held: Vec<File>,
    /// What it wrote last.
    own: Option<String>,
}

impl Container {
    /// Whether its server runs: while it is mounted, and after that while anything is open.
    fn pins(&self) -> bool {
        self.view.is_some() || !self.held.is_empty()
    }
}

struct World {
    store: Store,
    archives: Vec<(PathBuf, Built)>,
    loaded: [bool; IMAGES],
    containers: BTreeMap<String, Container>,
    random: Random,
    log: Vec<String>,
}

/// Images 0 and 1 share a base, 2 stands on its own, 3 has the layer of 2 above that base.
fn image(n: usize) -> Image {
    let base = Layer::new()
        .dir("base")
        .file("base/blob", noise(20, 200_000));
    let own = Layer::new().file("own", format!("image {n}"));
    let common = Layer::new().file("common", noise(21, 50_000));
    let layers = match n {
        0 | 1 => vec![base, own],
        2 => vec![
            Layer::new()
                .dir("base")
                .file("base/blob", noise(20, 200_000))
                .dir("x"),
            common,
            own,
        ],
        _ => vec![base, common, own],
    };
    Image::new(&[&format!("image:{n}")], layers)
}

impl World {
    fn new(seed: u64) -> World {
        let store = Store::new();
        let archives = (0..IMAGES)
            .map(|n| {
                let (archive, built) = Archive::of(&image(n));
                let file = store.beside(&format!("{n}.tar"));
                archive.write(&file);
                (file, built)
            })
            .collect();
        World {
            store,
            archives,
            loaded: [false; IMAGES],
            containers: BTreeMap::new(),
            random: Random::new(seed),
            log: Vec::new(),
        }
    }

    fn some_container(&mut self, fits: impl Fn(&Container) -> bool) -> Option<String> {
        let fitting: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, c)| fits(c))
            .map(|(id, _)| id.clone())
            .collect();
        (!fitting.is_empty()).then(|| fitting[self.random.below(fitting.len())].clone())
    }

    fn step(&mut self) {
        let n = self.random.below(IMAGES);
        let name = format!("image:{n}");
        match self.random.below(12) {
            0 | 1 => {
                self.log.push(format!("load {n}"));
                self.store
                    .ok(&["load", "-i", self.archives[n].0.to_str().unwrap()]);
                self.loaded[n] = true;
            }
            2 | 3 => {
                self.log.push(format!("rmi -f {n}"));
                let run = self.store.run(&["rmi", "-f", &name]);
                assert_eq!(
                    (run.code, run.stdout.is_empty()),
                    (Some(0), !self.loaded[n])
                );
                self.loaded[n] = false;
            }
            4 => {
                self.log.push(format!("rmi {n}"));
                let used = self.containers.values().any(|c| c.image == n);
                let run = self.store.run(&["rmi", &name]);
                assert_eq!(run.code == Some(0), self.loaded[n] && !used, "{run:#?}");
                self.loaded[n] &= used;
            }
            5 if self.containers.len() < 6 && self.loaded[n] => {
                let id = self.store.create(&name);
                self.log.push(format!("create {n}: {}", &id[..12]));
                let container = Container {
                    image: n,
                    view: None,
                    held: Vec::new(),
                    own: None,
                };
                self.containers.insert(id, container);
            }
            6 | 7 => {
                let Some(id) = self.some_container(|c| !c.pins()) else {
                    return;
                };
                self.log.push(format!("mount {}", &id[..12]));
                let image = self.containers[&id].image;
                if self.loaded[image] {
                    let view = self.store.mount(&id);
                    self.containers.get_mut(&id).unwrap().view = Some(view);
                } else {
                    let error = format!("Error: No such image: image:{image}\n");
                    self.store.run(&["mount", &id]).expect(1, "", &error);
                }
            }
            8 => {
                let Some(id) = self.some_container(|c| c.view.is_some()) else {
                    return;
                };
                self.log.push(format!("open and write {}", &id[..12]));
                let word = self.log.len().to_string();
                let container = self.containers.get_mut(&id).unwrap();
                let view = container.view.as_ref().unwrap();
                container
                    .held
                    .push(File::open(view.join("base/blob")).unwrap());
                fs::write(view.join("written"), &word).unwrap();
                container.own = Some(word);
            }
            9 => {
                let Some(id) = self.some_container(|c| c.view.is_some()) else {
                    return;
                };
                self.log.push(format!("umount {}", &id[..12]));
                let container = self.containers.get_mut(&id).unwrap();
                let busy = !container.held.is_empty();
                let run = self.store.run(&["umount", &id]);
                assert_eq!(run.code, Some(i32::from(busy)), "{run:#?}");
                if busy {
                    self.log.push("busy, so lazily".to_owned());
                    self.store.ok(&["umount", "--lazy", &id]);
                }
                container.view = None;
            }
            10 => {
                let Some(id) = self.some_container(|c| !c.held.is_empty()) else {
                    return;
                };
                self.log.push(format!("close all files of {}", &id[..12]));
                let before = self.store.servers().len();
                let container = self.containers.get_mut(&id).unwrap();
                container.held.clear();
                if !container.pins() {
                    wait_until("its server ends", || self.store.servers().len() < before);
                }
            }
            11 => match self.random.below(3) {
                0 => {
                    let Some(id) = self.some_container(|c| !c.pins()) else {
                        return;
                    };
                    self.log.push(format!("rm {}", &id[..12]));
                    self.store.ok(&["rm", &id]);
                    self.containers.remove(&id);
                }
                1 => {
                    let servers = self.store.servers();
                    if servers.is_empty() {
                        return;
                    }
                    self.log.push("kill all servers".to_owned());
                    servers.into_iter().for_each(kill_hard);
                    for container in self.containers.values_mut() {
                        container.view = None;
                        container.held.clear();
                    }
                    self.store.ok(&["gc"]);
                }
                _ => {
                    self.log.push("gc, prune".to_owned());
                    self.store.ok(&["gc"]);
                    self.store.ok(&["prune", "-f"]);
                }
            },
            _ => {}
        }
    }

    /// Everything is as the model says.
    fn check(&self) {
        let listed: BTreeSet<String> = self
            .store
            .json(&["images"])
            .iter()
            .map(|row| text(row, "ID"))
            .collect();
        let expected = (0..IMAGES).filter(|n| self.loaded[*n]);
        let expected: BTreeSet<String> = expected.map(|n| self.archives[n].1.id.clone()).collect();
        assert_eq!(listed, expected);

        // By diff ID: a layer lies in the store once, whatever chains it is part of.
        let rows = self.store.json(&["layers"]);
        let any = |diff: &str, fits: &dyn Fn(&Value) -> bool| {
            rows.iter()
                .any(|row| text(row, "diff_id") == diff && fits(row))
        };
        let mut explained = BTreeSet::new();
        for n in (0..IMAGES).filter(|n| self.loaded[*n]) {
            for diff in &self.archives[n].1.diffs {
                let live = any(diff, &|row| text(row, "state") == "live");
                assert!(live, "{diff} of image {n} is live");
                explained.insert(diff.clone());
            }
        }
        for (id, container) in self.containers.iter().filter(|(_, c)| c.pins()) {
            for diff in &self.archives[container.image].1.diffs {
                let held = any(diff, &|row| strings(&row["pinned_by"]).contains(id));
                assert!(held, "{diff} is pinned by {id}");
                explained.insert(diff.clone());
            }
        }
        let there: BTreeSet<String> = rows.iter().map(|row| text(row, "diff_id")).collect();
        assert_eq!(there, explained, "nothing stays that has no reason to");

        for (id, container) in &self.containers {
            for file in &container.held {
                let mut piece = vec![0; 5000];
                file.read_exact_at(&mut piece, 123_000).unwrap();
                assert!(
                    piece == noise(20, 200_000)[123_000..128_000],
                    "a file of {id}"
                );
            }
            if let Some(view) = &container.view {
                let read = |name: &str| fs::read(view.join(name)).unwrap();
                assert_eq!(
                    read("own"),
                    format!("image {}", container.image).into_bytes()
                );
                assert!(read("base/blob") == noise(20, 200_000));
                if let Some(word) = &container.own {
                    assert_eq!(read("written"), word.as_bytes());
                }
            }
        }
        self.store.check_at_rest();
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    let steps = std::panic::AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            world.step();
            world.check();
        }
        for container in world.containers.values_mut() {
            container.held.clear();
        }
        let mounted = world.containers.iter().filter(|(_, c)| c.view.is_some());
        for id in mounted.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            world.store.ok(&["umount", &id]);
        }
        world.store.wait_for_servers_to_end();
        world.store.ok(&["gc"]);
        world.store.check_at_rest();
    });
    if let Err(panic) = std::panic::catch_unwind(steps) {
        eprintln!("seed {seed}, steps:\n  {}", world.log.join("\n  "));
        std::panic::resume_unwind(panic);
    }
}

pub fn first_seed() {
    run(std::env::var("LAYERCTL_TEST_SEED").map_or(1, |seed| seed.parse().unwrap()));
}

pub fn second_seed() {
    run(2);
}

pub fn third_seed() {
    run(3);
}
