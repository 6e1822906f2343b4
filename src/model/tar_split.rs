//! A tar without the contents of its files: what is needed, beside those, to make the same tar again.
//!
//! The idea is [tar-split](https://github.com/vbatts/tar-split)'s: a layer that is unpacked loses the
//! order of its entries, the form of their headers and all fill, and with them its digest. So these
//! bytes are kept as they were, and of the contents only which file has them.
//!
//! The form is the store's own, little-endian, a sequence of
//!
//! | first byte | then |
//! |---|---|
//! | 1 | bytes of the tar: their number (`u32`), and they |
//! | 2 | the next contents are those of the file with this path: its length (`u16`), and it |
//! | 3 | so many bytes of that file: offset and length (`u64` each) |
//! | 0 | the end; the length of the whole tar (`u64`) |
//!
//! No input or output of its own: it is given a writer or a reader, which compresses.

use std::io::{self, Read, Write};

const END: u8 = 0;
const BYTES: u8 = 1;
const FILE: u8 = 2;
const RANGE: u8 = 3;

/// The most bytes of the tar in one piece.
pub const MAX_BYTES: usize = 64 << 10;

/// Writes one. What is not [finished](TarSplitWriter::finish) is not whole.
#[derive(Debug)]
pub struct TarSplitWriter<W> {
    out: W,
    /// Bytes of the tar that are not written yet.
    pending: Vec<u8>,
    path: Option<Vec<u8>>,
    /// Offset and length in the file, not written yet.
    range: Option<(u64, u64)>,
    length: u64,
}

impl<W: Write> TarSplitWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> TarSplitWriter<W> {
        TarSplitWriter {
            out,
            pending: Vec::with_capacity(MAX_BYTES),
            path: None,
            range: None,
            length: 0,
        }
    }

    /// The next bytes of the tar.
    pub fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.end_range()?;
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = MAX_BYTES - self.pending.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(now);
            bytes = rest;
            if self.pending.len() == MAX_BYTES {
                self.end_bytes()?;
            }
        }
        Ok(())
    }

    /// The next bytes are those of the file at `path`, from `offset` on.
    pub fn contents(&mut self, path: &[u8], offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.length += length;
        let is_same = self.path.as_deref() == Some(path);
        if is_same
            && let Some((start, had)) = &mut self.range
            && *start + *had == offset
        {
            *had += length;
            return Ok(());
        }
        self.end_range()?;
        self.end_bytes()?;
        if !is_same {
            let size = u16::try_from(path.len());
            let size = size.map_err(|_| io::Error::other("a path that is too long"))?;
            self.out.write_all(&[FILE])?;
            self.out.write_all(&size.to_le_bytes())?;
            self.out.write_all(path)?;
            self.path = Some(path.to_vec());
        }
        self.range = Some((offset, length));
        Ok(())
    }

    fn end_bytes(&mut self) -> io::Result<()> {
        let size = u32::try_from(self.pending.len()).unwrap_or(u32::MAX);
        if size > 0 {
            self.out.write_all(&[BYTES])?;
            self.out.write_all(&size.to_le_bytes())?;
            self.out.write_all(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn end_range(&mut self) -> io::Result<()> {
        if let Some((offset, length)) = self.range.take() {
            self.out.write_all(&[RANGE])?;
            self.out.write_all(&offset.to_le_bytes())?;
            self.out.write_all(&length.to_le_bytes())?;
        }
        Ok(())
    }

    /// That was all. Gives back what was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_range()?;
        self.end_bytes()?;
        self.out.write_all(&[END])?;
        self.out.write_all(&self.length.to_le_bytes())?;
        Ok(self.out)
    }
}

/// A piece of the tar.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Some of a file's.
    Contents {
        /// The file's path in the layer.
        path: &'a [u8],
        /// Where they begin in it.
        offset: u64,
        /// How many they are.
        length: u64,
    },
}

/// Reads one, from its beginning to its end.
#[derive(Debug)]
pub struct TarSplitReader<R> {
    from: R,
    bytes: Vec<u8>,
    path: Vec<u8>,
    length: u64,
    ended: bool,
}

