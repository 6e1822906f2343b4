//! Names of extended attributes.

/// Whether union filesystems keep an extended attribute for themselves: by it a layer could make itself
/// opaque, redirect a directory or fake an owner. None that comes in a layer's tar is set, none is in an
/// index, shown in a view or to be set there. The names are overlayfs's, fuse-overlayfs's, the
/// containers/storage library's and our own.
pub fn is_private(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 6] = [
        b"trusted.overlay.",
        b"user.overlay.",
        b"trusted.layerctl.",
        b"user.layerctl.",
        b"user.fuseoverlayfs.",
        b"security.fuseoverlayfs.",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name == b"user.containers.override_stat"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names() {
        for name in [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "user.overlay.opaque",
            "user.fuseoverlayfs.opaque",
            "security.fuseoverlayfs.override_stat",
            "user.containers.override_stat",
            "trusted.layerctl.origin",
            "user.layerctl.x",
        ] {
            assert!(is_private(name.as_bytes()), "{name}");
        }
        for name in [
            "security.capability",
            "user.a",
            "user.overlay",
            "user.layerctlx",
            "user.containers.other",
            "trusted.a",
            "trusted.overlayx",
        ] {
            assert!(!is_private(name.as_bytes()), "{name}");
        }
    }
}
