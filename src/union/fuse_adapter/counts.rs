//! How many requests of each kind a view has answered: the round trips are what its speed is made
//! of. Told to the log, at debug, when the view ends.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! ops {
    ($($name:ident),* $(,)?) => {
        /// The kinds of requests.
        #[derive(Debug, Clone, Copy)]
        pub(super) enum Op { $($name),* }
        const ALL: &[Op] = &[$(Op::$name),*];

        impl Op {
            /// Its name.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Op::$name => stringify!($name)),*
                }
            }
        }
    };
}

ops! {
    Lookup, Forget, Getattr, Setattr, Readlink, Mknod, Mkdir, Unlink, Rmdir, Symlink, Rename, Link,
    Open, Create, Read, Write, Release, Fsync, Opendir, Readdirplus, Fsyncdir, Statfs, Setxattr,
    Getxattr, Listxattr, Removexattr, Fallocate, Lseek, CopyFileRange,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; ALL.len()]);

impl Counts {
    pub(super) fn note(&self, op: Op) {
        if let Some(count) = self.0.get(op as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (op, count) in ALL.iter().zip(&self.0) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                write!(f, " {op:?} {count}")?;
            }
        }
        Ok(())
    }
}
