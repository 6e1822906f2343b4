//! Which images are saved, and with which of their tags. Pure.

use super::resolve::{ResolveError, resolve};
use crate::db::{Image, Snapshot};
use crate::model::Reference;
use crate::model::reference::familiar;

/// An image that is saved, and the tags that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected<'a> {
    /// The image.
    pub image: &'a Image,
    /// In the order in which they were asked for.
    pub tags: Vec<Reference>,
}

/// The images that these names mean, each once.
///
/// As `docker save`: a repository alone means all its tags, a tag itself, an ID an image without any.
///
/// # Errors
/// The first name that means nothing.
pub fn select<'a>(
    snapshot: &'a Snapshot,
    names: &[String],
) -> Result<Vec<Selected<'a>>, ResolveError> {
    let mut selected = Vec::new();
    for name in names {
        let mut found = of_repository(snapshot, name);
        if found.is_empty() {
            let resolved = resolve(snapshot, name)?;
            found.push((resolved.image, resolved.by_tag));
        }
        for (image, tag) in found {
            add(&mut selected, image, tag);
        }
    }
    Ok(selected)
}

/// Every image with a tag in the repository of this name, in the order of the tags.
fn of_repository<'a>(
    snapshot: &'a Snapshot,
    name: &str,
) -> Vec<(&'a Image, Option<&'a Reference>)> {
    let Ok(repository) = familiar(name) else {
        return Vec::new();
    };
    let all = snapshot.images.iter();
    let all = all.flat_map(|image| image.tags.iter().map(move |tag| (image, tag)));
    let mut found: Vec<_> = all
        .filter(|(_, tag)| tag.repository() == repository)
        .collect();
    found.sort_by_key(|(_, tag)| *tag);
    found
        .into_iter()
        .map(|(image, tag)| (image, Some(tag)))
        .collect()
}

fn add<'a>(selected: &mut Vec<Selected<'a>>, image: &'a Image, tag: Option<&Reference>) {
    let at = match selected.iter().position(|s| s.image.id == image.id) {
        Some(at) => at,
        None => {
            selected.push(Selected {
                image,
                tags: Vec::new(),
            });
            selected.len() - 1
        }
    };
    let tags = &mut selected[at].tags;
    if let Some(tag) = tag
        && !tags.contains(tag)
    {
        tags.push(tag.clone());
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::ImageId;

    #[test]
    fn names_select_images_and_tags() {
        let image = |first: &str, tags: &[&str]| Image {
            id: ImageId::from_hex(&format!("{first:0<64}")).unwrap(),
            created: None,
            loaded: Timestamp::UNIX_EPOCH,
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            layers: vec![],
        };
        let snapshot = Snapshot {
            images: vec![
                image("aa", &["app:2", "app:1", "other:latest"]),
                image("bb", &["app:3", "localhost:5000/app:1"]),
                image("cc", &[]),
            ],
            ..Snapshot::default()
        };
        let one = |names: &[&str]| -> Result<Vec<String>, ResolveError> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let selected = select(&snapshot, &names)?;
            let text = |s: &Selected<'_>| {
                let tags: Vec<String> = s.tags.iter().map(ToString::to_string).collect();
                format!("{} {}", &s.image.id.hex()[..2], tags.join(" "))
            };
            Ok(selected.iter().map(text).collect())
        };
        for (names, want) in [
            (&["app"][..], &["aa app:1 app:2", "bb app:3"][..]),
            (&["app:1"], &["aa app:1"]),
            (&["docker.io/library/app"], &["aa app:1 app:2", "bb app:3"]),
            (&["aa"], &["aa "]),
            (&["cc", "app:2", "aa"], &["cc ", "aa app:2"]),
            (&["app:2", "app", "app:2"], &["aa app:2 app:1", "bb app:3"]),
            (&["localhost:5000/app"], &["bb localhost:5000/app:1"]),
        ] {
            assert_eq!(one(names).unwrap(), want, "{names:?}");
        }
        assert!(one(&["app", "nope"]).is_err());
        assert!(one(&["app:nope"]).is_err());
    }
}
