//! The container of an archive: a tar that is listed once and then read anywhere, or a directory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::ArchiveError;
use crate::model::tar::{Kind, Skip, TarReader, shown};
use crate::model::{BlobDigest, ParseReferenceError};
use crate::sys::in_root::open_beneath;

/// The most bytes of a JSON document.
pub(super) const MAX_JSON: u64 = 4 << 20;

const MAX_MEMBERS: usize = 65_536;
const MAX_NAMES: usize = 8 << 20;
/// The most links that lead from one to the next.
const MAX_LINKS: usize = 16;

/// Where the archive's files are.
#[derive(Debug)]
pub(super) struct Outer {
    label: String,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Tar {
        file: Arc<File>,
        members: HashMap<Box<[u8]>, Member>,
    },
    Directory(OwnedFd),
}

#[derive(Debug)]
enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// To another name; `None` where that is outside.
    Link(Option<Vec<u8>>),
    /// A directory or something else that has no bytes.
    Other,
    /// A file in pieces.
    Sparse,
}

/// A run of bytes in an open file.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Outer {
    /// An open directory.
    pub(super) fn directory(label: String, fd: OwnedFd) -> Outer {
        Outer {
            label,
            files: Files::Directory(fd),
        }
    }

    /// Lists an uncompressed tar.
    pub(super) fn tar(
        label: String,
        file: File,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Outer, ArchiveError> {
        let read_error = |source| ArchiveError::Read {
            archive: label.clone(),
            source,
        };
        let tar_error = |source| ArchiveError::Tar {
            archive: label.clone(),
            source,
        };
        let length = file.metadata().map_err(read_error)?.len();
        let file = Arc::new(file);
        let mut tar = TarReader::new(Cursor {
            file: &file,
            at: 0,
            length,
        });
        let mut members = HashMap::new();
        let (mut count, mut names) = (0, 0);
        while let Some(entry) = tar.next_entry().map_err(tar_error)? {
            if cancel() {
                return Err(ArchiveError::Interrupted);
            }
            count += 1;
            names += entry.path.len() + entry.link.len();
            if count > MAX_MEMBERS || names > MAX_NAMES {
                return Err(ArchiveError::Bad {
                    archive: label,
                    entry: String::new(),
                    reason: format!(
                        "more than {MAX_MEMBERS} entries or {MAX_NAMES} bytes of names"
                    ),
                });
            }
            // What has no name inside the archive cannot be asked for.
            let Some(name) = normal(&entry.path) else {
                continue;
            };
            let member = match entry.kind {
                Kind::File if entry.sparse.is_some() => Member::Sparse,
                Kind::File => Member::File {
                    offset: entry.data_at,
                    size: entry.stored,
                },
                Kind::HardLink => Member::Link(normal(&entry.link)),
                Kind::Symlink => Member::Link(symlink_target(&name, &entry.link)),
                _ => Member::Other,
            };
            members.insert(name.into_boxed_slice(), member);
        }
        Ok(Outer {
            label,
            files: Files::Tar { file, members },
        })
    }

    /// The archive's name.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// A regular file of the archive; `None` if there is nothing of that name.
    pub(super) fn find(&self, name: &str) -> Result<Option<Blob>, ArchiveError> {
        let Some(path) = normal(name.as_bytes()) else {
            return Err(self.bad(name, "a name outside the archive".to_owned()));
        };
        match &self.files {
            Files::Directory(root) => self.find_in_directory(root, name, &path),
            Files::Tar { file, members } => {
                let mut path = path;
                for _ in 0..MAX_LINKS {
                    let wrong = |what: &str| self.bad(name, what.to_owned());
                    match members.get(path.as_slice()) {
                        None => return Ok(None),
                        Some(Member::File { offset, size }) => {
                            return Ok(Some(Blob {
                                file: Arc::clone(file),
                                offset: *offset,
                                size: *size,
                            }));
                        }
                        Some(Member::Link(Some(target))) => path.clone_from(target),
                        Some(Member::Link(None)) => {
                            return Err(wrong("a link that leads out of the archive"));
                        }
                        Some(Member::Other) => return Err(wrong("not a regular file")),
                        Some(Member::Sparse) => {
                            return Err(wrong("stored as a sparse file, which is not supported"));
                        }
                    }
                }
                Err(self.bad(name, "a circle of links".to_owned()))
            }
        }
    }

    fn find_in_directory(
        &self,
        root: &OwnedFd,
        name: &str,
        path: &[u8],
    ) -> Result<Option<Blob>, ArchiveError> {
        // Without waiting: it might be a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match open_beneath(root.as_fd(), path, flags) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => {
                return Err(self.bad(name, "a link that leads out of the directory".to_owned()));
            }
            Err(errno) => return Err(self.bad(name, io::Error::from(errno).to_string())),
        };
        let metadata = file.metadata().map_err(|e| self.bad(name, e.to_string()))?;
        match metadata.is_file() {
            true => Ok(Some(Blob {
                file: Arc::new(file),
                offset: 0,
                size: metadata.len(),
            })),
            false => Err(self.bad(name, "not a regular file".to_owned())),
        }
    }

    /// A file that `by` names; missing is an error.
    pub(super) fn need(&self, name: &str, by: &str) -> Result<Blob, ArchiveError> {
        self.find(name)?.ok_or_else(|| ArchiveError::Missing {
            archive: self.label.clone(),
            entry: shown(name.as_bytes()),
            by: shown(by.as_bytes()),
        })
    }

    /// All bytes of a JSON document.
    pub(super) fn document(&self, name: &str, blob: &Blob) -> Result<Vec<u8>, ArchiveError> {
        if blob.size > MAX_JSON {
            return Err(self.bad(name, format!("more than {MAX_JSON} bytes of JSON")));
        }
        let mut bytes = vec![0; usize::try_from(blob.size).unwrap_or(0)];
        blob.file
            .read_exact_at(&mut bytes, blob.offset)
            .map_err(|e| self.bad(name, e.to_string()))?;
        Ok(bytes)
    }

    /// The same, its digest checked.
    pub(super) fn checked_document(
        &self,
        name: &str,
        blob: &Blob,
        digest: &BlobDigest,
    ) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.document(name, blob)?;
        let found = BlobDigest::of(&bytes);
        match found == *digest {
            true => Ok(bytes),
            false => Err(ArchiveError::Digest {
                archive: self.label.clone(),
                entry: name.to_owned(),
                found: found.hex().to_owned(),
            }),
        }
    }

    /// An error about an entry.
    pub(super) fn bad(&self, entry: &str, reason: String) -> ArchiveError {
        ArchiveError::Bad {
            archive: self.label.clone(),
            entry: shown(entry.as_bytes()),
            reason: shown(reason.as_bytes()),
        }
    }

    /// An error about a tag.
    pub(super) fn bad_tag(&self, tag: &str, source: ParseReferenceError) -> ArchiveError {
        ArchiveError::Tag {
            archive: self.label.clone(),
            tag: shown(tag.as_bytes()),
            source,
        }
    }

    /// The error for what has neither manifest nor index.
    pub(super) fn not_an_archive(&self) -> ArchiveError {
        let has = |name| matches!(self.find(name), Ok(Some(_)));
        ArchiveError::Unknown {
            archive: self.label.clone(),
            reason: match (has("repositories"), &self.files) {
                (true, _) => {
                    "an archive of Docker before 1.10, without manifest.json: load and save it \
                     with a newer Docker first"
                }
                (false, Files::Tar { .. }) => {
                    "not an image archive: neither manifest.json nor index.json in it"
                }
                (false, Files::Directory(_)) => "not an OCI layout: no index.json in it",
            },
        }
    }

    /// Whether this is a directory of the
    /// [`dir:` transport](https://github.com/containers/image/blob/main/docs/containers-transports.5.md),
    /// whose `manifest.json` is another one than docker-archive's.
    pub(super) fn is_dir_transport(&self) -> bool {
        const VERSION: &str = "version";
        let Ok(Some(blob)) = self.find(VERSION) else {
            return false;
        };
        matches!(self.document(VERSION, &blob), Ok(text) if text.starts_with(b"Directory Transport Version"))
    }

    /// That it is one.
    pub(super) fn dir_transport(&self) -> ArchiveError {
        ArchiveError::Unknown {
            archive: self.label.clone(),
            reason: "a directory of the dir: transport: copy it with skopeo to oci: or \
                     docker-archive: first",
        }
    }
}

