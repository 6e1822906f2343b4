//! What a load does with one layer: undoing its compression, and unpacking it, which hashes and writes it as
//! well. Directories are made below `LAYERCTL_TEST_DIR`, else the directory for temporary files. Nothing is
//! synced; `layerctl bench load` times whole loads.

// A benchmark that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use layerctl::archive::{Archive, ArchivedImage, Input};
use layerctl::model::DiffId;
use layerctl::model::tar_split::TarSplitWriter;
use layerctl::store::unpack::unpack;

fn never() -> bool {
    false
}

fn scratch() -> tempfile::TempDir {
    let at = std::env::var_os("LAYERCTL_TEST_DIR").map_or_else(std::env::temp_dir, Into::into);
    tempfile::Builder::new()
        .prefix("layerctl-bench-")
        .tempdir_in::<PathBuf>(at)
        .unwrap()
}

/// Something that compresses about as well as programs do, to a third.
fn contents(length: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 24);
    while out.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
        out.extend_from_slice(b"some words again");
    }
    out.truncate(length);
    out
}

/// A layer of so many directories, of so many files, of so many bytes each.
fn layer(directories: usize, files: usize, length: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for directory in 0..directories {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        let name = format!("directory-{directory}/");
        tar.append_data(&mut header, &name, io::empty()).unwrap();
        for file in 0..files {
            let data = contents(length, (directory * files + file + 1) as u64);
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_mtime(1_700_000_000);
            header.set_size(length as u64);
            let name = format!("directory-{directory}/file-{file}");
            tar.append_data(&mut header, &name, data.as_slice())
                .unwrap();
        }
    }
    tar.into_inner().unwrap()
}

/// A docker-archive with an image of one layer, stored so.
fn archive(layer: &[u8], stored: &[u8], spool: &tempfile::TempDir) -> (Archive, ArchivedImage) {
    let config = format!(
        r#"{{"architecture":"any","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        DiffId::of(layer)
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":[],"Layers":["layer.tar"]}]"#;
    let path = spool.path().join("archive.tar");
    let mut tar = tar::Builder::new(File::create(&path).unwrap());
    for (name, data) in [
        ("layer.tar", stored),
        ("config.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).unwrap();
    }
    tar.into_inner().unwrap();
    let archive = Archive::open(Input::Path(path), spool.path(), &never).unwrap();
    let image = archive.images(&never).unwrap().remove(0);
    (archive, image)
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 3).unwrap()
}

fn load(c: &mut Criterion) {
    let spool = scratch();
    let many = layer(20, 100, 4096);
    let few = layer(1, 4, 4 << 20);

    let mut group = c.benchmark_group("read a layer");
    group.throughput(Throughput::Bytes(few.len() as u64));
    for (form, stored) in [
        ("plain", few.clone()),
        ("gzip", gzip(&few)),
        ("zstd", zstd(&few)),
    ] {
        let (archive, image) = archive(&few, &stored, &spool);
        group.bench_function(form, |b| {
            b.iter(|| {
                let mut reader = archive.open_layer(&image.layers[0]).unwrap();
                let bytes = io::copy(&mut reader, &mut io::sink()).unwrap();
                reader.finish(&never).unwrap();
                black_box(bytes)
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("unpack a layer");
    for (kind, layer) in [("2000 files of 4 KiB", &many), ("4 files of 4 MiB", &few)] {
        group.throughput(Throughput::Bytes(layer.len() as u64));
        for (form, stored) in [("plain", layer.clone()), ("gzip", gzip(layer))] {
            let (archive, image) = archive(layer, &stored, &spool);
            group.bench_function(format!("{kind}, {form}"), |b| {
                b.iter_batched(
                    scratch,
                    |into| {
                        let tree = File::open(into.path()).unwrap();
                        let reader = archive.open_layer(&image.layers[0]).unwrap();
                        let mut split = TarSplitWriter::new(io::sink());
                        let unpacked = unpack(reader, tree.as_fd(), &mut split, &never).unwrap();
                        assert_eq!(unpacked.diff_id, image.layers[0].diff_id);
                        // Deleted when the clock has stopped.
                        into
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20);
    targets = load
}
criterion_main!(benches);
