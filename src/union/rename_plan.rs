//! What a rename has to do in the upper directory, as a value. Pure: facts in, steps out.
//!
//! Both names are in the upper directory by then, or absent from it (the copy-up comes first). The
//! order of the steps is such that a crash between any two of them shows the view as it was before
//! or as it is after, but for marks that change nothing.

/// One of the two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The name that is moved.
    Source,
    /// The name it is moved to.
    Target,
}

/// What the upper directory has under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InUpper {
    /// Nothing.
    Absent,
    /// A whiteout.
    Whiteout,
    /// Anything but a directory.
    File,
    /// A directory.
    Dir {
        /// Whether it has entries there, were it only whiteouts.
        filled: bool,
        /// Whether it is merged with directories of the layers.
        merged: bool,
        /// Whether it is opaque, or says where in the layers it belongs, already.
        marked: bool,
    },
}

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What the upper directory has.
    pub(crate) upper: InUpper,
    /// Whether the layers show anything there.
    pub(crate) below: bool,
    /// Whether what they show is a directory, with which one of the upper directory would merge.
    pub(crate) dir_below: bool,
}

/// A step in the upper directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Say on that directory where the layers have it.
    Redirect(Side),
    /// Make that directory opaque.
    Opaque(Side),
    /// Exchange the target, which shows nothing, with an empty directory of the same attributes.
    EmptyTarget,
    /// Rename the source over the target.
    Move {
        /// Leave a whiteout under the old name, in the same step.
        whiteout: bool,
    },
    /// Exchange the two.
    Exchange,
    /// Remove the whiteout that an exchange has brought to the source's name.
    RemoveWhiteout,
}

/// The steps of a rename; `exchange` for RENAME_EXCHANGE.
pub(crate) fn plan(source: Facts, target: Facts, exchange: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(mark(Side::Source, source, target));
    if exchange {
        steps.extend(mark(Side::Target, target, source));
        steps.push(Step::Exchange);
        return steps;
    }
    let is_dir = matches!(source.upper, InUpper::Dir { .. });
    let whiteout = source.below;
    match target.upper {
        // A directory cannot be renamed over a device node, but exchanged with it.
        InUpper::Whiteout if is_dir => {
            steps.push(Step::Exchange);
            if !whiteout {
                steps.push(Step::RemoveWhiteout);
            }
        }
        InUpper::Dir { filled: true, .. } => {
            steps.push(Step::EmptyTarget);
            steps.push(Step::Move { whiteout });
        }
        InUpper::Absent
        | InUpper::Whiteout
        | InUpper::File
        | InUpper::Dir { filled: false, .. } => steps.push(Step::Move { whiteout }),
    }
    steps
}

/// The mark that a directory needs before it goes to the other name.
fn mark(side: Side, it: Facts, other: Facts) -> Option<Step> {
    match it.upper {
        InUpper::Dir { marked: true, .. } => None,
        InUpper::Dir { merged: true, .. } => Some(Step::Redirect(side)),
        InUpper::Dir { merged: false, .. } if other.dir_below => Some(Step::Opaque(side)),
        InUpper::Dir { .. } | InUpper::Absent | InUpper::Whiteout | InUpper::File => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.` absent, `w` whiteout, `f` file, `d` directory (`D` merged, with `*` filled, `!` marked);
    /// then what is below: `-` nothing, `F` a file, `D` a directory.
    fn facts(text: &str) -> Facts {
        let (upper, below) = text.split_once('/').unwrap();
        let upper = match upper.chars().next() {
            Some('.') => InUpper::Absent,
            Some('w') => InUpper::Whiteout,
            Some('f') => InUpper::File,
            Some(c @ ('d' | 'D')) => InUpper::Dir {
                filled: upper.contains('*'),
                merged: c == 'D',
                marked: upper.contains('!'),
            },
            other => panic!("no such upper: {other:?}"),
        };
        Facts {
            upper,
            below: below != "-",
            dir_below: below == "D",
        }
    }

    fn steps(source: &str, target: &str, exchange: bool) -> String {
        let short = |step: &Step| match step {
            Step::Redirect(Side::Source) => "redirect",
            Step::Redirect(Side::Target) => "redirect-target",
            Step::Opaque(Side::Source) => "opaque",
            Step::Opaque(Side::Target) => "opaque-target",
            Step::EmptyTarget => "empty",
            Step::Move { whiteout: false } => "move",
            Step::Move { whiteout: true } => "move+whiteout",
            Step::Exchange => "exchange",
            Step::RemoveWhiteout => "remove-whiteout",
        };
        let steps = plan(facts(source), facts(target), exchange);
        steps.iter().map(short).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn renames() {
        let table = [
            // files
            ("f/-", "./-", "move"),
            ("f/F", "./-", "move+whiteout"),
            ("f/-", "./F", "move"),
            ("f/-", "w/F", "move"),
            ("f/F", "w/-", "move+whiteout"),
            ("f/D", "f/F", "move+whiteout"),
            ("f/-", "f/-", "move"),
            // directories of upper alone
            ("d/-", "./-", "move"),
            ("d/-", "./F", "move"),
            ("d/-", "./D", "opaque move"),
            ("d!/-", "./D", "move"),
            ("d!/D", "./-", "move+whiteout"),
            ("d!/D", "./D", "move+whiteout"),
            ("d/-", "w/-", "exchange remove-whiteout"),
            ("d/-", "w/F", "exchange remove-whiteout"),
            ("d/-", "w/D", "opaque exchange remove-whiteout"),
            ("d!/D", "w/D", "exchange"),
            ("d/-", "d/-", "move"),
            ("d/-", "d*/-", "empty move"),
            ("d/-", "D*/D", "opaque empty move"),
            ("d/-", "D/D", "opaque move"),
            // merged directories
            ("D/D", "./-", "redirect move+whiteout"),
            ("D!/-", "./-", "move"),
            ("D!/-", "./D", "move"),
            ("D/D", "w/D", "redirect exchange"),
            ("D!/-", "w/D", "exchange remove-whiteout"),
            ("D/D", "D*/D", "redirect empty move+whiteout"),
        ];
        for (source, target, expected) in table {
            assert_eq!(
                steps(source, target, false),
                expected,
                "{source} to {target}"
            );
        }
    }

    #[test]
    fn exchanges() {
        let table = [
            ("f/-", "f/-", "exchange"),
            ("f/F", "f/F", "exchange"),
            ("f/F", "d/-", "exchange"),
            ("f/D", "d/-", "opaque-target exchange"),
            ("d/-", "d/-", "exchange"),
            ("D/D", "f/-", "redirect exchange"),
            ("D/D", "D/D", "redirect redirect-target exchange"),
            ("D!/D", "d!/-", "exchange"),
            ("D/D", "d/-", "redirect opaque-target exchange"),
            ("d/-", "D*/D", "opaque redirect-target exchange"),
        ];
        for (source, target, expected) in table {
            assert_eq!(
                steps(source, target, true),
                expected,
                "{source} with {target}"
            );
        }
    }
}
