//! Where the fuzzer begins: what our own writers make, a bit of everything. `corpus/` holds them as files.

use std::io::Cursor;

use layerctl::archive::write::{LayerBuilder, Meta};
use layerctl::model::DiffId;
use layerctl::model::index::{Builder, Index, Inode, Kind, Scope, Time, merge};
use layerctl::model::tar_split::TarSplitWriter;

/// A seed: its target, its name and its bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, tar) in tars() {
        seeds.push(("tar_entries", name, tar.clone()));
        seeds.push(("unpack", name, tar));
    }
    for (name, records) in pax() {
        seeds.push(("pax", name, records.to_vec()));
    }
    for (name, text) in archives() {
        seeds.push(("manifests", name, text.as_bytes().to_vec()));
    }
    seeds.push(("manifests", "gzip", gzip(&documents_as_tar())));
    seeds.push(("manifests", "plain", documents_as_tar()));
    for (name, text) in configs() {
        seeds.push(("configs", name, text.as_bytes().to_vec()));
    }
    for (name, split) in tar_splits() {
        seeds.push(("tar_splits", name, split));
    }
    let layer = index();
    let opened = Index::open(layer.as_slice()).expect("an index");
    let merged = merge(&[&opened]).expect("an index");
    seeds.push(("indexes", "layer", layer));
    seeds.push(("indexes", "merged", merged));
    seeds
}

fn built(build: impl FnOnce(&mut LayerBuilder<Vec<u8>>) -> std::io::Result<()>) -> Vec<u8> {
    let mut tar = LayerBuilder::default();
    build(&mut tar).expect("write to memory");
    tar.finish().expect("write to memory")
}

fn tars() -> Vec<(&'static str, Vec<u8>)> {
    let f = Meta::mode(0o644);
    let d = Meta::mode(0o755);
    vec![
        (
            "everything",
            built(|t| {
                t.dir("d", &d.clone().mtime(5, 6))?;
                t.file("d/f", &f.clone().xattr("user.a", "b"), b"data")?;
                t.hardlink("l", "d/f")?;
                t.symlink("s", "d")?;
                t.symlink("long", "x".repeat(150))?;
                t.whiteout("w")?;
                t.opaque("d")?;
                t.fifo("p", &f)?;
                t.char_device("c", &f, (1, 3))?;
                t.block_device("b", &f, (7, 0))?;
                Ok(())
            }),
        ),
        (
            "outwards",
            built(|t| {
                t.symlink("up", "../outside")?;
                t.file("up/new", &f, b"x")?;
                t.file("up/deep/file", &f, b"x")?;
                t.dir("up", &Meta::mode(0o777))?;
                t.hardlink("h", "../outside/deep/file")?;
                t.whiteout("up/deep")?;
                t.opaque("up")?;
                t.file("../outside/deep/file", &f, b"x")?;
                Ok(())
            }),
        ),
        (
            "types",
            built(|t| {
                t.file("a", &f, b"1")?;
                t.dir("a", &d)?;
                t.file("a/b", &f, b"2")?;
                t.symlink("a", "a")?;
                t.whiteout("a")?;
                t.dir("a", &d)?;
                t.file(".wh.a/b", &f, b"")?;
                t.file(".wh..wh.x", &f, b"")?;
                t.dir(".", &d)?;
                Ok(())
            }),
        ),
        ("sparse-gnu", sparse_gnu()),
        ("sparse-pax", sparse_pax()),
        ("gnu-names", gnu_names()),
        ("empty", vec![0; 1024]),
    ]
}

