//! Archives that end too early, anywhere: refused with one line, or what is there is whole all the same. No partial
//! layer ever stays. Needs: root.

use std::io::{Read as _, Write as _};

use layerctl::archive::write::LayerBuilder;

use crate::archives_support::{f, some_layer};
use crate::harness::random::Random;
use crate::harness::{Archive, Image, Layer, tree};
use crate::hostile_support::{Target, archive};

/// Where bytes of such a length are cut: at every block, and at some other places.
fn cuts(length: usize, random: &mut Random) -> Vec<usize> {
    let blocks = (0..length).step_by(512);
    let others: Vec<usize> = (0..24).map(|_| random.below(length)).collect();
    blocks.chain(others).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    liblzma::read::XzEncoder::new(bytes, 0)
        .read_to_end(&mut out)
        .unwrap();
    out
}

type Compress = fn(&[u8]) -> Vec<u8>;
const FORMS: [(&str, Compress); 4] = [
    ("plain", |bytes| bytes.to_vec()),
    ("gzip", gzip),
    ("zstd", zstd),
    ("xz", xz),
];

/// Loads what may be cut too short. Gives whether it was refused.
#[track_caller]
fn load(target: &Target, what: &str, bytes: &[u8]) -> bool {
    let before = tree::listing(target.store.root());
    let run = target.load(bytes);
    target.check_staging();
    if run.code == Some(0) {
        assert!(run.stdout.starts_with("Loaded image"), "{what}: {run:#?}");
        target.store.ok(&["fsck", "--deep"]);
        target.store.ok(&["rmi", "cut:1"]);
        return false;
    }
    let line = run.refused();
    assert!(
        line.contains("evil.tar") || line.contains("layer"),
        "{what}: {line}"
    );
    let after = tree::listing(target.store.root());
    assert_eq!(before, after, "{what}: nothing changed");
    true
}

fn whole(label: &str) -> Vec<u8> {
    let mut other = LayerBuilder::default();
    other
        .file(label, &f(), label.repeat(100).as_bytes())
        .unwrap();
    archive("cut:1", &[some_layer(), other.finish().unwrap()])
}

/// The archive as a whole, plain or compressed.
pub fn a_cut_archive() {
    for (form, compress) in FORMS {
        let target = Target::new();
        let bytes = compress(&whole(form));
        assert!(!load(&target, form, &bytes), "the whole of it is loaded");
        let mut random = Random::new(7);
        for cut in cuts(bytes.len(), &mut random) {
            let refused = load(&target, &format!("{form} cut at {cut}"), &bytes[..cut]);
            // Behind the last entry there is only fill.
            assert!(
                refused || cut > bytes.len() - 2048,
                "{form} cut at {cut} was taken"
            );
        }
        target.store.check_no_layers();
        target.check_outside();
    }
}

/// One layer, in an archive that is whole.
pub fn a_cut_layer() {
    for (form, compress) in FORMS {
        let target = Target::new();
        let contents = Layer::new()
            .file("some", "text ".repeat(300))
            .file("more", "x");
        let image = Image::new(&["cut:1"], vec![contents]);
        let (with, built) = Archive::of(&image);
        let name = format!("{}.tar", built.layer_dir(0));
        let at = with.members.iter().position(|(n, _)| *n == name).unwrap();
        let bytes = compress(&with.members[at].1);
        let mut random = Random::new(8);
        let mut lengths = cuts(bytes.len(), &mut random);
        lengths.push(bytes.len());
        for length in lengths {
            let (mut cut, _) = Archive::of(&image);
            cut.members[at].1 = bytes[..length].to_vec();
            let refused = load(
                &target,
                &format!("{form} layer cut at {length}"),
                &cut.bytes(),
            );
            assert_eq!(
                refused,
                length != bytes.len(),
                "{form} layer cut at {length}"
            );
        }
        target.store.check_no_layers();
        target.check_outside();
    }
}
