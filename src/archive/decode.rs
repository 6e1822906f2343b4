//! Compression, known by the first bytes, and undone with bounded memory.

use std::io::{self, BufRead, Read};

use super::memory::{MOST, Share};
use super::zstd_frames::Frames;

/// What bytes are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
    /// Known so that it can be refused by name.
    Bzip2,
}

/// As many bytes as [`Compression::of`] wants to see.
pub(super) const MAGIC: usize = 6;

impl Compression {
    /// By the first bytes.
    pub(super) fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame in front.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', ..] => Compression::Bzip2,
            _ => Compression::None,
        }
    }

    /// A reader of the uncompressed bytes. Waits, here or as it reads, while other readers have too much memory.
    pub(super) fn reader<'a, R: BufRead + Send + 'a>(
        self,
        stored: R,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Compression::None => Box::new(stored),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
            Compression::Xz => {
                // `xz -9` takes 65 MiB. What one takes is seen only when it has begun.
                let share = Share::wait(MOST);
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    MOST,
                    liblzma::stream::CONCATENATED,
                )?;
                Box::new(Sharing {
                    reader: liblzma::bufread::XzDecoder::new_stream(stored, stream),
                    _share: share,
                })
            }
            Compression::Zstd => Box::new(Frames::new(stored)),
            Compression::Bzip2 => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "bzip2 is not supported (gzip, xz and zstd are)",
                ));
            }
        })
    }
}

/// A reader with its share of the memory.
struct Sharing<R> {
    reader: R,
    _share: Share,
}

impl<R: Read> Read for Sharing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Says of a compressed stream's early end what it is.
pub(super) fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), "unexpected end of the compressed data")
        }
        _ => error,
    }
}
