//! The longest time without an acknowledged write in each run, and its output as text and JSON.

use super::report::bars;
use super::steady::{Ack, Sum};
use crate::output::outln;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The result of one run.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// The longest time without an acknowledged write, from just before the fault on.
    pub longest: Duration,
    /// The same in the undisturbed time before.
    pub steady: Duration,
    /// The 99th percentile of write latency in the undisturbed time.
    pub steady_p99: Duration,
}

/// The runs of one fault.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    runs: Vec<Gap>,
}

/// The longest time between two consecutive acknowledgments, the second of them after `from`. The time from the last
/// acknowledgment to `until` counts as well: it is a gap that has not ended.
fn longest(acks: &[Ack], from: Instant, until: Instant) -> Duration {
    let pairs =
        acks.windows(2).filter(|two| two[1].at > from).map(|two| two[1].at.saturating_duration_since(two[0].at));
    let open =
        acks.last().map_or(until.saturating_duration_since(from), |last| until.saturating_duration_since(last.at));
    pairs.chain([open]).max().unwrap_or_default()
}

/// Evaluates the acknowledgments before and after the fault.
pub fn measure(before: &[Ack], after: &[Ack], fault: Instant, until: Instant) -> Gap {
    let all: Vec<Ack> = before.iter().chain(after).copied().collect();
    let began = before.first().map_or(fault, |first| first.at);
    let last = before.last().map_or(fault, |last| last.at);
    let mut responses: Vec<Duration> = before.iter().map(|ack| ack.response).collect();
    responses.sort_unstable();
    Gap {
        longest: longest(&all, fault, until),
        steady: longest(before, began, last),
        steady_p99: rank(&responses, 0.99),
    }
}

/// The smallest value that at least this share of all values does not exceed.
fn rank(sorted: &[Duration], part: f64) -> Duration {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.max(1) - 1).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

impl Gaps {
    /// Adds a run.
    pub fn add(&mut self, gap: Gap) {
        self.runs.push(gap);
    }

    fn sorted(&self, of: impl Fn(&Gap) -> Duration) -> Vec<Duration> {
        let mut sorted: Vec<Duration> = self.runs.iter().map(of).collect();
        sorted.sort_unstable();
        sorted
    }

    /// Prints the result as text.
    pub fn print(&self, name: &str, what: &str, sum: &Sum) {
        let sorted = self.sorted(|gap| gap.longest);
        let at = |part| ms(rank(&sorted, part));
        let (steady, p99) = (self.sorted(|gap| gap.steady), self.sorted(|gap| gap.steady_p99));
        outln!("{name}: {what} · {} runs", sorted.len());
        outln!("longest gap  min {}  p50 {}  p90 {}  p99 {}  max {} ms", at(0.0), at(0.5), at(0.9), at(0.99), at(1.0));
        outln!(
            "undisturbed  longest gap p50 {}  max {} ms · writes' p99 {} ms (median of the runs)",
            ms(rank(&steady, 0.5)),
            ms(rank(&steady, 1.0)),
            ms(rank(&p99, 0.5))
        );
        outln!(
            "writes       {} acknowledged, each took effect once · {} unknown · {} refused · {} retries",
            sum.acknowledged,
            sum.unknown,
            sum.refused,
            sum.retries
        );
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order");
        for gap in &sorted {
            histogram.saturating_record(gap.as_nanos() as u64);
        }
        bars(&histogram);
    }

    /// The result as JSON.
    pub fn to_json(&self, name: &str, sum: &Sum) -> Value {
        let sorted = self.sorted(|gap| gap.longest);
        let at = |part| ms(rank(&sorted, part));
        let (steady, p99) = (self.sorted(|gap| gap.steady), self.sorted(|gap| gap.steady_p99));
        json!({
            "fault": name,
            "runs": sorted.len(),
            "gaps_ms": self.runs.iter().map(|gap| ms(gap.longest)).collect::<Vec<_>>(),
            "min_ms": at(0.0), "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": at(1.0),
            "steady_gap_p50_ms": ms(rank(&steady, 0.5)),
            "steady_gap_max_ms": ms(rank(&steady, 1.0)),
            "steady_p99_ms": ms(rank(&p99, 0.5)),
            "acknowledged": sum.acknowledged, "unknown": sum.unknown, "refused": sum.refused, "retries": sum.retries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_gap_is_found_wherever_it_is() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let acks = |times: &[u64]| -> Vec<Ack> {
            times.iter().map(|ms| Ack { at: at(*ms), response: Duration::from_millis(1) }).collect()
        };
        let gap = |before: &[u64], after: &[u64], fault, until| {
            let gap = measure(&acks(before), &acks(after), at(fault), at(until));
            (gap.longest.as_millis(), gap.steady.as_millis())
        };
        assert_eq!(gap(&[0, 30, 40], &[90, 91], 45, 100), (50, 30), "the gap begins before the fault");
        assert_eq!(gap(&[0, 10], &[20, 21], 12, 100), (79, 10), "the gap has not ended");
        assert_eq!(gap(&[0, 10], &[], 12, 100), (90, 10), "no acknowledgment after the fault");
        assert_eq!(gap(&[], &[], 12, 100), (88, 0), "no acknowledgment at all");
    }

    #[test]
    fn ranks_are_measured_values() {
        let sorted: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        let at = |part| rank(&sorted, part).as_millis();
        assert_eq!((at(0.0), at(0.5), at(0.9), at(0.99), at(1.0)), (1, 5, 9, 10, 10));
        assert_eq!(rank(&[], 0.5), Duration::ZERO);
    }
}
