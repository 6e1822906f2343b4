//! What the log tells of requests that failed by no fault of the caller: which operation, on which path
//! of the view, and which layer or directory below it is concerned.
//!
//! A disk that fails makes every request fail: of failures of one kind at most one a second is told,
//! with the number of the others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::error::{Error, Result};
use super::fs::Union;
use super::indexed::{Known, indexed_path};
use super::inode_table::{Ino, ROOT};
use super::layers::{LowerDir, LowerFile};
use super::node::{DirPlace, DirUpper, Node, Place};

/// How long no other failure of a kind is told.
const QUIET: Duration = Duration::from_secs(1);
/// More kinds than there are of operations and errors that are worth telling.
const MAX_KINDS: usize = 1024;

/// An operation and an error number.
type Kind = (&'static str, i32);

/// When which failure was told last, and how many have not been since.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<HashMap<Kind, (Instant, u64)>>);

impl Troubles {
    /// Whether this one is to be told: then with how many others of its kind.
    fn note(&self, kind: Kind, now: Instant) -> Option<u64> {
        let mut told = self.0.lock();
        if told.len() >= MAX_KINDS {
            told.clear();
        }
        match told.get_mut(&kind) {
            Some((last, untold)) if now.duration_since(*last) < QUIET => {
                *untold += 1;
                None
            }
            before => {
                let untold = before.map_or(0, |(_, untold)| *untold);
                told.insert(kind, (now, 0));
                Some(untold)
            }
        }
    }
}

/// Whether an error tells of a disk, a layer or a limit of this process, and not of the request.
fn is_trouble(error: Error) -> bool {
    let Error::Sys(errno) = error else {
        return false;
    };
    matches!(
        errno,
        Errno::IO
            | Errno::NXIO
            | Errno::NODEV
            | Errno::UCLEAN
            | Errno::BADMSG
            | Errno::STALE
            | Errno::NOTCONN
            | Errno::CONNABORTED
            | Errno::TIMEDOUT
            | Errno::NOSPC
            | Errno::DQUOT
            | Errno::ROFS
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
            // What is missing in the view is `NotFound`: this is missing in a layer.
            | Errno::NOENT
    )
}

impl Union {
    /// Tells the log of a request that failed, if its failure is not the caller's affair alone: on a
    /// node, or a name in a directory.
    pub(super) fn failed(
        &self,
        operation: &'static str,
        ino: Ino,
        name: Option<&[u8]>,
        error: Error,
    ) {
        if !is_trouble(error) {
            return;
        }
        let Some(untold) = self
            .troubles
            .note((operation, error.errno()), Instant::now())
        else {
            return;
        };
        let (mut path, place) = self
            .describe(ino)
            .unwrap_or_else(|_| (format!("inode {ino}").into(), "unknown".into()));
        if let Some(name) = name {
            if !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        let path = path.escape_ascii();
        let others = match untold {
            0 => String::new(),
            untold => format!(", after {untold} more like it"),
        };
        tracing::error!("{operation} of {path} ({place}): {error}{others}");
    }

    /// The path of a node in the view, and what it is made of.
    fn describe(&self, ino: Ino) -> Result<(Vec<u8>, String)> {
        match self.known(ino)? {
            Known::Indexed(_, at) => {
                let path = indexed_path(self.index()?, at)?.to_redirect();
                let path = if path.is_empty() { b"/".to_vec() } else { path };
                Ok((path, self.indexed_layer(at)))
            }
            Known::Node(node) => {
                let place = match node.place() {
                    Place::Lower(LowerFile::Plain(file)) => format!("layer {}", file.dir.layer),
                    Place::Lower(LowerFile::Indexed { at, .. }) => self.indexed_layer(at),
                    Place::Upper(_) => "upper directory".to_owned(),
                    Place::Held(..) => "upper directory, removed".to_owned(),
                    Place::Dir(dir) => self.parts(&dir),
                };
                Ok((self.path_of(node.node()), place))
            }
        }
    }

    fn path_of(&self, node: &std::sync::Arc<Node>) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = node.clone();
        while at.ino != ROOT {
            let Some((parent, name)) = self.first_name(&at) else {
                break;
            };
            names.push(name);
            at = parent;
        }
        let names = names.iter().rev().flat_map(|name| [b"/", &**name]);
        let path = names.collect::<Vec<_>>().concat();
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    fn indexed_layer(&self, at: u32) -> String {
        let index = self.nodes.index.as_ref();
        let layer = index.and_then(|index| Some(index.inode(at)?.layer));
        layer.map_or("a layer".to_owned(), |layer| format!("layer {layer}"))
    }

    fn parts(&self, dir: &DirPlace) -> String {
        let upper = match dir.upper {
            DirUpper::Absent => None,
            DirUpper::Present => Some("upper directory".to_owned()),
            DirUpper::Removed(_) => Some("removed".to_owned()),
        };
        let lowers = dir.lowers.iter().map(|lower| match &**lower {
            LowerDir::Plain(dir) => format!("layer {}", dir.layer),
            LowerDir::Indexed(_) => "layers".to_owned(),
        });
        upper
            .into_iter()
            .chain(lowers)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_of_a_kind() {
        let troubles = Troubles::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(troubles.note(("read", 5), at(0)), Some(0));
        assert_eq!(troubles.note(("read", 5), at(10)), None);
        assert_eq!(troubles.note(("open", 5), at(10)), Some(0));
        assert_eq!(troubles.note(("read", 28), at(10)), Some(0));
        assert_eq!(troubles.note(("read", 5), at(999)), None);
        assert_eq!(troubles.note(("read", 5), at(1001)), Some(2));
        assert_eq!(troubles.note(("read", 5), at(3000)), Some(0));
    }

    #[test]
    fn what_the_caller_did_is_no_trouble() {
        for error in [
            Error::NotFound,
            Error::Exists,
            Error::NotEmpty,
            Error::Sys(Errno::NAMETOOLONG),
            Error::Sys(Errno::LOOP),
            Error::Sys(Errno::PERM),
            Error::NoAttribute,
        ] {
            assert!(!is_trouble(error), "{error}");
        }
        for errno in [Errno::IO, Errno::NOSPC, Errno::NOENT, Errno::NOTCONN] {
            assert!(is_trouble(Error::Sys(errno)), "{errno}");
        }
    }
}
