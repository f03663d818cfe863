//! Formats a distribution as HdrHistogram's tools do (`.hgrm`), so that its plotter can read it.

use hdrhistogram::Histogram;
use std::fmt::Write;

/// The number of lines for each halving of the share of samples that are larger than the value of the line.
const LINES_PER_HALVING: u32 = 5;
const NS_PER_MS: f64 = 1e6;

/// Formats a distribution of nanoseconds in milliseconds. Columns: value, share of samples at most that large, their
/// count, and `1/(1-share)`: one sample in that many is larger.
pub fn format_hgrm(histogram: &Histogram<u64>) -> String {
    let mut out = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut cumulative_count = 0;
    for point in histogram.iter_quantiles(LINES_PER_HALVING) {
        cumulative_count += point.count_since_last_iteration();
        let (value, share) = (point.value_iterated_to() as f64 / NS_PER_MS, point.quantile_iterated_to());
        // Writing to a string cannot fail.
        let _written = match share < 1.0 {
            true => writeln!(out, "{value:12.6} {share:14.12} {cumulative_count:10} {:14.2}", 1.0 / (1.0 - share)),
            false => writeln!(out, "{value:12.6} {share:14.12} {cumulative_count:10}"),
        };
    }
    let [mean, deviation, max] =
        [histogram.mean(), histogram.stdev(), histogram.max() as f64].map(|value| value / NS_PER_MS);
    let sub_buckets = (2 * 10u64.pow(u32::from(histogram.sigfig()))).next_power_of_two();
    let _written = write!(
        out,
        "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]\n\
         #[Max     = {max:12.6}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {sub_buckets:12}]\n",
        histogram.len(),
        histogram.buckets(),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format_values(values: impl Iterator<Item = u64>) -> String {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        values.for_each(|value| histogram.record(value).unwrap());
        format_hgrm(&histogram)
    }

    #[test]
    fn percentiles_rise_to_one_and_count_all_samples() {
        let text = format_values((1..=10_000).map(|n| n * 1000));
        let mut lines = text.lines();
        let headings: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(headings, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert_eq!(lines.next(), Some(""));
        let rows: Vec<Vec<f64>> = lines
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        assert!(rows.is_sorted_by(|a, b| a[..3].iter().zip(&b[..3]).all(|(a, b)| a <= b)), "{text}");
        let median_row = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!(
            (median_row[0] - 5.0).abs() < 0.01 && (median_row[2] - 5000.0).abs() < 5.0 && median_row[3] == 2.0,
            "{median_row:?}"
        );
        let last_row = rows.last().unwrap();
        assert!((last_row[0] - 10.0).abs() < 0.01 && last_row[1..] == [1.0, 10_000.0], "{last_row:?}");
        assert!(rows[..rows.len() - 1].iter().all(|row| row.len() == 4), "{text}");
        assert!(text.contains("Total count    =        10000]") && text.contains("SubBuckets     =         2048]"));
    }

    #[test]
    fn empty_histogram_counts_zero() {
        assert!(format_values(std::iter::empty()).contains("Total count    =            0]"));
    }
}
