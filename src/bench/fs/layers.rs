//! The layers that are mounted: made of this machine's own files, or somebody's.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::workloads::{BIG, TAR, WIDE};
use crate::archive::tree_tar::TreeTar;
use crate::archive::write::{DockerArchive, ImageSpec, Layer};
use crate::bench::BenchError;
use crate::bench::program::{Program, find_or_lack};
use crate::bench::stop::Stop;
use crate::model::ParseReferenceError;

/// How long it may take to copy layers, to load them, and such.
pub const PREPARING: Duration = Duration::from_secs(600);

/// The image that is made of the layers.
pub const TAG: &str = "bench:1";

/// A tree of so many files, at least: where `/usr` is small, more are made.
const FILES: usize = 10_000;
/// Files in [`WIDE`].
const WIDTH: usize = 10_000;
/// Bytes of [`BIG`].
const BIG_SIZE: usize = 384 << 20;

/// Make four layers in a directory; gives their names, the topmost first.
///
/// The lowest has parts of this machine's `/usr`, its `/etc`, and what is missing to [`FILES`]; the next
/// [`BIG`]; the next [`WIDE`] and some of `/usr/share`; the topmost `/etc` once more.
pub fn make(top: &Path, stop: &Stop) -> Result<Vec<String>, BenchError> {
    let names: Vec<String> = (0..4).map(|n| format!("layer-{n}")).collect();
    let layer: Vec<PathBuf> = names.iter().map(|name| top.join(name)).collect();
    let lowest = &layer[3];
    for (layer, path) in [
        (lowest, "usr/lib"),
        (lowest, "usr/share"),
        (lowest, "etc"),
        (&layer[2], "data"),
        (&layer[1], WIDE),
        (&layer[1], "usr/share"),
        (&layer[0], "etc"),
    ] {
        make_dir(&layer.join(path))?;
    }
    let perl = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let starting = [("/usr/lib", "python3"), (perl.as_str(), "perl")];
    for path in starting
        .iter()
        .flat_map(|(dir, start)| beginning(dir, start))
    {
        copy_what_there_is(&path, &lowest.join("usr/lib"), stop)?;
    }
    for path in ["/usr/share/doc", "/usr/share/perl"] {
        copy_what_there_is(Path::new(path), &lowest.join("usr/share"), stop)?;
    }
    copy_what_there_is(
        Path::new("/usr/share/misc"),
        &layer[1].join("usr/share"),
        stop,
    )?;
    for layer in [lowest, &layer[0]] {
        copy_what_there_is(Path::new("/etc/."), &layer.join("etc"), stop)?;
    }
    let written = fill(lowest, stop)
        .and_then(|()| big(&layer[2].join(BIG)))
        .and_then(|()| wide(&layer[1].join(WIDE)));
    written.map_err(BenchError::at("write to", top))?;
    stop.check()?;
    Ok(names)
}

fn make_dir(path: &Path) -> Result<(), BenchError> {
    fs::create_dir_all(path).map_err(BenchError::at("create", path))
}

/// What is in a directory and has a name that begins so.
fn beginning(directory: &str, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named = entries.filter(|e| e.file_name().to_string_lossy().starts_with(start));
    let mut found: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Some of it may be missing, or not be ours to read.
fn copy_what_there_is(from: &Path, to: &Path, stop: &Stop) -> Result<(), BenchError> {
    if !from.exists() {
        return Ok(());
    }
    match copy(from, to, stop) {
        Err(BenchError::Failed { .. }) => Ok(()),
        other => other,
    }
}

/// Copy a file or directory into a directory, with all that cp(1) can keep of it; no bytes are shared with
/// it, for then writing to it would be another thing.
pub fn copy(from: &Path, into: &Path, stop: &Stop) -> Result<(), BenchError> {
    Program::new(find_or_lack("cp")?)
        .args(["-a", "--reflink=never", "--"])
        .args([from, into])
        .limit(PREPARING)
        .run(stop)
        .map(drop)
}

/// Small files, till the tree has [`FILES`].
fn fill(layer: &Path, stop: &Stop) -> io::Result<()> {
    let contents = noise(64 * 400);
    for n in count(layer)?..FILES {
        let parent = if n % 2 == 1 { "share" } else { "made" };
        let directory = layer.join("usr").join(parent).join(format!("d{}", n / 50));
        fs::create_dir_all(&directory)?;
        fs::write(
            directory.join(format!("f{n}")),
            &contents[..n * 37 % 400 * 64],
        )?;
        if stop.is_asked() {
            break;
        }
    }
    Ok(())
}

fn count(directory: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files += match entry.file_type()?.is_dir() {
            true => count(&entry.path())?,
            false => 1,
        };
    }
    Ok(files)
}

fn big(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let piece = noise(1 << 20);
    for _ in 0..BIG_SIZE / piece.len() {
        file.write_all(&piece)?;
    }
    Ok(())
}

fn wide(directory: &Path) -> io::Result<()> {
    for n in 0..WIDTH {
        fs::write(directory.join(format!("f{n}")), vec![b'x'; n % 5000])?;
    }
    Ok(())
}

