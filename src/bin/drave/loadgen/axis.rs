//! The axes of a graph: their ranges, and their ticks at round values, up to a given number.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// An axis of a graph: its range, its ticks, and how they are labeled.
#[derive(Clone)]
pub struct Axis {
    /// The range of values; on a logarithmic axis, of decimal logarithms.
    pub range: Range<f64>,
    ticks: Vec<f64>,
    format_tick: fn(f64) -> String,
    /// The title of the axis; empty for none.
    pub title: &'static str,
}

impl Axis {
    /// An axis from 0 to `end`. Neighboring ticks are 1, 2 or 5 times a power of ten apart, with at most `ticks_max`
    /// such intervals.
    pub fn linear(end: f64, ticks_max: usize, format_tick: fn(f64) -> String, title: &'static str) -> Axis {
        let end = if end.is_finite() && end > 0.0 { end } else { 1.0 };
        let smallest_step = 10f64.powf((end / ticks_max.max(1) as f64).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|n| n * smallest_step).into_iter().find(|step| end / step <= ticks_max as f64);
        let step = step.unwrap_or(end);
        let ticks = (0..=ticks_max).map(|n| n as f64 * step).filter(|tick| *tick <= end * 1.000_001).collect();
        Axis { range: 0.0..end, ticks, format_tick, title }
    }

    /// A logarithmic axis that covers all given values, from one round value to another. Ticks are at 1, 2 and 5 times
    /// the powers of ten, or only at the powers of ten if more than `ticks_max` would result.
    pub fn logarithmic(
        values: impl Iterator<Item = f64>,
        ticks_max: usize,
        format_tick: fn(f64) -> String,
        title: &'static str,
    ) -> Axis {
        let values = values.filter(|value| *value > 0.0 && value.is_finite());
        let (least, greatest) =
            values.fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), value| (a.min(value), b.max(value)));
        let (least, greatest) = if least <= greatest { (least, greatest) } else { (1.0, 10.0) };
        let exponents = least.log10().floor() as i32 - 1..=greatest.log10().ceil() as i32 + 1;
        let round_values: Vec<f64> =
            exponents.flat_map(|n| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(n))).collect();
        let first_tick_index = round_values.iter().rposition(|tick| *tick <= least * 1.000_001).unwrap_or(0);
        let last_tick_index =
            round_values.iter().position(|tick| *tick >= greatest * 0.999_999).unwrap_or(round_values.len() - 1);
        let round_values = &round_values[first_tick_index..=last_tick_index.max(first_tick_index + 1)];
        let is_power_of_ten = |tick: &&f64| (tick.log10() - tick.log10().round()).abs() < 1e-9;
        let ticks: Vec<f64> = match round_values.len() <= ticks_max {
            true => round_values.iter().map(|tick| tick.log10()).collect(),
            false => round_values.iter().filter(is_power_of_ten).map(|tick| tick.log10()).collect(),
        };
        Axis { range: round_values[0].log10()..round_values[round_values.len() - 1].log10(), ticks, format_tick, title }
    }

    /// An axis with ticks at the given values. Values outside `range` are left out.
    pub fn with_ticks(
        range: Range<f64>,
        ticks: impl Iterator<Item = f64>,
        format_tick: fn(f64) -> String,
        title: &'static str,
    ) -> Axis {
        let ticks = ticks.filter(|tick| range.contains(tick) || *tick == range.end).collect();
        Axis { range, ticks, format_tick, title }
    }

    pub fn tick_count(&self) -> usize {
        self.ticks.len()
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, pixel_range: (i32, i32)) -> i32 {
        let fraction = (value - self.range.start) / (self.range.end - self.range.start);
        pixel_range.0 + (f64::from(pixel_range.1 - pixel_range.0) * fraction).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.format_tick)(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logarithmic_ticks(values: &[f64], ticks_max: usize) -> (Vec<f64>, Range<f64>) {
        let axis = Axis::logarithmic(values.iter().copied(), ticks_max, |_| String::new(), "");
        let round = |log: f64| (10f64.powf(log) * 1e6).round() / 1e6;
        (axis.ticks.iter().map(|log| round(*log)).collect(), round(axis.range.start)..round(axis.range.end))
    }

    #[test]
    fn logarithmic_ticks_are_round_and_the_axis_ends_at_them() {
        assert_eq!(
            logarithmic_ticks(&[398.0, 6310.0], 8),
            (vec![200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0], 200.0..10_000.0)
        );
        assert_eq!(logarithmic_ticks(&[700.0, 710.0], 8), (vec![500.0, 1000.0], 500.0..1000.0));
        assert_eq!(logarithmic_ticks(&[500.0], 8), (vec![500.0, 1000.0], 500.0..1000.0));
        assert_eq!(logarithmic_ticks(&[1.0, 1e6], 8).0, [1.0, 10.0, 100.0, 1000.0, 1e4, 1e5, 1e6]);
        assert_eq!(logarithmic_ticks(&[], 8), (vec![1.0, 2.0, 5.0, 10.0], 1.0..10.0));
        assert_eq!(logarithmic_ticks(&[0.0, -1.0, f64::NAN], 8).0.len(), 4);
    }

    #[test]
    fn linear_ticks_are_round_and_none_lies_beyond_the_end() {
        let ticks = |end, most| Axis::linear(end, most, |_| String::new(), "").ticks;
        assert_eq!(ticks(5.0, 8), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ticks(60.0, 4), [0.0, 20.0, 40.0, 60.0]);
        assert_eq!(ticks(34_805.0, 8), [0.0, 5e3, 1e4, 1.5e4, 2e4, 2.5e4, 3e4]);
        assert_eq!(ticks(0.0, 4).len(), ticks(f64::NAN, 4).len());
    }
}
