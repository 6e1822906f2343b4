//! What `cp` is asked to do: the rules of `docker cp` for its two arguments and for what lies at both
//! ends. Pure; paths are bytes.

/// One argument of `cp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `-`: a tar on standard input or output.
    Stream,
    /// A path of this machine.
    Local(Vec<u8>),
    /// `CONTAINER:PATH`.
    Container {
        /// Before the colon.
        name: Vec<u8>,
        /// After it, relative to the container's root.
        path: Vec<u8>,
    },
}

impl Place {
    /// Reads an argument. A local path with a colon is made clear by a `/` or a `.` at its beginning.
    pub fn parse(argument: &[u8]) -> Place {
        if argument == b"-" {
            return Place::Stream;
        }
        let colon = argument.iter().position(|b| *b == b':');
        match colon {
            Some(at) if at > 0 && !matches!(argument[0], b'/' | b'.') => Place::Container {
                name: argument[..at].to_vec(),
                path: argument[at + 1..].to_vec(),
            },
            _ => Place::Local(argument.to_vec()),
        }
    }
}

/// A path of which the form says something: `dir/` and `dir/.` must be directories, and of the latter
/// only the contents are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Without `.`, empty components and slashes at the end; `..` only at the beginning of a relative
    /// one. `/` for the root, `.` for the current directory.
    pub clean: Vec<u8>,
    /// It ends with a slash, or in `.`.
    pub must_be_directory: bool,
    /// It ends in `.`, or is the root.
    pub is_contents: bool,
}

impl Path {
    /// Reads a path. `..` takes away the component before it, whatever that is, as Go's `filepath.Clean`.
    pub fn of(path: &[u8]) -> Path {
        let ends_in_dot = path == b"." || path.ends_with(b"/.");
        let ends_in_slash = path.ends_with(b"/");
        let clean = clean(path);
        Path {
            is_contents: ends_in_dot || clean == b"/",
            must_be_directory: ends_in_dot || ends_in_slash,
            clean,
        }
    }

    /// In a container: relative to its root, whether the path begins with a slash or not.
    pub fn in_container(path: &[u8]) -> Path {
        let mut absolute = Path::of(&[b"/", path].concat());
        // An empty path is the root's.
        absolute.must_be_directory |= path.is_empty();
        absolute
    }

    /// The directory that the last component is in, and that component; empty for the root.
    pub fn split(&self) -> (&[u8], &[u8]) {
        split(&self.clean)
    }
}

/// The directory that the last component of a clean path is in, and that component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(0) => (&path[..1], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b".", path),
    }
}

/// A path without what does not count in it.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let is_absolute = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(last) if *last != b".." => drop(parts.pop()),
                _ if is_absolute => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (is_absolute, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// What there is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing, but the directory that it would be in is there.
    Nothing,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Where the source goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Into the destination, under its own name.
    Into,
    /// Its contents into the destination.
    Contents,
    /// In place of the destination, under that one's name.
    As,
}

/// Why it cannot. The texts are Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CopyRefusal {
    /// A directory cannot take the place of a file.
    #[error("cannot copy directory")]
    DirectoryToFile,
    /// The destination must be a directory, but there is none.
    #[error("no such directory")]
    NoSuchDirectory,
    /// Something is not a directory that must be one.
    #[error("not a directory")]
    NotADirectory,
}

