//! Arguments that all benchmarks have: where they work.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::ValueEnum;

use crate::bench::disk::{FsKind, Where};

/// Where a benchmark works.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The file system that is made for it, on a loop device
    #[arg(long, value_enum, default_value_t)]
    fs: Kind,
    /// Its size; it takes what is written to it
    #[arg(long, value_name = "SIZE", default_value = "32GiB")]
    disk_size: ByteSize,
    /// Where its file, and what else it takes, is made [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Work in a new directory of DIR instead of a file system of its own
    #[arg(long, value_name = "DIR", conflicts_with_all = ["fs", "disk_size", "scratch"])]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Kind {
    #[default]
    Ext4,
    Xfs,
    Btrfs,
}

impl Place {
    /// As the library takes it.
    pub fn to_where(&self) -> Where {
        let kind = match self.fs {
            Kind::Ext4 => FsKind::Ext4,
            Kind::Xfs => FsKind::Xfs,
            Kind::Btrfs => FsKind::Btrfs,
        };
        match &self.dir {
            Some(dir) => Where::Directory(dir.clone()),
            None => {
                let scratch = self.scratch.clone();
                let scratch = scratch.unwrap_or_else(|| "/var/tmp".into());
                Where::New(kind, self.disk_size.as_u64(), scratch)
            }
        }
    }
}
