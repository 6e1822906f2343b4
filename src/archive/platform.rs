//! Platforms, and which of several images fits a machine best. Pure.

use std::fmt;
use std::str::FromStr;

/// A platform in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Platform {
    /// `GOOS`.
    pub os: String,
    /// `GOARCH`.
    pub architecture: String,
    /// The CPU's variant, such as `v7`; may be empty.
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            "powerpc64" => ("ppc64", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// How well an image for `image` runs here: `None` not at all, otherwise the smaller the better.
    ///
    /// Variants are taken leniently: the same or none is best, a lower one is next, a higher one (amd64's v3) still
    /// better than nothing, for what the CPU can do is not asked.
    pub fn distance(&self, image: &Platform) -> Option<u32> {
        let arch = |p: &Platform| match p.architecture.as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_owned(),
        };
        if self.os != image.os || arch(self) != arch(image) {
            return None;
        }
        let level = |p: &Platform, default| match p.variant.strip_prefix('v') {
            Some(digits) => digits.parse().unwrap_or(default),
            None => default,
        };
        let usual = match arch(self).as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1u32,
        };
        let (here, there) = (level(self, usual), level(image, usual));
        Some(match there > here {
            true => 1000u32.saturating_add(there - here),
            false => here - there,
        })
    }
}

impl FromStr for Platform {
    type Err = String;

    /// Reads `OS/ARCHITECTURE[/VARIANT]`; the error says what is wrong with it.
    fn from_str(text: &str) -> Result<Platform, String> {
        let is_word = |part: &&str| {
            let of_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            !part.is_empty() && part.bytes().all(of_word)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] => (os, architecture, *variant),
            _ => return Err(format!("{text:?} is not OS/ARCHITECTURE[/VARIANT]")),
        };
        match parts.iter().all(is_word) {
            true => Ok(Platform {
                os: (*os).to_owned(),
                architecture: (*architecture).to_owned(),
                variant: variant.to_owned(),
            }),
            false => Err(format!("{text:?} is not a platform")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next().unwrap_or_default(),
        }
    }

    #[test]
    fn texts() {
        for text in ["linux/amd64", "linux/arm/v7", "freebsd/riscv64"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/a b",
            "linux/arm/",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_best_is_chosen() {
        for (host, images, want) in [
            (
                "linux/amd64",
                &["linux/arm64", "linux/amd64"][..],
                Some("linux/amd64"),
            ),
            ("linux/amd64", &["linux/arm64", "windows/amd64"], None),
            (
                "linux/amd64",
                &["linux/amd64/v3", "linux/amd64/v2"],
                Some("linux/amd64/v2"),
            ),
            (
                "linux/amd64",
                &["linux/amd64/v2", "linux/amd64"],
                Some("linux/amd64"),
            ),
            (
                "linux/arm64/v8",
                &["linux/arm/v7", "linux/arm64"],
                Some("linux/arm64"),
            ),
            ("linux/arm64", &["linux/arm64/v8"], Some("linux/arm64/v8")),
            (
                "linux/arm/v7",
                &["linux/arm/v5", "linux/arm/v6"],
                Some("linux/arm/v6"),
            ),
            (
                "linux/arm/v7",
                &["linux/arm/v6", "linux/arm/v7"],
                Some("linux/arm/v7"),
            ),
            ("linux/amd64", &["linux/x86_64"], Some("linux/x86_64")),
        ] {
            let host = platform(host);
            let best = images
                .iter()
                .filter_map(|i| Some((host.distance(&platform(i))?, *i)))
                .min();
            assert_eq!(best.map(|b| b.1), want, "{images:?}");
        }
    }
}
