//! Bombs: of counts, names, JSON, zeros, windows, links. Each is refused, or loaded, in bounded time, and the process
//! stays below 100 MB. Needs: root.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use layerctl::archive::write::{LayerBuilder, Meta};
use serde_json::{Value, json};

use crate::archives_hostile::{INDEX, Layout, outer, with};
use crate::archives_support::f;
use crate::harness::{self, Image, Layer, Run, Store, noise};
use crate::hostile_support::{archive, layer};

/// What a `load` may take of memory: 100 MB.
const MEMORY: u64 = 100_000_000;

/// More than any of these takes here, in a build that is not optimized; minutes are what it must not be.
const PATIENCE: Duration = Duration::from_secs(60);

/// `load` of this archive by a process that gets no more memory than that: where it asks for more it is aborted.
/// (The limit is on what can be written to, stacks included.) What is resident, files that are mapped included, is
/// looked at while it runs. (The peak that wait4(2) reports would begin with that of the test's own process.)
#[track_caller]
fn load_in_bounds(store: &Store, bytes: &[u8]) -> Run {
    let file = store.beside("evil.tar");
    fs::write(&file, bytes).unwrap();
    let load = store.command(&["load", "-i", file.to_str().unwrap()]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -d \"$1\"; shift; exec \"$@\"", "sh"]);
    limited.arg((MEMORY / 1024).to_string());
    limited.arg(load.get_program()).args(load.get_args());
    limited
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let child = limited.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let watcher = std::thread::spawn(move || {
        let mut peak = 0;
        loop {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let Some(line) = line else {
                return peak;
            };
            let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
            peak = peak.max(kib * 1024);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let run = Run::finish(child, "load of a bomb".to_owned());
    let peak = watcher.join().unwrap();
    assert!(peak < MEMORY, "{peak} bytes resident: {run:#?}");
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    run
}

/// Refused so, and nothing of it stays.
#[track_caller]
fn refused(store: &Store, what: &str, bytes: &[u8], parts: &[&str]) {
    let run = load_in_bounds(store, bytes);
    assert_eq!(run.code, Some(1), "{what}: {run:#?}");
    run.refused_saying(parts);
    store.check_no_layers();
}

/// Loaded, as large as it is, and removed.
#[track_caller]
fn loaded(store: &Store, what: &str, bytes: &[u8]) {
    let run = load_in_bounds(store, bytes);
    assert_eq!(run.code, Some(0), "{what}: {run:#?}");
    store.check_at_rest();
    store.ok(&["rmi", "a:1"]);
    store.check_no_layers();
}

pub fn of_counts_and_names() {
    let store = Store::new();
    let mut t = LayerBuilder::default();
    for n in 0..70_000 {
        t.file(n.to_string(), &f(), b"").unwrap();
    }
    refused(
        &store,
        "count",
        &t.finish().unwrap(),
        &["more than 65536 entries"],
    );
    let mut t = LayerBuilder::default();
    for n in 0..20 {
        t.file(format!("{n}{}", "x".repeat(500_000)), &f(), b"")
            .unwrap();
    }
    refused(&store, "names", &t.finish().unwrap(), &["bytes of names"]);
    let manifest = format!("[{}{{}}]", r#"{"Config":"c"},"#.repeat(200_000));
    let items = outer(&[("manifest.json", manifest.as_bytes())]);
    refused(&store, "items", &items, &["more than 1024"]);
    let index = format!(r#"{{"manifests":[{}{{}}]}}"#, "{},".repeat(1_000_000));
    let manifests = outer(&[("index.json", index.as_bytes())]);
    refused(&store, "manifests", &manifests, &["more than 4096"]);
    // Of tags as many as fit into a document.
    let more: Vec<Value> = (0..60)
        .map(|part| {
            let tags: Vec<String> = (0..4096).map(|n| format!("{part}:{n:x}")).collect();
            json!({"Config": "c", "RepoTags": tags})
        })
        .collect();
    let manifest = json!(more).to_string();
    let bytes = outer(&[
        ("manifest.json", manifest.as_bytes()),
        ("c", b"{\"rootfs\":{}}"),
    ]);
    refused(&store, "tags", &bytes, &["more than 16384 tags"]);
    // Of layers as many as each image may have.
    let digest = format!("sha256:{}", "ab".repeat(32));
    let mut files = vec![("l".to_owned(), Vec::new())];
    let mut items = Vec::new();
    for n in 0..70 {
        let rootfs = json!({"diff_ids": vec![&digest; 512]});
        let config = json!({"author": n.to_string(), "rootfs": rootfs}).to_string();
        files.push((format!("{n}.json"), config.into_bytes()));
        items.push(json!({"Config": format!("{n}.json"), "Layers": vec!["l"; 512]}));
    }
    files.push((
        "manifest.json".to_owned(),
        json!(items).to_string().into_bytes(),
    ));
    refused(
        &store,
        "layers",
        &named(&files),
        &["more than 32768 layers"],
    );
}

fn named(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    outer(&files)
}

pub fn of_json() {
    let store = Store::new();
    let one = |config: &str| {
        let manifest = br#"[{"Config":"c"}]"#;
        outer(&[("manifest.json", manifest), ("c", config.as_bytes())])
    };
    let env = format!(
        r#"{{"rootfs":{{}},"config":{{"Env":[{}""]}}}}"#,
        r#""","#.repeat(1_000_000)
    );
    refused(&store, "env", &one(&env), &["c: ", "more than 16384"]);
    let deep = format!(r#"{{"x":{}"#, "[".repeat(3 << 20));
    refused(&store, "deep", &one(&deep), &["c: invalid JSON"]);
    let deep = format!(r#"{{"manifests":[{{"x":{}"#, r#"{"x":"#.repeat(500_000));
    let deep = outer(&[("index.json", deep.as_bytes())]);
    refused(&store, "deep", &deep, &["index.json: invalid JSON"]);
    let twice = r#"{"rootfs":{},"rootfs":{"diff_ids":[]}}"#;
    refused(
        &store,
        "a key twice",
        &one(twice),
        &["c: ", "duplicate field"],
    );
    let twice = br#"[{"Config":"c","Config":"d"}]"#;
    let twice = outer(&[("manifest.json", twice), ("c", b"{\"rootfs\":{}}")]);
    refused(
        &store,
        "a key twice",
        &twice,
        &["manifest.json: ", "duplicate field"],
    );
    // Thirty times as large once it is read; and the last of a thousand of them is not there.
    let steps = "{},".repeat(4095);
    let mut files = Vec::new();
    let mut items = vec![];
    for n in 0..1000 {
        let config = format!(r#"{{"author":"{n}","rootfs":{{}},"history":[{steps}{{}}]}}"#);
        files.push((format!("{n}.json"), config.into_bytes()));
        items.push(json!({"Config": format!("{n}.json")}));
    }
    items.push(json!({"Config": "missing.json"}));
    files.push((
        "manifest.json".to_owned(),
        json!(items).to_string().into_bytes(),
    ));
    refused(
        &store,
        "history",
        &named(&files),
        &["missing.json is missing"],
    );
    // One config by a thousand names.
    let mut t = LayerBuilder::default();
    let config = format!(r#"{{"rootfs":{{}}{}}}"#, " ".repeat(4_000_000));
    t.file("c", &f(), config.as_bytes()).unwrap();
    let mut items = Vec::new();
    for n in 0..1000 {
        t.symlink(n.to_string(), "c").unwrap();
        items.push(json!({"Config": n.to_string()}));
    }
    t.file("manifest.json", &f(), json!(items).to_string().as_bytes())
        .unwrap();
    let bytes = t.finish().unwrap();
    refused(
        &store,
        "links",
        &bytes,
        &["more than 67108864 bytes of JSON"],
    );
    // Hundreds of megabytes that compress to next to nothing, where a document is expected.
    let mut zeros = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_path("manifest.json").unwrap();
    header.set_size(300 << 20);
    header.set_cksum();
    let blanks = std::io::repeat(b' ').take(300 << 20);
    zeros.append(&header, blanks).unwrap();
    let zeros = zeros.into_inner().unwrap().finish().unwrap();
    refused(
        &store,
        "blanks",
        &zeros,
        &["manifest.json", "bytes of JSON"],
    );
}

/// Thousands of names for one image, by way of one large index: that is read once.
pub fn of_names_for_one_index() {
    let store = Store::new();
    let mut l = Layout::default();
    let image = l.image(1);
    let text = json!({"manifests": [image]}).to_string() + &" ".repeat(4_000_000);
    let large = l.blob(INDEX, text.as_bytes());
    let name = |descriptor: &Value, n: u32| {
        let key = "org.opencontainers.image.ref.name";
        with(
            descriptor.clone(),
            "annotations",
            json!({key: format!("x/a:{n}")}),
        )
    };
    let mut manifests: Vec<Value> = (0..500).map(|n| name(&large, n)).collect();
    // Each by an index of its own as well.
    for n in 500..1000 {
        let between = l.json(INDEX, &json!({"schemaVersion": n, "manifests": [large]}));
        manifests.push(name(&between, n));
    }
    let run = load_in_bounds(&store, &l.tar(&manifests));
    assert_eq!(run.ok().lines().count(), 1000);
    let id = store.ok(&["images", "-q", "--no-trunc"]);
    store.ok(&["rmi", "-f", id.lines().next().unwrap()]);
    store.check_no_layers();
}

/// What the limits allow is loaded in that memory too: layers that need a window of 64 MiB.
pub fn the_largest_window_fits() {
    let store = Store::new();
    let contents = |seed| noise(seed, 65 << 20);
    let image = Image::new(&["wide:1"], vec![Layer::new().file("wide", contents(1))]);
    let (mut archive, built) = harness::Archive::of(&image);
    let name = format!("{}.tar", built.layer_dir(0));
    let layer = archive.members.iter_mut().find(|(n, _)| *n == name);
    let layer = layer.unwrap();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(26).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.write_all(&layer.1).unwrap();
    layer.1 = encoder.finish().unwrap();
    let run = load_in_bounds(&store, &archive.bytes());
    run.expect(0, "Loaded image: wide:1\n", "");
    store.check_at_rest();
}

/// Streams that ask for more: in a layer, and as the whole archive.
pub fn of_windows() {
    let store = Store::new();
    let small = layer(|t| {
        t.file("f", &f(), &[7; 5000]).unwrap();
    });
    let whole = archive("a:1", &[small]);
    let image = Image::new(&["a:1"], vec![Layer::new().file("f", "text")]);
    let (with, built) = harness::Archive::of(&image);
    let name = format!("{}.tar", built.layer_dir(0));
    let at = with.members.iter().position(|(n, _)| *n == name).unwrap();
    type Compress = fn(&[u8]) -> Vec<u8>;
    let compress: [(&str, Compress, &str); 2] = [
        ("zstd", zstd_of_a_large_window, "requires too much memory"),
        ("xz", xz_of_a_large_dictionary, "memory"),
    ];
    for (form, compress, part) in compress {
        refused(&store, form, &compress(&whole), &["evil.tar", part]);
        let (mut archive, _) = harness::Archive::of(&image);
        archive.members[at].1 = compress(&archive.members[at].1);
        refused(&store, form, &archive.bytes(), &[&name, part]);
    }
}

fn zstd_of_a_large_window(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The header of its first block says that the dictionary has 4 GiB.
fn xz_of_a_large_dictionary(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = liblzma::read::XzEncoder::new(bytes, 0);
    encoder.read_to_end(&mut out).unwrap();
    // Behind the stream's header: its length, flags, the filter, the length of its properties, and these.
    let header = &mut out[12..];
    let end = (usize::from(header[0]) + 1) * 4 - 4;
    assert_eq!(header[2..4], [0x21, 1], "one filter, LZMA2");
    header[4] = 40;
    let sum = crc32fast::hash(&header[..end]);
    header[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    out
}

/// A layer of which most is behind the end of its tar, and one of nothing but links and attributes: what is kept in
/// memory of a layer is bounded.
pub fn of_what_a_layer_keeps() {
    let store = Store::new();
    let mut small = layer(|t| {
        t.file("f", &f(), b"").unwrap();
    });
    small.resize(small.len() + (16 << 20), 0);
    let (mut behind, built) = harness::Archive::of(&Image::new(&["a:1"], vec![Layer::new()]));
    let at = format!("{}.tar", built.layer_dir(0));
    let layer_at = behind.members.iter().position(|(n, _)| *n == at).unwrap();
    behind.members[layer_at].1 = zstd::encode_all(small.as_slice(), 1).unwrap();
    refused(
        &store,
        "behind the end",
        &behind.bytes(),
        &["its digest is"],
    );
    let links = layer(|t| {
        for n in 0..7_000 {
            let target = format!("{n}{}", "x".repeat(4000));
            t.symlink(format!("l{n}"), target).unwrap();
        }
    });
    loaded(&store, "links", &archive("a:1", &[links]));
    let attributes = layer(|t| {
        for n in 0..9_000 {
            let value = format!("{n}{}", "x".repeat(3500));
            let meta = Meta::mode(0o644).xattr("user.a", value);
            t.file(format!("f{n}"), &meta, b"").unwrap();
        }
    });
    loaded(&store, "attributes", &archive("a:1", &[attributes]));
}
