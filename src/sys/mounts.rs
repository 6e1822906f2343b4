//! The mounts of this process's mount namespace, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique among the mounts that exist.
    pub id: u64,
    /// `st_dev` of the files below it, as major and minor number.
    pub device: (u32, u32),
    /// Where.
    pub mountpoint: PathBuf,
    /// `ext4`, `fuse.layerctl`.
    pub fs_type: String,
    /// The first argument of mount(2).
    pub source: String,
}

/// All mounts, in the order in which they were made.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// The topmost mount at exactly this path.
pub fn mount_at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rfind(|m| m.mountpoint == path))
}

/// Unmount what is at `path`; `lazy` detaches it and lets those who use it go on. Nothing there is
/// well: another process was faster.
///
/// # Errors
/// EBUSY if it is in use and not to be detached.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), Errno> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazy);
    match umount2(path, flags) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        // Not root: the set-user-ID helper that mounted it can.
        Err(Errno::EPERM) => {
            let mode = if lazy { "-uz" } else { "-u" };
            let helper = Command::new("fusermount3")
                .args([mode, "--"])
                .arg(path)
                .output();
            match helper {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) if String::from_utf8_lossy(&output.stderr).contains("busy") => {
                    Err(Errno::EBUSY)
                }
                // Without the privilege the kernel does not even look whether there is a mount.
                _ if matches!(mount_at(path), Ok(None)) => Ok(()),
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    tracing::warn!("fusermount3: {}", said.trim());
                    Err(Errno::EPERM)
                }
                Err(e) => {
                    tracing::warn!("cannot run fusermount3: {e}");
                    Err(Errno::EPERM)
                }
            }
        }
        Err(e) => Err(e),
    }
}

/// Let everything fail that waits for an answer of the FUSE file system at `path` and unmount it if nobody uses
/// it then (`MNT_FORCE`, umount2(2)); others are unmounted if they can be. Nothing there is well, and so is that
/// it is in use. Not root: nothing is done.
pub fn abort(path: &Path) -> Result<(), Errno> {
    let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_FORCE;
    match umount2(path, flags) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::EBUSY | Errno::EPERM) => Ok(()),
        Err(e) => Err(e),
    }
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let (major, minor) = device.split_once(':')?;
    let mountpoint = OsString::from_vec(unescape(fields.nth(1)?)).into();
    // Optional fields end with a dash.
    fields.find(|f| *f == b"-")?;
    Some(Mount {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        mountpoint,
        fs_type: text(fields.next()?),
        source: String::from_utf8_lossy(&unescape(fields.next()?)).into_owned(),
    })
}

/// Blanks, newlines and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo() {
        let line = b"36 35 0:53 / /mnt/a\\040b rw,noatime master:1 shared:2 - fuse.layerctl layerctl:00 rw";
        let mount = Mount {
            id: 36,
            device: (0, 53),
            mountpoint: "/mnt/a b".into(),
            fs_type: "fuse.layerctl".into(),
            source: "layerctl:00".into(),
        };
        assert_eq!(parse(line), Some(mount));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 0:53 / /mnt"), None);
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
    }
}
