//! A tar: read to its end by data and by skipping, which must find the same.

use layerctl::model::tar::{Entry, Kind, MAX_EXTENSION, MAX_SEGMENTS, TarError, TarReader};

use super::{Bytes, check_message, with_checksums};

/// For the bytes as they are, and with the checksums of all headers right.
pub fn check(data: &[u8]) {
    check_tar(data);
    check_tar(&with_checksums(data));
}

fn check_tar(tar: &[u8]) {
    let (read, read_error) = entries(tar, true);
    let (skipped, skip_error) = entries(tar, false);
    // Where data are missing, the entry itself was found by both.
    assert_eq!(read, skipped);
    assert_eq!(read_error, skip_error);
    assert!(read.len() <= tar.len() / 512, "an entry has a header");
    for entry in &read {
        check_entry(entry);
    }
}

pub(super) fn check_entry(entry: &Entry) {
    assert!(entry.mode <= 0o7777);
    assert!(entry.mtime.nanos < 1_000_000_000);
    let records: usize = entry.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum();
    assert!((entry.path.len() + entry.link.len() + records) as u64 <= 2 * MAX_EXTENSION);
    let has_data = matches!(entry.kind, Kind::File | Kind::Other(_));
    assert!(has_data || (entry.stored == 0 && entry.size == 0));
    let mut names: Vec<_> = entry.xattrs.iter().map(|(name, _)| name).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    if let Some(map) = &entry.sparse {
        assert!(map.len() <= MAX_SEGMENTS);
        let mut end = 0;
        for segment in map {
            assert!(segment.offset >= end);
            end = segment.offset + segment.length;
        }
        assert!(end <= entry.size && entry.size <= i64::MAX as u64);
        assert_eq!(map.iter().map(|s| s.length).sum::<u64>(), entry.stored);
    }
}

/// The entries, and why there are no more if not because the tar ends.
fn entries(tar: &[u8], read: bool) -> (Vec<Entry>, Option<String>) {
    let mut reader = TarReader::new(Bytes(tar));
    let mut found = Vec::new();
    let error = loop {
        match reader.next_entry() {
            Ok(None) => break None,
            Ok(Some(entry)) => {
                let (at, stored) = (entry.data_at, entry.stored);
                found.push(entry);
                if read {
                    match data(&mut reader) {
                        Ok(bytes) => assert_eq!(bytes, tar[at as usize..][..stored as usize]),
                        Err(error) => break Some(error),
                    }
                }
            }
            Err(error) => break Some(error),
        }
    };
    if let Some(error) = &error {
        check_message(error);
    }
    (found, error.map(|e| e.to_string()))
}

fn data(reader: &mut TarReader<Bytes<'_>>) -> Result<Vec<u8>, TarError> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1000];
    loop {
        match reader.read_data(&mut buffer)? {
            0 => return Ok(bytes),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}
