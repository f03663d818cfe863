//! Draws runs as SVG pictures, which a page embeds inline.
//!
//! Gray ink and colors of medium lightness are readable on white and on black, so that a page can be either.

use super::axis::Axis;
use super::result::{RunResult, Second};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;

/// The colors of the first and the second run, distinguishable with color blindness as well.
const RUNS: [RGBColor; 2] = [RGBColor(0x2f, 0x86, 0xc8), RGBColor(0xe0, 0x6c, 0x10)];
/// The color of the mark at a leader change.
const MARK: RGBColor = RGBColor(0xc8, 0x3c, 0x3c);
/// The color of text and axes.
const INK: RGBColor = RGBColor(0x80, 0x80, 0x80);
/// Opacity of the line of a tail (p99), beside the opaque one of the median.
const FAINT: f64 = 0.55;

/// A picture as SVG text, or the error of the drawing library.
pub type Picture = Result<String, Box<dyn Error>>;

/// The screen that a picture is drawn for. A page scales the picture to its own width, and the text must stay legible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Screen {
    /// A monitor.
    Wide,
    /// A phone.
    Narrow,
}

impl Screen {
    /// Width and height of a picture, in its own units.
    fn size(self) -> (u32, u32) {
        match self {
            Screen::Wide => (860, 300),
            Screen::Narrow => (400, 300),
        }
    }

    /// Font size, in the units of the picture; a page shows text at about that size.
    fn words(self) -> i32 {
        match self {
            Screen::Wide => 13,
            Screen::Narrow => 16,
        }
    }

    /// How many ticks fit on the x axis.
    fn ticks(self) -> usize {
        match self {
            Screen::Wide => 10,
            Screen::Narrow => 5,
        }
    }
}

/// How many ticks fit on the y axis.
const TICKS_UP: usize = 9;
const LATENCY: &str = "latency, logarithmic";

struct Series {
    points: Vec<(f64, f64)>,
    colour: RGBAColor,
}

/// Everything in a graph except its lines.
struct Frame {
    screen: Screen,
    xs: Axis,
    ys: Axis,
    /// The x coordinates of leader changes.
    marks: Vec<f64>,
    /// Points drawn as dots, each with its label.
    dots: Vec<(f64, f64, String)>,
}

fn graph(lines: &[Series], frame: &Frame) -> Picture {
    let (mut svg, size) = (String::new(), frame.screen.words());
    {
        let area = SVGBackend::with_string(&mut svg, frame.screen.size()).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            // Half of the last tick label extends beyond the axis.
            .margin_right(2 * size + 8)
            .x_label_area_size(if frame.xs.what.is_empty() { 2 * size } else { 3 * size + 6 })
            .y_label_area_size(5 * size + 10)
            .build_cartesian_2d(frame.xs.clone(), frame.ys.clone())?;
        chart
            .configure_mesh()
            .x_labels(frame.xs.ticks())
            .y_labels(frame.ys.ticks())
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.25))
            .axis_style(INK)
            .label_style(("sans-serif", size).into_font().color(&INK))
            .axis_desc_style(("sans-serif", size).into_font().color(&INK))
            .x_desc(frame.xs.what)
            .y_desc(frame.ys.what)
            .draw()?;
        for Series { points, colour } in lines {
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        }
        let dotted = |(x, y, _): &(f64, f64, String)| Circle::new((*x, *y), 4, RUNS[0].filled());
        chart.draw_series(frame.dots.iter().map(dotted))?;
        let above = Pos::new(HPos::Center, VPos::Bottom);
        let words = ("sans-serif", size).into_font().color(&INK).pos(above);
        // The label is above the point, not on it.
        let named = |(x, y, name): &(f64, f64, String)| {
            EmptyElement::at((*x, *y)) + Text::new(name.clone(), (0, -6), words.clone())
        };
        chart.draw_series(frame.dots.iter().map(named))?;
        for at in &frame.marks {
            let (bottom, top) = (frame.ys.range.start, frame.ys.range.end);
            chart.draw_series([PathElement::new(vec![(*at, bottom), (*at, top)], MARK.stroke_width(2))])?;
            // The label of a mark near the right edge is to the left of the mark.
            let before = *at > 0.6 * frame.xs.range.end;
            let (side, gap) = if before { (HPos::Right, -4) } else { (HPos::Left, 4) };
            let words = ("sans-serif", size).into_font().color(&MARK).pos(Pos::new(side, VPos::Top));
            chart.draw_series([EmptyElement::at((*at, top)) + Text::new("new leader", (gap, 2), words)])?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// The number of nines of a share: 0.9 is 1, 0.999 is 3. This scale gives the tail the most room, because it matters
/// most.
fn nines(share: f64) -> f64 {
    -(1.0 - share.min(1.0 - 1e-6)).log10()
}

/// Formats 2.0 nines as "99%".
fn share(nines: f64) -> String {
    let percent = 100.0 - 100.0 * 10f64.powf(-nines);
    let digits = (nines.ceil() as usize).saturating_sub(2);
    format!("{percent:.digits$}%")
}

/// Formats microseconds: 1500.0 as "1.5 ms".
pub fn duration(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.1} s", us / 1e6),
        us if us >= 1e4 => format!("{:.0} ms", us / 1e3),
        us if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        us => format!("{us:.0} µs"),
    }
}

