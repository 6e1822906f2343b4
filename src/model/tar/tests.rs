//! Headers made with the `tar` crate, and by hand where that one refuses to.

use super::*;

impl Skip for &[u8] {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let n = usize::try_from(count).unwrap_or(usize::MAX).min(self.len());
        *self = &self[n..];
        Ok(n as u64)
    }
}

fn raw(name: &[u8], flag: u8, size: u64, data: &[u8]) -> Vec<u8> {
    let mut header = ::tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(::tar::EntryType::new(flag));
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1000);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(tar);
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match reader.read_data(&mut buffer)? {
                0 => break,
                n => data.extend_from_slice(&buffer[..n]),
            }
        }
        out.push((entry, data));
    }
    Ok(out)
}

#[test]
fn plain_entries() {
    let mut tar = raw(b"a", b'0', 3, b"abc");
    tar.extend(raw(b"d/", b'5', 0, b""));
    tar.extend([0; 1024]);
    let got = read(&tar).unwrap();
    assert_eq!(got.len(), 2);
    let (a, data) = &got[0];
    assert_eq!(
        (a.path.as_slice(), a.kind, a.size),
        (&b"a"[..], Kind::File, 3)
    );
    assert_eq!(
        (a.mode, a.uid, a.gid, a.mtime.seconds),
        (0o4755, 7, 8, 1000)
    );
    assert_eq!(data, b"abc");
    assert_eq!(got[1].0.kind, Kind::Directory);
    assert_eq!(a.data_at, 512);
}

/// The size of a PAX record counts, not the header's: else the next header is looked for inside data
/// (GHSA-3cv2-h65g-fgmm and its relatives).
#[test]
fn pax_size_wins_over_the_headers() {
    let inner = raw(b"smuggled", b'0', 0, b"");
    for header_size in [0, 512, 7] {
        let mut tar = raw(b"x", b'x', 12, b"12 size=512\n");
        tar.extend(raw(b"a", b'0', header_size, &inner));
        tar.extend([0; 1024]);
        let got = read(&tar).unwrap();
        assert_eq!(got.len(), 1, "{header_size}");
        assert_eq!(got[0].1, inner);
    }
}

#[test]
fn links_and_directories_have_no_data() {
    for flag in [b'1', b'2', b'5', b'3', b'6'] {
        let mut tar = raw(b"l", flag, 512, b"");
        tar.extend(raw(b"b", b'0', 0, b""));
        assert_eq!(read(&tar).unwrap().len(), 2, "{flag}");
    }
}

#[test]
fn truncated_anywhere() {
    let mut tar = raw(b"x", b'x', 12, b"12 path=a/b\n");
    tar.extend(raw(b"a", b'0', 700, &[7; 700]));
    // The last fill may be missing.
    for cut in 1..1024 + 512 + 700 {
        let got = read(&tar[..cut]);
        assert!(matches!(got, Err(TarError::Truncated { .. })), "{cut}");
    }
    assert_eq!(read(&tar).unwrap()[0].0.path, b"a/b");
    assert_eq!(
        read(&tar[..2000]).unwrap_err().to_string(),
        "unexpected end of the tar in or after a/b"
    );
}

#[test]
fn no_tar() {
    assert!(read(b"").unwrap().is_empty());
    assert!(read(&[0; 1024]).unwrap().is_empty());
    assert!(matches!(
        read(&[b'x'; 600]),
        Err(TarError::Malformed { .. })
    ));
    let mut tar = raw(b"a", b'0', 0, b"");
    tar[0] = b'b';
    assert_eq!(
        read(&tar).unwrap_err().to_string(),
        "a header with a wrong checksum at its beginning"
    );
    let mut lone = vec![0; 512];
    lone.extend(raw(b"a", b'0', 0, b""));
    assert!(read(&lone).is_err());
}

#[test]
fn extensions_are_bounded() {
    for flag in [b'x', b'g', b'L', b'K'] {
        for size in [MAX_EXTENSION + 1, 1 << 32] {
            let error = read(&raw(b"x", flag, size, b"")).unwrap_err();
            assert!(error.to_string().contains("more than 1048576"), "{error}");
        }
    }
    // Many small ones before one entry.
    let part = raw(b"x", b'L', 1 << 19, &vec![b'a'; 1 << 19]);
    assert!(
        read(&part.repeat(3))
            .unwrap_err()
            .to_string()
            .contains("more than")
    );
}

