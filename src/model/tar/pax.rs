//! PAX records: `LENGTH KEY=VALUE\n`, where the length counts the whole record in bytes.

use std::collections::HashMap;

use super::{Reason, Time, shown, sparse};

/// More than a file can have: Linux lists at most 64 KiB of their names.
const MAX_XATTRS: usize = 4096;

/// What the records of one entry say.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where in that list a name is.
    places: HashMap<Vec<u8>, usize>,
    pub(super) sparse: sparse::Records,
}

/// Reads the records of an `x` header. Unknown keys have no effect, an empty value leaves what the
/// header says (an empty extended attribute is one, though), the last of a key wins.
pub(super) fn parse(mut rest: &[u8]) -> Result<Pax, Reason> {
    let mut pax = Pax::default();
    while !rest.is_empty() {
        // Some writers fill with zeros.
        if rest.iter().all(|b| *b == 0) {
            break;
        }
        let (record, after) = record(rest).ok_or("a malformed PAX record")?;
        rest = after;
        let (key, value) = record;
        put(&mut pax, key, value)?;
    }
    Ok(pax)
}

type KeyValue<'a> = (&'a [u8], &'a [u8]);

fn record(bytes: &[u8]) -> Option<(KeyValue<'_>, &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = decimal(&bytes[..space])?.try_into().ok()?;
    let body = bytes.get(space + 1..length)?;
    let (last, body) = body.split_last()?;
    let equals = body.iter().position(|b| *b == b'=')?;
    if *last != b'\n' || equals == 0 {
        return None;
    }
    Some(((&body[..equals], &body[equals + 1..]), &bytes[length..]))
}

fn put(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<(), Reason> {
    let bad = || format!("a PAX record with an invalid {}", shown(key));
    let text = || match value {
        [] => Ok(None),
        v if v.contains(&0) => Err(bad()),
        v => Ok(Some(v.to_vec())),
    };
    let number = || match value {
        [] => Ok(None),
        v => decimal(v).map(Some).ok_or_else(bad),
    };
    // One too large is no owner at all: the header's, mostly root, must not take its place.
    let id = || {
        number()?
            .map(|n| i64::try_from(n).map_err(|_| bad()))
            .transpose()
    };
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        return set_xattr(pax, name.to_vec(), value.to_vec()).ok_or_else(bad);
    }
    if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
        let name = percent_decoded(name).ok_or_else(bad)?;
        // Writers of this form often write the other as well; that one is exact.
        if pax.places.contains_key(&name) {
            return Ok(());
        }
        return set_xattr(pax, name, base64_decoded(value).ok_or_else(bad)?).ok_or_else(bad);
    }
    match key {
        b"path" => pax.path = text()?,
        b"linkpath" => pax.link = text()?,
        b"size" => pax.size = number()?,
        b"uid" => pax.uid = id()?,
        b"gid" => pax.gid = id()?,
        b"mtime" => {
            pax.mtime = match value {
                [] => None,
                v => Some(time(v).ok_or_else(bad)?),
            }
        }
        key => {
            if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                pax.sparse.put(key, value).ok_or_else(bad)?;
            }
        }
    }
    Ok(())
}

/// `None` where the name cannot be one, or there are too many.
fn set_xattr(pax: &mut Pax, name: Vec<u8>, value: Vec<u8>) -> Option<()> {
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    match pax.places.get(&name) {
        Some(at) => pax.xattrs[*at].1 = value,
        None if pax.xattrs.len() < MAX_XATTRS => {
            pax.places.insert(name.clone(), pax.xattrs.len());
            pax.xattrs.push((name, value));
        }
        None => return None,
    }
    Some(())
}

/// Decimal digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, b| match b {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// Seconds with an optional sign and fraction; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (whole, fraction) = match digits.iter().position(|b| *b == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0u32, |sum, n| {
        sum * 10 + fraction.get(n).map_or(0, |b| u32::from(b - b'0'))
    });
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time {
            seconds: -seconds,
            nanos: 0,
        },
        (true, nanos) => Time {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                rest = &rest[2..];
            }
            b => out.push(*b),
        }
    }
    Some(out)
}

/// Base64 with or without the fill at the end.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' | b'\n' => continue,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("1.", 1, 0),
            ("1.1234567899", 1, 123_456_789),
            ("-1", -1, 0),
            ("-0.25", -1, 750_000_000),
        ] {
            assert_eq!(
                time(text.as_bytes()),
                Some(Time { seconds, nanos }),
                "{text}"
            );
        }
        for bad in ["", "x", "1.x", ".5", "--1", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn records() {
        let pax = parse(b"12 path=a/b\n11 size=17\n13 path=last\n13 mtime=2.5\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"last"[..]));
        assert_eq!(pax.size, Some(17));
        let pax = parse(b"30 SCHILY.xattr.user.a=x=\0\n\xffz\n").unwrap();
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"x=\0\n\xffz".to_vec())]);
        let pax = parse(b"37 LIBARCHIVE.xattr.user.%41%3d=aGkh\n").unwrap();
        assert_eq!(pax.xattrs, [(b"user.A=".to_vec(), b"hi!".to_vec())]);
    }

    #[test]
    fn broken_records() {
        for bad in [
            &b"12 path=a/b"[..],
            b"99 path=a/b\n",
            b"3 a\n",
            b"x path=a\n",
            b"6 =ab\n",
            b"9999999999999999999999 a=b\n",
            b"11 path=a\0\n",
            b"12 size=-17\n",
            b"0 a=b\n",
            b"17 SCHILY.xattr.=\n",
            // 2^64 - 1: no owner, and not the header's either.
            b"28 uid=18446744073709551615\n",
            b"28 gid=18446744073709551615\n",
        ] {
            assert!(parse(bad).is_err(), "{}", shown(bad));
        }
    }
}
