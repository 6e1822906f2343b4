//! Archives that lie. Each is refused with one line that names the culprit. Needs: root.

use std::fs;
use std::path::PathBuf;

use layerctl::archive::write::{DockerArchive, ImageSpec, Layer as Tar, LayerBuilder, Meta};
use layerctl::archive::{Archive, Input};
use layerctl::model::BlobDigest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::archives_support::{config, f, images, never, open, scratch, some_layer};
use crate::harness::Store;

/// A tar of these files.
pub fn outer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = LayerBuilder::default();
    for (name, data) in files {
        tar.file(name, &f(), data).unwrap();
    }
    tar.finish().unwrap()
}

fn saved(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = scratch();
    let path = dir.path().join("evil.tar");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn refused(what: &str, bytes: &[u8], parts: &[&str]) {
    let (_dir, path) = saved(bytes);
    let error = images(&path).expect_err(what).to_string();
    assert!(
        error.contains("evil.tar") && !error.contains('\n'),
        "{what}: {error}"
    );
    for part in parts {
        assert!(error.contains(part), "{what}: {error}");
    }
}

pub fn docker_archives() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [digest]}}).to_string();
    let config = config.as_bytes();
    let with = |manifest: Value| {
        outer(&[
            ("manifest.json", manifest.to_string().as_bytes()),
            ("c.json", config),
            ("l", b""),
        ])
    };
    let item = json!({"Config": "c.json", "RepoTags": null, "Layers": ["l"]});
    let (_dir, path) = saved(&with(json!([item])));
    assert_eq!(images(&path).unwrap().len(), 1);
    for (manifest, parts) in [
        (json!([]), &["no image in it"][..]),
        (json!(null), &["no image in it"]),
        (json!({}), &["manifest.json", "invalid JSON"]),
        (json!([{"Layers": []}]), &["missing field"]),
        (
            json!([{"Config": "x.json", "Layers": ["l"]}]),
            &["x.json is missing"],
        ),
        (
            json!([{"Config": "c.json", "Layers": ["m"]}]),
            &["m is missing"],
        ),
        (
            json!([{"Config": "c.json", "Layers": []}]),
            &["c.json", "1 diff IDs", "0 layers"],
        ),
        (
            json!([{"Config": "c.json", "Layers": ["l", "l"]}]),
            &["2 layers"],
        ),
        (
            json!([{"Config": "c.json", "Layers": vec!["l"; 513]}]),
            &["more than 512"],
        ),
        (
            json!([{"Config": "../c.json", "Layers": ["l"]}]),
            &["../c.json", "outside"],
        ),
        (
            json!([{"Config": "c.json", "Layers": ["../../etc/passwd"]}]),
            &["outside"],
        ),
        (
            json!([{"Config": "l", "Layers": ["l"]}]),
            &["l: ", "invalid JSON"],
        ),
        (
            json!([{"Config": "c.json", "RepoTags": ["Bad:Tag:x"], "Layers": ["l"]}]),
            &["Bad:Tag:x"],
        ),
        (
            json!([{"Config": "c.json", "RepoTags": ["a@sha256:0"], "Layers": ["l"]}]),
            &["a@sha256:0"],
        ),
        (
            json!([{"Config": "c.json", "RepoTags": ["A\n\u{1b}[2J"], "Layers": ["l"]}]),
            &["A\\n\\u{1b}[2J", "lowercase"],
        ),
        (
            json!([{"Config": "c.json", "RepoTags": ["A".repeat(1 << 20)], "Layers": ["l"]}]),
            &["AAA…"],
        ),
    ] {
        refused(&manifest.to_string(), &with(manifest), parts);
    }
    let bomb = "[".repeat(3 << 20);
    refused(
        "deep",
        &outer(&[("manifest.json", bomb.as_bytes())]),
        &["manifest.json", "invalid JSON"],
    );
    let big = vec![b' '; (4 << 20) + 1];
    refused(
        "big",
        &outer(&[("manifest.json", &big)]),
        &["manifest.json", "4194304 bytes"],
    );
    refused("old", &outer(&[("repositories", b"{}")]), &["before 1.10"]);
    refused("other", &outer(&[("a", b"")]), &["not an image archive"]);
    let blob = format!("blobs/sha256/{}", "00".repeat(32));
    let manifest = json!([{"Config": blob, "Layers": ["l"]}]).to_string();
    let bytes = outer(&[
        ("manifest.json", manifest.as_bytes()),
        (&blob, config),
        ("l", b""),
    ]);
    refused("config's digest", &bytes, &[&blob, "wrong digest"]);
}

