//! A tar-split: whatever stands in it, no more is read than its own directory has.

use std::fs::{self, File};
use std::os::fd::AsFd as _;

use layerctl::model::tar_split::TarSplitReader;
use layerctl::store::tar_split::join;

use super::check_message;
use super::unpack::scratch;

/// What lies beside the tree.
const SECRET: &[u8] = b"what nobody may read";

/// Makes a tar of the bytes and a small tree, beside which something lies that is no part of it.
pub fn check(data: &[u8]) {
    let scratch = scratch();
    let tree = scratch.path().join("tree");
    fs::create_dir_all(tree.join("d")).expect("make a directory");
    fs::write(tree.join("d/f"), [7; 600]).expect("write a file");
    fs::write(scratch.path().join("secret"), SECRET).expect("write a file");
    std::os::unix::fs::symlink("../secret", tree.join("link")).expect("make a link");
    let tree = File::open(&tree).expect("open a directory");
    let mut out = Vec::new();
    match join(TarSplitReader::new(data), tree.as_fd(), &mut out) {
        Ok(()) => {}
        Err(error) => check_message(&error),
    }
    let read = out.windows(SECRET.len()).any(|part| part == SECRET);
    let given = data.windows(SECRET.len()).any(|part| part == SECRET);
    assert!(given || !read, "something outside was read");
}
