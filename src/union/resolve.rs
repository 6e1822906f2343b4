//! What a name shows, given what each layer has under it. Pure: no input or output.
//!
//! The layers are told one by one, topmost first; [`Resolver::add`] says when the rest cannot
//! matter any more, so that the caller looks no further down than it must.

/// What one layer has under a name, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A whiteout: the name is hidden from here on down.
    Whiteout,
    /// Anything but a directory.
    File,
    /// A regular file whose data are in a layer further down.
    Metacopy,
    /// A directory; an opaque one hides what is below it.
    Dir {
        /// Whether it hides what lower layers have under the same name.
        opaque: bool,
    },
}

/// Whether layers further down can still change the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Further {
    /// Look into the next layer.
    Look,
    /// The result is final.
    Stop,
}

/// What the union shows under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown<L> {
    /// Nothing.
    Nothing,
    /// The file of that layer.
    File(L),
    /// The file of the first, with the data of the second; `None` if no layer has them.
    Metacopy(L, Option<L>),
    /// The directories that are merged, topmost first; never empty.
    Dirs(Vec<L>),
}

/// Collects what the layers have.
#[derive(Debug)]
pub(crate) struct Resolver<L> {
    shown: Shown<L>,
    stopped: bool,
}

impl<L> Resolver<L> {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Resolver {
            shown: Shown::Nothing,
            stopped: false,
        }
    }

    /// Takes what the next layer down that has anything has.
    pub(crate) fn add(&mut self, layer: L, seen: Seen) -> Further {
        if self.stopped {
            return Further::Stop;
        }
        match (seen, &mut self.shown) {
            (Seen::Whiteout, _) => self.stopped = true,
            (Seen::File, Shown::Nothing) => {
                self.shown = Shown::File(layer);
                self.stopped = true;
            }
            (Seen::Metacopy, Shown::Nothing) => self.shown = Shown::Metacopy(layer, None),
            // One more copy of the metadata: the topmost counts.
            (Seen::Metacopy, Shown::Metacopy(..)) => {}
            (Seen::File, Shown::Metacopy(_, data)) => {
                *data = Some(layer);
                self.stopped = true;
            }
            (Seen::Dir { .. }, Shown::Metacopy(..)) => self.stopped = true,
            // A file below a directory is hidden by it, and hides what is below itself.
            (Seen::File | Seen::Metacopy, _) => self.stopped = true,
            (Seen::Dir { opaque }, Shown::Dirs(dirs)) => {
                dirs.push(layer);
                self.stopped = opaque;
            }
            (Seen::Dir { opaque }, _) => {
                self.shown = Shown::Dirs(vec![layer]);
                self.stopped = opaque;
            }
        }
        if self.stopped {
            Further::Stop
        } else {
            Further::Look
        }
    }

    /// The result.
    pub(crate) fn finish(self) -> Shown<L> {
        self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `layers` spells what each layer has, topmost first: `.` nothing, `w` whiteout, `f` file,
    /// `m` metacopy, `d` directory, `o` opaque directory. The result is the kind with the layers' indexes.
    fn shown(layers: &str) -> String {
        let mut resolver = Resolver::new();
        for (index, c) in layers.chars().enumerate() {
            let seen = match c {
                '.' => continue,
                'w' => Seen::Whiteout,
                'f' => Seen::File,
                'm' => Seen::Metacopy,
                'd' => Seen::Dir { opaque: false },
                'o' => Seen::Dir { opaque: true },
                other => panic!("no such layer: {other}"),
            };
            if resolver.add(index, seen) == Further::Stop {
                break;
            }
        }
        match resolver.finish() {
            Shown::Nothing => "-".into(),
            Shown::File(index) => format!("f{index}"),
            Shown::Metacopy(file, data) => format!("m{file}{data:?}"),
            Shown::Dirs(dirs) => format!("d{dirs:?}"),
        }
    }

    #[test]
    fn what_a_name_shows() {
        let table = [
            ("", "-"),
            (".", "-"),
            ("...", "-"),
            ("f", "f0"),
            (".f", "f1"),
            ("ff", "f0"),
            ("fd", "f0"),
            ("w", "-"),
            ("wf", "-"),
            ("wd", "-"),
            (".wf", "-"),
            ("fw", "f0"),
            ("d", "d[0]"),
            ("dd", "d[0, 1]"),
            ("d.d", "d[0, 2]"),
            ("dwd", "d[0]"),
            ("dfd", "d[0]"),
            ("od", "d[0]"),
            ("dod", "d[0, 1]"),
            (".odf", "d[1]"),
            ("dddw", "d[0, 1, 2]"),
            (".w.d", "-"),
            ("d.f", "d[0]"),
            ("mf", "m0Some(1)"),
            (".m.ff", "m1Some(3)"),
            ("mmf", "m0Some(2)"),
            ("m", "m0None"),
            ("mwf", "m0None"),
            ("mdf", "m0None"),
            ("dmf", "d[0]"),
            ("fm", "f0"),
        ];
        for (layers, expected) in table {
            assert_eq!(shown(layers), expected, "layers {layers:?}");
        }
    }

    #[test]
    fn nothing_counts_after_the_end() {
        let mut resolver = Resolver::new();
        assert_eq!(resolver.add(0, Seen::Whiteout), Further::Stop);
        assert_eq!(resolver.add(1, Seen::File), Further::Stop);
        assert_eq!(resolver.finish(), Shown::Nothing);
    }
}
