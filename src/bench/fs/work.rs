//! What the workloads do: the system calls that common programs make, without what those programs do besides.

use std::ffi::{CStr, CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, BufRead as _, BufReader, BufWriter, ErrorKind, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};

use super::workloads::Scene;
use crate::sys::map::Map;

/// Bytes.
pub const MIB: u64 = 1 << 20;
/// What is read and written in one piece where the order is that of the file.
const PIECE: usize = 1 << 20;
/// And where it is not: a page.
const PAGE: usize = 4096;

/// An error that says of what.
fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn directory(path: &Path) -> io::Result<Dir> {
    let file = File::open(path).map_err(at(path))?;
    Ok(Dir::new(OwnedFd::from(file))?)
}

/// The next name in a directory; not its own and its parent's.
fn next(directory: &mut Dir) -> io::Result<Option<CString>> {
    while let Some(entry) = directory.read() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(Some(entry.file_name().to_owned()));
        }
    }
    Ok(None)
}

/// All entries below a directory with their attributes, as find(1) and du(1) ask for them: by name in the
/// open directory, symbolic links not followed.
fn walk(
    mut directory: Dir,
    visit: &mut dyn FnMut(BorrowedFd<'_>, &CStr, &Stat) -> io::Result<()>,
) -> io::Result<()> {
    while let Some(name) = next(&mut directory)? {
        let within = directory.fd()?;
        let stat = statat(within, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        visit(within, &name, &stat)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = openat(within, &name, flags, Mode::empty())?;
            walk(Dir::new(below)?, visit)?;
        }
    }
    Ok(())
}

/// The attributes of everything below a directory.
pub fn stat_walk(top: &Path) -> io::Result<()> {
    walk(directory(top)?, &mut |_, _, stat| {
        black_box(stat.st_size);
        Ok(())
    })
}

/// How many entries there are below a directory.
pub fn count(top: &Path) -> io::Result<u64> {
    let mut entries = 0;
    walk(directory(top)?, &mut |_, _, _| {
        entries += 1;
        Ok(())
    })?;
    Ok(entries)
}

/// ls(1) lists a directory; with attributes it also asks each entry for an access control list.
pub fn list(path: &Path, with_attributes: bool) -> io::Result<()> {
    let mut ls = Command::new("ls");
    ls.arg(if with_attributes { "-l" } else { "-f" }).arg(path);
    run(ls.stdout(Stdio::null()))
}

fn run(program: &mut Command) -> io::Result<()> {
    let name = program.get_program().to_string_lossy().into_owned();
    let ended = program.stdin(Stdio::null()).status();
    match ended.map_err(at(Path::new(&name)))? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("{name}: {status}"))),
    }
}

/// The contents of every file below a directory.
pub fn read_all(top: &Path) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    walk(directory(top)?, &mut |within, name, stat| {
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let mut file = File::from(openat(within, name, flags, Mode::empty())?);
            while file.read(&mut buffer)? > 0 {}
        }
        Ok(())
    })
}

/// The first bytes of a file, as many as it has up to `limit`, so often.
pub fn read_in_order(path: &Path, limit: u64, times: u32) -> io::Result<()> {
    let file = File::open(path).map_err(at(path))?;
    let size = file.metadata()?.len().min(limit);
    let mut buffer = vec![0; PIECE];
    for _ in 0..times {
        for offset in (0..size).step_by(PIECE) {
            let piece = piece_at(offset, size);
            file.read_exact_at(&mut buffer[..piece], offset)?;
        }
    }
    Ok(())
}

/// How much of a file of `size` bytes there is for a piece at `offset`.
fn piece_at(offset: u64, size: u64) -> usize {
    usize::try_from(size - offset).map_or(PIECE, |left| left.min(PIECE))
}