impl<R: Read> TarSplitReader<R> {
    /// Reads what `from` gives.
    pub fn new(from: R) -> TarSplitReader<R> {
        TarSplitReader {
            from,
            bytes: Vec::new(),
            path: Vec::new(),
            length: 0,
            ended: false,
        }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Of `from`; `InvalidData` for what is not such a sequence, or not a whole one.
    pub fn next_part(&mut self) -> io::Result<Option<Part<'_>>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            match self.array::<1>()?[0] {
                BYTES => {
                    let size = u32::from_le_bytes(self.array()?) as usize;
                    if size > MAX_BYTES {
                        return Err(bad("a piece that is too long"));
                    }
                    self.bytes.resize(size, 0);
                    self.from.read_exact(&mut self.bytes).map_err(cut)?;
                    self.count(size as u64)?;
                    return Ok(Some(Part::Bytes(&self.bytes)));
                }
                FILE => {
                    let size = u16::from_le_bytes(self.array()?);
                    self.path.resize(size.into(), 0);
                    self.from.read_exact(&mut self.path).map_err(cut)?;
                }
                RANGE => {
                    let offset = u64::from_le_bytes(self.array()?);
                    let length = u64::from_le_bytes(self.array()?);
                    if offset.checked_add(length).is_none() {
                        return Err(bad("an impossible range"));
                    }
                    self.count(length)?;
                    return Ok(Some(Part::Contents {
                        path: &self.path,
                        offset,
                        length,
                    }));
                }
                END => {
                    if u64::from_le_bytes(self.array()?) != self.length {
                        return Err(bad("a length that contradicts what is there"));
                    }
                    self.ended = true;
                    return Ok(None);
                }
                _ => return Err(bad("something unknown")),
            }
        }
    }

    /// The bytes of the tar in all parts so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn count(&mut self, more: u64) -> io::Result<()> {
        let length = self.length.checked_add(more);
        self.length = length.ok_or_else(|| bad("an impossible length"))?;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        self.from.read_exact(&mut array).map_err(cut)?;
        Ok(array)
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// An end where more must follow is damage like any other.
fn cut(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => bad("an unexpected end"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut split = TarSplitWriter::new(Vec::new());
        split.bytes(b"head").unwrap();
        split.bytes(b"er").unwrap();
        split.contents(b"d/f", 0, 10).unwrap();
        split.contents(b"d/f", 10, 5).unwrap();
        split.contents(b"d/f", 20, 5).unwrap();
        split.bytes(b"fill").unwrap();
        split.contents(b"d/f", 0, 1).unwrap();
        split.contents(b"g", 0, 0).unwrap();
        split.contents(b"h", 1, 1).unwrap();
        split.bytes(&[7; MAX_BYTES + 1]).unwrap();
        split.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<String>> {
        let mut split = TarSplitReader::new(bytes);
        let mut all = Vec::new();
        while let Some(part) = split.next_part()? {
            all.push(match part {
                Part::Bytes(bytes) if bytes.len() > 10 => format!("{}", bytes.len()),
                Part::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Part::Contents {
                    path,
                    offset,
                    length,
                } => format!("{}[{offset}+{length}]", String::from_utf8_lossy(path)),
            });
        }
        all.push(format!("length {}", split.length()));
        Ok(all)
    }

    #[test]
    fn comes_back() {
        let all = [
            "header",
            "d/f[0+15]",
            "d/f[20+5]",
            "fill",
            "d/f[0+1]",
            "h[1+1]",
            "65536",
            "\u{7}",
            "length 65569",
        ];
        assert_eq!(read(&written()).unwrap(), all);
    }

    #[test]
    fn what_is_cut_or_changed_is_noticed() {
        let whole = written();
        for cut in (0..40).chain(whole.len() - 20..whole.len()) {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
        let mut end = whole.clone();
        let at = end.len() - 8;
        end[at] ^= 1;
        assert!(read(&end).is_err());
        let overflow = [vec![RANGE], vec![0xff; 16]].concat();
        assert!(read(&overflow).is_err());
        let long = [vec![BYTES], vec![0xff; 4]].concat();
        assert!(read(&long).is_err());
        assert!(read(&[9]).is_err());
    }
}
