//! Zstandard, one frame after the other, each with the memory that its header asks for
//! ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878), 3.1.1.1).
//!
//! Most frames have a window of at most 8 MiB, some of many times that. Only their headers say so, and a
//! stream may have many frames, of any sizes.

use std::io::{self, BufRead, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::memory::Share;

/// The window of `zstd -22 --ultra` would be 128 MiB; `zstd -19` has 8 MiB.
const WINDOW_LOG: u32 = 26;

/// What a decoder takes beside the window, roughly.
const BESIDE: u64 = 1 << 20;

/// The most bytes of a frame's header.
const HEADER: usize = 18;

/// A reader of the uncompressed bytes of frames.
pub(super) struct Frames<R> {
    stored: R,
    /// Its share is taken before it and given back after it.
    decoder: Option<(Decoder<'static>, Share)>,
    header: Header,
    within: bool,
}

/// The first bytes of a frame, which the decoder gets after they were looked at.
#[derive(Default)]
struct Header {
    bytes: [u8; HEADER],
    length: usize,
    passed_on: usize,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(stored: R) -> Frames<R> {
        Frames {
            stored,
            decoder: None,
            header: Header::default(),
            within: false,
        }
    }

    /// Reads the header of the next frame and prepares a decoder for it. False at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        let mut header = Header::default();
        loop {
            let wanted = length(&header.bytes[..header.length]);
            if header.length >= wanted {
                break;
            }
            let here = match self.stored.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if here.is_empty() {
                break;
            }
            let n = here.len().min(wanted - header.length);
            header.bytes[header.length..][..n].copy_from_slice(&here[..n]);
            header.length += n;
            self.stored.consume(n);
        }
        if header.length == 0 {
            return Ok(false);
        }
        let wanted = window(&header.bytes[..header.length]).saturating_add(BESIDE);
        let has = self.decoder.as_ref().map_or(0, |(_, share)| share.bytes());
        if has < wanted.min(super::memory::MOST) {
            // Given back before more is asked for: nobody waits with a share.
            self.decoder = None;
            let share = Share::wait(wanted);
            let mut decoder = Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
            self.decoder = Some((decoder, share));
        }
        self.header = header;
        self.within = true;
        Ok(true)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.within && !self.begin()? {
                return Ok(0);
            }
            let Some((decoder, _)) = &mut self.decoder else {
                return Ok(0);
            };
            let header = &mut self.header;
            let of_header = header.passed_on < header.length;
            let here = match of_header {
                true => &header.bytes[header.passed_on..header.length],
                false => self.stored.fill_buf()?,
            };
            let at_end = here.is_empty();
            let mut from = InBuffer::around(here);
            let mut to = OutBuffer::around(&mut *buffer);
            let hint = decoder.run(&mut from, &mut to)?;
            let (read, made) = (from.pos(), to.pos());
            match of_header {
                true => header.passed_on += read,
                false => self.stored.consume(read),
            }
            self.within = hint != 0;
            if made > 0 {
                return Ok(made);
            }
            if at_end && self.within {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// How long the header is that begins so; as far as can be seen yet.
fn length(start: &[u8]) -> usize {
    match *start {
        [0x28, 0xb5, 0x2f, 0xfd, descriptor, ..] => {
            let window = usize::from(!is_single(descriptor));
            5 + window + dictionary(descriptor) + content_size(descriptor)
        }
        [_, _, _, _, ..] if start[..4] != [0x28, 0xb5, 0x2f, 0xfd] => 4,
        _ if start.len() < 4 => 4,
        _ => 5,
    }
}

/// The bytes of memory that a frame with this header is decoded in; 0 where it is none, or not whole.
fn window(header: &[u8]) -> u64 {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = header else {
        return 0;
    };
    if !is_single(*descriptor) {
        let Some(window) = rest.first() else {
            return 0;
        };
        let base = 1 << (10 + (window >> 3));
        return base + base / 8 * u64::from(window & 7);
    }
    let size = rest.get(dictionary(*descriptor)..).unwrap_or_default();
    let mut bytes = [0; 8];
    let length = size.len().min(8);
    bytes[..length].copy_from_slice(&size[..length]);
    u64::from_le_bytes(bytes)
}

/// All of the content is the window, and its size is said instead.
fn is_single(descriptor: u8) -> bool {
    descriptor & 0x20 != 0
}

fn dictionary(descriptor: u8) -> usize {
    [0, 1, 2, 4][usize::from(descriptor & 3)]
}

fn content_size(descriptor: u8) -> usize {
    match descriptor >> 6 {
        0 => usize::from(is_single(descriptor)),
        flag => 1 << flag,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write as _};

    use super::*;

    fn frame(data: &[u8], window_log: Option<u32>) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        if let Some(log) = window_log {
            encoder.window_log(log).unwrap();
            encoder.long_distance_matching(true).unwrap();
        }
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(stored: &[u8], buffer: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Frames::new(BufReader::with_capacity(buffer, stored)).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn headers_say_what_they_need() {
        let long = frame(&[1; 100], Some(24));
        assert_eq!(window(&long[..length(&long)]), 1 << 24);
        let single = zstd::bulk::compress(&vec![7; 70_000], 1).unwrap();
        assert_eq!(window(&single[..length(&single)]), 70_000);
        let single = zstd::bulk::compress(&[7; 70], 1).unwrap();
        assert_eq!(window(&single[..length(&single)]), 70);
        assert_eq!(window(b"(\xb5/\xfd"), 0);
        assert_eq!(window(b"\x50*M\x18\x05\0\0\0"), 0);
        assert_eq!(length(b""), 4);
    }

    #[test]
    fn frames_of_all_kinds_follow_one_another() {
        let data: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        let stored = [
            frame(&data[..10], None),
            b"\x50*M\x18\x05\0\0\0skip!".to_vec(),
            frame(b"", None),
            frame(&data[10..500_000], Some(25)),
            frame(&data[500_000..], Some(10)),
            b"\x5f*M\x18\0\0\0\0".to_vec(),
        ]
        .concat();
        for buffer in [1, 7, 4096, 1 << 20] {
            assert_eq!(decoded(&stored, buffer).unwrap(), data, "{buffer}");
        }
        assert_eq!(decoded(b"", 10).unwrap(), b"");
    }

    #[test]
    fn what_is_cut_short_or_too_large_is_an_error() {
        let stored = frame(&[9; 1000], None);
        for end in 1..stored.len() {
            let error = decoded(&stored[..end], 4096).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
        let error = decoded(&[&stored[..], b"garbage"].concat(), 4096).unwrap_err();
        assert!(error.to_string().contains("nknown frame"), "{error}");
        let error = decoded(&frame(&[9; 1000], Some(27)), 4096).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
