//! Which inode numbers, names and identities are in use. Pure: no input or output.
//!
//! A node is known under one number as long as anybody counts on it: the kernel's lookups, the
//! running operations, and the names below it (so that a directory outlives its children here).
//! A preferred number that another live node holds is replaced by a spare one, so nothing depends
//! on the numbers of the disks being unique or not being reused.
//!
//! It does not own what a node is: `T` is opaque here. Lock rule: its owner keeps it under one
//! mutex that is a leaf; no system call and no other lock is taken while it is held.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::Arc;

/// An inode number of the view.
pub(crate) type Ino = u64;
/// An entry's name: 1 to 255 bytes, any but `/` and NUL.
pub(crate) type Name = Box<[u8]>;

/// The number of the root.
pub(crate) const ROOT: Ino = 1;
/// The first of the numbers that no disk and no layer is given.
const SPARE: Ino = 1 << 62;

/// What makes two names the same inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// An inode of a lower layer.
    Lower {
        /// Index of the layer, 0 topmost.
        layer: u32,
        /// `st_dev` of the inode.
        dev: u64,
        /// `st_ino` of the inode.
        ino: u64,
    },
    /// An inode of the upper directory. Only true as long as it is linked: the disk reuses numbers.
    Upper {
        /// `st_dev` of the inode.
        dev: u64,
        /// `st_ino` of the inode.
        ino: u64,
    },
}

#[derive(Debug)]
struct Entry<T> {
    node: Arc<T>,
    refs: u64,
    names: Vec<(Ino, Name)>,
    identity: Option<Identity>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct InodeTable<T> {
    entries: HashMap<Ino, Entry<T>>,
    names: HashMap<(Ino, Name), Ino>,
    identities: HashMap<Identity, Ino>,
    next_spare: Ino,
}

impl<T> InodeTable<T> {
    /// A table that holds the root alone, which is never given up.
    pub(crate) fn new(root: Arc<T>) -> Self {
        let entry = Entry {
            node: root,
            refs: 1,
            names: Vec::new(),
            identity: None,
        };
        InodeTable {
            entries: HashMap::from([(ROOT, entry)]),
            names: HashMap::new(),
            identities: HashMap::new(),
            next_spare: SPARE,
        }
    }

    /// The node with that number.
    pub(crate) fn get(&self, ino: Ino) -> Option<&Arc<T>> {
        self.entries.get(&ino).map(|e| &e.node)
    }

    /// The node known under a name, without counting.
    pub(crate) fn child(&self, parent: Ino, name: &[u8]) -> Option<&Arc<T>> {
        // A key is built for each question: HashMap cannot be asked with a borrowed pair.
        self.names
            .get(&(parent, name.into()))
            .and_then(|ino| self.get(*ino))
    }

    /// Counts one more user of a node.
    pub(crate) fn acquire(&mut self, ino: Ino) {
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.refs += 1;
        }
    }

    /// Takes back `count` users of a node. Gives the nodes that nobody counts on any more, for the
    /// caller to drop after it has let go of the lock (a drop may close descriptors).
    #[must_use]
    pub(crate) fn release(&mut self, ino: Ino, count: u64) -> Vec<Arc<T>> {
        let mut gone = Vec::new();
        let mut todo = vec![(ino, count)];
        // A loop and not a recursion: a chain of directories may be deeper than a stack.
        while let Some((ino, count)) = todo.pop() {
            let MapEntry::Occupied(mut slot) = self.entries.entry(ino) else {
                continue;
            };
            let entry = slot.get_mut();
            entry.refs = entry.refs.saturating_sub(count);
            if entry.refs > 0 {
                continue;
            }
            let entry = slot.remove();
            for (parent, name) in entry.names {
                todo.push((parent, 1));
                self.names.remove(&(parent, name));
            }
            if let Some(identity) = entry.identity {
                self.identities.remove(&identity);
            }
            gone.push(entry.node);
        }
        gone
    }