/// The classic store's links, with `./` in names, and links that go round or out.
pub fn links_between_layers() {
    let layer = some_layer();
    let id = layerctl::model::DiffId::of(&layer).to_string();
    let config = json!({"rootfs": {"diff_ids": [id, id, id]}}).to_string();
    let manifest = |layers: &[&str]| json!([{"Config": "./c.json", "Layers": layers}]).to_string();
    let make = |layers: &[&str]| {
        let mut t = LayerBuilder::default();
        t.file("./c.json", &f(), config.as_bytes()).unwrap();
        t.dir("aa", &Meta::mode(0o755)).unwrap();
        t.file("aa/layer.tar", &f(), &layer).unwrap();
        t.symlink("./bb/layer.tar", "../aa/layer.tar").unwrap();
        t.hardlink("cc/layer.tar", "aa/layer.tar").unwrap();
        t.symlink("round/1", "2").unwrap();
        t.symlink("round/2", "1").unwrap();
        t.symlink("out/layer.tar", "../../etc/passwd").unwrap();
        t.symlink("abs/layer.tar", "/etc/passwd").unwrap();
        t.fifo("fifo", &f()).unwrap();
        t.file("manifest.json", &f(), manifest(layers).as_bytes())
            .unwrap();
        t.finish().unwrap()
    };
    let (dir, path) = saved(&make(&["aa/layer.tar", "bb/layer.tar", "./cc/layer.tar"]));
    let archive = open(&path).unwrap();
    let found = archive.images(&never).unwrap();
    crate::archives_support::unpack_image(&archive, &found[0], &dir.path().join("l"));
    for (bad, why) in [
        ("round/1", "circle"),
        ("out/layer.tar", "out of the archive"),
        ("abs/layer.tar", "out of the archive"),
        ("fifo", "not a regular file"),
        ("aa", "not a regular file"),
    ] {
        refused(
            bad,
            &make(&["aa/layer.tar", "aa/layer.tar", bad]),
            &[bad, why],
        );
    }
}

/// An OCI layout in the making.
#[derive(Default)]
pub struct Layout {
    files: Vec<(String, Vec<u8>)>,
}

impl Layout {
    pub fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = BlobDigest::of(bytes);
        self.files
            .push((format!("blobs/sha256/{}", digest.hex()), bytes.to_vec()));
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    /// A manifest of an image with one layer, different for each `number`.
    pub fn image(&mut self, number: u32) -> Value {
        let layer = some_layer();
        let id = BlobDigest::of(&layer).to_string();
        let config = json!({"author": number.to_string(), "rootfs": {"diff_ids": [id]}});
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let layer = self.blob(LAYER, &layer);
        self.json(
            MANIFEST,
            &json!({"schemaVersion": 2, "config": config, "layers": [layer]}),
        )
    }

