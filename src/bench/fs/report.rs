//! What came of it.

use serde::{Serialize, Serializer};

use super::contestants::Contestant;
use crate::bench::figures::{geometric_mean, median, median_ratio};
use crate::bench::machine::Machine;

impl Serialize for Contestant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// All figures, and of what they are.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `fs`.
    pub benchmark: &'static str,
    /// Of this machine.
    pub machine: Machine,
    /// On this disk.
    pub disk: String,
    /// How often each run was made.
    pub rounds: usize,
    /// To whose times ratios are.
    pub reference: Contestant,
    /// All that were asked for.
    pub contestants: Vec<Entrant>,
    /// In the order in which they were run.
    pub workloads: Vec<Measured>,
    /// Of the ratios of all workloads, of each contestant that was measured.
    pub geometric_means: Vec<Mean>,
}

/// Who was to be measured.
#[derive(Debug, Serialize)]
pub struct Entrant {
    /// Who.
    #[serde(rename = "name")]
    pub contestant: Contestant,
    /// As it says itself.
    pub version: Option<String>,
    /// Why it was not.
    pub error: Option<String>,
}

/// A workload.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// Why it was not run at all.
    pub not_run: Option<String>,
    /// Of each contestant that could be measured.
    pub results: Vec<Runs>,
}

/// A contestant's runs of a workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Runs {
    /// Whose.
    pub contestant: Contestant,
    /// The median of the rounds' ratios to the reference; `None` if a run of either has failed.
    pub ratio: Option<f64>,
    /// The median of the runs, in seconds; `None` if one has failed.
    pub median_seconds: Option<f64>,
    /// Of each round.
    pub seconds: Vec<f64>,
    /// Why a run has failed; there were none after it.
    pub error: Option<String>,
}

/// A geometric mean.
#[derive(Debug, Serialize)]
pub struct Mean {
    /// Whose.
    pub contestant: Contestant,
    /// `None` if it has no ratio in one workload.
    pub ratio: Option<f64>,
}

impl Runs {
    /// None so far.
    pub fn of(contestant: Contestant) -> Runs {
        Runs {
            contestant,
            ratio: None,
            median_seconds: None,
            seconds: Vec::new(),
            error: None,
        }
    }
}

impl Measured {
    /// Figures of all runs.
    pub fn of(
        name: &'static str,
        not_run: Option<String>,
        mut results: Vec<Runs>,
        reference: Contestant,
    ) -> Measured {
        let of_reference = results
            .iter()
            .find(|runs| runs.contestant == reference && runs.error.is_none())
            .map_or(Vec::new(), |runs| runs.seconds.clone());
        for runs in results.iter_mut().filter(|runs| runs.error.is_none()) {
            runs.median_seconds = median(&runs.seconds);
            runs.ratio = median_ratio(&runs.seconds, &of_reference);
        }
        Measured {
            name,
            not_run,
            results,
        }
    }

    /// Of a contestant.
    pub fn result(&self, contestant: Contestant) -> Option<&Runs> {
        self.results
            .iter()
            .find(|runs| runs.contestant == contestant)
    }
}

/// Over the workloads that were run.
pub fn means(contestants: &[Contestant], workloads: &[Measured]) -> Vec<Mean> {
    let run: Vec<&Measured> = workloads.iter().filter(|w| w.not_run.is_none()).collect();
    let mean = |contestant: &Contestant| {
        let ratios = run.iter().map(|w| w.result(*contestant)?.ratio);
        geometric_mean(&ratios.collect::<Option<Vec<f64>>>()?)
    };
    let of = |contestant: &Contestant| Mean {
        contestant: *contestant,
        ratio: mean(contestant),
    };
    contestants.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Contestant::{Directory, FuseOverlayfs, Layerctl, Overlayfs};

    fn runs(contestant: Contestant, seconds: &[f64], error: Option<&str>) -> Runs {
        Runs {
            seconds: seconds.to_vec(),
            error: error.map(str::to_owned),
            ..Runs::of(contestant)
        }
    }

    #[test]
    fn what_fails_has_no_figure() {
        let measured = |name, reference: Runs| {
            let others = [
                runs(Layerctl, &[2.0, 9.0, 3.0], None),
                runs(FuseOverlayfs, &[5.0, 5.0], Some("took too long")),
            ];
            let all = [reference].into_iter().chain(others).collect();
            Measured::of(name, None, all, Overlayfs)
        };
        let good = measured("walk", runs(Overlayfs, &[1.0, 3.0, 1.0], None));
        let ratios = |m: &Measured| m.results.iter().map(|r| r.ratio).collect::<Vec<_>>();
        assert_eq!(ratios(&good), [Some(1.0), Some(3.0), None]);
        assert_eq!(good.results[1].median_seconds, Some(3.0));
        assert_eq!(good.results[2].median_seconds, None);
        let bad = measured("tar", runs(Overlayfs, &[1.0], Some("disk full")));
        assert_eq!(ratios(&bad), [None, None, None]);
        assert_eq!(bad.results[1].median_seconds, Some(3.0));
        let skipped = Measured::of("cold", Some("root".to_owned()), Vec::new(), Overlayfs);

        let of = |workloads: &[Measured]| -> Vec<Option<f64>> {
            let all = [Overlayfs, Layerctl, FuseOverlayfs, Directory];
            means(&all, workloads)
                .iter()
                .map(|mean| mean.ratio)
                .collect()
        };
        let mut both = vec![good, skipped];
        let mean = of(&both);
        assert!((mean[1].unwrap() - 3.0).abs() < 1e-9);
        assert_eq!((mean[0], mean[2], mean[3]), (Some(1.0), None, None));
        both.push(bad);
        assert_eq!(of(&both), [None; 4]);
        assert_eq!(of(&[]), [None; 4]);
    }
}
