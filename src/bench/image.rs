//! An image of so many files and bytes, the same each time.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};

use crate::archive::write::{DockerArchive, ImageSpec, Layer, LayerBuilder, Meta};
use crate::model::ParseReferenceError;

/// The image that is measured.
pub const TAG: &str = "bench:1";
/// Another one, of the lower layers that are to be shared with it.
pub const OTHER_TAG: &str = "bench:other";

/// Files in a directory.
const WIDTH: u64 = 100;
/// Shares of sizes among ten files that follow each other: most are small, as in real images.
const WEIGHTS: [u64; 10] = [1, 1, 2, 2, 3, 4, 6, 10, 20, 51];

/// How large an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Size {
    /// Regular files in all layers.
    pub files: u64,
    /// Of their contents.
    pub bytes: u64,
    /// At least 1.
    pub layers: u64,
    /// How many of them, from the lowest, another image has as well: less than `layers`.
    pub shared: u64,
}

/// The sizes of the files of one layer of so many files and bytes, in their order. A tenth of the bytes is
/// in the first; the rest follows [`WEIGHTS`]. The sum is `bytes`, as far as whole bytes go.
pub fn file_sizes(files: u64, bytes: u64) -> impl Iterator<Item = u64> {
    let large = match files {
        0 | 1 => bytes,
        _ => bytes / 10,
    };
    let rest = files.saturating_sub(1);
    let weight = |n: u64| WEIGHTS[(n % 10) as usize];
    let total = rest / 10 * WEIGHTS.iter().sum::<u64>() + (0..rest % 10).map(weight).sum::<u64>();
    let small = move |n| {
        let share = u128::from(bytes - large) * u128::from(weight(n)) / u128::from(total.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    };
    (files > 0)
        .then_some(large)
        .into_iter()
        .chain((0..rest).map(small))
}

/// Write it as a docker-archive, with [`OTHER_TAG`] in a second one if layers are shared. Gives both paths.
pub fn make(size: &Size, directory: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let share = |total: u64, n: u64| total / size.layers + u64::from(n < total % size.layers);
    let mut layers = Vec::new();
    for n in 0..size.layers {
        let path = directory.join(format!("layer.{n}"));
        write_layer(&path, n, share(size.files, n), share(size.bytes, n))?;
        layers.push(Layer::Path(path));
    }
    let archive = directory.join("image.tar");
    write_archive(&archive, TAG, &layers)?;
    let other = match size.shared {
        0 => None,
        shared => {
            let other = directory.join("other.tar");
            let shared = layers.iter().take(shared as usize).cloned();
            write_archive(&other, OTHER_TAG, &shared.collect::<Vec<_>>())?;
            Some(other)
        }
    };
    for layer in &layers {
        if let Layer::Path(path) = layer {
            fs::remove_file(path)?;
        }
    }
    Ok((archive, other))
}

/// Write an image of these layers as a docker-archive with one name.
pub(super) fn write_archive(path: &Path, tag: &str, layers: &[Layer]) -> io::Result<()> {
    let tag = tag
        .parse()
        .map_err(|e: ParseReferenceError| io::Error::other(e))?;
    let spec = ImageSpec::new(vec![tag], &["/none"], "2024-01-01T00:00:00Z");
    let mut out = DockerArchive::new(BufWriter::with_capacity(1 << 20, File::create(path)?));
    out.image(&spec, layers)?;
    let out = out.finish()?.into_inner().map_err(|e| e.into_error())?;
    out.sync_all()
}

fn write_layer(path: &Path, number: u64, files: u64, bytes: u64) -> io::Result<()> {
    let out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut layer = LayerBuilder::new(out);
    let (directory, file) = (Meta::mode(0o755), Meta::mode(0o644));
    let top = format!("layer-{number}");
    layer.dir(&top, &directory)?;
    for (n, size) in (0..).zip(file_sizes(files, bytes)) {
        let within = format!("{top}/directory-{}", n / WIDTH);
        if n % WIDTH == 0 {
            layer.dir(&within, &directory)?;
        }
        let noise = Noise(number << 32 | n | 1 << 63);
        layer.file_from(format!("{within}/file-{n}"), &file, size, noise.take(size))?;
    }
    layer.finish()?.into_inner().map_err(|e| e.into_error())?;
    Ok(())
}

/// Bytes that nothing compresses, the same for the same number. (Marsaglia's xorshift64.)
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up() {
        for (files, bytes) in [
            (0, 0),
            (1, 5),
            (10, 1000),
            (12_345, 1 << 30),
            (7, 3),
            (3, 0),
        ] {
            let sizes: Vec<u64> = file_sizes(files, bytes).collect();
            assert_eq!(sizes.len() as u64, files);
            let total: u64 = sizes.iter().sum();
            assert!(
                total <= bytes && bytes - total <= files,
                "{files}: {total} of {bytes}"
            );
        }
        let sizes: Vec<u64> = file_sizes(1001, 100_000_000).collect();
        assert_eq!(sizes[0], 10_000_000);
        assert!(sizes[1] * 40 < sizes[10]);
    }

    #[test]
    fn the_same_each_time() {
        let size = Size {
            files: 250,
            bytes: 100_000,
            layers: 2,
            shared: 1,
        };
        let make = || {
            let dir = tempfile::tempdir().unwrap();
            let (archive, other) = make(&size, dir.path()).unwrap();
            let left = fs::read_dir(dir.path()).unwrap().count();
            (
                fs::read(archive).unwrap(),
                fs::read(other.unwrap()).unwrap(),
                left,
            )
        };
        let (first, other, left) = make();
        assert!(other.len() > 50_000 && first.len() > other.len() * 3 / 2);
        assert_eq!(left, 2);
        assert!((first, other, left) == make());
    }
}