    pub fn json(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    pub fn tar(&self, manifests: &[Value]) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        let mut files: Vec<(&str, &[u8])> =
            vec![("oci-layout", layout), ("index.json", index.as_bytes())];
        files.extend(self.files.iter().map(|(n, b)| (n.as_str(), b.as_slice())));
        outer(&files)
    }
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn with(mut value: Value, key: &str, to: Value) -> Value {
    value[key] = to;
    value
}

pub fn oci_layouts() {
    let mut l = Layout::default();
    let good = l.image(1);
    let (_dir, path) = saved(&l.tar(std::slice::from_ref(&good)));
    assert_eq!(images(&path).unwrap().len(), 1);
    let none = format!("sha256:{}", "00".repeat(32));
    for (what, descriptor, parts) in [
        (
            "size",
            with(good.clone(), "size", json!(7)),
            &["bytes, index.json says 7"][..],
        ),
        (
            "missing",
            with(good.clone(), "digest", json!(none)),
            &["is missing, which index.json names"],
        ),
        (
            "sha512",
            with(good.clone(), "digest", json!("sha512:00")),
            &["only sha256"],
        ),
        (
            "path",
            with(good.clone(), "digest", json!("sha256:../../x")),
            &["invalid digest"],
        ),
        (
            "type",
            with(good.clone(), "mediaType", json!("text/plain")),
            &["text/plain"],
        ),
        (
            "index",
            with(good.clone(), "mediaType", json!(INDEX)),
            &["an index without manifests"],
        ),
        (
            "tag",
            with(
                good.clone(),
                "annotations",
                json!({"io.containerd.image.name": "A:b"}),
            ),
            &["A:b"],
        ),
    ] {
        refused(what, &l.tar(&[descriptor]), parts);
    }
    refused("empty", &l.tar(&[]), &["no image in it"]);
    let layer = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": none, "size": 5});
    let config = l.blob(CONFIG, b"{\"rootfs\":{}}");
    let manifests = [
        (
            "foreign",
            json!({"config": config, "layers": [layer]}),
            "is missing",
        ),
        (
            "encrypted",
            json!({"config": config, "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "digest": none}]}),
            "encrypted",
        ),
        (
            "helm",
            json!({"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json"}, "layers": []}),
            "helm",
        ),
        (
            "schema 1",
            json!({"schemaVersion": 1, "fsLayers": []}),
            "schema 1",
        ),
        (
            "both",
            json!({"config": config, "layers": [], "manifests": []}),
            "both an index",
        ),
        ("none", json!({"schemaVersion": 2}), "without a config"),
        (
            "other type",
            json!({"mediaType": INDEX, "config": config, "layers": []}),
            "media type",
        ),
        (
            "counts",
            json!({"config": config, "layers": [{"digest": config["digest"]}]}),
            "0 diff IDs",
        ),
    ];
    for (what, manifest, part) in manifests {
        let descriptor = l.json(MANIFEST, &manifest);
        refused(what, &l.tar(&[descriptor]), &[part]);
    }
    let mut nested = good.clone();
    for depth in 0..6 {
        nested = l.json(INDEX, &json!({"manifests": [nested]}));
        let (_dir, path) = saved(&l.tar(std::slice::from_ref(&nested)));
        assert_eq!(images(&path).is_ok(), depth < 4, "{depth}");
    }
    // Contents that are not what the digest says: manifest and config at once, a layer when it is read.
    for n in 0..l.files.len().min(3) {
        let mut bad = Layout {
            files: l.files.clone(),
        };
        let name = bad.files[n].0.clone();
        let last = bad.files[n].1.len() - 1;
        bad.files[n].1[last] ^= 1;
        let (_dir, path) = saved(&bad.tar(std::slice::from_ref(&good)));
        let archive = open(&path).unwrap();
        match archive.images(&never) {
            Err(e) => assert!(
                e.to_string().contains(&format!("{name}: wrong digest")),
                "{e}"
            ),
            Ok(found) => {
                let mut reader = archive.open_layer(&found[0].layers[0]).unwrap();
                let read = std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
                assert_eq!(
                    read as usize,
                    some_layer().len(),
                    "a plain layer: its diff ID tells"
                );
            }
        }
    }
}

/// What it unpacks to is right, and the compressed bytes are not the ones that the manifest names.
pub fn a_compressed_layer_of_another_digest() {
    use std::io::Write as _;
    let layer = some_layer();
    let id = BlobDigest::of(&layer).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&layer).unwrap();
    let mut l = Layout::default();
    let config = json!({"rootfs": {"diff_ids": [id]}}).to_string();
    let config = l.blob(CONFIG, config.as_bytes());
    let blob = l.blob(&format!("{LAYER}+gzip"), &gzip.finish().unwrap());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [blob]});
    let manifest = l.json(MANIFEST, &manifest);
    let name = l.files[1].0.clone();
    // The time in gzip's header.
    l.files[1].1[4] ^= 1;
    let store = Store::new();
    let load = |layout: &Layout| {
        let (_dir, path) = saved(&layout.tar(std::slice::from_ref(&manifest)));
        store.run(&["load", "-i", path.to_str().unwrap()])
    };
    load(&l).refused_saying(&["evil.tar", &format!("{name}: wrong digest")]);
    store.check_no_layers();
    l.files[1].1[4] ^= 1;
    load(&l).ok();
}

