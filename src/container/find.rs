//! Which container a user means: a name, an ID, or an unambiguous prefix of one.

use crate::db::{Container, Snapshot};

/// Why a name leads to no container. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Nothing is called that.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// A prefix of several IDs.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
}

/// Find the container that `name` means: by full ID, name, or prefix of an ID, in this order.
pub fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Container, FindError> {
    let all = &snapshot.containers;
    let exact = all.iter().find(|c| c.id.hex() == name);
    // As Docker's daemon does: internally all its names begin with a slash.
    let bare = name.strip_prefix('/').unwrap_or(name);
    if let Some(container) = exact.or_else(|| all.iter().find(|c| c.name == bare)) {
        return Ok(container);
    }
    let mut matching = all
        .iter()
        .filter(|c| !name.is_empty() && c.id.hex().starts_with(name));
    match (matching.next(), matching.next()) {
        (Some(container), None) => Ok(container),
        (Some(_), Some(_)) => Err(FindError::Ambiguous(name.to_owned())),
        (None, _) => Err(FindError::NoSuchContainer(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerId, ImageId, Settings};
    use jiff::Timestamp;

    #[test]
    fn by_id_name_and_prefix() {
        let container = |n: u8, name: &str| Container {
            id: ContainerId::from_random([n; 32]),
            name: name.into(),
            image: ImageId::of(b""),
            reference: "x".into(),
            command: vec![],
            settings: Settings::default(),
            created: Timestamp::UNIX_EPOCH,
            started: None,
            ended: None,
            exit_code: None,
            error: String::new(),
        };
        let containers = vec![container(0xab, "web"), container(0xac, "abab")];
        let snapshot = Snapshot {
            containers,
            ..Snapshot::default()
        };
        for (name, found) in [
            ("web", 0),
            ("abab", 1),
            ("aba", 0),
            ("ac", 1),
            (&"ab".repeat(32), 0),
        ] {
            assert_eq!(
                find(&snapshot, name),
                Ok(&snapshot.containers[found]),
                "{name}"
            );
        }
        assert_eq!(
            find(&snapshot, "a").unwrap_err(),
            FindError::Ambiguous("a".into())
        );
        for name in ["", "x", "we"] {
            assert_eq!(
                find(&snapshot, name),
                Err(FindError::NoSuchContainer(name.into()))
            );
        }
    }
}
