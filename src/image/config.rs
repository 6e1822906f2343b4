//! An image's config, as the store keeps it: the archive's own bytes.

use std::io;

use oci_spec::image::ImageConfiguration;

use crate::model::ImageId;
use crate::store::{Store, StoreError};

/// Read an image's config.
///
/// # Errors
/// A file that is missing or, though its digest was right when it was loaded, cannot be parsed.
pub fn read(store: &Store, image: &ImageId) -> Result<ImageConfiguration, StoreError> {
    let path = store.image_config(image);
    let bytes = std::fs::read(&path).map_err(StoreError::at("read", &path))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| StoreError::at("understand", &path)(io::Error::other(e)))
}