/// Bytes that are not all the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state: u32 = 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Copies of somebody's layers; gives their names, the topmost first as they come.
///
/// # Errors
/// One is no directory, or has whiteouts: the peers have different forms of them.
pub fn adopt(layers: &[PathBuf], top: &Path, stop: &Stop) -> Result<Vec<String>, BenchError> {
    let mut names = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        let layer = layer
            .canonicalize()
            .map_err(BenchError::at("find", layer))?;
        if let Some(odd) = odd(&layer).map_err(BenchError::at("read", &layer))? {
            return Err(BenchError::Wrong(format!(
                "{} is a whiteout, and would not mean the same everywhere: take layers without",
                odd.display()
            )));
        }
        let name = format!("layer-{n}");
        make_dir(&top.join(&name))?;
        copy(&layer.join("."), &top.join(&name), stop)?;
        names.push(name);
    }
    Ok(names)
}

/// The first whiteout in a layer, in overlayfs's form or in that of tars.
fn odd(directory: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let is_marker = entry.file_name().to_string_lossy().starts_with(".wh.");
        let found = match () {
            () if is_marker => Some(entry.path()),
            () if kind.is_char_device() && entry.metadata()?.rdev() == 0 => Some(entry.path()),
            () if kind.is_dir() => odd(&entry.path())?,
            () => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Write the layers as a docker-archive, with [`TAG`].
pub fn archive(names: &[String], top: &Path, stop: &Stop) -> Result<PathBuf, BenchError> {
    let wrong = |e: &dyn std::fmt::Display| BenchError::Wrong(format!("no archive is made: {e}"));
    let mut tars = Vec::new();
    for name in names.iter().rev() {
        stop.check()?;
        let (layer, path) = (top.join(name), top.join(format!("{name}.tar")));
        let write = BenchError::at("write", &path);
        let out = File::create_new(&path).map_err(BenchError::at("create", &path))?;
        let mut tar = TreeTar::new(BufWriter::with_capacity(1 << 20, out));
        let layer = File::open(&layer).map_err(BenchError::at("open", &layer))?;
        tar.tree(&layer, b"").map_err(|e| wrong(&e))?;
        let out = tar.finish().map_err(|e| wrong(&e))?;
        out.into_inner().map_err(|e| write(e.into_error()))?;
        tars.push(path);
    }
    let path = top.join("archive.tar");
    let write = || -> io::Result<()> {
        let tag = TAG
            .parse()
            .map_err(|e: ParseReferenceError| io::Error::other(e))?;
        let spec = ImageSpec::new(vec![tag], &["/none"], "2024-01-01T00:00:00Z");
        let out = BufWriter::with_capacity(1 << 20, File::create_new(&path)?);
        let mut archive = DockerArchive::new(out);
        let layers: Vec<Layer> = tars.iter().cloned().map(Layer::Path).collect();
        archive.image(&spec, &layers)?;
        archive.finish()?.into_inner().map_err(|e| e.into_error())?;
        tars.iter().try_for_each(fs::remove_file)
    };
    write().map_err(BenchError::at("write", &path))?;
    Ok(path)
}

/// Copy all layers into one directory, the lowest first.
///
/// # Errors
/// One has a directory where another has something else, or the disk is full.
pub fn merge(names: &[String], top: &Path, merged: &Path, stop: &Stop) -> Result<(), BenchError> {
    make_dir(merged)?;
    let mut layers = names.iter().rev().map(|name| top.join(name));
    layers.try_for_each(|layer| copy(&layer.join("."), merged, stop))
}

/// Write a tar of `/usr/lib` and `/etc` of the merged tree, of all of `/usr` where it has no `/usr/lib`.
/// Nothing where it has no such thing: then nobody asks for it.
pub fn tar_of_a_part(merged: &Path, beside: &Path, stop: &Stop) -> Result<(), BenchError> {
    let is_there = |path: &&str| merged.join(path).is_dir();
    let usr = ["usr/lib", "usr"].into_iter().find(|path| is_there(path));
    let parts = usr.into_iter().chain(Some("etc").filter(is_there));
    let mut tar = Program::new(find_or_lack("tar")?)
        .arg("-cf")
        .arg(beside.join(TAR))
        .arg("-C")
        .arg(merged);
    let parts: Vec<&str> = parts.collect();
    if parts.is_empty() {
        return Ok(());
    }
    tar = tar.args(parts);
    tar.limit(PREPARING).run(stop).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_somebody() {
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().join("given");
        fs::create_dir_all(given.join("usr/lib")).unwrap();
        fs::write(given.join("usr/lib/file"), "text").unwrap();
        let (top, stop) = (dir.path().join("top"), Stop::default());
        fs::create_dir(&top).unwrap();
        let names = adopt(std::slice::from_ref(&given), &top, &stop).unwrap();
        assert_eq!(names, ["layer-0"]);
        let copied = top.join("layer-0/usr/lib/file");
        assert_eq!(fs::read(copied).unwrap(), b"text");
        tar_of_a_part(&top.join("layer-0"), &top, &stop).unwrap();
        assert!(fs::metadata(top.join(TAR)).unwrap().len() > 1000);
        archive(&names, &top, &stop).unwrap();
        let left: Vec<_> = fs::read_dir(&top).unwrap().flatten().collect();
        assert_eq!(left.len(), 3, "no tar of a layer stays: {left:?}");
        fs::write(given.join("usr/.wh.gone"), "").unwrap();
        let error = adopt(&[given], &top, &stop).unwrap_err().to_string();
        assert!(error.contains("usr/.wh.gone is a whiteout"), "{error}");
    }

    #[test]
    fn files_are_made_up_to_a_number() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), &Stop::default()).unwrap();
        assert_eq!(count(dir.path()).unwrap(), FILES);
    }
}
