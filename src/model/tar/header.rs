//! The 512 bytes of a tar header, by position.

use super::{Reason, Time};

/// A header's fields, without what extensions may say instead.
pub(super) struct Header {
    pub(super) flag: u8,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) device: (i64, i64),
}

/// Reads a header after checking its checksum.
pub(super) fn parse(block: &[u8; 512]) -> Result<Header, Reason> {
    check_sum(block)?;
    let flag = block[156];
    let size = number(&block[124..136], "size")?;
    let seconds = number(&block[136..148], "mtime")?;
    let device = match flag {
        b'3' | b'4' => (
            number(&block[329..337], "device number")?,
            number(&block[337..345], "device number")?,
        ),
        _ => (0, 0),
    };
    Ok(Header {
        flag,
        path: path(block),
        link: c_string(&block[157..257]),
        mode: (number(&block[100..108], "mode")? & 0o7777) as u32,
        uid: number(&block[108..116], "uid")?,
        gid: number(&block[116..124], "gid")?,
        size: u64::try_from(size).map_err(|_| "a negative size".to_owned())?,
        mtime: Time { seconds, nanos: 0 },
        device,
    })
}

/// Up to the first zero byte.
pub(super) fn c_string(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

/// Only ustar and star have a prefix; GNU keeps other things in its place.
fn path(block: &[u8; 512]) -> Vec<u8> {
    let name = c_string(&block[..100]);
    let prefix = match (&block[257..263], &block[508..512]) {
        (b"ustar\0", b"tar\0") => c_string(&block[345..476]),
        (b"ustar\0", _) => c_string(&block[345..500]),
        _ => Vec::new(),
    };
    if prefix.is_empty() {
        return name;
    }
    [prefix.as_slice(), b"/", &name].concat()
}

/// The sum of all bytes, the field of the sum itself taken as spaces; some old writers added signed bytes.
fn check_sum(block: &[u8; 512]) -> Result<(), Reason> {
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (n, byte) in block.iter().enumerate() {
        let byte = match n {
            148..156 => b' ',
            _ => *byte,
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    match number(&block[148..156], "checksum") {
        Ok(sum) if sum == unsigned || sum == signed => Ok(()),
        _ => Err("a header with a wrong checksum".to_owned()),
    }
}

/// Octal digits between spaces and zeros, or, with the first bit set, a big-endian two's complement.
pub(super) fn number(field: &[u8], what: &str) -> Result<i64, Reason> {
    let bad = || format!("a header with an invalid {what}");
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            // The first bit only marks the form; the second is the sign.
            let negative = first & 0x40 != 0;
            let mut value: i128 = if negative { -1 } else { 0 };
            for (n, byte) in field.iter().enumerate() {
                let byte = match n {
                    0 if negative => byte | 0x80,
                    0 => byte & 0x7f,
                    _ => *byte,
                };
                value = (value << 8) | i128::from(byte);
            }
            i64::try_from(value).map_err(|_| bad())
        }
        _ => {
            let blank = |b: &u8| matches!(b, b' ' | 0);
            let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
            let digits = &field[start..];
            let end = digits.iter().position(blank).unwrap_or(digits.len());
            let mut value: i64 = 0;
            for byte in &digits[..end] {
                if !matches!(byte, b'0'..=b'7') {
                    return Err(bad());
                }
                value = value
                    .checked_mul(8)
                    .and_then(|v| v.checked_add(i64::from(byte - b'0')))
                    .ok_or_else(bad)?;
            }
            Ok(value)
        }
    }
}
