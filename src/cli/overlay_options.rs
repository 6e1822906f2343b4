//! The options of `overlay`: the words of fuse-overlayfs, overlayfs and mount(8). Pure: no input or
//! output.
//!
//! Options are separated by commas. A backslash takes the next character as it is, or three octal
//! digits as a byte; a value may stand in double quotes (SELinux contexts have commas). Directories
//! of `lowerdir` are separated by colons. Of an option given twice the last counts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use crate::union::{IdMap, IdRange, IoMode, Owners, Permissions};

/// What is to be mounted, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OverlayOptions {
    /// The lower directories, topmost first; never empty.
    pub lowers: Vec<PathBuf>,
    /// Takes the changes.
    pub upper: Option<PathBuf>,
    /// On the same file system.
    pub work: Option<PathBuf>,
    /// Refuse all changes.
    pub read_only: bool,
    /// Sync nothing, neither what is copied up nor what programs ask to be synced.
    pub volatile: bool,
    /// Do not sync what programs ask to be synced.
    pub no_fsync: bool,
    /// Directories that have a part in a lower directory cannot be renamed.
    pub no_redirects: bool,
    /// A change of a lower file's metadata copies its data, too.
    pub no_metacopy: bool,
    /// Every directory has one link.
    pub static_nlink: bool,
    /// No access control lists.
    pub no_acl: bool,
    /// No extended attributes.
    pub no_xattrs: bool,
    /// Whose the files are.
    pub owners: Owners,
    /// The source that `/proc/mounts` shows.
    pub fs_name: Option<String>,
    /// How many threads serve; 0 as many as there are processors.
    pub threads: usize,
    /// How files are read and written.
    pub io: IoMode,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// Flags of mount(2) that are words of the option list.
    pub flags: Vec<MountFlag>,
    /// SELinux contexts, as mount(2) takes them.
    pub contexts: Vec<String>,
    /// Log what happens.
    pub debug: bool,
    /// What has no effect here, for a line in the log.
    pub ignored: Vec<String>,
}

/// A flag of mount(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountFlag {
    /// Devices cannot be opened.
    NoDev,
    /// Set-user-ID bits and capabilities of files have no effect.
    NoSuid,
    /// Programs cannot be run.
    NoExec,
    /// Reading leaves access times alone.
    NoAtime,
}

impl OverlayOptions {
    /// Reads option lists, the arguments of `-o`.
    ///
    /// # Errors
    /// What is missing, malformed or not supported, in words. Unknown options are no error.
    pub fn parse(lists: &[OsString]) -> Result<OverlayOptions, String> {
        let mut options = OverlayOptions::default();
        let mut squash = Squash::default();
        for list in lists {
            for option in split(list.as_encoded_bytes(), b',', true) {
                if !option.is_empty() {
                    options.take(&option, &mut squash)?;
                }
            }
        }
        squash.put_into(&mut options.owners);
        if options.lowers.is_empty() {
            return Err("no lower directory: lowerdir=DIR[:DIR…] is needed".to_owned());
        }
        if options.upper.is_some() && options.work.is_none() {
            return Err(
                "no work directory: upperdir needs workdir=DIR on the same file system".to_owned(),
            );
        }
        Ok(options)
    }

