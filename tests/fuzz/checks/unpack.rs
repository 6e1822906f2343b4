//! A layer: unpacked into a directory, beside which nothing may change, and from which the same tar can be made. Only
//! as root much is done.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use layerctl::model::digest::DigestWriter;
use layerctl::model::tar_split::{TarSplitReader, TarSplitWriter};
use layerctl::model::{BlobDigest, DiffId};
use layerctl::store::index::{Condition, check_layer};
use layerctl::store::tar_split::join;
use layerctl::store::unpack::{UnpackError, Unpacked, split_again, unpack};

use super::{check_message, with_checksums};

/// The bytes, with the checksums of all headers right.
pub fn check(data: &[u8]) {
    let tar = with_checksums(data);
    let scratch = scratch();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).expect("make a directory");
    let outside = scratch.path().join("outside");
    fs::create_dir_all(outside.join("deep")).expect("make a directory");
    fs::write(outside.join("deep/file"), "untouched").expect("write a file");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o751)).expect("set a mode");
    let before = listing(scratch.path());
    let root = File::open(&tree).expect("open a directory");
    let unpacked = unpack_and_join(|| tar.as_slice(), root.as_fd());
    assert_eq!(
        before,
        listing(scratch.path()),
        "what is outside is as before"
    );
    match unpacked {
        Ok(unpacked) => {
            assert_eq!(unpacked.diff_id, DiffId::of(&tar));
            // What was unpacked can be described.
            let (usage, index) = check_layer(scratch.path(), &unpacked.diff_id).expect("index it");
            assert_eq!(index, Condition::Missing);
            assert!(usage.entries >= 1);
        }
        Err(error) => check_message(&error),
    }
    layerctl::sys::remove_tree::remove_tree(root, b".").ok();
}

/// Unpacks a layer, and makes the same tar of what it was unpacked into.
pub fn unpack_and_join<R: Read + Send>(
    open: impl Fn() -> R,
    tree: BorrowedFd<'_>,
) -> Result<Unpacked, UnpackError> {
    let never = || false;
    let mut split = TarSplitWriter::new(Vec::new());
    let unpacked = unpack(open(), tree, &mut split, &never)?;
    if unpacked.has_replaced {
        split = TarSplitWriter::new(Vec::new());
        let again = split_again(open(), tree, &mut split, &never)?;
        assert_eq!(again, unpacked.diff_id);
    }
    let split = split.finish().expect("write to memory");
    let mut joined = DigestWriter::new(io::sink());
    join(TarSplitReader::new(split.as_slice()), tree, &mut joined).expect("it can be made again");
    let (_, joined, _) = joined.finish();
    let wanted = BlobDigest::of_layer(&unpacked.diff_id);
    assert_eq!(joined, wanted, "made again it is another tar");
    Ok(unpacked)
}

/// In memory where that can be, for it is done thousands of times a second.
pub(super) fn scratch() -> tempfile::TempDir {
    let base = Path::new("/dev/shm");
    let made = match base.is_dir() {
        true => tempfile::tempdir_in(base),
        false => tempfile::tempdir(),
    };
    made.expect("make a directory")
}

/// Everything but what is in `tree`, each with what an intruder could change.
fn listing(scratch: &Path) -> Vec<String> {
    ["", "outside", "outside/deep", "outside/deep/file"]
        .into_iter()
        .map(|name| {
            let path = scratch.join(name);
            let meta = fs::symlink_metadata(&path).expect("it is still there");
            let contents = match meta.is_dir() {
                true => {
                    let names = fs::read_dir(&path).expect("list it");
                    let mut names: Vec<_> =
                        names.map(|e| e.expect("list it").file_name()).collect();
                    names.sort();
                    format!("{names:?}")
                }
                false => fs::read_to_string(&path).expect("read it"),
            };
            format!(
                "{name} {:o} {}:{} {} {}.{:09} {contents}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.nlink(),
                meta.mtime(),
                meta.mtime_nsec()
            )
        })
        .collect()
}
