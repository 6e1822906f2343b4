//! The identifiers of content, each a type of its own, so that a diff ID is never taken for a chain ID.
//!
//! Digests are `sha256:` followed by 64 lower-case hexadecimal digits, as the
//! [OCI image specification](https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests)
//! writes them. Container IDs are 64 such digits without a prefix.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// What is wrong with the text of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {text:?}: {reason}")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
    reason: &'static str,
}

/// 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Hex(Box<str>);

impl Hex {
    fn parse(text: &str, what: &'static str) -> Result<Hex, ParseIdError> {
        let bad = |reason| ParseIdError {
            what,
            text: text.chars().take(100).collect(),
            reason,
        };
        if text.len() != 64 {
            return Err(bad("64 hexadecimal digits are expected"));
        }
        if !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("a digit is not lower-case hexadecimal"));
        }
        Ok(Hex(text.into()))
    }

    fn from_bytes(bytes: &[u8]) -> Hex {
        use fmt::Write as _;
        let mut text = String::with_capacity(2 * bytes.len());
        for b in bytes {
            // Writing to a String cannot fail.
            write!(text, "{b:02x}").unwrap_or_default();
        }
        Hex(text.into())
    }

    fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (nth, digit) in self.0.bytes().enumerate() {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                _ => digit - b'a' + 10,
            };
            bytes[nth / 2] = bytes[nth / 2] << 4 | value;
        }
        bytes
    }
}

macro_rules! sha256_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Hex);

        impl $name {
            /// The digest of these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self::from_sha256(Sha256::digest(bytes).as_slice())
            }

            /// From the 32 bytes of a finished SHA-256.
            pub fn from_sha256(bytes: &[u8]) -> Self {
                Self(Hex::from_bytes(bytes))
            }

            /// From 64 hexadecimal digits without `sha256:`.
            pub fn from_hex(hex: &str) -> Result<Self, ParseIdError> {
                Hex::parse(hex, $what).map(Self)
            }

            /// The 64 hexadecimal digits.
            pub fn hex(&self) -> &str {
                &self.0.0
            }

            /// The 32 bytes that the digits stand for.
            pub fn sha256(&self) -> [u8; 32] {
                self.0.bytes()
            }

            /// The first 12 digits, as listings show them.
            pub fn short(&self) -> &str {
                &self.0.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                match text.split_once(':') {
                    Some(("sha256", hex)) => Self::from_hex(hex),
                    Some(_) => Err(ParseIdError {
                        what: $what,
                        text: text.chars().take(100).collect(),
                        reason: "only sha256 digests are supported",
                    }),
                    None => Err(ParseIdError {
                        what: $what,
                        text: text.chars().take(100).collect(),
                        reason: "it does not begin with sha256:",
                    }),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

sha256_id!(
    /// The digest of an uncompressed layer tar.
    DiffId,
    "diff ID"
);
sha256_id!(
    /// The digest of a layer together with all layers below it.
    ChainId,
    "chain ID"
);
sha256_id!(
    /// The digest of an image's config, which is the image's ID.
    ImageId,
    "image ID"
);
sha256_id!(
    /// The digest of a blob in an OCI layout: an index, a manifest, a config, a (compressed) layer.
    BlobDigest,
    "digest"
);

impl BlobDigest {
    /// Of a layer that is stored as it is, not compressed: the same as its diff ID.
    pub fn of_layer(diff: &DiffId) -> BlobDigest {
        BlobDigest(diff.0.clone())
    }
}

impl ChainId {
    /// The chain IDs of a stack of layers, lowest first.
    ///
    /// `ChainID(L₀) = DiffID(L₀)`, `ChainID(L₀|…|Lₙ) = SHA256(ChainID(L₀|…|Lₙ₋₁) + " " + DiffID(Lₙ))`:
    /// [OCI image specification, Layer ChainID](https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid).
    pub fn of_stack(diffs: &[DiffId]) -> Vec<ChainId> {
        let mut chain: Vec<ChainId> = Vec::with_capacity(diffs.len());
        for diff in diffs {
            let id = match chain.last() {
                None => ChainId(diff.0.clone()),
                Some(below) => ChainId::of(format!("{below} {diff}").as_bytes()),
            };
            chain.push(id);
        }
        chain
    }
}

/// A container's ID: 64 random hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Hex);

impl ContainerId {
    /// From 32 random bytes.
    pub fn from_random(bytes: [u8; 32]) -> ContainerId {
        ContainerId(Hex::from_bytes(&bytes))
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0.0
    }

    /// The first 12 digits, as listings show them.
    pub fn short(&self) -> &str {
        &self.0.0[..12]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hex())
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContainerId({self})")
    }
}

impl FromStr for ContainerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<ContainerId, ParseIdError> {
        Hex::parse(text, "container ID").map(ContainerId)
    }
}

impl serde::Serialize for ContainerId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Takes the digest of what is written through it.
#[derive(Debug)]
pub struct DigestWriter<W> {
    out: W,
    hash: Sha256,
    length: u64,
}

impl<W> DigestWriter<W> {
    /// Passes on to `out`.
    pub fn new(out: W) -> DigestWriter<W> {
        DigestWriter {
            out,
            hash: Sha256::new(),
            length: 0,
        }
    }

    /// What was written to, the digest of what was, and its bytes.
    pub fn finish(self) -> (W, BlobDigest, u64) {
        let digest = BlobDigest::from_sha256(self.hash.finalize().as_slice());
        (self.out, digest, self.length)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let id: DiffId = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(id, DiffId::of(b""));
        assert_eq!((id.hex(), id.short()), (hex, "e3b0c44298fc"));
        assert_eq!(id.to_string(), format!("sha256:{hex}"));
        assert_eq!(DiffId::from_sha256(&id.sha256()), id);
    }

    #[test]
    fn refuses_what_is_no_digest() {
        for bad in [
            "",
            "sha256:",
            "sha256:abc",
            "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "sha256:../../../../../../../../../../../../../../../../../../../../../../etc",
        ] {
            assert!(bad.parse::<DiffId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let diffs = [DiffId::of(b"a"), DiffId::of(b"b"), DiffId::of(b"c")];
        let chain = ChainId::of_stack(&diffs);
        assert_eq!(chain[0].hex(), diffs[0].hex());
        assert_eq!(
            chain[1],
            ChainId::of(format!("{} {}", diffs[0], diffs[1]).as_bytes())
        );
        assert_eq!(
            chain[2],
            ChainId::of(format!("{} {}", chain[1], diffs[2]).as_bytes())
        );
        assert!(ChainId::of_stack(&[]).is_empty());
    }
}
