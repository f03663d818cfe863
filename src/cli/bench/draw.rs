//! Runs as pictures: SVG, which a page holds as it is.
//!
//! Grey ink and colours of middling lightness: they are read on white and on black, so that a page can be either.

use super::outcome::{Outcome, Second};
use plotters::prelude::*;
use std::error::Error;
use std::ops::Range;

/// How large a picture is, in its own units.
const SIZE: (u32, u32) = (860, 300);
/// The colours of the first and the second run: far apart for every eye.
const RUNS: [RGBColor; 2] = [RGBColor(0x2f, 0x86, 0xc8), RGBColor(0xe0, 0x6c, 0x10)];
/// What marks another leader.
const MARK: RGBColor = RGBColor(0xc8, 0x3c, 0x3c);
/// Words and axes.
const INK: RGBColor = RGBColor(0x80, 0x80, 0x80);
/// How strong the line of a tail is beside that of the middle.
const FAINT: f64 = 0.55;

/// A picture, or why there is none.
pub type Picture = Result<String, Box<dyn Error>>;

/// One line of a graph.
struct Line {
    points: Vec<(f64, f64)>,
    colour: RGBAColor,
}

/// What a graph shows besides its lines.
struct Frame<'a> {
    xs: Range<f64>,
    ys: Range<f64>,
    x_name: &'a dyn Fn(&f64) -> String,
    y_name: &'a dyn Fn(&f64) -> String,
    x_is: &'a str,
    /// Where another node came to lead.
    marks: Vec<f64>,
    /// Whether each point is shown.
    dotted: bool,
}

fn graph(lines: &[Line], frame: &Frame<'_>) -> Picture {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(frame.xs.clone(), frame.ys.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.25))
            .axis_style(INK)
            .label_style(("sans-serif", 13).into_font().color(&INK))
            .x_label_formatter(frame.x_name)
            .y_label_formatter(frame.y_name)
            .x_desc(frame.x_is)
            .draw()?;
        for Line { points, colour } in lines {
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            let dots = points.iter().filter(|_| frame.dotted);
            chart.draw_series(dots.map(|point| Circle::new(*point, 4, colour.filled())))?;
        }
        for at in &frame.marks {
            let line = vec![(*at, frame.ys.start), (*at, frame.ys.end)];
            chart.draw_series([PathElement::new(line, MARK.stroke_width(2))])?;
            let words = ("sans-serif", 12).into_font().color(&MARK);
            chart.draw_series([Text::new("another leader", (*at, frame.ys.end), words)])?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// How many nines a share has: 0.9 is 1, 0.999 is 3. The tail is what matters, and so has the room.
fn nines(share: f64) -> f64 {
    -(1.0 - share.min(1.0 - 1e-6)).log10()
}

/// 2.0 as "99%".
fn share(nines: f64) -> String {
    let percent = 100.0 - 100.0 * 10f64.powf(-nines);
    let digits = (nines.ceil() as usize).saturating_sub(2);
    format!("{percent:.digits$}%")
}

/// 1500.0 as "1.5 ms".
pub fn duration(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.1} s", us / 1e6),
        us if us >= 1e4 => format!("{:.0} ms", us / 1e3),
        us if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        us => format!("{us:.0} µs"),
    }
}

/// 31641.0 as "32k".
fn count(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// Latencies stand on a logarithmic axis: a range of their logarithms that holds all of them.
fn logarithms(all: impl Iterator<Item = f64>) -> Range<f64> {
    let logarithms = all.filter(|us| *us > 0.0).map(f64::log10);
    let (least, most) =
        logarithms.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), log| (least.min(log), most.max(log)));
    let least = least.min(most);
    least - 0.1..most.max(least + 0.3) + 0.1
}

/// Points whose latencies are known, on that axis.
fn logged(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    points.filter(|(_, us)| *us > 0.0).map(|(x, us)| (x, us.log10())).collect()
}

fn by_logarithm(log: &f64) -> String {
    duration(10f64.powf(*log))
}

/// Latency by percentile, of both runs if there are two.
pub fn percentiles(runs: &[Outcome]) -> Picture {
    let points = |run: &Outcome| logged(run.curve.iter().map(|(share, us)| (nines(*share), *us)));
    let line = |(run, colour): (&Outcome, RGBColor)| Line { points: points(run), colour: colour.mix(1.0) };
    let lines: Vec<Line> = runs.iter().zip(RUNS).map(line).collect();
    let most = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x).fold(3.0, f64::max);
    let frame = Frame {
        xs: 0.0..most,
        ys: logarithms(runs.iter().flat_map(|run| &run.curve).map(|(_, us)| *us)),
        x_name: &|x| share(*x),
        y_name: &by_logarithm,
        x_is: "share of all requests that took no longer",
        marks: Vec::new(),
        dotted: false,
    };
    graph(&lines, &frame)
}