/// Pages of the first bytes of a file, as many as it has up to `limit`, in no order.
pub fn read_anywhere(path: &Path, limit: u64, times: u32) -> io::Result<()> {
    let file = File::open(path).map_err(at(path))?;
    let mut pages = Pages::of(file.metadata()?.len().min(limit));
    let mut buffer = [0; PAGE];
    for _ in 0..times {
        file.read_exact_at(&mut buffer, pages.next()?)?;
    }
    Ok(())
}

/// As [`read_anywhere`], copied out of a new mapping.
pub fn read_mapped(path: &Path, limit: u64, times: u32) -> io::Result<()> {
    let file = File::open(path).map_err(at(path))?;
    let map = Map::unread(&file)?;
    let bytes = map.as_ref();
    let mut pages = Pages::of((bytes.len() as u64).min(limit));
    let mut buffer = [0; PAGE];
    for _ in 0..times {
        let start = pages.next()? as usize;
        buffer.copy_from_slice(&bytes[start..start + PAGE]);
        black_box(&buffer);
    }
    Ok(())
}

fn numbered(top: &Path, n: u32) -> PathBuf {
    top.join(format!("made-{n}"))
}

/// So many new directories.
pub fn make_directories(top: &Path, count: u32) -> io::Result<()> {
    (0..count).try_for_each(|n| fs::create_dir(numbered(top, n)))
}

/// New files of a page in each of so many directories of [`make_directories`].
pub fn create_files(top: &Path, directories: u32, files: u32) -> io::Result<()> {
    let page = [b'x'; PAGE];
    for directory in (0..directories).map(|n| numbered(top, n)) {
        for n in 0..files {
            File::create_new(directory.join(format!("file-{n}")))?.write_all(&page)?;
        }
    }
    Ok(())
}

/// tar(1) unpacks an archive into a new directory.
pub fn untar(archive: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir(into).map_err(at(into))?;
    let mut tar = Command::new("tar");
    run(tar.arg("-xf").arg(archive).arg("-C").arg(into))
}

/// The first bytes of a file, which is made if it is not there, so often.
pub fn write_in_order(path: &Path, size: u64, times: u32) -> io::Result<()> {
    let file = File::create(path).map_err(at(path))?;
    let buffer = vec![b'x'; PIECE];
    for _ in 0..times {
        for offset in (0..size).step_by(PIECE) {
            file.write_all_at(&buffer[..piece_at(offset, size)], offset)?;
        }
    }
    Ok(())
}

/// Pages of a new file in no order.
pub fn write_anywhere(path: &Path, size: u64, times: u32) -> io::Result<()> {
    let file = File::create(path).map_err(at(path))?;
    let mut pages = Pages::of(size);
    let page = [b'x'; PAGE];
    (0..times).try_for_each(|_| file.write_all_at(&page, pages.next()?))
}

/// What [`list_files`] writes.
const LIST: &str = "files";

/// Read so many files below a directory of the tree, and write down which they were. Without those that have
/// other names: what is done to one would be done to another.
pub fn list_files(scene: &Scene<'_>, below: &str, count: usize) -> io::Result<()> {
    let path = scene.beside.join(LIST);
    let mut list = BufWriter::new(File::create(&path).map_err(at(&path))?);
    let mut left = count;
    let mut directories = vec![PathBuf::from(below)];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(scene.top.join(&directory))?;
        let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (meta, name) = (entry.metadata()?, directory.join(entry.file_name()));
            if meta.is_dir() {
                directories.push(name);
            } else if meta.is_file()
                && meta.nlink() == 1
                && !name.as_os_str().as_bytes().contains(&b'\n')
            {
                if left == 0 {
                    break;
                }
                left -= 1;
                fs::read(entry.path())?;
                list.write_all(name.as_os_str().as_bytes())?;
                list.write_all(b"\n")?;
            }
        }
    }
    list.flush()
}

/// A byte added to each file of [`list_files`].
pub fn append_to_each(scene: &Scene<'_>) -> io::Result<()> {
    let list = File::open(scene.beside.join(LIST))?;
    for line in BufReader::new(list).split(b'\n') {
        let path = scene.top.join(OsString::from_vec(line?));
        let mut file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(at(&path))?;
        file.write_all(b"x")?;
    }
    Ok(())
}

