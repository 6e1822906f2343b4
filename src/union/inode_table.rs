//! Which inode numbers, names and identities are in use. Pure: no input or output.
//!
//! A node is known under one number as long as anybody counts on it: the kernel's lookups, the
//! running operations, and the names below it (so that a directory outlives its children here).
//! A preferred number that another live node holds is replaced by a spare one, so nothing depends
//! on the numbers of the disks being unique or not being reused.
//!
//! An inode of the index needs no node as long as it is what the index says: then only how often it is
//! counted on from outside is noted here. It gets a node when it is opened or changed, which is given up
//! again with the last user if nothing has changed, and else `kept` while it is counted on.
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
    /// The known names in it.
    children: HashMap<Name, Ino>,
    identity: Option<Identity>,
    /// It is not, or not any more, what the index says of its number: it must not be given up while
    /// that number is counted on.
    kept: bool,
}

/// What is to be known about an inode that may be new to the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newcomer {
    /// What it is on disk, unless it is a directory.
    pub(crate) identity: Option<Identity>,
    /// The number that it should have.
    pub(crate) preferred: Ino,
    /// Its place in the index, if the preferred number is that of this place, and the inode the one
    /// that is there.
    pub(crate) at: Option<u32>,
    /// Whether the index alone could not tell what it is.
    pub(crate) kept: bool,
}

/// The table.
#[derive(Debug)]
pub(crate) struct InodeTable<T> {
    entries: HashMap<Ino, Entry<T>>,
    identities: HashMap<Identity, Ino>,
    next_spare: Ino,
    /// How often each inode of the index is counted on from outside of the table. Most of them never
    /// come into it: what they are can be read in the index.
    outside: Vec<u32>,
}

impl<T> InodeTable<T> {
    /// A table that holds the root alone, which is never given up; for an index of so many inodes.
    pub(crate) fn new(root: Arc<T>, indexed: u32) -> Self {
        let entry = Entry {
            node: root,
            refs: 1,
            names: Vec::new(),
            children: HashMap::new(),
            identity: None,
            kept: true,
        };
        InodeTable {
            entries: HashMap::from([(ROOT, entry)]),
            identities: HashMap::new(),
            next_spare: SPARE,
            outside: vec![0; indexed as usize],
        }
    }

    /// The node with that number.
    pub(crate) fn get(&self, ino: Ino) -> Option<&Arc<T>> {
        self.entries.get(&ino).map(|e| &e.node)
    }

    /// The node known under a name, without counting.
    pub(crate) fn child(&self, parent: Ino, name: &[u8]) -> Option<&Arc<T>> {
        let ino = self.entries.get(&parent)?.children.get(name)?;
        self.get(*ino)
    }

    /// The place in the index that a number stands for; not for the root, which is always here.
    pub(crate) fn place_of(&self, ino: Ino) -> Option<u32> {
        let at = ino.checked_sub(indexed_ino(1))? + 1;
        (at < self.outside.len() as u64).then_some(at as u32)
    }