    /// The node for a name that has just been resolved, counted once: the one known under the
    /// name, else the one of the same identity, else a new one, made by `make` with its number.
    pub(crate) fn intern(
        &mut self,
        parent: Ino,
        name: &[u8],
        identity: Option<Identity>,
        preferred: Ino,
        make: impl FnOnce(Ino) -> T,
    ) -> Arc<T> {
        if let Some(ino) = self.names.get(&(parent, name.into())).copied()
            && let Some(entry) = self.entries.get_mut(&ino)
        {
            entry.refs += 1;
            return entry.node.clone();
        }
        let known = identity
            .and_then(|identity| self.identities.get(&identity))
            .copied();
        if let Some(entry) = known.and_then(|ino| self.entries.get_mut(&ino)) {
            entry.refs += 1;
            let node = entry.node.clone();
            self.add_name(known.unwrap_or(ROOT), parent, name);
            return node;
        }
        let ino = self.claim(preferred);
        let node = Arc::new(make(ino));
        let entry = Entry {
            node: node.clone(),
            refs: 1,
            names: Vec::new(),
            identity,
        };
        self.entries.insert(ino, entry);
        if let Some(identity) = identity {
            self.identities.insert(identity, ino);
        }
        self.add_name(ino, parent, name);
        node
    }

    /// A number that no live node has: the preferred one if possible.
    fn claim(&mut self, preferred: Ino) -> Ino {
        if preferred > ROOT && !self.entries.contains_key(&preferred) {
            return preferred;
        }
        loop {
            let spare = self.next_spare;
            self.next_spare = if spare == Ino::MAX >> 1 {
                SPARE
            } else {
                spare + 1
            };
            if !self.entries.contains_key(&spare) {
                return spare;
            }
        }
    }

    /// Notes one more name of a node. Whatever was known under that name no longer is.
    pub(crate) fn add_name(&mut self, ino: Ino, parent: Ino, name: &[u8]) {
        let key = (parent, Name::from(name));
        match self.names.insert(key.clone(), ino) {
            Some(old) if old == ino => return,
            // The parent's count passes from the old name to the new one.
            Some(old) => {
                if let Some(entry) = self.entries.get_mut(&old) {
                    entry.names.retain(|n| *n != key);
                }
            }
            None => self.acquire(parent),
        }
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.names.push(key);
        }
    }

    /// Strikes out a name. Gives what is no longer counted on, as [`release`](Self::release).
    #[must_use]
    pub(crate) fn remove_name(&mut self, parent: Ino, name: &[u8]) -> Vec<Arc<T>> {
        let key = (parent, Name::from(name));
        let Some(ino) = self.names.remove(&key) else {
            return Vec::new();
        };
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.names.retain(|n| *n != key);
        }
        self.release(parent, 1)
    }

    /// The names a node is known under.
    pub(crate) fn names(&self, ino: Ino) -> &[(Ino, Name)] {
        self.entries.get(&ino).map_or(&[], |e| &e.names)
    }

    /// Says what a node is on disk from now on; `None` when its last link has gone.
    pub(crate) fn set_identity(&mut self, ino: Ino, identity: Option<Identity>) {
        let Some(entry) = self.entries.get_mut(&ino) else {
            return;
        };
        let old = std::mem::replace(&mut entry.identity, identity);
        if let Some(old) = old
            && self.identities.get(&old) == Some(&ino)
        {
            self.identities.remove(&old);
        }
        if let Some(new) = identity {
            self.identities.insert(new, ino);
        }
    }

    /// How many nodes are known.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The preferred number of a lower inode: the layer above bit 48, so that layers do not collide
