//! What `rmi` will do, as a value: a pure function of what is on record.
//!
//! The rules and the texts are those of Docker's daemon where Docker has the case, with two
//! differences, which are what this program is for: nothing is beyond force (Docker's "cannot be
//! forced"), and an image whose last tag goes by force goes with it, whoever uses it.

use std::collections::BTreeSet;

use super::resolve::{ResolveError, resolve};
use crate::db::{Container, Image, Snapshot};
use crate::model::{ChainId, ContainerId, DiffId, ImageId, Phase, Reference};

/// What one name given to `rmi` does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemovalPlan {
    /// The tags that go, in their order.
    pub untagged: Vec<Reference>,
    /// The image that goes, if the last tag does.
    pub deleted: Option<ImageId>,
    /// Its layers that go, from the top: nothing else needs them.
    pub layers: Vec<PlannedLayer>,
    /// The containers whose views keep the image's own files, oldest view first.
    pub shown_by: Vec<ContainerId>,
}

/// A layer that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer {
    /// Its row.
    pub row: i64,
    /// Its diff ID.
    pub diff: DiffId,
    /// The places in the image's stack where it lies, from the top: more than one where an image
    /// has the same layer twice.
    pub places: Vec<Place>,
    /// Allocated bytes.
    pub bytes: u64,
    /// The containers whose views hold it, oldest view first.
    pub pinned_by: Vec<ContainerId>,
}

impl RemovalPlan {
    /// The places in the image's stack whose layers go, from the top, each with the layer that lies
    /// there: the order of the lines that `rmi` prints.
    pub fn places(&self) -> Vec<(&ChainId, &PlannedLayer)> {
        let mut places: Vec<(usize, &ChainId, &PlannedLayer)> = Vec::new();
        for layer in &self.layers {
            places.extend(
                layer
                    .places
                    .iter()
                    .map(|place| (place.height, &place.chain, layer)),
            );
        }
        places.sort_by_key(|(height, ..)| std::cmp::Reverse(*height));
        places
            .into_iter()
            .map(|(_, chain, layer)| (chain, layer))
            .collect()
    }
}

/// Where a layer lies in an image's stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// 0 is the lowest.
    pub height: usize,
    /// The layer there, with all below it.
    pub chain: ChainId,
}

impl PlannedLayer {
    /// The chain ID under which the layer is shown from now on.
    pub fn chain(&self) -> &ChainId {
        &self.places[0].chain
    }
}

/// Why `rmi` refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name leads nowhere.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The last tag of an image that a container was made from.
    #[error(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container \
         {container} is using its referenced image {image}"
    )]
    LastReference {
        /// As the user wrote it.
        name: String,
        /// 12 digits.
        container: String,
        /// 12 digits.
        image: String,
    },
    /// By ID, and something uses it.
    #[error("conflict: unable to delete {image} (must be forced) - image is {why}")]
    InUse {
        /// 12 digits.
        image: String,
        /// `being used by … container …` or `referenced in multiple repositories`.
        why: String,
    },
}

/// How the user wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// `--force`.
    pub force: bool,
    /// Without `--no-prune`: the layers that nothing refers to any longer go too.
    pub prune: bool,
}

/// What removing `name` does to the store in `snapshot`.
///
/// # Errors
/// Why it may not be done.
pub fn removal_plan(
    snapshot: &Snapshot,
    name: &str,
    manner: Manner,
) -> Result<RemovalPlan, Refusal> {
    let found = resolve(snapshot, name)?;
    let image = found.image;
    if !manner.force {
        refuse_if_in_use(snapshot, name, image, found.by_tag.is_some())?;
    }
    match found.by_tag {
        Some(tag) if image.tags.len() > 1 => Ok(RemovalPlan {
            untagged: vec![tag.clone()],
            ..RemovalPlan::default()
        }),
        _ => Ok(RemovalPlan {
            untagged: image.tags.clone(),
            deleted: Some(image.id.clone()),
            layers: if manner.prune {
                unneeded_layers(snapshot, image)
            } else {
                Vec::new()
            },
            shown_by: snapshot.shown_by(&image.id).cloned().collect(),
        }),
    }
}

fn refuse_if_in_use(
    snapshot: &Snapshot,
    name: &str,
    image: &Image,
    by_tag: bool,
) -> Result<(), Refusal> {
    let users: Vec<&Container> = snapshot.containers_of(&image.id).collect();
    let running = users.iter().find(|c| snapshot.state(c).is_active());
    if by_tag {
        return match (image.tags.len(), running.or(users.first())) {
            (1, Some(container)) => Err(Refusal::LastReference {
                name: name.to_owned(),
                container: container.id.short().to_owned(),
                image: image.id.short().to_owned(),
            }),
            _ => Ok(()),
        };
    }
    let why = match (running, image.tags.len(), users.first()) {
        (Some(c), _, _) => format!("being used by running container {}", c.id.short()),
        (None, 2.., _) => "referenced in multiple repositories".to_owned(),
        (None, _, Some(c)) => format!("being used by stopped container {}", c.id.short()),
        (None, _, None) => return Ok(()),
    };
    Err(Refusal::InUse {
        image: image.id.short().to_owned(),
        why,
    })
}

