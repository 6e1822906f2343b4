//! Directories and their listings.
//!
//! The kernel opens directories without asking (it keeps their listings itself), so there are no
//! handles, and nobody says which listing a reader began with. Therefore an entry's position
//! depends on nothing but its name: a hash, in whose order listings are. Whoever goes on at a
//! position, in whatever listing, finds each entry that has been there all the time exactly once.
//!
//! A listing is taken anew when it is read from its beginning: then the kernel's own is out of date.
//!
//! Lock rule: the mutex around the recent listings is a leaf.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags};

use super::attr::Kind;
use super::error::{Error, Result};
use super::fs::{Entry, Union};
use super::indexed::Known;
use super::inode_table::{Ino, ROOT, indexed_ino};
use super::layers::{LowerDir, is_whiteout};
use super::merge::{LayerEntry, MergedEntry, merge};
use super::node::{DirPlace, DirUpper, Node};
use super::whiteout::hidden;
use crate::sys::dirfd;

/// The positions of `.` and `..`; those of all others are larger.
const DOTS: [(&[u8], u64); 2] = [(b".", 1), (b"..", 2)];
/// How many listings are kept for those who read on. More readers at once read directories anew.
const KEPT: usize = 16;

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirItem {
    /// The name; `.` and `..` are the first two.
    pub name: Box<[u8]>,
    /// The type.
    pub kind: Kind,
    /// The inode number of `.` and `..`; 0 for the others, which are looked up.
    pub ino: u64,
    /// Where to read on after this entry: 1 to 2^62, growing. The same for the same name as
    /// long as the union lives.
    pub position: u64,
}

/// A listing of a directory, from some position on.
#[derive(Debug, Clone)]
pub struct Listing {
    items: Arc<Vec<DirItem>>,
    from: usize,
}

impl Listing {
    /// The entries, in the order of their positions.
    pub fn items(&self) -> &[DirItem] {
        self.items.get(self.from..).unwrap_or_default()
    }
}

/// The listings that are being read, the latest first.
#[derive(Debug, Default)]
pub(super) struct Listings {
    recent: Mutex<VecDeque<(Ino, Arc<Vec<DirItem>>)>>,
    hash: RandomState,
}

impl Listings {
    fn get(&self, ino: Ino) -> Option<Arc<Vec<DirItem>>> {
        let recent = self.recent.lock();
        let (_, items) = recent.iter().find(|(at, _)| *at == ino)?;
        Some(items.clone())
    }

    /// `None` gives up what there is of that directory.
    fn set(&self, ino: Ino, items: Option<Arc<Vec<DirItem>>>) {
        let mut recent = self.recent.lock();
        let old = recent.iter().position(|(at, _)| *at == ino);
        let old = old.and_then(|at| recent.remove(at));
        if let Some(items) = items {
            recent.push_front((ino, items));
        }
        let oldest = (recent.len() > KEPT).then(|| recent.pop_back());
        drop(recent);
        // Freed without the lock.
        drop((old, oldest));
    }

    /// Gives everything its position, and puts it in that order.
    fn arrange(&self, merged: Vec<MergedEntry>) -> Vec<DirItem> {
        let mut items: Vec<DirItem> = merged
            .into_iter()
            .map(|entry| DirItem {
                position: (self.hash.hash_one(&entry.name) >> 2).max(3),
                name: entry.name,
                kind: entry.kind,
                ino: 0,
            })
            .collect();
        items.sort_unstable_by(|a, b| (a.position, &a.name).cmp(&(b.position, &b.name)));
        let mut last = 0;
        for item in &mut items {
            // Two of one hash (among a million names: once in ten million listings): the second comes right after.
            item.position = item.position.max(last + 1);
            last = item.position;
        }
        items
    }
}

impl Union {
    /// What a directory shows after `position`; 0 is the beginning, and takes the listing anew.
    pub fn list(&self, ino: u64, position: u64) -> Result<Listing> {
        let known = match position {
            0 => None,
            _ => self.listings.get(ino),
        };
        let items = match known {
            Some(items) => items,
            None => {
                let items = Arc::new(self.take_listing(ino)?);
                self.listings.set(ino, Some(items.clone()));
                items
            }
        };
        let from = items.partition_point(|item| item.position <= position);
        if from == items.len() {
            // Read to the end.
            self.listings.set(ino, None);
        }
        Ok(Listing { items, from })
    }

