//! Image references in Docker's familiar form: `[HOST[:PORT]/]PATH[:TAG]`.
//!
//! Follows the grammar of [distribution/reference](https://github.com/distribution/reference): the
//! registry `docker.io` and its `library/` are left out, the tag `latest` is the default. Digests
//! (`NAME@sha256:…`) are recognised but name no tag.

use std::fmt;
use std::str::FromStr;

use super::tar::shown;

/// What is wrong with the text of a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// The grammar is not met.
    #[error("invalid reference format")]
    Format,
    /// Repository names have no capitals.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Longer than 255 characters.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The reference names a digest where a tag is needed.
    #[error("refusing to create a tag with a digest reference")]
    Digest,
}

/// A repository and a tag, in familiar form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    repository: String,
    tag: String,
}

impl Reference {
    /// The repository in familiar form, such as `busybox`, `me/app`, `localhost/app`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// With the registry and the path that the familiar form leaves out: `docker.io/library/busybox:latest`.
    pub fn canonical(&self) -> String {
        let has_domain = self.repository.split_once('/').is_some_and(|(first, _)| {
            first.contains(['.', ':']) || first == "localhost" || has_upper(first)
        });
        match (has_domain, self.repository.contains('/')) {
            (true, _) => self.to_string(),
            (false, true) => format!("docker.io/{self}"),
            (false, false) => format!("docker.io/library/{self}"),
        }
    }

    /// The tag, such as `latest`.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Reference, ParseReferenceError> {
        if text.contains('@') {
            return Err(ParseReferenceError::Digest);
        }
        let (name, tag) = split_tag(text);
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ParseReferenceError::Format);
        }
        let repository = familiar(name)?;
        Ok(Reference {
            repository,
            tag: tag.unwrap_or("latest").to_owned(),
        })
    }
}

/// The familiar form of a repository name without tag.
pub fn familiar(name: &str) -> Result<String, ParseReferenceError> {
    // 64 digits would be read as an image ID everywhere: distribution/reference refuses them too.
    if name.len() == 64
        && name
            .bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    {
        return Err(ParseReferenceError::Format);
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || has_upper(first) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    };
    if has_upper(path) {
        // It may come from an archive, with any characters and of any length.
        let path = shown(path.as_bytes());
        return Err(ParseReferenceError::Uppercase(match domain {
            None if !path.contains('/') => format!("library/{path}"),
            _ => path,
        }));
    }
    if !path.split('/').all(is_path_component) || !domain.is_none_or(is_domain) {
        return Err(ParseReferenceError::Format);
    }
    if path.len() > 255 {
        return Err(ParseReferenceError::TooLong);
    }
    Ok(match domain {
        None | Some("docker.io" | "index.docker.io") => match path.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => path.to_owned(),
        },
        Some(domain) => format!("{domain}/{path}"),
    })
}

/// `text` with `:latest` added where it has neither tag nor digest: the name in `No such image`.
pub fn with_default_tag(text: &str) -> String {
    match text.contains('@') || text.starts_with("sha256:") || split_tag(text).1.is_some() {
        true => text.to_owned(),
        false => format!("{text}:latest"),
    }
}

/// The colon that begins a tag comes after the last slash; another one belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Lower-case letters and digits, with single `.`, one or two `_`, or any number of `-` between.
fn is_path_component(text: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(alnum) || !bytes.last().is_some_and(alnum) {
        return false;
    }
    bytes
        .split(alnum)
        .all(|sep| matches!(sep, b"" | b"." | b"_" | b"__") || sep.iter().all(|b| *b == b'-'))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label)
        && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn familiar_forms() {
        for (text, want) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("docker.io/library/busybox:1.36", "busybox:1.36"),
            ("docker.io/me/app", "me/app:latest"),
            ("library/busybox", "busybox:latest"),
            ("localhost/app:2", "localhost/app:2"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("quay.io/a/b/c:v1.0-rc_1", "quay.io/a/b/c:v1.0-rc_1"),
            ("a__b/c--d.e", "a__b/c--d.e:latest"),
        ] {
            assert_eq!(
                text.parse::<Reference>().unwrap().to_string(),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("docker.io/me/app:1", "docker.io/me/app:1"),
            ("a__b/c:2", "docker.io/a__b/c:2"),
            ("localhost/app:2", "localhost/app:2"),
            ("quay.io/a/b:1", "quay.io/a/b:1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.canonical(), want);
            assert_eq!(want.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn refused_forms() {
        for bad in [
            "", ":", "a:", ":a", "a b", "-a", "a/", "/a", "a//b", "a..b", "a:b:c/d:", "a:-x",
        ] {
            assert_eq!(
                bad.parse::<Reference>(),
                Err(ParseReferenceError::Format),
                "{bad:?}"
            );
        }
        assert_eq!(
            "Upper".parse::<Reference>().unwrap_err().to_string(),
            "invalid reference format: repository name (library/Upper) must be lowercase"
        );
        assert_eq!(
            "a@sha256:00".parse::<Reference>(),
            Err(ParseReferenceError::Digest)
        );
        assert!("a".repeat(64).parse::<Reference>().is_err());
        assert_eq!(
            ("x/".repeat(130) + "c").parse::<Reference>(),
            Err(ParseReferenceError::TooLong)
        );
    }

    #[test]
    fn names_in_messages() {
        assert_eq!(with_default_tag("nope"), "nope:latest");
        assert_eq!(with_default_tag("nope:1"), "nope:1");
        assert_eq!(
            with_default_tag("localhost:5000/nope"),
            "localhost:5000/nope:latest"
        );
        assert_eq!(with_default_tag("sha256:abc"), "sha256:abc");
    }
}