    fn take(&mut self, option: &[u8], squash: &mut Squash) -> Result<(), String> {
        let (key, value) = match option.iter().position(|b| *b == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (option, None),
        };
        let key = String::from_utf8_lossy(key).into_owned();
        let value = Value {
            key: &key,
            raw: value,
        };
        match key.as_str() {
            "lowerdir" => self.lowers = value.paths()?,
            // overlayfs's way to give one at a time: there a colon needs no backslash.
            "lowerdir+" => self.lowers.push(value.path()?),
            "upperdir" => self.upper = Some(value.path()?),
            "workdir" => self.work = Some(value.path()?),
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "volatile" => self.volatile = value.flag()?,
            "fsync" => self.no_fsync = !value.flag()?,
            "redirect_dir" => self.no_redirects = !value.is_one_of(&["on"], &REDIRECTS_OFF)?,
            "metacopy" => self.no_metacopy = !value.is_one_of(&["on"], &["off"])?,
            "static_nlink" => self.static_nlink = value.flag()?,
            "noacl" => self.no_acl = true,
            "noxattrs" => self.no_xattrs = value.flag()?,
            "squash_to_root" => squash.root = value.flag()?,
            "squash_to_uid" => squash.uid = Some(value.id()?),
            "squash_to_gid" => squash.gid = Some(value.id()?),
            "uidmapping" => self.owners.uids = value.mapping()?,
            "gidmapping" => self.owners.gids = value.mapping()?,
            "xattr_permissions" => {
                self.owners.permissions = match value.number()? {
                    0 => Permissions::OnDisk,
                    1 => Permissions::Privileged,
                    2 => Permissions::Containers,
                    _ => return Err(value.wrong("it is 0, 1 or 2")),
                }
            }
            "fsname" => self.fs_name = Some(value.text()?),
            "threaded" => self.threads = usize::from(!value.flag()?),
            "io" => {
                self.io = match value.is_one_of(&["passthrough"], &["cached"])? {
                    true => IoMode::Passthrough,
                    false => IoMode::Cached,
                }
            }
            "allow_other" => self.allow_other = true,
            "debug" => self.debug = true,
            "nodev" => self.flag(MountFlag::NoDev, true),
            "dev" => self.flag(MountFlag::NoDev, false),
            "nosuid" => self.flag(MountFlag::NoSuid, true),
            "suid" => self.flag(MountFlag::NoSuid, false),
            "noexec" => self.flag(MountFlag::NoExec, true),
            "exec" => self.flag(MountFlag::NoExec, false),
            "noatime" => self.flag(MountFlag::NoAtime, true),
            "atime" => self.flag(MountFlag::NoAtime, false),
            "context" | "fscontext" | "defcontext" | "rootcontext" => {
                let value = value.text()?;
                // Quoted again: the kernel splits its options at commas, too.
                self.contexts.push(format!("{key}=\"{value}\""));
            }
            "plugins" if value.raw.is_none_or(<[u8]>::is_empty) => {}
            "remount" => {
                return Err("remounting is not supported: unmount, and mount again".to_owned());
            }
            "datadir+" => return Err("layers of data alone are not supported".to_owned()),
            "plugins" => return Err("plugins are not supported".to_owned()),
            "timeout" => {
                value.seconds()?;
                self.ignored.push(key);
            }
            "max_idle_threads" => {
                value.number()?;
                self.ignored.push(key);
            }
            _ => self.ignored.push(key),
        }
        Ok(())
    }

    fn flag(&mut self, flag: MountFlag, on: bool) {
        self.flags.retain(|other| *other != flag);
        if on {
            self.flags.push(flag);
        }
    }
}

const REDIRECTS_OFF: [&str; 3] = ["off", "follow", "nofollow"];

/// `squash_to_uid` and `squash_to_gid` go before `squash_to_root`, whatever their order.
#[derive(Default)]
struct Squash {
    root: bool,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Squash {
    fn put_into(self, owners: &mut Owners) {
        let root = self.root.then_some(0);
        if let Some(uid) = self.uid.or(root) {
            owners.uids = IdMap::All(uid);
        }
        if let Some(gid) = self.gid.or(root) {
            owners.gids = IdMap::All(gid);
        }
    }
}

/// The value of an option, as it was written.
struct Value<'a> {
    key: &'a str,
    raw: Option<&'a [u8]>,
}

