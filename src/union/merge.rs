//! The listing of a merged directory, given the listing of each layer. Pure: no input or output.

use std::collections::HashSet;

use super::attr::Kind;

/// One entry of one layer's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerEntry {
    /// The name.
    pub(crate) name: Box<[u8]>,
    /// Its type, or `None` for a whiteout.
    pub(crate) kind: Option<Kind>,
}

/// One entry of the union's directory: what the topmost layer that has the name has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MergedEntry {
    /// The name.
    pub(crate) name: Box<[u8]>,
    /// The type.
    pub(crate) kind: Kind,
}

/// Merges the listings, topmost first. The order is that of first appearance: the upper entries
/// stay in their place when a lower entry is copied up later, as snapshots of a listing need.
pub(crate) fn merge(layers: impl IntoIterator<Item = Vec<LayerEntry>>) -> Vec<MergedEntry> {
    let mut seen: HashSet<Box<[u8]>> = HashSet::new();
    let mut merged = Vec::new();
    for layer in layers {
        for entry in layer {
            if !seen.insert(entry.name.clone()) {
                continue;
            }
            if let Some(kind) = entry.kind {
                merged.push(MergedEntry {
                    name: entry.name,
                    kind,
                });
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` is a file, `a/` a directory, `-a` a whiteout; layers are separated by `|`.
    fn merged(layers: &str) -> String {
        let parse = |word: &str| {
            let (name, kind) = match (word.strip_prefix('-'), word.strip_suffix('/')) {
                (Some(name), _) => (name, None),
                (None, Some(name)) => (name, Some(Kind::Directory)),
                (None, None) => (word, Some(Kind::File)),
            };
            LayerEntry {
                name: name.as_bytes().into(),
                kind,
            }
        };
        let layers = layers
            .split('|')
            .map(|l| l.split_whitespace().map(parse).collect());
        let names: Vec<String> = merge(layers)
            .into_iter()
            .map(|e| {
                let slash = if e.kind == Kind::Directory { "/" } else { "" };
                format!("{}{slash}", String::from_utf8_lossy(&e.name))
            })
            .collect();
        names.join(" ")
    }

    #[test]
    fn listings() {
        let table = [
            ("", ""),
            ("a b", "a b"),
            ("a | b", "a b"),
            ("a | a b", "a b"),
            ("-a | a b", "b"),
            ("-a", ""),
            ("a | -a | a", "a"),
            ("| -a | a", ""),
            ("a/ | a", "a/"),
            ("a | a/", "a"),
            ("-a -b -c | a b c", ""),
            ("c | b | a", "c b a"),
            ("-a | -a | a b/", "b/"),
            ("x | -y | y x", "x"),
        ];
        for (layers, expected) in table {
            assert_eq!(merged(layers), expected, "layers {layers:?}");
        }
    }
}
