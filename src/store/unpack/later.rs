//! What is done to directories when everything is in them: their times, which every new entry changes,
//! and their default ACL, which new entries would inherit.
//!
//! A layer may have millions of directories: beyond a few megabytes the list goes to an unnamed file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, Write as _};

use crate::model::tar::Time;

const IN_MEMORY: usize = 4 << 20;

/// What is left to do to one directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Later {
    /// Its path in the layer; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) mtime: Time,
    pub(super) default_acl: Option<Vec<u8>>,
}

/// A list of them, in order.
#[derive(Debug, Default)]
pub(super) struct List {
    memory: Vec<u8>,
    file: Option<File>,
}

impl List {
    /// Adds one; `new_file` makes the unnamed file when it is needed.
    pub(super) fn push(
        &mut self,
        later: &Later,
        new_file: impl FnOnce() -> io::Result<File>,
    ) -> io::Result<()> {
        let mut bytes = |b: &[u8]| {
            self.memory
                .extend_from_slice(&(b.len() as u64).to_le_bytes());
            self.memory.extend_from_slice(b);
        };
        bytes(&later.path);
        bytes(later.default_acl.as_deref().unwrap_or_default());
        self.memory.push(u8::from(later.default_acl.is_some()));
        self.memory
            .extend_from_slice(&later.mtime.seconds.to_le_bytes());
        self.memory
            .extend_from_slice(&later.mtime.nanos.to_le_bytes());
        if self.memory.len() > IN_MEMORY {
            if self.file.is_none() {
                self.file = Some(new_file()?);
            }
            if let Some(file) = &mut self.file {
                file.write_all(&self.memory)?;
            }
            self.memory.clear();
        }
        Ok(())
    }

    /// All of them again, in the order in which they came.
    pub(super) fn into_iter(self) -> io::Result<impl Iterator<Item = io::Result<Later>>> {
        let mut spilled: Box<dyn Read> = match self.file {
            Some(mut file) => {
                file.rewind()?;
                Box::new(BufReader::new(file))
            }
            None => Box::new(io::empty()),
        };
        let mut memory = io::Cursor::new(self.memory);
        Ok(std::iter::from_fn(move || {
            match read_one(&mut spilled).transpose() {
                Some(one) => Some(one),
                None => read_one(&mut memory).transpose(),
            }
        }))
    }
}

fn read_one(from: &mut impl Read) -> io::Result<Option<Later>> {
    let mut word = [0; 8];
    match from.read(&mut word[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut word[1..])?,
    }
    let path = read_bytes(from, u64::from_le_bytes(word))?;
    from.read_exact(&mut word)?;
    let acl = read_bytes(from, u64::from_le_bytes(word))?;
    let mut has_acl = [0; 1];
    from.read_exact(&mut has_acl)?;
    from.read_exact(&mut word)?;
    let mut nanos = [0; 4];
    from.read_exact(&mut nanos)?;
    Ok(Some(Later {
        path,
        mtime: Time {
            seconds: i64::from_le_bytes(word),
            nanos: u32::from_le_bytes(nanos),
        },
        default_acl: (has_acl[0] != 0).then_some(acl),
    }))
}

fn read_bytes(from: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn come_back_in_order_from_memory_and_file() {
        let make = |n: u32| Later {
            path: n.to_string().into_bytes().repeat(50),
            mtime: Time {
                seconds: -i64::from(n),
                nanos: n,
            },
            default_acl: n.is_multiple_of(3).then(|| vec![7; n as usize % 5]),
        };
        for count in [0, 10, 60_000] {
            let mut list = List::default();
            for n in 0..count {
                list.push(&make(n), tempfile::tempfile).unwrap();
            }
            assert_eq!(list.file.is_some(), count == 60_000);
            let mut n = 0;
            for later in list.into_iter().unwrap() {
                assert_eq!(later.unwrap(), make(n));
                n += 1;
            }
            assert_eq!(n, count);
        }
    }
}
