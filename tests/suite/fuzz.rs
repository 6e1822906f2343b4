//! What the fuzz targets demand, for every file of their corpus and for thousands of changes of them: without a
//! fuzzer, always the same ones. Needs: root, for some of it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fuzz_checks::{TARGETS, seeds};
use crate::harness::random::Random;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let directory = directory.join(target);
    let entries =
        fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// The corpus has what the seeds are made from, as they are made now.
pub fn seeds_are_in_the_corpus() {
    for (target, name, bytes) in seeds::all() {
        let found = corpus(target)
            .into_iter()
            .find(|(path, _)| path.ends_with(name));
        let found = found.unwrap_or_else(|| panic!("{target}/{name} is not there"));
        assert!(
            found.1 == bytes,
            "{target}/{name} is another: tools/fuzz --seeds writes it"
        );
    }
}

/// One change: what a fuzzer does, without its guidance.
fn changed(bytes: &[u8], others: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    const NUMBERS: [&[u8]; 6] = [
        b"0",
        b"9223372036854775807",
        b"18446744073709551616",
        b"-1",
        b"7777777",
        b"\xff\xff\xff\xff",
    ];
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.bits() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let number = NUMBERS[random.below(NUMBERS.len())];
                bytes.splice(at..end, number.iter().copied());
            }
            5 => {
                // A block, to where another begins.
                let from = random.below(bytes.len() / 512 + 1) * 512;
                let block = bytes[from..(from + 512).min(bytes.len())].to_vec();
                let to = random.below(bytes.len() / 512 + 1) * 512;
                bytes.splice(to..to, block);
            }
            _ => {
                let other = &others[random.below(others.len())].1;
                let from = random.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
    bytes
}

fn replay(target: &str, changes: usize) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let corpus = corpus(target);
    for (path, bytes) in &corpus {
        println!("{}", path.display());
        check(bytes);
    }
    let mut random = Random::new(1);
    for _ in 0..changes {
        let bytes = &corpus[random.below(corpus.len())].1;
        let bytes = changed(bytes, &corpus, &mut random);
        if std::panic::catch_unwind(|| check(&bytes)).is_err() {
            panic!("{target} breaks on b\"{}\"", bytes.escape_ascii());
        }
    }
}

pub fn tar_entries() {
    replay("tar_entries", 20_000);
}

pub fn pax() {
    replay("pax", 20_000);
}

pub fn unpacking() {
    replay("unpack", 1_000);
}

pub fn manifests() {
    replay("manifests", 3_000);
}

pub fn configs() {
    replay("configs", 20_000);
}

pub fn tar_splits() {
    replay("tar_splits", 1_000);
}

pub fn indexes() {
    replay("indexes", 20_000);
}
