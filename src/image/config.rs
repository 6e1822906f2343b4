//! An image's config, as the store keeps it: the archive's own bytes.

use std::io;

use crate::archive::ImageConfig;
use crate::model::ImageId;
use crate::store::{Store, StoreError};

/// Read an image's config.
///
/// # Errors
/// A file that is missing or, though its digest was right when it was loaded, cannot be understood.
pub fn read(store: &Store, image: &ImageId) -> Result<ImageConfig, StoreError> {
    let path = store.image_config(image);
    ImageConfig::parse(&raw(store, image)?)
        .map_err(|e| StoreError::at("understand", &path)(io::Error::other(e)))
}

/// The config's bytes.
pub fn raw(store: &Store, image: &ImageId) -> Result<Vec<u8>, StoreError> {
    let path = store.image_config(image);
    std::fs::read(&path).map_err(StoreError::at("read", &path))
}