/// One byte within a file overwritten.
pub fn change_a_byte(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(at(path))?;
    file.write_all_at(b"x", 1000)
}

/// Offsets of pages, the same each time. (Marsaglia's xorshift64.)
struct Pages {
    state: u64,
    count: u64,
}

impl Pages {
    /// Of so many bytes.
    fn of(bytes: u64) -> Pages {
        Pages {
            state: 88_172_645_463_325_252,
            count: bytes / PAGE as u64,
        }
    }

    fn next(&mut self) -> io::Result<u64> {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        match self.count {
            0 => Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the file has not even one page",
            )),
            count => Ok(self.state % count * PAGE as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::workloads::{BIG, Changes, TAR, WIDE, WORKLOADS};
    use super::*;

    /// Each workload does its work in a small tree; what it changes is what it says.
    #[test]
    fn on_a_small_tree() {
        for workload in &WORKLOADS {
            let dir = tempfile::tempdir().unwrap();
            let (top, beside) = (dir.path().join("top"), dir.path().join("beside"));
            for path in ["data", WIDE, "usr/share/doc", "etc"] {
                fs::create_dir_all(top.join(path)).unwrap();
            }
            fs::create_dir(&beside).unwrap();
            for path in ["etc/passwd", "usr/a", "usr/share/b", "wide/1", "wide/2"] {
                fs::write(top.join(path), path).unwrap();
            }
            fs::write(top.join(BIG), vec![1; 3 * PIECE / 2]).unwrap();
            let mut tar = tar::Builder::new(File::create(beside.join(TAR)).unwrap());
            tar.append_dir_all("etc", top.join("etc")).unwrap();
            tar.finish().unwrap();
            let shown = || {
                let mut found = Vec::new();
                walk(directory(&top).unwrap(), &mut |_, name, stat| {
                    found.push((name.to_owned(), stat.st_ino, stat.st_mtime_nsec));
                    Ok(())
                })
                .unwrap();
                found.sort();
                found
            };
            let before = shown();
            let scene = Scene {
                top: &top,
                beside: &beside,
            };
            for step in [workload.prepare, workload.run] {
                step(&scene).unwrap_or_else(|e| panic!("{}: {e}", workload.name));
            }
            match workload.changes {
                Changes::Nothing => assert_eq!(shown(), before, "{}", workload.name),
                Changes::Adds => assert!(shown().len() > before.len(), "{}", workload.name),
                Changes::Layers => {
                    let kept = shown().iter().filter(|e| before.contains(e)).count();
                    assert!(kept < before.len(), "{}", workload.name);
                }
            }
        }
    }

    #[test]
    fn lists_no_more_than_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/a")).unwrap();
        for n in 0..4 {
            fs::write(dir.path().join(format!("usr/a/{n}")), "text").unwrap();
        }
        fs::hard_link(dir.path().join("usr/a/0"), dir.path().join("usr/b")).unwrap();
        let scene = Scene {
            top: dir.path(),
            beside: dir.path(),
        };
        let listed = |count| {
            list_files(&scene, "usr", count).unwrap();
            fs::read_to_string(dir.path().join(LIST)).unwrap()
        };
        assert_eq!(listed(2), "usr/a/1\nusr/a/2\n");
        assert_eq!(listed(9), "usr/a/1\nusr/a/2\nusr/a/3\n");
        append_to_each(&scene).unwrap();
        assert_eq!(fs::read(dir.path().join("usr/a/3")).unwrap(), b"textx");
    }

    #[test]
    fn a_file_too_small_to_be_read_anywhere() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(read_anywhere(file.path(), MIB, 1).is_err());
        assert!(read_mapped(file.path(), MIB, 1).is_err());
        read_in_order(file.path(), MIB, 1).unwrap();
    }
}
