//! Everything at one moment: what plans are made from, and what listings show.

use std::collections::BTreeSet;

use super::{Container, Db, DbError, Image, Tx, View};
use crate::model::{ContainerId, ContainerState, DiffId, ImageId, Layer, LayerState, Phase};

/// The rows of all tables but the history, as they were at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order of their IDs.
    pub images: Vec<Image>,
    /// In the order of their rows.
    pub layers: Vec<Layer>,
    /// Oldest first.
    pub containers: Vec<Container>,
    /// Oldest first.
    pub views: Vec<View>,
}

impl Snapshot {
    /// Take a snapshot.
    pub fn take(db: &mut Db) -> Result<Snapshot, DbError> {
        db.read(Snapshot::of)
    }

    /// What an open transaction sees.
    pub fn of(tx: &Tx<'_>) -> Result<Snapshot, DbError> {
        Ok(Snapshot {
            images: tx.images()?,
            layers: tx.layers()?,
            containers: tx.containers()?,
            views: tx.views()?,
        })
    }

    /// The image with this ID.
    pub fn image(&self, id: &ImageId) -> Option<&Image> {
        self.images.iter().find(|i| i.id == *id)
    }

    /// The view of a container.
    pub fn view(&self, container: &ContainerId) -> Option<&View> {
        self.views.iter().find(|v| v.container == *container)
    }

    /// The containers made from an image, oldest first.
    pub fn containers_of(&self, image: &ImageId) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(move |c| c.image == *image)
    }

    /// Where a container stands.
    pub fn state(&self, container: &Container) -> ContainerState {
        match (self.view(&container.id), container.ended) {
            (Some(_), _) => ContainerState::Mounted,
            (None, Some(_)) => ContainerState::Exited,
            (None, None) => ContainerState::Created,
        }
    }

    /// The containers whose views pin a layer, oldest view first.
    pub fn pinned_by(&self, layer: &Layer) -> Vec<&ContainerId> {
        self.views
            .iter()
            .filter(|v| v.pins.contains(&layer.id))
            .map(|v| &v.container)
            .collect()
    }

    /// The images whose stacks have a layer; none for one that is marked.
    pub fn named_by(&self, layer: &Layer) -> BTreeSet<&ImageId> {
        let named = self.images.iter().filter(|image| {
            layer.phase == Phase::Present && image.layers.iter().any(|l| l.diff == layer.diff)
        });
        named.map(|image| &image.id).collect()
    }

    /// Where a layer stands.
    pub fn layer_state(&self, layer: &Layer) -> LayerState {
        match layer.phase {
            Phase::Present if self.named_by(layer).is_empty() => LayerState::Unused,
            Phase::Present => LayerState::Live,
            Phase::Marking | Phase::Marked if !self.pinned_by(layer).is_empty() => {
                LayerState::Pending
            }
            Phase::Marking | Phase::Marked | Phase::Reclaiming => LayerState::Reclaiming,
        }
    }

    /// Sum of the lengths of all files in an image's layers, as Docker counts an image's size.
    pub fn size_of(&self, image: &Image) -> u64 {
        let size = |diff: &DiffId| {
            self.layers
                .iter()
                .find(|l| l.phase == Phase::Present && l.diff == *diff)
                .map_or(0, |l| l.size)
        };
        image.layers.iter().map(|l| size(&l.diff)).sum()
    }
}