    /// The node and attributes of an entry of a listing; `None` if it has gone since.
    pub fn listed(&self, ino: u64, item: &DirItem) -> Result<Option<Entry>> {
        match self.lookup(ino, &item.name) {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits until a directory's entries are on disk.
    pub fn fsyncdir(&self, ino: u64) -> Result<()> {
        if self.options.no_fsync {
            return Ok(());
        }
        let node = self.node(ino)?;
        let dir = {
            let _tree = self.tree.read();
            match node.dir() {
                Some(DirPlace {
                    upper: DirUpper::Present,
                    ..
                }) => self.upper_fd(&node)?,
                // Nothing there that could still be lost.
                _ => return Ok(()),
            }
        };
        let open = dirfd::reopen(&*dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(rustix::fs::fsync(open)?)
    }

    fn take_listing(&self, ino: Ino) -> Result<Vec<DirItem>> {
        let _tree = self.tree.read();
        let (parent, merged) = match self.known(ino)? {
            Known::Node(node) => {
                let parent = self.first_name(&node).map(|(parent, _)| parent.ino);
                (parent, self.merged_listing(&node)?)
            }
            Known::Indexed(index, at) => {
                let parent = index.names(at).next();
                let parent = parent.map(|(parent, _)| indexed_ino(parent));
                (parent, merge([self.indexed_listing(at)?]))
            }
        };
        let mut items: Vec<DirItem> = DOTS
            .into_iter()
            .zip([ino, parent.unwrap_or(ROOT)])
            .map(|((name, position), ino)| DirItem {
                name: name.into(),
                kind: Kind::Directory,
                ino,
                position,
            })
            .collect();
        items.extend(self.listings.arrange(merged));
        Ok(items)
    }

    /// What a directory shows, without `.` and `..`. Needs the tree lock.
    pub(super) fn merged_listing(&self, node: &Arc<Node>) -> Result<Vec<MergedEntry>> {
        let dir = node.dir().ok_or(Error::NotADirectory)?;
        if node.is_gone() {
            return Ok(Vec::new());
        }
        let mut layers = Vec::new();
        if matches!(dir.upper, DirUpper::Present) {
            layers.push(self.read_layer(&*self.upper_fd(node)?)?);
        }
        for lower in dir.lowers.iter() {
            layers.push(match &**lower {
                LowerDir::Plain(_) => self.read_layer(&*self.lower_fd(lower)?)?,
                LowerDir::Indexed(at) => self.indexed_listing(*at)?,
            });
        }
        Ok(merge(layers))
    }

    fn read_layer(&self, fd: &OwnedFd) -> Result<Vec<LayerEntry>> {
        let mut entries = Vec::new();
        // After the others: they hide nothing of their own directory.
        let mut whiteouts = Vec::new();
        for raw in dirfd::read_dir(fd)? {
            if self.is_mark(&raw.name) {
                whiteouts.extend(hidden(&raw.name).map(|name| LayerEntry {
                    name: name.into(),
                    kind: None,
                }));
                continue;
            }
            let kind = match raw.file_type {
                FileType::CharacterDevice | FileType::Unknown => {
                    // A device may be a whiteout; and some file systems do not store the type.
                    match dirfd::stat_at_opt(fd, &raw.name)? {
                        None => continue,
                        Some(stat) if is_whiteout(&stat) => None,
                        Some(stat) => Some(Kind::from_mode(stat.st_mode)),
                    }
                }
                known => Some(Kind::from_file_type(known)),
            };
            entries.push(LayerEntry {
                name: raw.name,
                kind,
            });
        }
        entries.append(&mut whiteouts);
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> MergedEntry {
        MergedEntry {
            name: name.as_bytes().into(),
            kind: Kind::File,
        }
    }

    #[test]
    fn positions_are_the_names() {
        let listings = Listings::default();
        let names: Vec<String> = (0..1000).map(|i| format!("name{i}")).collect();
        let all = listings.arrange(names.iter().map(|name| entry(name)).collect());
        let half = listings.arrange(names.iter().step_by(2).map(|name| entry(name)).collect());
        assert!(all.is_sorted_by(|a, b| a.position < b.position));
        assert!(all[0].position > 2 && all[999].position < 1 << 62);
        let kept: Vec<_> = all.iter().filter(|item| half.contains(item)).collect();
        assert_eq!(kept, half.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_few_listings_are_kept() {
        let listings = Listings::default();
        for ino in 0..20 {
            listings.set(ino, Some(Arc::default()));
        }
        assert!(listings.get(0).is_none() && listings.get(19).is_some());
        listings.set(19, None);
        assert!(listings.get(19).is_none());
        assert_eq!(listings.recent.lock().len(), KEPT - 1);
    }
}