/// with each other or with the upper disk's numbers.
pub(crate) fn lower_ino(layer: u32, disk_ino: u64) -> Ino {
    const BITS: u32 = 48;
    // A disk with larger numbers: fold them into a range of their own; collisions get a spare.
    if disk_ino >> BITS != 0 {
        let folded = (disk_ino ^ (u64::from(layer) << 40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        return (1 << 61) | (folded >> 4);
    }
    ((u64::from(layer) + 1) << BITS) | disk_ino
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table = InodeTable<String>;

    fn table() -> Table {
        InodeTable::new(Arc::new("root".into()))
    }

    fn add(t: &mut Table, parent: Ino, name: &str, id: Option<Identity>, want: Ino) -> Ino {
        let mut made = 0;
        let node = t.intern(parent, name.as_bytes(), id, want, |ino| {
            made = ino;
            format!("{ino}")
        });
        node.parse().unwrap_or(made)
    }

    fn upper(ino: u64) -> Option<Identity> {
        Some(Identity::Upper { dev: 1, ino })
    }

    #[test]
    fn a_taken_number_is_replaced() {
        let mut t = table();
        assert_eq!(add(&mut t, ROOT, "a", upper(7), 7), 7);
        assert_eq!(add(&mut t, ROOT, "b", upper(8), 7), SPARE);
        assert_eq!(add(&mut t, ROOT, "c", upper(9), ROOT), SPARE + 1);
        assert_eq!(add(&mut t, ROOT, "d", upper(10), 0), SPARE + 2);
    }

    #[test]
    fn names_of_one_identity_are_one_node() {
        let mut t = table();
        let a = add(&mut t, ROOT, "a", upper(7), 7);
        let b = add(&mut t, ROOT, "b", upper(7), 7);
        assert_eq!(a, b);
        assert_eq!(t.names(a).len(), 2);
        assert!(t.release(a, 1).is_empty());
        assert_eq!(t.release(a, 1).len(), 1);
        assert!(t.child(ROOT, b"a").is_none() && t.child(ROOT, b"b").is_none());
        // The disk has reused its number: a new node.
        assert_eq!(add(&mut t, ROOT, "c", upper(7), 7), 7);
    }

    #[test]
    fn an_unlinked_identity_is_not_found_again() {
        let mut t = table();
        let a = add(&mut t, ROOT, "a", upper(7), 7);
        assert!(t.remove_name(ROOT, b"a").is_empty());
        t.set_identity(a, None);
        let b = add(&mut t, ROOT, "b", upper(7), 7);
        assert_ne!(a, b);
        assert_eq!(b, SPARE);
        assert!(t.get(a).is_some());
    }

    #[test]
    fn a_parent_outlives_its_children() {
        let mut t = table();
        let d = add(&mut t, ROOT, "d", None, 10);
        let e = add(&mut t, d, "e", None, 11);
        assert!(t.release(d, 1).is_empty(), "the name d/e counts");
        assert_eq!(t.release(e, 1).len(), 2);
        assert_eq!(t.len(), 1);
    }

    #[test]
    fn deep_chains_are_released() {
        let mut t = table();
        let mut parent = ROOT;
        for ino in 2..200_000 {
            let child = add(&mut t, parent, "d", None, ino);
            if parent != ROOT {
                assert!(t.release(parent, 1).is_empty());
            }
            parent = child;
        }
        assert_eq!(t.release(parent, 1).len(), 199_998);
        assert_eq!(t.len(), 1);
    }

    #[test]
    fn a_name_replaced_leaves_the_counts_right() {
        let mut t = table();
        let d = add(&mut t, ROOT, "d", None, 10);
        let a = add(&mut t, d, "a", upper(20), 20);
        let b = add(&mut t, d, "b", upper(21), 21);
        // rename d/a d/b
        t.add_name(a, d, b"b");
        assert!(t.remove_name(d, b"a").is_empty());
        assert!(t.names(b).is_empty());
        assert_eq!(t.names(a), &[(d, Name::from(&b"b"[..]))]);
        assert_eq!(t.release(b, 1).len(), 1);
        assert!(t.release(d, 1).is_empty());
        assert_eq!(t.release(a, 1).len(), 2);
        assert_eq!(t.len(), 1);
    }

    #[test]
    fn layers_do_not_collide() {
        assert_ne!(lower_ino(0, 5), lower_ino(1, 5));
        assert_eq!(lower_ino(0, 5), (1 << 48) | 5);
        assert!(lower_ino(512, u64::MAX) < SPARE);
        assert!(lower_ino(512, (1 << 48) - 1) < 1 << 61);
        assert_ne!(lower_ino(1, 1 << 50), lower_ino(2, 1 << 50));
    }
}
