//! What a container was made from: the merged index of its image's layers, for whoever compares its
//! view with it.

use std::os::fd::{AsFd as _, OwnedFd};

use super::lifecycle::LifecycleError;
use crate::db::{Container, Db, View};
use crate::model::DiffId;
use crate::model::index::Index;
use crate::store::index::{LayerAt, merged};
use crate::store::layout::open_directory;
use crate::store::{Store, StoreError};
use crate::sys::map::Map;

/// The merged index of the layers below a container, of which `view` is served meanwhile: it pins them.
///
/// Of an image that was removed by force only the layers are left, marked; the view's pins say in
/// which order they lie. A layer that an image has several times is pinned once, where it is topmost:
/// whatever it shows, hides or covers further down, it does so there already.
///
/// # Errors
/// [`LifecycleError::NoSuchImage`] if the image is gone and the view was begun by a version of this
/// program that did not keep the order; a layer that cannot be read.
pub fn lower(
    db: &mut Db,
    store: &Store,
    container: &Container,
    view: &View,
) -> Result<Index<Map>, LifecycleError> {
    // Once more if a layer's directory has been renamed between two looks: by a removal, which
    // happens once, or by that and a load.
    let mut tries = 10;
    loop {
        let layers = layers(db, store, container, view)?;
        let opened: Result<Vec<(DiffId, OwnedFd)>, StoreError> = layers
            .into_iter()
            .map(|(diff, path)| Ok((diff, open_directory(&path)?)))
            .collect();
        tries -= 1;
        match opened {
            Err(e) if e.is_not_found() && tries > 0 => {}
            opened => {
                let opened = opened?;
                let at: Vec<LayerAt<'_>> = opened
                    .iter()
                    .map(|(diff, directory)| LayerAt {
                        diff,
                        directory: directory.as_fd(),
                    })
                    .collect();
                return Ok(merged(store, &container.image, &at)?);
            }
        }
    }
}

/// The layers, topmost first, and where they lie.
fn layers(
    db: &mut Db,
    store: &Store,
    container: &Container,
    view: &View,
) -> Result<Vec<(DiffId, std::path::PathBuf)>, LifecycleError> {
    db.read(|tx| {
        if tx.has_image(&container.image)? {
            let stack = tx.layers_of(&container.image)?.into_iter().rev();
            return Ok(stack
                .map(|place| (place.diff.clone(), store.layer(&place.diff)))
                .collect());
        }
        let mut found = Vec::new();
        for row in &view.pins {
            if let Some(layer) = tx.layer(*row)? {
                found.push((layer.diff.clone(), store.layer_directory(&layer)));
            }
        }
        match tx.pins_are_in_order(&container.id)? && found.len() == view.pins.len() {
            true => Ok(found),
            false => Err(LifecycleError::NoSuchImage(container.reference.clone())),
        }
    })
}
