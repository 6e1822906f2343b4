//! An image of this machine's own programs and documents: names, sizes and contents as images have them.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;

use crate::archive::tree_tar::{TreeTar, TreeTarError};
use crate::archive::write::Layer;
use crate::bench::BenchError;
use crate::bench::image::{TAG, write_archive};
use crate::bench::stop::Stop;
use crate::sys::dirfd::open_path;

/// Where each layer is taken from, and how many bytes of files at most.
const LAYERS: [(&[&str], u64); 2] = [
    (&["/etc", "/usr/bin"], 100 << 20),
    (&["/usr/share", "/usr/lib"], 300 << 20),
];

/// Write it as a docker-archive into a directory.
///
/// # Errors
/// No space, or somebody interrupts. What cannot be read is left out.
pub fn make(directory: &Path, stop: &Stop) -> Result<PathBuf, BenchError> {
    let mut layers = Vec::new();
    for (n, (tops, most)) in LAYERS.iter().enumerate() {
        let path = directory.join(format!("own-layer-{n}"));
        write_layer(&path, tops, *most, stop)?;
        layers.push(Layer::Path(path));
    }
    let archive = directory.join("own-image.tar");
    write_archive(&archive, TAG, &layers).map_err(BenchError::at("write", &archive))?;
    for layer in &layers {
        if let Layer::Path(path) = layer {
            fs::remove_file(path).map_err(BenchError::at("delete", path))?;
        }
    }
    Ok(archive)
}

fn write_layer(path: &Path, tops: &[&str], most: u64, stop: &Stop) -> Result<(), BenchError> {
    let failed = |e: io::Error| BenchError::at("write", path)(e);
    let tar_failed = |e: TreeTarError| failed(io::Error::other(e.to_string()));
    let file = File::create_new(path).map_err(failed)?;
    let mut tar = TreeTar::new(BufWriter::with_capacity(1 << 20, file));
    for path in choose(tops, most) {
        stop.check()?;
        let name = path.as_os_str().as_bytes();
        // It may have gone since it was chosen.
        if let Ok(fd) = open_path(CWD, name) {
            tar.entry(fd, name.strip_prefix(b"/").unwrap_or(name))
                .map_err(tar_failed)?;
        }
    }
    let out = tar.finish().map_err(tar_failed)?;
    out.into_inner().map_err(|e| failed(e.into_error()))?;
    Ok(())
}

/// Directories, files and symbolic links below `tops`, parents first, until there are so many bytes. What
/// we may not read is left out.
fn choose(tops: &[&str], most: u64) -> Vec<PathBuf> {
    let mut chosen = Vec::new();
    let mut left = most;
    let mut dirs: Vec<PathBuf> = tops.iter().rev().map(PathBuf::from).collect();
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        chosen.push(dir);
        let mut below = Vec::new();
        for path in paths {
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            if meta.is_dir() {
                below.push(path);
                continue;
            }
            let is_whiteout = path
                .file_name()
                .is_some_and(|name| name.as_bytes().starts_with(b".wh."));
            let is_readable = meta.is_symlink() || meta.is_file() && File::open(&path).is_ok();
            if is_whiteout || !is_readable {
                continue;
            }
            left = match left.checked_sub(meta.len()) {
                Some(left) => left,
                None => return chosen,
            };
            chosen.push(path);
        }
        dirs.extend(below.into_iter().rev());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_first_until_it_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        fs::create_dir_all(top.join("b/c")).unwrap();
        for name in ["a", "b/c/d", "z", "b/.wh.x"] {
            fs::write(top.join(name), "0123456789").unwrap();
        }
        let choose = |most| {
            let chosen = choose(&[top.to_str().unwrap(), "/nowhere"], most);
            let name = |path: &PathBuf| path.strip_prefix(top).unwrap().display().to_string();
            chosen.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(choose(30), ["", "a", "z", "b", "b/c", "b/c/d"]);
        assert_eq!(choose(29), ["", "a", "z", "b", "b/c"]);
        assert_eq!(choose(15), ["", "a"]);
    }
}