impl Value<'_> {
    fn wrong(&self, why: &str) -> String {
        let raw = String::from_utf8_lossy(self.raw.unwrap_or_default());
        format!("{}={raw}: {why}", self.key)
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        match self.raw {
            Some(raw) if !raw.is_empty() => Ok(unescape(unquote(raw))),
            Some(_) | None => Err(format!("{}: a value is needed", self.key)),
        }
    }

    fn text(&self) -> Result<String, String> {
        String::from_utf8(self.bytes()?).map_err(|_| self.wrong("it is no text"))
    }

    fn path(&self) -> Result<PathBuf, String> {
        Ok(OsString::from_vec(self.bytes()?).into())
    }

    fn paths(&self) -> Result<Vec<PathBuf>, String> {
        self.bytes()?;
        let paths = split(unquote(self.raw.unwrap_or_default()), b':', false);
        if paths.iter().any(Vec::is_empty) {
            return Err(self.wrong("an empty name"));
        }
        let path = |raw: Vec<u8>| OsString::from_vec(unescape(&raw)).into();
        Ok(paths.into_iter().map(path).collect())
    }

    /// As a word of its own, or with 0 or 1.
    fn flag(&self) -> Result<bool, String> {
        match self.raw {
            None => Ok(true),
            Some(b"0") => Ok(false),
            Some(b"1") => Ok(true),
            Some(_) => Err(self.wrong("it is 0 or 1")),
        }
    }

    fn is_one_of(&self, on: &[&str], off: &[&str]) -> Result<bool, String> {
        let text = self.text()?;
        match (on.contains(&text.as_str()), off.contains(&text.as_str())) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            (false, false) => Err(self.wrong(&format!("it is {}", [on, off].concat().join(", ")))),
        }
    }

    fn number(&self) -> Result<u32, String> {
        self.text()?
            .parse()
            .map_err(|_| self.wrong("it is no number"))
    }

    /// The highest number stands for "no ID" in the system's calls.
    fn id(&self) -> Result<u32, String> {
        match self.number()? {
            u32::MAX => Err(self.wrong("it is no ID")),
            id => Ok(id),
        }
    }

    fn seconds(&self) -> Result<f64, String> {
        let seconds = self.text()?.parse::<f64>();
        seconds
            .ok()
            .filter(|seconds| *seconds >= 0.0)
            .ok_or_else(|| self.wrong("it is no number"))
    }

    /// Triples of numbers: the first ID on disk, the first ID in the mount, how many. Podman writes
    /// a colon before the first.
    fn mapping(&self) -> Result<IdMap, String> {
        let text = self.text()?;
        let text = text.strip_prefix(':').unwrap_or(&text);
        let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
        let numbers = numbers.map_err(|_| self.wrong("it is no list of numbers"))?;
        if numbers.len() % 3 != 0 {
            return Err(self.wrong("it takes three numbers a range: ID:MAPPED:LENGTH"));
        }
        let range = |three: &[u32]| IdRange {
            disk: three[0],
            shown: three[1],
            len: three[2],
        };
        let ranges: Vec<IdRange> = numbers.chunks(3).map(range).collect();
        let fits = |r: &IdRange| {
            let fits = |first: u32| u64::from(first) + u64::from(r.len) <= u64::from(u32::MAX);
            r.len > 0 && fits(r.disk) && fits(r.shown)
        };
        match ranges.iter().all(fits) {
            true => Ok(IdMap::Ranges(ranges)),
            false => Err(self.wrong("a range is empty or goes beyond the highest ID")),
        }
    }
}

/// The parts between separators that no backslash precedes and, if `quotes` count, that stand in no
/// quoted value. Escapes stay.
fn split(list: &[u8], separator: u8, quotes: bool) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut at = 0;
    while at < list.len() {
        let (byte, rest) = (list[at], &list[at + 1..]);
        let after_equals = at > 0 && list[at - 1] == b'=';
        let part = parts.last_mut();
        let Some(part) = part else { break };
        let taken = match byte {
            b'\\' if !rest.is_empty() => 2,
            b'"' if quotes && after_equals => rest
                .iter()
                .position(|b| *b == b'"')
                .map_or(1, |end| end + 2),
            _ if byte == separator => {
                parts.push(Vec::new());
                at += 1;
                continue;
            }
            _ => 1,
        };
        part.extend_from_slice(&list[at..at + taken]);
        at += taken;
    }
    parts
}

fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
    }
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
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
                after
            }
            (b'\\', [escaped, after @ ..]) => {
                out.push(*escaped);
                after
            }
            _ => {
                out.push(*first);
                tail
            }
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<OverlayOptions, String> {
        OverlayOptions::parse(&[list.into()])
    }

    fn lowers(list: &str) -> Vec<String> {
        let options = parse(list).unwrap();
        let name = |path: PathBuf| path.to_str().unwrap().to_owned();
        options.lowers.into_iter().map(name).collect()
    }

    #[test]
    fn lower_directories() {
        let table: [(&str, &[&str]); 12] = [
            ("lowerdir=/a", &["/a"]),
            ("lowerdir=/a:b:/c", &["/a", "b", "/c"]),
            (r"lowerdir=/a\:b:/c", &["/a:b", "/c"]),
            (r"lowerdir=/a\\:/c", &[r"/a\", "/c"]),
            (r"lowerdir=/a\,b,ro", &["/a,b"]),
            (r"lowerdir=/a\072b:/c\054d", &["/a:b", "/c,d"]),
            (r"lowerdir=/a\9", &["/a9"]),
            (r"lowerdir=/a\", &[r"/a\"]),
            (r#"lowerdir="/a,b:/c",ro"#, &["/a,b", "/c"]),
            (r#"lowerdir=/a"b,ro"#, &["/a\"b"]),
            ("lowerdir=/a,lowerdir=/b", &["/b"]),
            ("lowerdir+=/a:b,lowerdir+=/c", &["/a:b", "/c"]),
        ];
        for (list, expected) in table {
            assert_eq!(lowers(list), expected, "{list}");
        }
    }

    #[test]
    fn as_podman_calls_it() {
        let list = "lowerdir=l/A:l/B,upperdir=/x/diff,workdir=/x/work,,volatile,uidmapping=:0:1000:1:1:110000:65536,squash_to_gid=7,xattr_permissions=2,context=\"a:b:s0:c1,c2\"";
        let got = parse(list).unwrap();
        let range = |disk, shown, len| IdRange { disk, shown, len };
        let expected = OverlayOptions {
            lowers: vec!["l/A".into(), "l/B".into()],
            upper: Some("/x/diff".into()),
            work: Some("/x/work".into()),
            volatile: true,
            owners: Owners {
                uids: IdMap::Ranges(vec![range(0, 1000, 1), range(1, 110_000, 65536)]),
                gids: IdMap::All(7),
                permissions: Permissions::Containers,
            },
            contexts: vec!["context=\"a:b:s0:c1,c2\"".to_owned()],
            ..OverlayOptions::default()
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn as_mount_calls_it() {
        let list = "rw,nosuid,nodev,lowerdir=/a,dev,suid,noexec,noatime,fsname=x y,_netdev,io=cached,threaded=0,timeout=3.5";
        let got = parse(list).unwrap();
        let expected = OverlayOptions {
            lowers: vec!["/a".into()],
            flags: vec![MountFlag::NoExec, MountFlag::NoAtime],
            fs_name: Some("x y".to_owned()),
            threads: 1,
            io: IoMode::Cached,
            ignored: vec!["_netdev".to_owned(), "timeout".to_owned()],
            ..OverlayOptions::default()
        };
        assert_eq!(got, expected);
        // Several lists are one.
        let lists: Vec<OsString> = vec!["ro,lowerdir=/a".into(), "rw".into()];
        assert!(!OverlayOptions::parse(&lists).unwrap().read_only);
    }

    #[test]
    fn squashing() {
        let owners = |list: &str| {
            let owners = parse(&format!("lowerdir=/a,{list}")).unwrap().owners;
            (owners.uids, owners.gids)
        };
        let all = IdMap::All;
        for (list, expected) in [
            ("ro", (IdMap::Same, IdMap::Same)),
            ("squash_to_root", (all(0), all(0))),
            ("squash_to_uid=5", (all(5), IdMap::Same)),
            ("squash_to_gid=6,squash_to_root", (all(0), all(6))),
            (
                "squash_to_root,squash_to_uid=5,squash_to_gid=6",
                (all(5), all(6)),
            ),
            ("squash_to_root=0", (IdMap::Same, IdMap::Same)),
        ] {
            assert_eq!(owners(list), expected, "{list}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (list, part) in [
            ("", "lowerdir=DIR"),
            ("upperdir=/u,workdir=/w", "lowerdir=DIR"),
            ("lowerdir", "a value is needed"),
            ("lowerdir=", "a value is needed"),
            ("lowerdir=/a::/b", "empty name"),
            ("lowerdir=/a,upperdir=/u", "workdir=DIR"),
            (
                "lowerdir=/a,squash_to_uid=x",
                "squash_to_uid=x: it is no number",
            ),
            ("lowerdir=/a,squash_to_uid=-1", "it is no number"),
            ("lowerdir=/a,squash_to_gid=4294967295", "it is no ID"),
            ("lowerdir=/a,squash_to_gid=4294967296", "it is no number"),
            ("lowerdir=/a,uidmapping=0:1", "three numbers"),
            ("lowerdir=/a,uidmapping=0:1:x", "no list of numbers"),
            ("lowerdir=/a,uidmapping=0:1:0", "empty"),
            ("lowerdir=/a,gidmapping=0:4294967290:10", "beyond"),
            ("lowerdir=/a,xattr_permissions=3", "0, 1 or 2"),
            ("lowerdir=/a,timeout=soon", "no number"),
            ("lowerdir=/a,threaded=2", "0 or 1"),
            ("lowerdir=/a,redirect_dir=maybe", "on, off"),
            ("lowerdir=/a,io=fast", "passthrough, cached"),
            ("lowerdir=/a,plugins=/x.so", "plugins"),
            ("lowerdir=/a,remount,ro", "unmount, and mount again"),
            ("lowerdir=/a,metacopy=maybe", "on, off"),
        ] {
            let error = parse(list).unwrap_err();
            assert!(error.contains(part), "{list}: {error}");
        }
        assert!(parse("lowerdir=/a,plugins=,plugins").is_ok());
    }
}