    /// Counts one more user of a node.
    pub(crate) fn acquire(&mut self, ino: Ino) {
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.refs += 1;
        }
    }

    /// Counts on an inode of the index, in the table or not. Whether nobody did before.
    pub(crate) fn acquire_indexed(&mut self, at: u32) -> bool {
        let count = &mut self.outside[at as usize];
        // At the very end it is no longer counted but simply never given up.
        *count = count.saturating_add(1);
        *count == 1
    }

    /// Takes back counts of [`acquire_indexed`](Self::acquire_indexed). Whether none is left, and the
    /// nodes that go with it.
    #[must_use]
    pub(crate) fn release_indexed(&mut self, at: u32, count: u64) -> (bool, Vec<Arc<T>>) {
        let left = &mut self.outside[at as usize];
        if *left == u32::MAX || *left == 0 {
            return (false, Vec::new());
        }
        *left = left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        match *left {
            0 => (true, self.release(indexed_ino(at), 0)),
            _ => (false, Vec::new()),
        }
    }

    /// Whether an inode of the index is here, and is not what the index says.
    pub(crate) fn is_kept(&self, at: u32) -> bool {
        self.entries
            .get(&indexed_ino(at))
            .is_some_and(|entry| entry.kept)
    }

    /// From now on the index does not say what a node is.
    pub(crate) fn keep(&mut self, ino: Ino) {
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.kept = true;
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
            let outside = self.place_of(ino).map_or(0, |at| self.outside[at as usize]);
            let MapEntry::Occupied(mut slot) = self.entries.entry(ino) else {
                continue;
            };
            let entry = slot.get_mut();
            entry.refs = entry.refs.saturating_sub(count);
            if entry.refs > 0 || (entry.kept && outside > 0) {
                continue;
            }
            let entry = slot.remove();
            for (parent, name) in entry.names {
                todo.push((parent, 1));
                if let Some(parent) = self.entries.get_mut(&parent) {
                    parent.children.remove(&name);
                }
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
        new: Newcomer,
        make: impl FnOnce(Ino) -> T,
    ) -> Arc<T> {
        if let Some(ino) = self.known(parent, name)
            && let Some(entry) = self.entries.get_mut(&ino)
        {
            entry.refs += 1;
            return entry.node.clone();
        }
        let known = new
            .identity
            .and_then(|identity| self.identities.get(&identity))
            .copied();
        if let Some(entry) = known.and_then(|ino| self.entries.get_mut(&ino)) {
            entry.refs += 1;
            let node = entry.node.clone();
            self.add_name(known.unwrap_or(ROOT), parent, name);
            return node;
        }
        let ino = self.claim(new);
        self.add(ino, parent, name, new, make)
    }

    /// The node of an inode of the index, counted once: the one that is here, or a new one under the
    /// name that the index gives it.
    pub(crate) fn intern_indexed(
        &mut self,
        at: u32,
        parent: Ino,
        name: &[u8],
        new: Newcomer,
        make: impl FnOnce(Ino) -> T,
    ) -> Arc<T> {
        let ino = indexed_ino(at);
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.refs += 1;
            return entry.node.clone();
        }
        self.add(ino, parent, name, new, make)
    }

    fn add(
        &mut self,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        new: Newcomer,
        make: impl FnOnce(Ino) -> T,
    ) -> Arc<T> {
        let node = Arc::new(make(ino));
        let entry = Entry {
            node: node.clone(),
            refs: 1,
            names: Vec::new(),
            children: HashMap::new(),
            identity: new.identity,
            kept: new.kept,
        };
        self.entries.insert(ino, entry);
        if let Some(identity) = new.identity {
            self.identities.insert(identity, ino);
        }
        self.add_name(ino, parent, name);
        node
    }

    fn known(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        self.entries.get(&parent)?.children.get(name).copied()
    }

    /// A number that no live node has: the preferred one if possible.
    fn claim(&mut self, new: Newcomer) -> Ino {
        let Newcomer { preferred, at, .. } = new;
        // Another inode may have it without being here.
        let outside = self.place_of(preferred).filter(|place| Some(*place) != at);
        let is_free = outside.is_none_or(|place| self.outside[place as usize] == 0);
        if preferred > ROOT && is_free && !self.entries.contains_key(&preferred) {
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

    /// Notes one more name of a node, in a directory that is here. Whatever was known under that name
    /// no longer is.
    pub(crate) fn add_name(&mut self, ino: Ino, parent: Ino, name: &[u8]) {
        let Some(directory) = self.entries.get_mut(&parent) else {
            return;
        };
        match directory.children.insert(name.into(), ino) {
            Some(old) if old == ino => return,
            // The parent's count passes from the old name to the new one.
            Some(old) => self.strike(old, parent, name),
            None => directory.refs += 1,
        }
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.names.push((parent, name.into()));
        }
    }

    fn strike(&mut self, ino: Ino, parent: Ino, name: &[u8]) {
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.names.retain(|(p, n)| *p != parent || **n != *name);
        }
    }

    /// Strikes out a name. Gives what is no longer counted on, as [`release`](Self::release).
    #[must_use]
    pub(crate) fn remove_name(&mut self, parent: Ino, name: &[u8]) -> Vec<Arc<T>> {
        let directory = self.entries.get_mut(&parent);
        let Some(ino) = directory.and_then(|entry| entry.children.remove(name)) else {
            return Vec::new();
        };
        self.strike(ino, parent, name);
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
        entry.kept = true;
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

/// The number of an inode of the index: of all layers together, as if they were the first.
pub(crate) fn indexed_ino(at: u32) -> Ino {
    match at {
        0 => ROOT,
        at => lower_ino(0, u64::from(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table = InodeTable<String>;

    fn table() -> Table {
        InodeTable::new(Arc::new("root".into()), 100)
    }

    fn add(t: &mut Table, parent: Ino, name: &str, id: Option<Identity>, want: Ino) -> Ino {
        let mut made = 0;
        let new = Newcomer {
            identity: id,
            preferred: want,
            at: None,
            kept: true,
        };
        let node = t.intern(parent, name.as_bytes(), new, |ino| {
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

    /// An inode of the index gets a node.
    fn open(t: &mut Table, at: u32, parent: Ino, name: &str) -> Ino {
        let new = Newcomer {
            identity: Some(Identity::Lower {
                layer: 0,
                dev: 0,
                ino: u64::from(at),
            }),
            preferred: indexed_ino(at),
            at: Some(at),
            kept: false,
        };
        t.intern_indexed(at, parent, name.as_bytes(), new, |ino| ino.to_string());
        indexed_ino(at)
    }

    #[test]
    fn an_unchanged_inode_of_the_index_is_given_up_with_its_last_user() {
        let mut t = table();
        assert!(t.acquire_indexed(5) && !t.acquire_indexed(5));
        let five = open(&mut t, 5, ROOT, "f");
        assert_eq!(t.place_of(five), Some(5));
        assert_eq!(open(&mut t, 5, ROOT, "f"), five);
        assert!(t.release(five, 1).is_empty());
        assert_eq!(t.release(five, 1).len(), 1, "although the kernel knows it");
        assert!(t.child(ROOT, b"f").is_none() && t.len() == 1);
        let (is_last, gone) = t.release_indexed(5, 2);
        assert!(is_last && gone.is_empty());
    }

    #[test]
    fn a_changed_inode_of_the_index_is_kept_while_it_is_counted_on() {
        let mut t = table();
        t.acquire_indexed(5);
        let five = open(&mut t, 5, ROOT, "f");
        assert!(!t.is_kept(5));
        t.set_identity(five, upper(70));
        assert!(t.is_kept(5));
        assert!(t.release(five, 1).is_empty());
        assert!(t.get(five).is_some() && t.child(ROOT, b"f").is_some());
        // Another file of the disk claims to be that inode: it gets another number.
        assert_ne!(add(&mut t, ROOT, "g", upper(71), five), five);
        let (is_last, gone) = t.release_indexed(5, 1);
        assert!(is_last && gone.len() == 1);
        assert!(t.get(five).is_none() && t.child(ROOT, b"f").is_none());
        // Found again by its number, after the next mount or now.
        assert_eq!(add(&mut t, ROOT, "f", upper(70), five), five);
    }

    #[test]
    fn a_number_that_is_counted_on_outside_is_not_given_to_another() {
        let mut t = table();
        t.acquire_indexed(5);
        assert_eq!(add(&mut t, ROOT, "g", upper(71), indexed_ino(5)), SPARE);
        let five = open(&mut t, 5, ROOT, "f");
        assert_eq!(five, indexed_ino(5));
    }

    #[test]
    fn places_of_numbers() {
        let t = table();
        let base = 1 << 48;
        for (ino, place) in [
            (0, None),
            (ROOT, None),
            (base, None),
            (base + 1, Some(1)),
            (base + 99, Some(99)),
            (base + 100, None),
            (2 * base + 1, None),
            (SPARE, None),
            (u64::MAX, None),
        ] {
            assert_eq!(t.place_of(ino), place, "{ino}");
        }
        assert!(
            InodeTable::new(Arc::new(()), 0)
                .place_of(base + 1)
                .is_none()
        );
        assert_eq!((indexed_ino(0), indexed_ino(7)), (ROOT, base + 7));
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
