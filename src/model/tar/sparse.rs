//! The maps of sparse files: GNU's old headers, and the three PAX forms.
//!
//! [The formats](https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html), all of
//! which end in the same list of segments.

use super::pax::decimal;
use super::{MAX_SEGMENTS, Reason, header};

/// A run of stored bytes and where it goes in the file; in ascending order, the rest are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes; the last segment may have none.
    pub length: u64,
}

/// The records `GNU.sparse.*` of one entry.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    /// Offsets and lengths in turn: `GNU.sparse.offset` and `numbytes` of version 0.0.
    pairs: Vec<u64>,
    /// The comma-separated numbers of version 0.1.
    list: Option<Vec<u64>>,
}

impl Records {
    /// Takes one record, its key without `GNU.sparse.`; `None` where the value is impossible.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"name" if value.is_empty() || value.contains(&0) => return None,
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"offset" => {
                if !self.pairs.len().is_multiple_of(2) {
                    return None;
                }
                self.pairs.push(decimal(value)?);
            }
            b"numbytes" => {
                if self.pairs.len().is_multiple_of(2) {
                    return None;
                }
                self.pairs.push(decimal(value)?);
            }
            b"map" if value.is_empty() => self.list = Some(Vec::new()),
            b"map" => {
                self.list = Some(
                    value
                        .split(|b| *b == b',')
                        .map(decimal)
                        .collect::<Option<_>>()?,
                );
            }
            _ => {}
        }
        Some(())
    }

    /// The file's size, if these records make it a sparse one.
    pub(super) fn size_if_sparse(&self) -> Option<u64> {
        let sparse = self.major.is_some() || self.list.is_some() || !self.pairs.is_empty();
        sparse.then_some(self.size.unwrap_or(0))
    }

    /// The map, unless it stands in front of the data (version 1.0).
    pub(super) fn map(&self) -> Option<Result<Vec<Segment>, Reason>> {
        match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (1, 0) => None,
            (0, _) => {
                let numbers = self.list.as_ref().unwrap_or(&self.pairs);
                if !numbers.len().is_multiple_of(2) {
                    return Some(Err("a sparse map with an odd number".to_owned()));
                }
                let segment = |pair: &[u64]| Segment {
                    offset: pair[0],
                    length: pair[1],
                };
                Some(Ok(numbers.chunks_exact(2).map(segment).collect()))
            }
            (major, minor) => Some(Err(format!(
                "a sparse file of the unknown version {major}.{minor}"
            ))),
        }
    }
}

/// The map of version 1.0: decimal numbers, one a line, in blocks before the data.
#[derive(Default)]
pub(super) struct MapInData {
    pub(super) map: Vec<Segment>,
    expected: Option<usize>,
    offset: Option<u64>,
    digits: Vec<u8>,
}

impl MapInData {
    pub(super) fn done(&self) -> bool {
        self.expected == Some(self.map.len())
    }

    pub(super) fn block(&mut self, block: &[u8]) -> Result<(), Reason> {
        for byte in block {
            if self.done() {
                break;
            }
            if *byte != b'\n' {
                self.digits.push(*byte);
                if self.digits.len() > 20 {
                    return Err("an invalid sparse map".to_owned());
                }
                continue;
            }
            let number = decimal(&self.digits).ok_or("an invalid sparse map")?;
            self.digits.clear();
            match (self.expected, self.offset.take()) {
                (None, _) => self.expected = Some(bounded(number)?),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => self.map.push(Segment {
                    offset,
                    length: number,
                }),
            }
        }
        Ok(())
    }
}

fn bounded(count: u64) -> Result<usize, Reason> {
    usize::try_from(count)
        .ok()
        .filter(|n| *n <= MAX_SEGMENTS)
        .ok_or_else(|| format!("a sparse file of more than {MAX_SEGMENTS} segments"))
}

/// The map in a GNU header of type `S`: its segments, whether more blocks follow, the file's size.
pub(super) fn gnu_header(block: &[u8; 512]) -> Result<(Vec<Segment>, bool, u64), Reason> {
    let mut map = Vec::new();
    segments(&block[386..482], &mut map)?;
    let size = header::number(&block[483..495], "sparse size")?;
    let size = u64::try_from(size).map_err(|_| "a negative size".to_owned())?;
    Ok((map, block[482] != 0, size))
}

/// One more block of such a map; says whether yet another follows.
pub(super) fn gnu_block(block: &[u8; 512], map: &mut Vec<Segment>) -> Result<bool, Reason> {
    segments(&block[..504], map)?;
    bounded(map.len() as u64)?;
    Ok(block[504] != 0)
}

fn segments(fields: &[u8], map: &mut Vec<Segment>) -> Result<(), Reason> {
    for field in fields.chunks_exact(24) {
        // An unused place begins with a zero byte.
        if field[0] == 0 {
            break;
        }
        let number = |part| {
            let n = header::number(part, "sparse map")?;
            u64::try_from(n).map_err(|_| "a negative place in a sparse map".to_owned())
        };
        map.push(Segment {
            offset: number(&field[..12])?,
            length: number(&field[12..])?,
        });
    }
    Ok(())
}

/// Segments ascend without overlapping, lie inside the file, and have exactly the stored bytes.
pub(super) fn check(map: &[Segment], size: u64, stored: u64) -> Result<(), Reason> {
    let bad = || "a sparse map that contradicts the file's size".to_owned();
    let (mut end, mut sum) = (0u64, 0u64);
    for segment in map {
        if segment.offset < end {
            return Err(bad());
        }
        end = segment.offset.checked_add(segment.length).ok_or_else(bad)?;
        sum += segment.length;
    }
    match end <= size && sum == stored && size <= i64::MAX as u64 {
        true => Ok(()),
        false => Err(bad()),
    }
}