/// The layers of `image` that no other image has, from the top.
fn unneeded_layers(snapshot: &Snapshot, image: &Image) -> Vec<PlannedLayer> {
    let needed: BTreeSet<&DiffId> = snapshot
        .images
        .iter()
        .filter(|other| other.id != image.id)
        .flat_map(|other| other.layers.iter().map(|l| &l.diff))
        .collect();
    let mut planned: Vec<PlannedLayer> = Vec::new();
    for (height, place) in image.layers.iter().enumerate().rev() {
        if needed.contains(&place.diff) {
            continue;
        }
        let here = Place {
            height,
            chain: place.chain.clone(),
        };
        if let Some(again) = planned.iter_mut().find(|p| p.diff == place.diff) {
            again.places.push(here);
            continue;
        }
        let is_it = |l: &&crate::model::Layer| l.phase == Phase::Present && l.diff == place.diff;
        if let Some(layer) = snapshot.layers.iter().find(is_it) {
            planned.push(PlannedLayer {
                row: layer.id,
                diff: layer.diff.clone(),
                places: vec![here],
                bytes: layer.bytes,
                pinned_by: snapshot.pinned_by(layer).into_iter().cloned().collect(),
            });
        }
    }
    planned
}

/// The store as it will be when the plan is carried out: what the next name of the same command
/// finds in a dry run.
pub fn apply(plan: &RemovalPlan, snapshot: &mut Snapshot) {
    for image in &mut snapshot.images {
        image.tags.retain(|tag| !plan.untagged.contains(tag));
    }
    if let Some(id) = &plan.deleted {
        snapshot.images.retain(|image| image.id != *id);
    }
    for planned in &plan.layers {
        for layer in snapshot.layers.iter_mut().filter(|l| l.id == planned.row) {
            layer.phase = Phase::Marked;
            layer.chain = planned.chain().clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{ImageLayer, View};
    use crate::model::{Layer, Purpose, Settings};
    use jiff::Timestamp;

    const FORCE: Manner = Manner {
        force: true,
        prune: true,
    };
    const PLAIN: Manner = Manner {
        force: false,
        prune: true,
    };

    fn image(n: u8, tags: &[&str], stack: &[u8]) -> Image {
        let diffs: Vec<DiffId> = stack.iter().map(|l| DiffId::of(&[*l])).collect();
        let chains = ChainId::of_stack(&diffs);
        Image {
            id: ImageId::from_hex(&format!("{n:064x}")).unwrap(),
            created: None,
            loaded: Timestamp::UNIX_EPOCH,
            tags: tags.iter().map(|t| t.parse().unwrap()).collect(),
            layers: diffs
                .into_iter()
                .zip(chains)
                .map(|(diff, chain)| ImageLayer { diff, chain })
                .collect(),
        }
    }

    fn layers(rows: &[u8]) -> Vec<Layer> {
        rows.iter()
            .map(|n| Layer {
                id: i64::from(*n),
                diff: DiffId::of(&[*n]),
                chain: ChainId::of(&[*n]),
                size: 1,
                bytes: u64::from(*n) * 100,
                entries: 1,
                has_root: true,
                phase: Phase::Present,
            })
            .collect()
    }

    fn container(n: u8, image: &Image) -> Container {
        Container {
            id: ContainerId::from_random([n; 32]),
            name: format!("c{n}"),
            image: image.id.clone(),
            reference: "x".into(),
            command: vec![],
            settings: Settings::default(),
            created: Timestamp::from_second(i64::from(n)).unwrap(),
            started: None,
            ended: None,
            exit_code: None,
            error: String::new(),
        }
    }

    fn view(n: u8, pins: &[i64]) -> View {
        View {
            image: None,
            container: ContainerId::from_random([n; 32]),
            pid: 1,
            mountpoint: "/m".into(),
            mounted: Timestamp::UNIX_EPOCH,
            detached: false,
            purpose: Purpose::Mount,
            driver: crate::model::Driver::Fuse,
            device: None,
            process: None,
            pins: pins.to_vec(),
        }
    }

    fn text(result: Result<RemovalPlan, Refusal>) -> String {
        match result {
            Err(e) => e.to_string(),
            Ok(plan) => {
                let mut words: Vec<String> =
                    plan.untagged.iter().map(|t| format!("-{t}")).collect();
                words.extend(
                    plan.deleted
                        .map(|i| format!("image {}", i.hex().trim_start_matches('0'))),
                );
                for l in plan.layers {
                    let pins: String = l.pinned_by.iter().map(|c| &c.hex()[..2]).collect();
                    words.push(format!(
                        "{}{}{pins}",
                        l.row,
                        if pins.is_empty() { "" } else { "@" }
                    ));
                }
                words.join(" ")
            }
        }
    }

    #[test]
    fn the_table() {
        let one = image(1, &["a:1"], &[1, 2]);
        let two = image(2, &["b:1", "b:2"], &[1, 3]);
        let base = Snapshot {
            images: vec![one.clone(), two.clone()],
            layers: layers(&[1, 2, 3]),
            ..Snapshot::default()
        };
        let stopped = Snapshot {
            containers: vec![container(7, &one), container(8, &two)],
            ..base.clone()
        };
        let running = Snapshot {
            views: vec![view(7, &[1, 2]), view(8, &[1, 3])],
            ..stopped.clone()
        };
        let id1 = one.id.to_string();
        let id2 = two.id.to_string();
        let busy = |what, c| {
            format!(
                "conflict: unable to delete 000000000000 (must be forced) - image is being used by {what} container {c}"
            )
        };
        let last = "conflict: unable to remove repository reference \"a:1\" (must force) - container 070707070707 is using its referenced image 000000000000";
        let many = "conflict: unable to delete 000000000000 (must be forced) - image is referenced in multiple repositories";
        for (snapshot, name, manner, want) in [
            // No container.
            (&base, "a:1", PLAIN, "-a:1 image 1 2".to_owned()),
            (&base, &id1, PLAIN, "-a:1 image 1 2".to_owned()),
            (&base, "a:1", FORCE, "-a:1 image 1 2".to_owned()),
            (&base, "b:1", PLAIN, "-b:1".to_owned()),
            (&base, "b:1", FORCE, "-b:1".to_owned()),
            (&base, &id2, PLAIN, many.to_owned()),
            (&base, &id2, FORCE, "-b:1 -b:2 image 2 3".to_owned()),
            // A stopped one.
            (&stopped, "a:1", PLAIN, last.to_owned()),
            (&stopped, &id1, PLAIN, busy("stopped", "070707070707")),
            (&stopped, &id1, FORCE, "-a:1 image 1 2".to_owned()),
            (&stopped, "a:1", FORCE, "-a:1 image 1 2".to_owned()),
            (&stopped, "b:2", PLAIN, "-b:2".to_owned()),
            (&stopped, &id2, PLAIN, many.to_owned()),
            // A running one.
            (&running, "a:1", PLAIN, last.to_owned()),
            (&running, &id1, PLAIN, busy("running", "070707070707")),
            (&running, &id2, PLAIN, busy("running", "080808080808")),
            (&running, "a:1", FORCE, "-a:1 image 1 2@07".to_owned()),
            (&running, "b:1", FORCE, "-b:1".to_owned()),
            (&running, &id2, FORCE, "-b:1 -b:2 image 2 3@08".to_owned()),
            // Nothing there.
            (&base, "zz", FORCE, "No such image: zz:latest".to_owned()),
        ] {
            assert_eq!(
                text(removal_plan(snapshot, name, manner)),
                want,
                "{name} {manner:?}"
            );
        }
    }

    #[test]
    fn without_pruning_the_layers_stay() {
        let one = image(1, &["a:1"], &[1, 2]);
        let snapshot = Snapshot {
            images: vec![one],
            layers: layers(&[1, 2]),
            ..Snapshot::default()
        };
        let manner = Manner {
            force: false,
            prune: false,
        };
        assert_eq!(text(removal_plan(&snapshot, "a:1", manner)), "-a:1 image 1");
    }

    #[test]
    fn a_layer_that_lies_twice_in_a_stack_goes_once_under_both_its_chains() {
        let one = image(1, &["a:1"], &[1, 2, 1]);
        let snapshot = Snapshot {
            images: vec![one.clone()],
            layers: layers(&[1, 2]),
            ..Snapshot::default()
        };
        let plan = removal_plan(&snapshot, "a:1", PLAIN).unwrap();
        assert_eq!(plan.layers.len(), 2);
        let places: Vec<_> = plan
            .places()
            .into_iter()
            .map(|(chain, l)| (chain, l.row))
            .collect();
        let chain = |n: usize| &one.layers[n].chain;
        assert_eq!(places, [(chain(2), 1), (chain(1), 2), (chain(0), 1)]);
    }

    #[test]
    fn one_name_after_the_other() {
        let one = image(1, &["a:1"], &[1, 2]);
        let two = image(2, &["b:1"], &[1, 3]);
        let mut snapshot = Snapshot {
            images: vec![one, two],
            layers: layers(&[1, 2, 3]),
            ..Snapshot::default()
        };
        let first = removal_plan(&snapshot, "a:1", PLAIN).unwrap();
        apply(&first, &mut snapshot);
        assert_eq!(text(Ok(first)), "-a:1 image 1 2");
        // The base goes with the second, that shares it with the first.
        assert_eq!(
            text(removal_plan(&snapshot, "b:1", PLAIN)),
            "-b:1 image 2 3 1"
        );
        assert_eq!(
            text(removal_plan(&snapshot, "a:1", FORCE)),
            "No such image: a:1"
        );
    }
}