/// A name without `.`, `..`, empty components and leading `/`; `None` if it leads above the root.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// Where a symbolic link leads, seen from the directory it is in.
fn symlink_target(name: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let directory = name
        .iter()
        .rposition(|b| *b == b'/')
        .map_or(&b""[..], |at| &name[..at]);
    normal(&[directory, b"/", target].concat())
}

/// Reads a file from where it stands, without moving anybody else.
struct Cursor<'a> {
    file: &'a File,
    at: u64,
    length: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Skip for Cursor<'_> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let n = count.min(self.length.saturating_sub(self.at));
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, want) in [
            ("./a//b/", Some("a/b")),
            ("/a", Some("a")),
            ("a/../b", Some("b")),
            ("../a", None),
            ("a/../../b", None),
        ] {
            assert_eq!(normal(name.as_bytes()), want.map(|w| w.into()), "{name}");
        }
        for (name, target, want) in [
            ("x/layer.tar", "../y/layer.tar", Some("y/layer.tar")),
            ("layer.tar", "y", Some("y")),
            ("x/layer.tar", "../../y", None),
            ("x/layer.tar", "/etc/shadow", None),
        ] {
            assert_eq!(
                symlink_target(name.as_bytes(), target.as_bytes()),
                want.map(|w| w.into()),
                "{target}"
            );
        }
    }
}
