//! Deletion of what lies at a path of the store.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::StoreError;
use super::layout::open_directory;
use crate::sys;
use crate::sys::remove_tree::{Steer, Unsteered};

/// Delete a file, or a directory with all that is in it. Not there is well. The way to it must be
/// the store's own.
pub fn remove_tree(path: &Path) -> Result<(), StoreError> {
    remove_tree_steered(path, &mut Unsteered)
}

/// The same, steered: what nobody relies on any more, for large files are cut before they go.
pub fn remove_tree_steered(path: &Path, steer: &mut dyn Steer) -> Result<(), StoreError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StoreError::at("delete", path)(rustix::io::Errno::INVAL));
    };
    match open_directory(parent) {
        Ok(parent) => sys::remove_tree::remove_tree_steered(parent, name.as_bytes(), steer)
            .map_err(StoreError::at("delete", path)),
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
    }
}