/// Formats 31641.0 as "32k".
fn count(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// Formats the decimal logarithm of a latency in microseconds as the latency.
fn by_logarithm(log: f64) -> String {
    match 10f64.powf(log) {
        us if us >= 999_999.0 => format!("{} s", (us / 1e6).round()),
        us if us >= 999.9 => format!("{} ms", (us / 1e3).round()),
        us => format!("{} µs", (us * 1e3).round() / 1e3),
    }
}

fn seconds(s: f64) -> String {
    format!("{} s", (s * 1e3).round() / 1e3)
}

fn latencies(all: impl Iterator<Item = f64>) -> Axis {
    Axis::logarithmic(all, TICKS_UP, by_logarithm, LATENCY)
}

/// Points with their latency on the logarithmic axis; points without a latency are left out.
fn logged(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    points.filter(|(_, us)| *us > 0.0).map(|(x, us)| (x, us.log10())).collect()
}

/// The latency distribution of a run, as far as there are samples: beyond one in `total`, nothing is known.
fn distribution(run: &RunResult) -> Vec<(f64, f64)> {
    let end = if run.total > 0 { (run.total as f64).log10() } else { f64::INFINITY };
    logged(run.curve.iter().map(|(share, us)| (nines(*share).min(end), *us)))
}

/// Draws latency by percentile, of one run or two.
pub fn percentiles(runs: &[RunResult], screen: Screen) -> Picture {
    let line = |(run, colour): (&RunResult, RGBColor)| Series { points: distribution(run), colour: colour.mix(1.0) };
    let lines: Vec<Series> = runs.iter().zip(RUNS).map(line).collect();
    let most = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x).fold(1.0, f64::max);
    let half = nines(0.5);
    let first = if screen == Screen::Wide { Some(0.0) } else { None };
    let ticks = first.into_iter().chain([half]).chain((1..=9).map(f64::from));
    let frame = Frame {
        screen,
        xs: Axis::with_ticks(0.0..most, ticks, share, "share of all requests that took no longer"),
        ys: latencies(runs.iter().flat_map(|run| &run.curve).map(|(_, us)| *us)),
        marks: Vec::new(),
        dots: Vec::new(),
    };
    graph(&lines, &frame)
}

/// Draws latency over time, p50 and p99 of each second, with the leader changes.
pub fn latency_over_time(runs: &[RunResult], screen: Screen) -> Picture {
    let of =
        |run: &RunResult, of: fn(&Second) -> f64| logged(run.series.iter().map(|second| (second.at_s, of(second))));
    let lines = runs.iter().zip(RUNS).flat_map(|(run, colour)| {
        let (tail, middle) = (of(run, |second| second.p99_us), of(run, |second| second.p50_us));
        [Series { points: tail, colour: colour.mix(FAINT) }, Series { points: middle, colour: colour.mix(1.0) }]
    });
    let lines: Vec<Series> = lines.collect();
    let all = runs.iter().flat_map(|run| &run.series);
    let ys = latencies(all.flat_map(|second| [second.p50_us, second.p99_us]));
    over_time(runs, &lines, ys, screen)
}

/// Draws throughput over time, with the leader changes.
pub fn throughput_over_time(runs: &[RunResult], screen: Screen) -> Picture {
    let most = runs.iter().flat_map(|run| &run.series).map(|second| second.ops_per_s).fold(1.0, f64::max);
    let points = |run: &RunResult| run.series.iter().map(|second| (second.at_s, second.ops_per_s)).collect();
    let line = |(run, colour): (&RunResult, RGBColor)| Series { points: points(run), colour: colour.mix(1.0) };
    let lines: Vec<Series> = runs.iter().zip(RUNS).map(line).collect();
    over_time(runs, &lines, Axis::linear(most * 1.1, TICKS_UP, count, "requests a second"), screen)
}

