//! PAX records, in front of a file.

use layerctl::model::tar::TarReader;

use super::tar_entries::check_entry;
use super::{Bytes, check_message, with_checksums};

/// The bytes are all the records of an `x` header.
pub fn check(data: &[u8]) {
    let mut tar = header(b'x', data.len());
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar.extend(header(b'0', 512));
    tar.resize(tar.len() + 512 + 1024, 0);
    let tar = with_checksums(&tar);
    let mut reader = TarReader::new(Bytes(&tar));
    match reader.next_entry() {
        Ok(Some(entry)) => {
            check_entry(&entry);
            while reader.read_data(&mut [0; 512]).is_ok_and(|n| n > 0) {}
        }
        Ok(None) => panic!("the file's header was not seen"),
        Err(error) => check_message(&error),
    }
}

fn header(flag: u8, size: usize) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[0] = b'f';
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = flag;
    block[257..263].copy_from_slice(b"ustar\0");
    block
}
