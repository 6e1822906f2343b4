//! Which image a user means: a reference, an ID, or an unambiguous prefix of one.

use crate::db::{Image, Snapshot};
use crate::model::reference::with_default_tag;
use crate::model::{ParseReferenceError, Reference};

/// An image, and how it was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// The image.
    pub image: &'a Image,
    /// The tag that was given, or `None` where it was an ID.
    pub by_tag: Option<&'a Reference>,
}

/// Why a name leads to no image. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nothing is called that.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// A prefix of several IDs.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// Neither an ID nor a reference.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
}

/// Find the image that `name` means.
///
/// As in Docker's daemon: a full ID first, then a tag, then a prefix of an ID.
pub fn resolve<'a>(snapshot: &'a Snapshot, name: &str) -> Result<Resolved<'a>, ResolveError> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = !hex.is_empty() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let by_id = |image| Resolved {
        image,
        by_tag: None,
    };
    let none = || ResolveError::NoSuchImage(with_default_tag(name));
    if is_hex && hex.len() == 64 {
        return snapshot
            .images
            .iter()
            .find(|i| i.id.hex() == hex)
            .map(by_id)
            .ok_or_else(none);
    }
    let reference = name.parse::<Reference>();
    if let Ok(reference) = &reference {
        for image in &snapshot.images {
            if let Some(tag) = image.tags.iter().find(|t| *t == reference) {
                return Ok(Resolved {
                    image,
                    by_tag: Some(tag),
                });
            }
        }
    }
    if is_hex {
        let mut matching = snapshot
            .images
            .iter()
            .filter(|i| i.id.hex().starts_with(hex));
        match (matching.next(), matching.next()) {
            (Some(image), None) => return Ok(by_id(image)),
            (Some(_), Some(_)) => return Err(ResolveError::Ambiguous(name.to_owned())),
            (None, _) => return Err(none()),
        }
    }
    match reference {
        Ok(_) | Err(ParseReferenceError::Digest) => Err(none()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ImageId;
    use jiff::Timestamp;

    fn snapshot() -> Snapshot {
        let image = |first: &str, tags: &[&str]| Image {
            id: ImageId::from_hex(&format!("{first:0<64}")).unwrap(),
            created: None,
            loaded: Timestamp::UNIX_EPOCH,
            tags: tags.iter().map(|t| t.parse().unwrap()).collect(),
            layers: vec![],
        };
        let images = vec![
            image("abc1", &["app:1", "app:latest"]),
            image("abc2", &["abc1:latest", "localhost:5000/x/y:2"]),
            image("ff", &[]),
        ];
        Snapshot {
            images,
            ..Snapshot::default()
        }
    }

    #[test]
    fn names_lead_to_images() {
        let snapshot = snapshot();
        let full = format!("{:0<64}", "ff");
        for (name, first, tag) in [
            ("app", "abc1", Some("app:latest")),
            ("app:1", "abc1", Some("app:1")),
            ("docker.io/library/app:1", "abc1", Some("app:1")),
            // A tag comes before a prefix.
            ("abc1", "abc2", Some("abc1:latest")),
            ("abc10", "abc1", None),
            ("sha256:abc2", "abc2", None),
            ("f", "ff", None),
            (&full, "ff", None),
            (&format!("sha256:{full}"), "ff", None),
            ("localhost:5000/x/y:2", "abc2", Some("localhost:5000/x/y:2")),
        ] {
            let found = resolve(&snapshot, name).unwrap();
            assert!(found.image.id.hex().starts_with(first), "{name}");
            assert_eq!(
                found.by_tag.map(ToString::to_string).as_deref(),
                tag,
                "{name}"
            );
        }
    }

    #[test]
    fn names_that_lead_nowhere_say_so_in_dockers_words() {
        let snapshot = snapshot();
        for (name, text) in [
            ("nope", "No such image: nope:latest"),
            ("app:2", "No such image: app:2"),
            ("abc", "multiple IDs found with provided prefix: abc"),
            (
                "sha256:abc",
                "multiple IDs found with provided prefix: sha256:abc",
            ),
            ("eee", "No such image: eee:latest"),
            ("sha256:eee", "No such image: sha256:eee"),
            ("", "invalid reference format"),
            ("a b", "invalid reference format"),
            (
                "UP",
                "invalid reference format: repository name (library/UP) must be lowercase",
            ),
        ] {
            assert_eq!(
                resolve(&snapshot, name).unwrap_err().to_string(),
                text,
                "{name:?}"
            );
        }
    }
}
