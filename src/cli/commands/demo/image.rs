//! A real image of several layers, made on the spot from this machine's programs and files.
//!
//! Three layers, as a build would leave them: a base system, an application on top of it that
//! deletes and replaces some of the base, and its configuration. There are hard links in it (also
//! across directories), symlinks, whiteouts and an opaque directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::write::{DockerArchive, ImageSpec, Layer, LayerBuilder, Meta};
use crate::model::ParseReferenceError;

/// The name of the image that is made.
pub const TAG: &str = "demo:1.0";

/// A program of the image that runs for a minute.
pub const SLEEPER: &str = "usr/bin/sleep";

const PROGRAMS: [&str; 12] = [
    "sh", "sleep", "cat", "ls", "cp", "mv", "rm", "mkdir", "ln", "grep", "find", "tar",
];

/// About how many bytes of files the base and the application get besides programs.
const BASE_BYTES: u64 = 24 << 20;
const APP_BYTES: u64 = 40 << 20;

/// Make the image as a docker-archive.
pub fn make(archive: &Path, scratch: &Path) -> io::Result<()> {
    let layers = [
        base(scratch)?,
        application(scratch)?,
        configuration(scratch)?,
    ];
    let tag = TAG
        .parse()
        .map_err(|e: ParseReferenceError| io::Error::other(e))?;
    let spec = ImageSpec::new(vec![tag], &["/bin/sh"], &jiff::Timestamp::now().to_string())
        .history(&[
            "ADD base system /",
            "RUN install the application",
            "COPY configuration /etc",
        ]);
    let mut out = DockerArchive::new(BufWriter::new(File::create(archive)?));
    out.image(&spec, &layers)?;
    out.finish()?
        .into_inner()
        .map_err(|e| e.into_error())?
        .sync_all()?;
    layers.iter().try_for_each(|layer| match layer {
        Layer::Path(path) => fs::remove_file(path),
        Layer::Bytes(_) => Ok(()),
    })
}

type Builder = LayerBuilder<BufWriter<File>>;

fn layer(
    scratch: &Path,
    name: &str,
    fill: impl FnOnce(&mut Builder) -> io::Result<()>,
) -> io::Result<Layer> {
    let path = scratch.join(name);
    let mut builder = LayerBuilder::new(BufWriter::new(File::create(&path)?));
    fill(&mut builder)?;
    builder.finish()?.into_inner().map_err(|e| e.into_error())?;
    Ok(Layer::Path(path))
}

fn base(scratch: &Path) -> io::Result<Layer> {
    layer(scratch, "base.tar", |to| {
        let directory = Meta::mode(0o755);
        for path in [
            "etc",
            "opt",
            "opt/old",
            "root",
            "tmp",
            "usr",
            "usr/bin",
            "usr/share",
            "var",
        ] {
            to.dir(path, &directory)?;
        }
        to.symlink("bin", "usr/bin")?;
        let mut put = BTreeSet::new();
        for name in PROGRAMS {
            let Some(program) = find_program(name) else {
                continue;
            };
            copy(
                to,
                &program,
                Path::new(&format!("usr/bin/{name}")),
                &mut put,
            )?;
            for library in libraries_of(&program) {
                let inside = library.strip_prefix("/").unwrap_or(&library).to_owned();
                copy(to, &library, &inside, &mut put)?;
            }
        }
        to.hardlink("usr/bin/dash", "usr/bin/sh")?;
        to.hardlink("opt/old/copy", "usr/bin/cat")?;
        to.file(
            "etc/motd",
            &Meta::mode(0o644),
            b"Welcome to the base system.\n",
        )?;
        to.file(
            "etc/os-release",
            &Meta::mode(0o644),
            b"NAME=\"Base system\"\n",
        )?;
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        to.file("etc/passwd", &Meta::mode(0o644), passwd.as_bytes())?;
        copy_some(
            to,
            Path::new("/usr/share"),
            "usr/share",
            BASE_BYTES,
            &mut put,
        )
    })
}

fn application(scratch: &Path) -> io::Result<Layer> {
    layer(scratch, "application.tar", |to| {
        // The base's documentation of itself, its old programs, and what was in them: gone.
        to.whiteout("etc/motd")?;
        to.opaque("opt/old")?;
        to.file(
            "opt/old/README",
            &Meta::mode(0o644),
            b"Replaced by /opt/app.\n",
        )?;
        to.dir("opt/app", &Meta::mode(0o755))?;
        let mut put = BTreeSet::new();
        copy_some(
            to,
            Path::new("/usr/bin"),
            "opt/app/bin",
            APP_BYTES,
            &mut put,
        )?;
        if let Some(first) = put.iter().next() {
            to.hardlink("opt/app/start", first.as_os_str().as_bytes())?;
        }
        Ok(())
    })
}

fn configuration(scratch: &Path) -> io::Result<Layer> {
    layer(scratch, "configuration.tar", |to| {
        to.file(
            "etc/os-release",
            &Meta::mode(0o644),
            b"NAME=\"Demonstration\"\n",
        )?;
        to.dir("etc/app", &Meta::mode(0o750).owner(1000, 1000))?;
        to.file(
            "etc/app/app.conf",
            &Meta::mode(0o640).owner(1000, 1000),
            b"workers = 4\n",
        )?;
        to.hardlink("etc/app/default.conf", "etc/app/app.conf")?;
        to.whiteout("usr/bin/dash")?;
        Ok(())
    })
}

fn find_program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin"]
        .iter()
        .map(|d| Path::new(d).join(name))
        .find(|p| p.is_file())
}

/// The libraries that a program is linked with and its loader, as ldd(1) tells; none for a static
/// one.
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let Ok(output) = Command::new("ldd").arg(program).output() else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.split_whitespace();
    words
        .filter(|w| w.starts_with('/'))
        .map(PathBuf::from)
        .filter(|p| p.is_file())
        .collect()
}

/// Copy one file, with its directories; what is there already is left.
fn copy(
    to: &mut Builder,
    from: &Path,
    inside: &Path,
    put: &mut BTreeSet<PathBuf>,
) -> io::Result<()> {
    if !put.insert(inside.to_owned()) {
        return Ok(());
    }
    let file = File::open(from)?;
    let meta = file.metadata()?;
    let seconds = u64::try_from(meta.mtime()).unwrap_or(0);
    let nanos = u32::try_from(meta.mtime_nsec()).unwrap_or(0);
    let to_put = Meta::mode(meta.mode() & 0o7777).mtime(seconds, nanos);
    to.file_from(inside.as_os_str().as_bytes(), &to_put, meta.len(), file)?;
    Ok(())
}

/// Copy regular files from a tree, in the order of their names, until there are `most` bytes.
fn copy_some(
    to: &mut Builder,
    from: &Path,
    inside: &str,
    most: u64,
    put: &mut BTreeSet<PathBuf>,
) -> io::Result<()> {
    let mut left = most;
    let mut pending = vec![(from.to_owned(), PathBuf::from(inside))];
    while let Some((from, inside)) = pending.pop() {
        let Ok(entries) = fs::read_dir(&from) else {
            continue;
        };
        let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(|e| std::cmp::Reverse(e.file_name()));
        for entry in entries {
            let meta = entry.metadata()?;
            let inside = inside.join(entry.file_name());
            if meta.is_dir() {
                pending.push((entry.path(), inside));
            } else if meta.is_file() && meta.len() <= left && File::open(entry.path()).is_ok() {
                left -= meta.len();
                copy(to, &entry.path(), &inside, put)?;
            }
            if left < 1 << 16 {
                return Ok(());
            }
        }
    }
    Ok(())
}