fn over_time(runs: &[RunResult], lines: &[Series], ys: Axis, screen: Screen) -> Picture {
    let end = runs.iter().filter_map(|run| run.series.last()).map(|second| second.at_s).fold(1.0, f64::max);
    let frame = Frame {
        screen,
        xs: Axis::linear(end, screen.ticks(), seconds, ""),
        ys,
        marks: runs.iter().flat_map(|run| &run.leader_changes).copied().filter(|at| *at <= end).collect(),
        dots: Vec::new(),
    };
    graph(lines, &frame)
}

/// Draws latency against throughput, one point per step of a sweep, labeled with its number of clients.
pub fn sweep(steps: &[RunResult], screen: Screen) -> Picture {
    let of = |of: fn(&RunResult) -> f64| logged(steps.iter().map(|step| (step.ops_per_s, of(step))));
    let lines = [
        Series { points: of(|step| step.p99_us), colour: RUNS[0].mix(FAINT) },
        Series { points: of(|step| step.p50_us), colour: RUNS[0].mix(1.0) },
    ];
    let named = steps.iter().filter(|step| step.p50_us > 0.0);
    let name = |step: &RunResult| step.config["clients"].as_u64().map_or(String::new(), |clients| clients.to_string());
    let most = steps.iter().map(|step| step.ops_per_s).fold(1.0, f64::max);
    let frame = Frame {
        screen,
        xs: Axis::linear(most * 1.1, screen.ticks(), count, "requests a second"),
        ys: latencies(steps.iter().flat_map(|step| [step.p50_us, step.p99_us])),
        marks: Vec::new(),
        dots: named.map(|step| (step.ops_per_s, step.p50_us.log10(), name(step))).collect(),
    };
    graph(&lines, &frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_and_have_units() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(share), ["0%", "90%", "99%", "99.9%", "99.99%"]);
        assert_eq!([7.0, 1500.0, 31_000.0, 2_000_000.0].map(duration), ["7 µs", "1.5 ms", "31 ms", "2.0 s"]);
        assert_eq!([7.0, 31_641.0, 1_500_000.0].map(count), ["7", "32k", "1.5M"]);
        assert!((nines(0.999) - 3.0).abs() < 1e-9 && nines(1.0).is_finite());
    }

    #[test]
    fn tick_labels_are_round_figures() {
        assert_eq!(
            [500.0, 1e3, 2e4, 5e5, 1e6].map(|us: f64| by_logarithm(us.log10())),
            ["500 µs", "1 ms", "20 ms", "500 ms", "1 s"]
        );
        assert_eq!([0.0, 0.5, 20.0].map(seconds), ["0 s", "0.5 s", "20 s"]);
        assert_eq!(share(nines(0.5)), "50%");
    }

    #[test]
    fn distribution_ends_at_last_sample() {
        let run =
            RunResult { total: 1000, curve: vec![(0.5, 1.0), (0.999, 2.0), (0.999_999, 3.0)], ..RunResult::default() };
        assert!(distribution(&run).iter().all(|(x, _)| *x <= 3.0));
    }

    #[test]
    fn labels_are_complete_and_steps_name_their_client_count() {
        let step = |clients: u64| RunResult {
            ops_per_s: 1000.0 * clients as f64,
            p50_us: 398.0,
            p99_us: 6310.0,
            config: serde_json::json!({ "clients": clients }),
            ..RunResult::default()
        };
        for screen in [Screen::Wide, Screen::Narrow] {
            let drawn = sweep(&[step(17), step(64)], screen).unwrap();
            // Each text is on a line of its own.
            let words: Vec<&str> = drawn.lines().map(str::trim).collect();
            for word in ["17", "64", "200 µs", "10 ms", LATENCY] {
                assert!(words.contains(&word), "{word}: {drawn}");
            }
            let second = |s: u32| Second { at_s: f64::from(s), p50_us: 900.0, p99_us: 950.0, ..Second::default() };
            let run = RunResult { series: (1..=5).map(second).collect(), ..RunResult::default() };
            assert!(latency_over_time(&[run], screen).unwrap().lines().any(|line| line.trim() == "5 s"));
        }
    }

    #[test]
    fn empty_result_can_be_drawn() {
        let nothing = [RunResult::default()];
        for screen in [Screen::Wide, Screen::Narrow] {
            for draw in [percentiles, latency_over_time, throughput_over_time, sweep] {
                assert!(draw(&nothing, screen).unwrap().starts_with("<svg"));
            }
        }
    }
}