pub fn oci_platforms() {
    let host = layerctl::archive::platform::Platform::host().architecture;
    let mut l = Layout::default();
    let (one, two, three) = (l.image(1), l.image(2), l.image(3));
    let on = |d: &Value, arch: &str| {
        with(
            d.clone(),
            "platform",
            json!({"os": "linux", "architecture": arch}),
        )
    };
    let attestation = with(
        on(&three, "unknown"),
        "platform",
        json!({"os": "unknown", "architecture": "unknown"}),
    );
    let named = |d: Value, name: &str| {
        with(
            d,
            "annotations",
            json!({"org.opencontainers.image.ref.name": name}),
        )
    };
    let authors = |l: &Layout, manifests: &[Value]| -> Vec<String> {
        let (_dir, path) = saved(&l.tar(manifests));
        images(&path)
            .unwrap()
            .into_iter()
            .map(|i| config(&i).author)
            .collect()
    };
    assert_eq!(
        authors(
            &l,
            &[on(&one, "s390x"), on(&two, &host), attestation.clone()]
        ),
        ["2"]
    );
    assert_eq!(authors(&l, &[one.clone(), two.clone()]), ["1", "2"]);
    let (a, b) = (named(one.clone(), "x/a:1"), named(on(&two, &host), "x/b:1"));
    assert_eq!(authors(&l, &[a, b]), ["1", "2"]);
    let nested = l.json(
        INDEX,
        &json!({"manifests": [attestation, on(&one, "riscv"), on(&two, &host)]}),
    );
    assert_eq!(authors(&l, &[nested]), ["2"]);
    refused(
        "none for us",
        &l.tar(&[on(&one, "s390x"), on(&two, "mips")]),
        &["no image for linux/", "only for linux/s390x, linux/mips"],
    );
    let nested = l.json(INDEX, &json!({"manifests": [on(&one, "s390x")]}));
    refused(
        "none for us, nested",
        &l.tar(&[nested]),
        &["only for linux/s390x"],
    );
    // One image, several names.
    let names = [
        named(one.clone(), "x/a:1"),
        named(one.clone(), "x/b:1"),
        named(one, "latest"),
    ];
    let (_dir, path) = saved(&l.tar(&names));
    let found = images(&path).unwrap();
    assert_eq!((found.len(), found[0].tags.len()), (1, 2));
}

pub fn oci_links_out_of_the_layout() {
    let mut l = Layout::default();
    let good = l.image(1);
    let make = || {
        let dir = scratch();
        let layout = dir.path().join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        for (name, bytes) in &l.files {
            fs::write(layout.join(name), bytes).unwrap();
        }
        let index = json!({"manifests": [good]}).to_string();
        fs::write(layout.join("index.json"), index).unwrap();
        (dir, layout)
    };
    let (_dir, layout) = make();
    assert_eq!(images(&layout).unwrap().len(), 1);
    for (what, name) in [
        ("a blob", l.files[0].0.as_str()),
        ("the index", "index.json"),
        ("a directory", "blobs"),
    ] {
        let (dir, layout) = make();
        fs::rename(layout.join(name), dir.path().join("outside")).unwrap();
        let depth = "../".repeat(name.matches('/').count() + 1);
        std::os::unix::fs::symlink(format!("{depth}outside"), layout.join(name)).unwrap();
        let error = images(&layout).expect_err(what).to_string();
        assert!(
            error.contains("leads out of the directory"),
            "{what}: {error}"
        );
    }
    let (_dir, layout) = make();
    fs::remove_file(layout.join("index.json")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, layout.join("index.json"), 0o600.into()).unwrap();
    assert!(
        images(&layout)
            .unwrap_err()
            .to_string()
            .contains("not a regular file")
    );
    fs::remove_file(layout.join("index.json")).unwrap();
    assert!(
        images(&layout)
            .unwrap_err()
            .to_string()
            .contains("not an OCI layout")
    );
}

pub fn outer_tars() {
    refused("nothing", b"", &["not an image archive"]);
    refused("text", &b"hello, this is text".repeat(100), &["checksum"]);
    refused("short text", b"hello", &["unexpected end"]);
    let mut archive = DockerArchive::new(Vec::new());
    let spec = ImageSpec::new(Vec::new(), &["x"], "2024-01-01T00:00:00Z");
    archive.image(&spec, &[Tar::Bytes(some_layer())]).unwrap();
    let whole = archive.finish().unwrap();
    // Behind the last entry's data there is only fill.
    for cut in (1..whole.len() - 1024 - 512).step_by(211) {
        let (_dir, path) = saved(&whole[..cut]);
        let error = images(&path).expect_err("truncated").to_string();
        assert!(!error.contains('\n'), "{error}");
    }
    let missing = scratch().path().join("missing.tar");
    let error = Archive::open(Input::Path(missing), &std::env::temp_dir(), &never).unwrap_err();
    assert!(
        error.to_string().contains("missing.tar: No such file"),
        "{error}"
    );
}
