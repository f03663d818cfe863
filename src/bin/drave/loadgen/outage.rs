//! The longest time without an acknowledged write in each run, and its output as text and JSON.

use super::report::print_bars;
use super::steady_load::{Ack, LoadTotals};
use crate::output::outln;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The effect of one fault on the writes.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// The longest time without an acknowledged write, from just before the fault on.
    pub longest_gap: Duration,
    /// The longest time without an acknowledged write before the fault.
    pub undisturbed_longest_gap: Duration,
    /// The 99th percentile of write latency before the fault.
    pub undisturbed_p99: Duration,
}

/// The outages of all runs of one fault.
#[derive(Clone, Debug, Default)]
pub struct Outages {
    outages: Vec<Outage>,
}

/// The longest time between two consecutive acknowledgments, the second of them after `from`. The time from the last
/// acknowledgment to `until` counts as well: this gap has not ended.
fn longest_gap(acks: &[Ack], from: Instant, until: Instant) -> Duration {
    let ended_gaps =
        acks.windows(2).filter(|pair| pair[1].at > from).map(|pair| pair[1].at.saturating_duration_since(pair[0].at));
    let unfinished_gap =
        acks.last().map_or(until.saturating_duration_since(from), |last| until.saturating_duration_since(last.at));
    ended_gaps.chain([unfinished_gap]).max().unwrap_or_default()
}

/// Computes the outage from the acknowledgments before and after a fault at time `fault_at`. `until` is the end of the
/// measurement.
pub fn measure_outage(acks_before: &[Ack], acks_after: &[Ack], fault_at: Instant, until: Instant) -> Outage {
    let acks: Vec<Ack> = acks_before.iter().chain(acks_after).copied().collect();
    let first_ack_at = acks_before.first().map_or(fault_at, |first| first.at);
    let last_ack_at = acks_before.last().map_or(fault_at, |last| last.at);
    let mut latencies: Vec<Duration> = acks_before.iter().map(|ack| ack.latency).collect();
    latencies.sort_unstable();
    Outage {
        longest_gap: longest_gap(&acks, fault_at, until),
        undisturbed_longest_gap: longest_gap(acks_before, first_ack_at, last_ack_at),
        undisturbed_p99: quantile(&latencies, 0.99),
    }
}

/// The smallest value that at least `share` of the values do not exceed; zero if there are no values.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// Converts a duration to milliseconds, rounded to hundredths.
fn rounded_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

impl Outages {
    /// Adds the outage of another run.
    pub fn add(&mut self, outage: Outage) {
        self.outages.push(outage);
    }

    fn sorted_durations(&self, value_of: impl Fn(&Outage) -> Duration) -> Vec<Duration> {
        let mut sorted: Vec<Duration> = self.outages.iter().map(value_of).collect();
        sorted.sort_unstable();
        sorted
    }

    /// Prints quantiles over all runs, and a histogram of the longest gaps.
    pub fn print(&self, name: &str, description: &str, totals: &LoadTotals) {
        let sorted = self.sorted_durations(|outage| outage.longest_gap);
        let quantile_ms = |share| rounded_ms(quantile(&sorted, share));
        let (undisturbed_gaps, undisturbed_p99s) = (
            self.sorted_durations(|outage| outage.undisturbed_longest_gap),
            self.sorted_durations(|outage| outage.undisturbed_p99),
        );
        outln!("{name}: {description} · {} runs", sorted.len());
        outln!(
            "longest gap  min {}  p50 {}  p90 {}  p99 {}  max {} ms",
            quantile_ms(0.0),
            quantile_ms(0.5),
            quantile_ms(0.9),
            quantile_ms(0.99),
            quantile_ms(1.0)
        );
        outln!(
            "undisturbed  longest gap p50 {}  max {} ms · writes' p99 {} ms (median of the runs)",
            rounded_ms(quantile(&undisturbed_gaps, 0.5)),
            rounded_ms(quantile(&undisturbed_gaps, 1.0)),
            rounded_ms(quantile(&undisturbed_p99s, 0.5))
        );
        outln!(
            "writes       {} acknowledged, each took effect once · {} unknown · {} refused · {} retries",
            totals.acknowledged,
            totals.unknown,
            totals.refused,
            totals.retries
        );
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the histogram bounds are valid");
        for duration in &sorted {
            histogram.saturating_record(duration.as_nanos() as u64);
        }
        print_bars(&histogram);
    }

    /// The outages as JSON: the longest gap of each run, and quantiles over all runs, in milliseconds.
    pub fn to_json(&self, name: &str, totals: &LoadTotals) -> Value {
        let sorted = self.sorted_durations(|outage| outage.longest_gap);
        let quantile_ms = |share| rounded_ms(quantile(&sorted, share));
        let (undisturbed_gaps, undisturbed_p99s) = (
            self.sorted_durations(|outage| outage.undisturbed_longest_gap),
            self.sorted_durations(|outage| outage.undisturbed_p99),
        );
        json!({
            "fault": name,
            "runs": sorted.len(),
            "gaps_ms": self.outages.iter().map(|outage| rounded_ms(outage.longest_gap)).collect::<Vec<_>>(),
            "min_ms": quantile_ms(0.0), "p50_ms": quantile_ms(0.5), "p90_ms": quantile_ms(0.9),
            "p99_ms": quantile_ms(0.99), "max_ms": quantile_ms(1.0),
            "steady_gap_p50_ms": rounded_ms(quantile(&undisturbed_gaps, 0.5)),
            "steady_gap_max_ms": rounded_ms(quantile(&undisturbed_gaps, 1.0)),
            "steady_p99_ms": rounded_ms(quantile(&undisturbed_p99s, 0.5)),
            "acknowledged": totals.acknowledged, "unknown": totals.unknown, "refused": totals.refused,
            "retries": totals.retries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_gap_includes_gaps_at_fault_and_at_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let acks = |times: &[u64]| -> Vec<Ack> {
            times.iter().map(|ms| Ack { at: at(*ms), latency: Duration::from_millis(1) }).collect()
        };
        let gaps_ms = |before: &[u64], after: &[u64], fault_at, until| {
            let outage = measure_outage(&acks(before), &acks(after), at(fault_at), at(until));
            (outage.longest_gap.as_millis(), outage.undisturbed_longest_gap.as_millis())
        };
        assert_eq!(gaps_ms(&[0, 30, 40], &[90, 91], 45, 100), (50, 30), "a gap during the fault counts in full");
        assert_eq!(gaps_ms(&[0, 10], &[20, 21], 12, 100), (79, 10), "an unfinished gap counts as well");
        assert_eq!(gaps_ms(&[0, 10], &[], 12, 100), (90, 10), "nothing is acknowledged after the fault");
        assert_eq!(gaps_ms(&[], &[], 12, 100), (88, 0), "without any acknowledgment, the gap begins at the fault");
    }

    #[test]
    fn quantiles_are_measured_values() {
        let sorted: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        let quantile_ms = |share| quantile(&sorted, share).as_millis();
        assert_eq!(
            (quantile_ms(0.0), quantile_ms(0.5), quantile_ms(0.9), quantile_ms(0.99), quantile_ms(1.0)),
            (1, 5, 9, 10, 10)
        );
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