#[test]
fn long_names() {
    let long = vec![b'n'; 300];
    let mut tar = raw(b"x", b'L', 301, &[long.as_slice(), b"\0"].concat());
    tar.extend(raw(b"x", b'K', 4, b"abc\0"));
    tar.extend(raw(b"short", b'2', 0, b""));
    let got = read(&tar).unwrap();
    assert_eq!(got[0].0.path, long);
    assert_eq!(got[0].0.link, b"abc");
}

#[test]
fn sparse_forms() {
    let want = vec![
        Segment {
            offset: 1024,
            length: 3,
        },
        Segment {
            offset: 4096,
            length: 0,
        },
    ];
    let pax = |records: &[&str]| {
        let mut text = String::new();
        for record in records {
            // The length counts its own digits: two here.
            text += &format!("{} {record}\n", record.len() + 4);
        }
        raw(b"x", b'x', text.len() as u64, text.as_bytes())
    };
    let v00 = [
        pax(&[
            "GNU.sparse.size=4096",
            "GNU.sparse.numblocks=2",
            "GNU.sparse.offset=1024",
            "GNU.sparse.numbytes=3",
            "GNU.sparse.offset=4096",
            "GNU.sparse.numbytes=0",
        ]),
        raw(b"s", b'0', 3, b"abc"),
    ]
    .concat();
    let v01 = [
        pax(&[
            "GNU.sparse.size=4096",
            "GNU.sparse.map=1024,3,4096,0",
            "GNU.sparse.name=s",
        ]),
        raw(b"GNUSparseFile.0/s", b'0', 3, b"abc"),
    ]
    .concat();
    let mut map = b"2\n1024\n3\n4096\n0\n".to_vec();
    map.resize(512, 0);
    map.extend(b"abc");
    let v10 = [
        pax(&[
            "GNU.sparse.major=1",
            "GNU.sparse.minor=0",
            "GNU.sparse.name=s",
            "GNU.sparse.realsize=4096",
        ]),
        raw(b"GNUSparseFile.0/s", b'0', 515, &map),
    ]
    .concat();
    for (name, tar) in [("0.0", v00), ("0.1", v01), ("1.0", v10)] {
        let got = read(&tar).unwrap();
        let (entry, data) = &got[0];
        assert_eq!(entry.path, b"s", "{name}");
        assert_eq!((entry.size, entry.stored), (4096, 3), "{name}");
        assert_eq!(entry.sparse.as_ref(), Some(&want), "{name}");
        assert_eq!(data, b"abc", "{name}");
    }
    for lie in [
        "1024,4,4096,0",
        "1024,3,1025,0",
        "4096,3",
        "1024",
        "0,18446744073709551615,1,4",
    ] {
        let tar = [
            pax(&["GNU.sparse.size=4096", &format!("GNU.sparse.map={lie}")]),
            raw(b"s", b'0', 3, b"abc"),
        ]
        .concat();
        assert!(read(&tar).is_err(), "{lie}");
    }
}

#[test]
fn numbers() {
    let mut tar = raw(b"a", b'0', 0, b"");
    // mtime -1 in base 256.
    tar[136..148].fill(0xff);
    let mut header = ::tar::Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&tar);
    header.set_cksum();
    assert_eq!(read(header.as_bytes()).unwrap()[0].0.mtime.seconds, -1);
}

#[test]
fn names_are_shown_on_one_line() {
    assert_eq!(shown(b"a\nb\x1b[31m"), "a\\nb\\u{1b}[31m");
    assert!(shown(&[b'x'; 5000]).chars().count() <= 201);
    assert_eq!(shown(b"\xff"), "\u{fffd}");
}

proptest::proptest! {
    // As many as it takes to meet each byte of both headers several times.
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4096))]
    #[test]
    fn never_panics(
        mut tar: Vec<u8>,
        flips in proptest::collection::vec((0..1536_usize, proptest::num::u8::ANY), 1..4),
    ) {
        let mut made = raw(b"x", b'x', 12, b"12 path=a/b\n");
        made.extend(raw(b"a", b'S', 700, &[7; 700]));
        for (at, value) in flips {
            made[at] = value;
        }
        // Right checksums, or no more than those would be looked at.
        for at in [0, 1024] {
            let mut header = ::tar::Header::new_ustar();
            header.as_mut_bytes().copy_from_slice(&made[at..at + 512]);
            header.set_cksum();
            made[at..at + 512].copy_from_slice(header.as_bytes());
        }
        drop(read(&made));
        drop(read(&tar));
        tar.extend(made);
        drop(read(&tar));
    }
}
