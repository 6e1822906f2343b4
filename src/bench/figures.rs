//! Figures made of measurements: medians, ratios, percentiles. Pure.

/// The median: of an even number of values the mean of the middle two. `None` of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0),
    }
}

/// The median of the ratios of what was measured in the same rounds. `None` if the numbers of rounds
/// differ or there are none.
pub fn median_ratio(values: &[f64], references: &[f64]) -> Option<f64> {
    if values.len() != references.len() {
        return None;
    }
    let ratios: Vec<f64> = values.iter().zip(references).map(|(v, r)| v / r).collect();
    median(&ratios)
}

/// The geometric mean of positive values. `None` of none.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    match values.len() {
        0 => None,
        n => Some((values.iter().map(|v| v.ln()).sum::<f64>() / n as f64).exp()),
    }
}

/// The value that `percent` of the values do not exceed, by the nearest rank. `None` where there are so few
/// values that the largest of them would stand for it alone: less than 100 for p99, than 1,000 for p99.9.
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let above = (1.0 - percent / 100.0) * values.len() as f64;
    if above < 1.0 - 1e-9 {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // 99.9 % of 1,000 is not quite 999 in binary.
    let rank = (percent / 100.0 * sorted.len() as f64 - 1e-9).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The contestants in the order of a round: everybody is first, second, … in turn.
pub fn in_turn<T>(contestants: &[T], round: usize) -> impl Iterator<Item = &T> {
    let first = round % contestants.len().max(1);
    let (before, after) = contestants.split_at(first);
    after.iter().chain(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        // Round by round, not median by median.
        assert_eq!(median_ratio(&[1.0, 9.0, 2.0], &[1.0, 3.0, 1.0]), Some(2.0));
        assert_eq!(median_ratio(&[1.0], &[]), None);
        assert_eq!(geometric_mean(&[]), None);
        assert!((geometric_mean(&[1.0, 4.0]).unwrap() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn percentiles_by_the_nearest_rank() {
        let values: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(500.0));
        assert_eq!(percentile(&values, 99.0), Some(990.0));
        assert_eq!(percentile(&values, 99.9), Some(999.0));
        assert_eq!(percentile(&values[..100], 99.0), Some(999.0));
        assert_eq!(percentile(&values[..99], 99.0), None);
        assert_eq!(percentile(&values[..999], 99.9), None);
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn turns() {
        let of = |round| {
            in_turn(&["a", "b", "c"], round)
                .copied()
                .collect::<String>()
        };
        assert_eq!([of(0), of(1), of(2), of(3)], ["abc", "bca", "cab", "abc"]);
        assert_eq!(in_turn(&[] as &[u8], 1).count(), 0);
    }
}