/// A header block of the `tar` crate's.
fn header(flag: u8, name: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn entry(tar: &mut Vec<u8>, mut header: tar::Header, data: &[u8]) {
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn sparse_gnu() -> Vec<u8> {
    let mut tar = Vec::new();
    let mut head = header(b'S', b"sparse", 8);
    let gnu = head.as_gnu_mut().expect("a GNU header");
    gnu.set_real_size(1 << 20);
    for (place, at) in gnu.sparse.iter_mut().zip([0, 4096]) {
        place.set_offset(at);
        place.set_length(4);
    }
    entry(&mut tar, head, b"abcdefgh");
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn sparse_pax() -> Vec<u8> {
    let mut tar = Vec::new();
    let records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n23 GNU.sparse.name=real\n\
        28 GNU.sparse.realsize=9000\n";
    entry(&mut tar, header(b'x', b"x", records.len() as u64), records);
    let mut data = b"2\n0\n4\n8000\n4\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcdefgh");
    entry(&mut tar, header(b'0', b"f", data.len() as u64), &data);
    let records = b"31 GNU.sparse.map=0,4,8000,4\n27 GNU.sparse.size=9000\n";
    entry(&mut tar, header(b'x', b"x", records.len() as u64), records);
    entry(&mut tar, header(b'0', b"g", 8), b"abcdefgh");
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// A PAX header whose size belongs to the file, before a long name that is no file.
fn gnu_names() -> Vec<u8> {
    let mut tar = Vec::new();
    entry(&mut tar, header(b'x', b"x", 12), b"12 size=512\n");
    entry(&mut tar, header(b'L', b"././@LongLink", 9), b"long/name");
    entry(&mut tar, header(b'K', b"././@LongLink", 7), b"target\0");
    let mut inner = Vec::new();
    entry(&mut inner, header(b'0', b"smuggled", 0), b"");
    entry(&mut tar, header(b'0', b"short", 0), &inner);
    entry(&mut tar, header(b'g', b"g", 12), b"12 path=evil");
    entry(&mut tar, header(b'2', b"link", 0), b"");
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn pax() -> [(&'static str, &'static [u8]); 4] {
    [
        (
            "all",
            b"12 path=a/b\n14 linkpath=c\n12 size=512\n8 uid=1\n8 gid=2\n23 mtime=-1.5000000001\n",
        ),
        (
            "xattrs",
            b"27 SCHILY.xattr.user.a=\x00\n=\n34 LIBARCHIVE.xattr.user.%41=aGkh\n",
        ),
        (
            "sparse",
            b"22 GNU.sparse.major=0\n22 GNU.sparse.minor=1\n29 GNU.sparse.map=0,512,900,0\n\
                27 GNU.sparse.size=1000\n",
        ),
        (
            "sparse-0.0",
            b"27 GNU.sparse.size=1000\n24 GNU.sparse.offset=10\n28 GNU.sparse.numbytes=512\n",
        ),
    ]
}

const CONFIG: &str =
    r#"{"created":"2024-01-02T03:04:05Z","rootfs":{"type":"layers","diff_ids":["sha256:$0"]}}"#;

fn archives() -> Vec<(&'static str, String)> {
    let layer = "@blob\nno tar, and only its digest is asked for\n";
    let docker = r#"[{"Config":"c.json","RepoTags":["a:1","a:2"],"Layers":["l/layer.tar"]}]"#;
    let oci = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$1"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:$0"}]}"#;
    let nested = r#"{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$2","platform":{"os":"linux","architecture":"amd64"}}]}"#;
    let index = |digest: &str, media_type: &str| {
        format!(
            r#"{{"manifests":[{{"mediaType":"application/vnd.{media_type}+json","digest":"sha256:{digest}","annotations":{{"org.opencontainers.image.ref.name":"x/a:1"}}}}]}}"#
        )
    };
    let layout = "@oci-layout\n{\"imageLayoutVersion\":\"1.0.0\"}";
    vec![
        (
            "docker",
            format!("@l/layer.tar\nlayer\n@c.json\n{CONFIG}\n@manifest.json\n{docker}"),
        ),
        (
            "oci",
            format!(
                "{layer}@blob\n{CONFIG}\n@blob\n{oci}\n@index.json\n{}\n{layout}",
                index("$2", "oci.image.manifest.v1")
            ),
        ),
        (
            "nested",
            format!(
                "{layer}@blob\n{CONFIG}\n@blob\n{oci}\n@blob\n{nested}\n@index.json\n{}",
                index("$3", "oci.image.index.v1")
            ),
        ),
        ("neither", "@repositories\n{}".to_owned()),
    ]
}

fn documents_as_tar() -> Vec<u8> {
    let layer = built(|t| t.file("f", &Meta::mode(0o644), b"data").map(|_| ()));
    let config = CONFIG.replace("sha256:$0", &DiffId::of(&layer).to_string());
    built(|t| {
        let f = Meta::mode(0o644);
        t.file("aa/layer.tar", &f, &layer)?;
        t.symlink("bb/layer.tar", "../aa/layer.tar")?;
        t.file("c.json", &f, config.as_bytes())?;
        let manifest = br#"[{"Config":"c.json","RepoTags":null,"Layers":["bb/layer.tar"]}]"#;
        t.file("manifest.json", &f, manifest)?;
        Ok(())
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).expect("write to memory");
    gzip.finish().expect("write to memory")
}

fn configs() -> Vec<(&'static str, String)> {
    let digest = "ab".repeat(32);
    vec![
        (
            "full",
            format!(
                r#"{{"architecture":"arm64","variant":"v8","os":"linux","created":"2024-01-02T03:04:05Z","author":"a","config":{{"Env":["A=b"],"Cmd":["sh","-c","x"],"Entrypoint":[],"WorkingDir":"/w","Labels":{{"k":"v"}},"ExposedPorts":{{"80/tcp":{{}}}},"Volumes":{{"/v":{{}}}},"User":"1:2","StopSignal":"SIGINT"}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}},"history":[{{"created_by":"COPY","empty_layer":true}},{{}}]}}"#
            ),
        ),
        (
            "nulls",
            r#"{"rootfs":{"diff_ids":null},"config":null,"history":null}"#.to_owned(),
        ),
        ("reference", "localhost:5000/me/app:1.0".to_owned()),
        ("digest", format!("sha256:{digest}")),
    ]
}

fn tar_splits() -> [(&'static str, Vec<u8>); 2] {
    let of = |path: &[u8]| {
        let mut split = TarSplitWriter::new(Vec::new());
        split.bytes(&[1; 20])?;
        split.contents(path, 0, 512)?;
        split.contents(path, 512, 88)?;
        split.bytes(&[2; 20])?;
        split.finish()
    };
    let of = |path| of(path).expect("write to memory");
    [("file", of(b"d/f")), ("outwards", of(b"../secret"))]
}

fn index() -> Vec<u8> {
    let time = Time { secs: -1, nanos: 5 };
    let inode = |kind| Inode {
        kind,
        opaque: kind == Kind::Directory,
        mode: 0o644,
        uid: 1,
        gid: 2,
        size: 3,
        blocks: 8,
        atime: time,
        mtime: time,
        ctime: time,
        nlink: 0,
        rdev: 0,
        layer: 0,
    };
    let xattrs = [(&b"user.a"[..], &b"value"[..]), (b"user.b", b"")];
    let diff = DiffId::of(b"layer");
    let empty = Cursor::<Vec<u8>>::default;
    let dir = inode(Kind::Directory);
    let builder = Builder::new(Scope::Layer, vec![diff], &dir, xattrs, empty);
    let mut builder = builder.expect("an index");
    let mut build = || {
        let file = builder.add(0, b"again", &inode(Kind::File), b"", xattrs)?;
        let dir = builder.add(0, b"dir", &dir, b"", [])?;
        builder.add(0, b"gone", &inode(Kind::Whiteout), b"", [])?;
        builder.add(0, b"pipe", &inode(Kind::Fifo), b"", [])?;
        builder.link(dir, b"file", file)?;
        builder.add(dir, b"link", &inode(Kind::Symlink), b"target", [])
    };
    build().expect("names that can be");
    let mut out = empty();
    builder.write(&mut out).expect("an index");
    out.into_inner()
}
