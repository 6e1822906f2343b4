//! The JSON documents of archives, read with bounds and without trust.
//!
//! A list is refused when it is too long while it is being read, so that four megabytes of `{}` do not become
//! hundreds in memory. `null` stands for an absent value everywhere, as Go's programs write it. Depth is bounded by
//! `serde_json` (128).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// The most layers of an image.
pub(super) const MAX_LAYERS: usize = 512;

/// Reads a document; the error says where in it.
pub(super) fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("invalid JSON: {e}"))
}

/// `null` as the default.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A list of at most `MAX` elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::custom(format!("a list of more than {MAX}")));
                    }
                    list.push(element);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

/// A map of at most [`Map::MAX`] elements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Map<T>(pub(super) BTreeMap<String, T>);

impl<T> Map<T> {
    const MAX: usize = 4096;
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Map<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = Map<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map of at most {}", Map::<T>::MAX)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry()? {
                    if map.len() == Map::<T>::MAX {
                        return Err(A::Error::custom(format!(
                            "a map of more than {}",
                            Map::<T>::MAX
                        )));
                    }
                    map.insert(key, value);
                }
                Ok(Map(map))
            }
        }
        deserializer.deserialize_map(Elements(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_bounded() {
        assert_eq!(read::<List<u8, 2>>(b"[1,2]").unwrap().0, [1, 2]);
        let error = read::<List<u8, 2>>(b"[1,2,3]").unwrap_err();
        assert!(error.contains("a list of more than 2"), "{error}");
        assert!(read::<List<u8, 2>>(b"{}").is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let bomb = "[".repeat(100_000);
        assert!(read::<serde_json::Value>(bomb.as_bytes()).is_err());
        assert!(read::<List<serde::de::IgnoredAny, 2>>(bomb.as_bytes()).is_err());
    }
}
