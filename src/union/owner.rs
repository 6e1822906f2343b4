//! Whose the files of a view are: the mapping between the IDs on disk and those that the view shows.
//! Pure: no input or output.

/// The ID that stands for one that has no place in a mapping (the kernel's overflow ID).
pub(crate) const NOBODY: u32 = 65534;

/// The attributes in which owner and mode may be kept: of [`Permissions::Privileged`], of
/// [`Permissions::Containers`], and one that is only read.
pub(crate) const OVERRIDES: [&[u8]; 3] = [
    b"security.fuseoverlayfs.override_stat",
    b"user.containers.override_stat",
    b"user.fuseoverlayfs.override_stat",
];

/// How owners and modes pass between the disk and the view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owners {
    /// Of users.
    pub uids: IdMap,
    /// Of groups.
    pub gids: IdMap,
    /// Where owner and mode of what is made and changed are kept.
    pub permissions: Permissions,
}

/// A mapping of IDs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IdMap {
    /// The view shows what is on disk.
    #[default]
    Same,
    /// The view shows this one for all.
    All(u32),
    /// Ranges; what is in none is shown as the overflow ID, 65534, and cannot be given to a file.
    Ranges(Vec<IdRange>),
}

/// IDs that follow one another, on disk and in the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first on disk.
    pub disk: u32,
    /// The first in the view.
    pub shown: u32,
    /// How many.
    pub len: u32,
}

/// Where owner and mode are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Permissions {
    /// In the inode.
    #[default]
    OnDisk,
    /// In the attribute `security.fuseoverlayfs.override_stat`.
    Privileged,
    /// In the attribute `user.containers.override_stat`.
    Containers,
}

impl IdMap {
    /// What the view shows of an ID on disk.
    pub(crate) fn shown(&self, disk: u32) -> u32 {
        match self {
            IdMap::Same => disk,
            IdMap::All(id) => *id,
            IdMap::Ranges(ranges) => find(ranges, disk, |r| r.disk, |r| r.shown).unwrap_or(NOBODY),
        }
    }

    /// What is written to disk for an ID of the view; `None` for one that is in no range.
    pub(crate) fn disk(&self, shown: u32) -> Option<u32> {
        match self {
            IdMap::Same => Some(shown),
            // What everything belongs to belongs to it on disk as well, as far as it is written.
            IdMap::All(id) => Some(*id),
            IdMap::Ranges(ranges) => find(ranges, shown, |r| r.shown, |r| r.disk),
        }
    }
}

fn find(
    ranges: &[IdRange],
    id: u32,
    from: impl Fn(&IdRange) -> u32,
    to: impl Fn(&IdRange) -> u32,
) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(from(range))?;
        (offset < range.len).then(|| to(range) + offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[[u32; 3]]) -> IdMap {
        let range = |[disk, shown, len]: &[u32; 3]| IdRange {
            disk: *disk,
            shown: *shown,
            len: *len,
        };
        IdMap::Ranges(list.iter().map(range).collect())
    }

    #[test]
    fn what_is_shown_of_ids_on_disk() {
        let podman = ranges(&[[0, 1000, 1], [1, 110_000, 65536]]);
        let table = [
            (IdMap::Same, 7, 7),
            (IdMap::All(5), 7, 5),
            (podman.clone(), 0, 1000),
            (podman.clone(), 1, 110_000),
            (podman.clone(), 65536, 175_535),
            (podman, 65537, NOBODY),
            (ranges(&[[10, 0, 5]]), 9, NOBODY),
            (ranges(&[[10, 0, 5]]), 14, 4),
            (ranges(&[[0, 4_294_967_290, 5]]), 4, 4_294_967_294),
        ];
        for (map, disk, shown) in table {
            assert_eq!(map.shown(disk), shown, "{disk} by {map:?}");
        }
    }

    #[test]
    fn what_is_written_for_ids_of_the_view() {
        let map = ranges(&[[0, 1000, 1], [1, 110_000, 65536]]);
        let table = [
            (IdMap::Same, 7, Some(7)),
            (IdMap::All(5), 7, Some(5)),
            (map.clone(), 1000, Some(0)),
            (map.clone(), 110_001, Some(2)),
            (map.clone(), 0, None),
            (map, 175_536, None),
        ];
        for (map, shown, disk) in table {
            assert_eq!(map.disk(shown), disk, "{shown} by {map:?}");
        }
    }
}
