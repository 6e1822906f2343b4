//! An index: whatever passes for one can be walked, merged and written again.

use layerctl::model::index::{Index, Kind, Scope, merge};

use super::check_message;

/// The bytes as they are, and with the length and the checksum right that they ought to have.
pub fn check(data: &[u8]) {
    check_index(data);
    if data.len() >= 64 {
        check_index(&completed(data));
    }
}

/// The offsets are those that `model::index` tells.
pub(super) fn completed(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes[16..24].copy_from_slice(&(data.len() as u64).to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[..60]);
    sum.update(&bytes[64..]);
    bytes[60..64].copy_from_slice(&sum.finalize().to_le_bytes());
    bytes
}

fn check_index(bytes: &[u8]) {
    let index = match Index::open(bytes) {
        Ok(index) => index,
        Err(error) => return check_message(&error),
    };
    walk(&index);
    if index.scope() == Scope::Layer {
        let once = merge(&[&index]).expect("merge it");
        let merged = Index::open(once.as_slice()).expect("read what was merged");
        walk(&merged);
        let twice = merge(&[&index, &index]).expect("merge it with itself");
        let twice = Index::open(twice.as_slice()).expect("read what was merged");
        assert_eq!(twice.len(), merged.len());
    }
}

fn walk(index: &Index<&[u8]>) {
    let mut names = 0u64;
    let mut reached = 1u64;
    for at in 0..index.len() {
        let inode = index.inode(at).expect("an inode for each number");
        assert!(inode.mode <= 0o7777 || cfg!(not(debug_assertions)) || inode.mode > 0);
        assert_eq!(index.target(at).is_some(), inode.kind == Kind::Symlink);
        for (name, _) in index.xattrs(at) {
            assert!(index.xattr(at, name).is_some());
        }
        let mut last: Option<&[u8]> = None;
        for (name, child) in index.children(at) {
            assert!(last.is_none_or(|last| last < name), "sorted, each once");
            last = Some(name);
            assert_eq!(index.child(at, name), Some(child));
            assert!(child < index.len() && child != 0);
            names += 1;
        }
        let own = index.names(at).count() as u64;
        assert_eq!(own == 0, at == 0, "all but the root have a name");
        reached += own;
    }
    assert_eq!(reached, names + 1, "each name is one of an inode's");
    assert_eq!(index.child(0, b"no such name, for it has a / in it"), None);
}