/// Decide where a source goes.
pub fn plan(
    source: &Path,
    source_is_directory: bool,
    destination: &Path,
    found: Found,
) -> Result<How, CopyRefusal> {
    match (found, source_is_directory) {
        _ if source.must_be_directory && !source_is_directory => Err(CopyRefusal::NotADirectory),
        (Found::Directory, true) if source.is_contents => Ok(How::Contents),
        (Found::Directory, _) => Ok(How::Into),
        (Found::Other, true) => Err(CopyRefusal::DirectoryToFile),
        (Found::Other, false) if destination.must_be_directory => Err(CopyRefusal::NotADirectory),
        (Found::Nothing, false) if destination.must_be_directory => {
            Err(CopyRefusal::NoSuchDirectory)
        }
        (Found::Other | Found::Nothing, _) => Ok(How::As),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let container = |name: &str, path: &str| Place::Container {
            name: name.into(),
            path: path.into(),
        };
        let local = |path: &str| Place::Local(path.into());
        for (argument, place) in [
            ("-", Place::Stream),
            ("web:/etc", container("web", "/etc")),
            ("web:etc:x", container("web", "etc:x")),
            ("web:", container("web", "")),
            ("file", local("file")),
            ("./a:b", local("./a:b")),
            ("../a:b", local("../a:b")),
            ("/a:b", local("/a:b")),
            (":x", local(":x")),
            ("", local("")),
        ] {
            assert_eq!(Place::parse(argument.as_bytes()), place, "{argument}");
        }
    }

    #[test]
    fn forms_of_paths() {
        for (path, clean, must_be_directory, is_contents) in [
            ("a", "a", false, false),
            ("a/", "a", true, false),
            ("a/.", "a", true, true),
            (".", ".", true, true),
            ("", ".", false, false),
            ("/", "/", true, true),
            ("//a//b/../c/", "/a/c", true, false),
            ("../x", "../x", false, false),
            ("a/../../x", "../x", false, false),
            ("/../../x", "/x", false, false),
            ("a/.b.", "a/.b.", false, false),
            ("a/..", ".", false, false),
        ] {
            let expected = Path {
                clean: clean.into(),
                must_be_directory,
                is_contents,
            };
            assert_eq!(Path::of(path.as_bytes()), expected, "{path}");
        }
        assert_eq!(Path::in_container(b"etc/x").clean, b"/etc/x");
        assert_eq!(Path::in_container(b"../../etc").clean, b"/etc");
        assert!(Path::in_container(b"").is_contents);
        for (path, parent, name) in [
            ("/a", "/", "a"),
            ("/", "/", ""),
            ("a", ".", "a"),
            ("a/b", "a", "b"),
        ] {
            let path = Path::of(path.as_bytes());
            assert_eq!(path.split(), (parent.as_bytes(), name.as_bytes()));
        }
    }

    /// The list in the documentation of `docker cp`.
    #[test]
    fn plans() {
        use CopyRefusal::{DirectoryToFile, NoSuchDirectory, NotADirectory};
        use Found::{Directory, Nothing, Other};
        use How::{As, Contents, Into};
        for (source, is_directory, destination, found, result) in [
            ("f", false, "d", Nothing, Ok(As)),
            ("f", false, "d/", Nothing, Err(NoSuchDirectory)),
            ("f", false, "d/.", Nothing, Err(NoSuchDirectory)),
            ("f", false, "d", Other, Ok(As)),
            ("f", false, "d/", Other, Err(NotADirectory)),
            ("f", false, "d", Directory, Ok(Into)),
            ("f/", false, "d", Directory, Err(NotADirectory)),
            ("s", true, "d", Nothing, Ok(As)),
            ("s", true, "d/", Nothing, Ok(As)),
            ("s/.", true, "d", Nothing, Ok(As)),
            ("s", true, "d", Other, Err(DirectoryToFile)),
            ("s/.", true, "d", Other, Err(DirectoryToFile)),
            ("s", true, "d", Directory, Ok(Into)),
            ("s/", true, "d", Directory, Ok(Into)),
            ("s/.", true, "d", Directory, Ok(Contents)),
            ("/", true, "d", Directory, Ok(Contents)),
        ] {
            let (from, to) = (
                Path::of(source.as_bytes()),
                Path::of(destination.as_bytes()),
            );
            let planned = plan(&from, is_directory, &to, found);
            assert_eq!(planned, result, "{source} to {destination}, {found:?}");
        }
    }
}