/// Latency over time, the middle and the tail of each second; and when another node came to lead.
pub fn latency_over_time(runs: &[Outcome]) -> Picture {
    let of = |run: &Outcome, of: fn(&Second) -> f64| logged(run.series.iter().map(|second| (second.at_s, of(second))));
    let lines = runs.iter().zip(RUNS).flat_map(|(run, colour)| {
        let (tail, middle) = (of(run, |second| second.p99_us), of(run, |second| second.p50_us));
        [Line { points: tail, colour: colour.mix(FAINT) }, Line { points: middle, colour: colour.mix(1.0) }]
    });
    let lines: Vec<Line> = lines.collect();
    let seconds = runs.iter().flat_map(|run| &run.series);
    let ys = logarithms(seconds.flat_map(|second| [second.p50_us, second.p99_us]));
    over_time(runs, &lines, ys, &by_logarithm)
}

/// Throughput over time, and when another node came to lead.
pub fn throughput_over_time(runs: &[Outcome]) -> Picture {
    let most = runs.iter().flat_map(|run| &run.series).map(|second| second.ops_per_s).fold(1.0, f64::max);
    let points = |run: &Outcome| run.series.iter().map(|second| (second.at_s, second.ops_per_s)).collect();
    let line = |(run, colour): (&Outcome, RGBColor)| Line { points: points(run), colour: colour.mix(1.0) };
    let lines: Vec<Line> = runs.iter().zip(RUNS).map(line).collect();
    over_time(runs, &lines, 0.0..most * 1.1, &|rate| count(*rate))
}

fn over_time(runs: &[Outcome], lines: &[Line], ys: Range<f64>, y_name: &dyn Fn(&f64) -> String) -> Picture {
    let end = runs.iter().filter_map(|run| run.series.last()).map(|second| second.at_s).fold(1.0, f64::max);
    let frame = Frame {
        xs: 0.0..end,
        ys,
        x_name: &|s| if end < 10.0 { format!("{s:.1} s") } else { format!("{s:.0} s") },
        y_name,
        x_is: "",
        marks: runs.iter().flat_map(|run| &run.leader_changes).copied().filter(|at| *at <= end).collect(),
        dotted: false,
    };
    graph(lines, &frame)
}

/// What latency a throughput costs, from one step of a sweep to the next.
pub fn sweep(steps: &[Outcome]) -> Picture {
    let of = |of: fn(&Outcome) -> f64| logged(steps.iter().map(|step| (step.ops_per_s, of(step))));
    let lines = [
        Line { points: of(|step| step.p99_us), colour: RUNS[0].mix(FAINT) },
        Line { points: of(|step| step.p50_us), colour: RUNS[0].mix(1.0) },
    ];
    let most = steps.iter().map(|step| step.ops_per_s).fold(1.0, f64::max);
    let frame = Frame {
        xs: 0.0..most * 1.1,
        ys: logarithms(steps.iter().flat_map(|step| [step.p50_us, step.p99_us])),
        x_name: &|rate| count(*rate),
        y_name: &by_logarithm,
        x_is: "requests a second",
        marks: Vec::new(),
        dotted: true,
    };
    graph(&lines, &frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_said_as_people_say_them() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(share), ["0%", "90%", "99%", "99.9%", "99.99%"]);
        assert_eq!([7.0, 1500.0, 31_000.0, 2_000_000.0].map(duration), ["7 µs", "1.5 ms", "31 ms", "2.0 s"]);
        assert_eq!([7.0, 31_641.0, 1_500_000.0].map(count), ["7", "32k", "1.5M"]);
        assert!((nines(0.999) - 3.0).abs() < 1e-9 && nines(1.0).is_finite());
    }

    #[test]
    fn nothing_at_all_can_be_drawn() {
        let nothing = [Outcome::default()];
        for drawn in
            [percentiles(&nothing), latency_over_time(&nothing), throughput_over_time(&nothing), sweep(&nothing)]
        {
            assert!(drawn.unwrap().starts_with("<svg"));
        }
    }
}
