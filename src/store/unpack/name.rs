//! What the name of a layer's entry says: where it goes, and whether it is a whiteout. Pure.
//!
//! Whiteouts are those of the
//! [OCI image specification](https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts):
//! `.wh.NAME` hides `NAME` of the layers below, `.wh..wh..opq` everything of them in its directory.
//! Other names with `.wh..wh.` are AUFS's own bookkeeping and have no effect.

/// The longest path that the kernel takes, without its zero byte.
const MAX_PATH: usize = 4095;
/// The longest name of a directory entry on Linux.
const MAX_NAME: usize = 255;

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where an entry goes. Paths are relative, without `.`, `..` and empty components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The root directory of the layer itself.
    Root,
    /// `name` in the directory `parent` (empty: the root).
    Entry { parent: Vec<u8>, name: Vec<u8> },
    /// Hides `name` of the layers below.
    Whiteout { parent: Vec<u8>, name: Vec<u8> },
    /// Hides what the layers below have in this directory (empty: the root).
    Opaque { directory: Vec<u8> },
    /// Has no effect.
    Nothing,
}

/// Reads the name of an entry.
///
/// Like Docker, names are taken relative to the layer's root whether they begin with `/` or not,
/// and `a/../b` is `b`; a name that leads above the root is refused.
pub(super) fn place(path: &[u8]) -> Result<Place, String> {
    let mut parts = components(path)?;
    let Some(name) = parts.pop() else {
        return Ok(Place::Root);
    };
    if name == OPAQUE && !parts.iter().any(|p| p.starts_with(WHITEOUT)) {
        return Ok(Place::Opaque {
            directory: path_of(&parts)?,
        });
    }
    if name.starts_with(META) || parts.iter().any(|p| p.starts_with(META)) {
        return Ok(Place::Nothing);
    }
    if parts.iter().any(|p| p.starts_with(WHITEOUT)) {
        return Err("a whiteout cannot be a directory".to_owned());
    }
    let parent = path_of(&parts)?;
    let whole = parent.len() + 1 + name.len();
    if whole > MAX_PATH {
        return Err(format!("a path of more than {MAX_PATH} bytes"));
    }
    match name.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err("a whiteout of nothing".to_owned()),
        Some(hidden) => Ok(Place::Whiteout {
            parent,
            name: hidden.to_vec(),
        }),
        None => Ok(Place::Entry {
            parent,
            name: name.to_vec(),
        }),
    }
}

/// The path of `name` in the directory `parent`.
pub(super) fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        [] => name.to_vec(),
        parent => [parent, b"/", name].concat(),
    }
}

/// Reads the target of a hard link: parent and name of an entry.
pub(super) fn link_target(path: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    match place(path)? {
        Place::Entry { parent, name } => Ok((parent, name)),
        _ => Err("not a file of the layer".to_owned()),
    }
}

/// The components after a lexical cleaning, as Go's `filepath.Clean` does it.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    let absolute = path.starts_with(b"/");
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() && !absolute {
                    return Err("a path that leads out of the layer".to_owned());
                }
            }
            part if part.contains(&0) => return Err("a name with a zero byte".to_owned()),
            part if part.len() > MAX_NAME => {
                return Err(format!("a name of more than {MAX_NAME} bytes"));
            }
            part => parts.push(part),
        }
    }
    Ok(parts)
}

fn path_of(parts: &[&[u8]]) -> Result<Vec<u8>, String> {
    let path = parts.join(&b'/');
    match path.len() > MAX_PATH {
        true => Err(format!("a path of more than {MAX_PATH} bytes")),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(parent: &str, name: &str) -> Place {
        Place::Entry {
            parent: parent.into(),
            name: name.into(),
        }
    }

    fn whiteout(parent: &str, name: &str) -> Place {
        Place::Whiteout {
            parent: parent.into(),
            name: name.into(),
        }
    }

    fn opaque(directory: &str) -> Place {
        Place::Opaque {
            directory: directory.into(),
        }
    }

    #[test]
    fn places() {
        for (path, want) in [
            ("", Place::Root),
            ("/", Place::Root),
            ("./", Place::Root),
            (".", Place::Root),
            ("a/..", Place::Root),
            ("a", entry("", "a")),
            ("/a", entry("", "a")),
            ("./a//b/./c/", entry("a/b", "c")),
            ("a/../b", entry("", "b")),
            ("/../a", entry("", "a")),
            ("a/.wh", entry("a", ".wh")),
            ("a/.whx", entry("a", ".whx")),
            ("a/x.wh.b", entry("a", "x.wh.b")),
            (".wh.a", whiteout("", "a")),
            ("d/.wh.a", whiteout("d", "a")),
            ("d/.wh..a", whiteout("d", ".a")),
            ("d/.wh....", whiteout("d", "...")),
            ("d/.wh.x.wh.y", whiteout("d", "x.wh.y")),
            (".wh..wh..opq", opaque("")),
            ("./d/e/.wh..wh..opq", opaque("d/e")),
            (".wh..wh.aufs", Place::Nothing),
            (".wh..wh.plnk/1.2", Place::Nothing),
            (".wh..wh.plnk/.wh..wh..opq", Place::Nothing),
            (".wh..wh.", Place::Nothing),
        ] {
            assert_eq!(place(path.as_bytes()), Ok(want), "{path}");
        }
    }

    #[test]
    fn refused() {
        let long_name = "x".repeat(256);
        let long_path = "abc/".repeat(1024) + "x";
        for path in [
            "..",
            "../a",
            "a/../../b",
            "./..",
            ".wh.",
            "d/.wh..",
            "d/.wh...",
            "d/.wh./",
            ".wh.a/b",
            "a\0b",
            &long_name,
            &long_path,
        ] {
            assert!(place(path.as_bytes()).is_err(), "{path:?}");
        }
        assert!(place("x".repeat(255).as_bytes()).is_ok());
        for target in ["", "/", ".wh.a", "../a", ".wh..wh.plnk/1"] {
            assert!(link_target(target.as_bytes()).is_err(), "{target}");
        }
    }
}
