//! What may be deleted because no row explains it: a pure function of what is on record and of the
//! names on disk.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::db::Snapshot;
use crate::model::Phase;
use crate::store::Store;
use crate::store::layout::image_aside;

/// The names found in the store's rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// In `layers/`.
    pub layers: Vec<OsString>,
    /// In `marked/`.
    pub marked: Vec<OsString>,
    /// In `images/`.
    pub images: Vec<OsString>,
    /// In `containers/`.
    pub containers: Vec<OsString>,
}

/// The paths that no row explains. What is in `staging/` is not looked at: there the locks decide.
pub fn orphans(store: &Store, snapshot: &Snapshot, listing: &Listing) -> Vec<PathBuf> {
    let mut explained: HashSet<PathBuf> = HashSet::new();
    for layer in &snapshot.layers {
        explained.insert(store.layer_directory(layer));
        if layer.phase == Phase::Marking {
            // Decided, and renamed or not: both names are explained.
            explained.insert(store.marked_layer(layer));
        }
    }
    explained.extend(snapshot.images.iter().map(|i| store.image(&i.id)));
    explained.extend(images_aside(store, snapshot, listing));
    let containers = snapshot.containers.iter().map(|c| &c.id);
    // A container that was removed by force stays until its view ends.
    let containers = containers.chain(snapshot.views.iter().map(|v| &v.container));
    explained.extend(containers.map(|id| store.container(id).path().to_owned()));
    let rooms = [
        (store.layers(), &listing.layers),
        (store.marked(), &listing.marked),
        (store.images(), &listing.images),
        (store.containers(), &listing.containers),
    ];
    let found = rooms
        .into_iter()
        .flat_map(|(room, names)| names.iter().map(move |n| room.join(n)));
    found.filter(|path| !explained.contains(path)).collect()
}

/// The directories of images that were removed, but that a view shows: it has their index mapped.
pub fn images_aside(store: &Store, snapshot: &Snapshot, listing: &Listing) -> Vec<PathBuf> {
    let shown = |name: &&OsString| {
        image_aside(name).is_some_and(|image| snapshot.shown_by(&image).next().is_some())
    };
    let names = listing.images.iter().filter(shown);
    names.map(|name| store.images().join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::View;
    use crate::model::{ChainId, ContainerId, DiffId, ImageId, Layer, Purpose};
    use jiff::Timestamp;

    fn layer(id: i64, phase: Phase) -> Layer {
        let diff = DiffId::of(&id.to_le_bytes());
        let chain = ChainId::of(&id.to_le_bytes());
        Layer {
            id,
            diff,
            chain,
            size: 1,
            bytes: 1,
            entries: 1,
            has_root: true,
            phase,
        }
    }

    fn view(n: u8, pins: Vec<i64>) -> View {
        View {
            image: None,
            container: ContainerId::from_random([n; 32]),
            pid: 1,
            mountpoint: "/m".into(),
            mounted: Timestamp::UNIX_EPOCH,
            detached: false,
            purpose: Purpose::Mount,
            driver: crate::model::Driver::Fuse,
            device: None,
            process: None,
            pins,
        }
    }

    #[test]
    fn orphans_are_what_no_row_explains() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        store.furnish().unwrap();
        let (present, marked) = (layer(1, Phase::Present), layer(2, Phase::Marked));
        let (marking, mut held) = (layer(3, Phase::Marking), view(9, vec![2]));
        let shown = ImageId::of(b"removed");
        held.image = Some(shown.clone());
        let name = |p: PathBuf| p.file_name().unwrap().to_owned();
        let listing = Listing {
            layers: vec![
                name(store.layer(&present.diff)),
                name(store.layer(&marking.diff)),
                // Renamed already: a directory of that name is not this row's.
                name(store.layer(&marked.diff)),
            ],
            marked: vec![
                name(store.marked_layer(&marked)),
                name(store.marked_layer(&marking)),
                "what".into(),
            ],
            images: vec![
                "stray".into(),
                format!("{}.0", shown.hex()).into(),
                format!("{}.x", shown.hex()).into(),
                format!("{}.0", ImageId::of(b"of no view").hex()).into(),
            ],
            containers: vec![held.container.hex().into(), "00".into()],
        };
        let stray = [
            store.layer(&marked.diff),
            store.marked().join("what"),
            store.images().join("stray"),
            store.images().join(format!("{}.x", shown.hex())),
            store
                .images()
                .join(format!("{}.0", ImageId::of(b"of no view").hex())),
            store.containers().join("00"),
        ];
        let snapshot = Snapshot {
            layers: vec![present, marked, marking],
            views: vec![held],
            ..Snapshot::default()
        };
        assert_eq!(orphans(&store, &snapshot, &listing), stray);
    }
}
