//! Compression, known by the first bytes, and undone with bounded memory.

use std::io::{self, BufRead, Read};

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

/// The window of `zstd -22 --ultra` would be 128 MiB; `zstd -19` has 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 26;
/// `xz -9` takes 65 MiB.
const XZ_MEMORY: u64 = 80 << 20;

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

    /// A reader of the uncompressed bytes.
    pub(super) fn reader<R: BufRead + Send + 'static>(
        self,
        stored: R,
    ) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Compression::None => Box::new(stored),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    XZ_MEMORY,
                    liblzma::stream::CONCATENATED,
                )?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(stored, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(stored)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Compression::Bzip2 => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "bzip2 is not supported (gzip, xz and zstd are)",
                ));
            }
        })
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
