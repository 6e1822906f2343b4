//! Everything at one moment: what plans are made from, and what listings show.

use std::collections::BTreeSet;

use super::{Container, Db, DbError, Image, Tx, View};
use crate::model::{
    ChainId, ContainerId, ContainerState, DiffId, ImageId, Layer, LayerState, Phase,
};

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

    /// Whether neither a tag nor a container leads to an image.
    pub fn is_dangling(&self, image: &Image) -> bool {
        image.tags.is_empty() && self.containers_of(&image.id).next().is_none()
    }

    /// Where a container stands, as far as the database knows: one that is paused runs.
    pub fn state(&self, container: &Container) -> ContainerState {
        match (self.view(&container.id), container.ended) {
            (Some(view), _) if view.process.is_some() => ContainerState::Running,
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

    /// The containers whose views show an image, oldest view first: its files stay as long as there is
    /// one, whether the image does or not.
    pub fn shown_by(&self, image: &ImageId) -> impl Iterator<Item = &ContainerId> {
        let views = self.views.iter();
        let shows = move |v: &&View| v.image.as_ref() == Some(image);
        views.filter(shows).map(|v| &v.container)
    }

    /// The images whose stacks have a layer; none for one that is marked.
    pub fn named_by(&self, layer: &Layer) -> BTreeSet<&ImageId> {
        let named = self.images.iter().filter(|image| {
            layer.phase == Phase::Present && image.layers.iter().any(|l| l.diff == layer.diff)
        });
        named.map(|image| &image.id).collect()
    }

    /// The chain ID under which a layer is shown: that of the lowest image that names it, else of
    /// the last that did.
    pub fn chain_of<'a>(&'a self, layer: &'a Layer) -> &'a ChainId {
        let mut places = self.images.iter().flat_map(|image| &image.layers);
        match layer.phase {
            Phase::Present => places
                .find(|l| l.diff == layer.diff)
                .map_or(&layer.chain, |l| &l.chain),
            Phase::Marking | Phase::Marked | Phase::Reclaiming => &layer.chain,
        }
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
        image
            .layers
            .iter()
            .map(|place| self.size_of_layer(&place.diff))
            .sum()
    }

    /// Sum of the lengths of all files in the layer that is present for a diff.
    pub fn size_of_layer(&self, diff: &DiffId) -> u64 {
        let mut present = self.layers.iter().filter(|l| l.phase == Phase::Present);
        present.find(|l| l.diff == *diff).map_or(0, |l| l.size)
    }
}
