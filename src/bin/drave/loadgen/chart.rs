//! Draws runs as SVG pictures, which a page embeds inline.
//!
//! Gray text and lines of medium lightness are readable on a white and on a black page.

use super::axis::Axis;
use super::result::{RunResult, SecondStats};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;

/// The colors of the first and the second run, distinguishable with color blindness as well.
const RUN_COLORS: [RGBColor; 2] = [RGBColor(0x2f, 0x86, 0xc8), RGBColor(0xe0, 0x6c, 0x10)];
/// The color of the vertical line at a leader change, and of its label.
const LEADER_CHANGE_COLOR: RGBColor = RGBColor(0xc8, 0x3c, 0x3c);
/// The color of labels, axes and grid lines.
const TEXT_COLOR: RGBColor = RGBColor(0x80, 0x80, 0x80);
/// The opacity of p99 lines. Lines of the median are opaque.
const P99_OPACITY: f64 = 0.55;

/// A picture as SVG text, or the error of the drawing library.
pub type SvgResult = Result<String, Box<dyn Error>>;

/// The width of the screen that a picture is drawn for. The page scales a picture to the width of the screen, and its
/// text must stay legible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScreenWidth {
    /// The width of a monitor.
    Wide,
    /// The width of a phone.
    Narrow,
}

impl ScreenWidth {
    /// Width and height of a picture, in its own units.
    fn picture_size(self) -> (u32, u32) {
        match self {
            ScreenWidth::Wide => (860, 300),
            ScreenWidth::Narrow => (400, 300),
        }
    }

    /// Font size, in the units of the picture; a page shows text at about that size.
    fn font_size(self) -> i32 {
        match self {
            ScreenWidth::Wide => 13,
            ScreenWidth::Narrow => 16,
        }
    }

    /// The maximum number of ticks on the x axis: the labels of more would overlap.
    fn x_ticks_max(self) -> usize {
        match self {
            ScreenWidth::Wide => 10,
            ScreenWidth::Narrow => 5,
        }
    }
}

/// The maximum number of ticks on the y axis: the labels of more would overlap.
const Y_TICKS_MAX: usize = 9;
const LATENCY_TITLE: &str = "latency, logarithmic";

struct GraphLine {
    points: Vec<(f64, f64)>,
    color: RGBAColor,
}

/// The parts of a graph other than its lines.
struct GraphFrame {
    screen: ScreenWidth,
    x_axis: Axis,
    y_axis: Axis,
    /// The times of leader changes, in seconds from the start: a vertical line is drawn at each.
    leader_changes_s: Vec<f64>,
    /// Points drawn as dots: x, y, and the label above the dot.
    labeled_points: Vec<(f64, f64, String)>,
}

fn draw_graph(lines: &[GraphLine], frame: &GraphFrame) -> SvgResult {
    let (mut svg, font_size) = (String::new(), frame.screen.font_size());
    {
        let area = SVGBackend::with_string(&mut svg, frame.screen.picture_size()).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            // Half of the last tick label extends beyond the axis.
            .margin_right(2 * font_size + 8)
            .x_label_area_size(if frame.x_axis.title.is_empty() { 2 * font_size } else { 3 * font_size + 6 })
            .y_label_area_size(5 * font_size + 10)
            .build_cartesian_2d(frame.x_axis.clone(), frame.y_axis.clone())?;
        chart
            .configure_mesh()
            .x_labels(frame.x_axis.tick_count())
            .y_labels(frame.y_axis.tick_count())
            .light_line_style(TRANSPARENT)
            .bold_line_style(TEXT_COLOR.mix(0.25))
            .axis_style(TEXT_COLOR)
            .label_style(("sans-serif", font_size).into_font().color(&TEXT_COLOR))
            .axis_desc_style(("sans-serif", font_size).into_font().color(&TEXT_COLOR))
            .x_desc(frame.x_axis.title)
            .y_desc(frame.y_axis.title)
            .draw()?;
        for GraphLine { points, color } in lines {
            chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
        }
        let draw_point = |(x, y, _): &(f64, f64, String)| Circle::new((*x, *y), 4, RUN_COLORS[0].filled());
        chart.draw_series(frame.labeled_points.iter().map(draw_point))?;
        let above_point = Pos::new(HPos::Center, VPos::Bottom);
        let text_style = ("sans-serif", font_size).into_font().color(&TEXT_COLOR).pos(above_point);
        // The label is above the point, not on it.
        let draw_label = |(x, y, name): &(f64, f64, String)| {
            EmptyElement::at((*x, *y)) + Text::new(name.clone(), (0, -6), text_style.clone())
        };
        chart.draw_series(frame.labeled_points.iter().map(draw_label))?;
        for at in &frame.leader_changes_s {
            let (bottom, top) = (frame.y_axis.range.start, frame.y_axis.range.end);
            chart.draw_series([PathElement::new(
                vec![(*at, bottom), (*at, top)],
                LEADER_CHANGE_COLOR.stroke_width(2),
            )])?;
            // The label of a leader change near the right edge is to the left of its line.
            let is_near_right_edge = *at > 0.6 * frame.x_axis.range.end;
            let (side, gap) = if is_near_right_edge { (HPos::Right, -4) } else { (HPos::Left, 4) };
            let leader_change_style =
                ("sans-serif", font_size).into_font().color(&LEADER_CHANGE_COLOR).pos(Pos::new(side, VPos::Top));
            chart
                .draw_series([EmptyElement::at((*at, top)) + Text::new("new leader", (gap, 2), leader_change_style)])?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// The number of nines of a share: 0.9 is 1, 0.999 is 3. On this scale the slowest requests, which matter most, get the
/// most room.
fn nines_of_share(share: f64) -> f64 {
    -(1.0 - share.min(1.0 - 1e-6)).log10()
}

/// Formats 2.0 nines as "99%".
fn format_share(nines: f64) -> String {
    let percent = 100.0 - 100.0 * 10f64.powf(-nines);
    let digits = (nines.ceil() as usize).saturating_sub(2);
    format!("{percent:.digits$}%")
}

/// Formats microseconds: 1500.0 as "1.5 ms".
pub fn format_duration(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.1} s", us / 1e6),
        us if us >= 1e4 => format!("{:.0} ms", us / 1e3),
        us if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        us => format!("{us:.0} µs"),
    }
}

/// Formats 31641.0 as "32k".
fn format_count(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// Formats the decimal logarithm of a latency in microseconds as the latency.
fn format_log_latency(log: f64) -> String {
    match 10f64.powf(log) {
        us if us >= 999_999.0 => format!("{} s", (us / 1e6).round()),
        us if us >= 999.9 => format!("{} ms", (us / 1e3).round()),
        us => format!("{} µs", (us * 1e3).round() / 1e3),
    }
}

fn format_seconds(s: f64) -> String {
    format!("{} s", (s * 1e3).round() / 1e3)
}

fn latency_axis(latencies_us: impl Iterator<Item = f64>) -> Axis {
    Axis::logarithmic(latencies_us, Y_TICKS_MAX, format_log_latency, LATENCY_TITLE)
}

/// Converts the latency of each point from microseconds to its decimal logarithm. Points without a latency are left
/// out.
fn log_latency_points(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    points.filter(|(_, us)| *us > 0.0).map(|(x, us)| (x, us.log10())).collect()
}

/// The points of a run's latency distribution: the nines of a share of requests, and their highest latency. The
/// distribution of `total` samples ends at the share 1 - 1/`total`.
fn distribution_points(run: &RunResult) -> Vec<(f64, f64)> {
    let nines_max = if run.total > 0 { (run.total as f64).log10() } else { f64::INFINITY };
    log_latency_points(run.curve.iter().map(|(share, us)| (nines_of_share(*share).min(nines_max), *us)))
}

/// Draws latency by percentile, of one run or two.
pub fn draw_percentiles(runs: &[RunResult], screen: ScreenWidth) -> SvgResult {
    let line_of_distribution =
        |(run, color): (&RunResult, RGBColor)| GraphLine { points: distribution_points(run), color: color.mix(1.0) };
    let lines: Vec<GraphLine> = runs.iter().zip(RUN_COLORS).map(line_of_distribution).collect();
    let x_max = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x).fold(1.0, f64::max);
    let median_nines = nines_of_share(0.5);
    let zero_tick = if screen == ScreenWidth::Wide { Some(0.0) } else { None };
    let ticks = zero_tick.into_iter().chain([median_nines]).chain((1..=9).map(f64::from));
    let frame = GraphFrame {
        screen,
        x_axis: Axis::with_ticks(0.0..x_max, ticks, format_share, "share of all requests that took no longer"),
        y_axis: latency_axis(runs.iter().flat_map(|run| &run.curve).map(|(_, us)| *us)),
        leader_changes_s: Vec::new(),
        labeled_points: Vec::new(),
    };
    draw_graph(&lines, &frame)
}

/// Draws latency over time, p50 and p99 of each second, with the leader changes.
pub fn draw_latency_over_time(runs: &[RunResult], screen: ScreenWidth) -> SvgResult {
    let latency_points = |run: &RunResult, latency_us: fn(&SecondStats) -> f64| {
        log_latency_points(run.series.iter().map(|second| (second.at_s, latency_us(second))))
    };
    let lines = runs.iter().zip(RUN_COLORS).flat_map(|(run, color)| {
        let (tail, median) = (latency_points(run, |second| second.p99_us), latency_points(run, |second| second.p50_us));
        [GraphLine { points: tail, color: color.mix(P99_OPACITY) }, GraphLine { points: median, color: color.mix(1.0) }]
    });
    let lines: Vec<GraphLine> = lines.collect();
    let second_stats = runs.iter().flat_map(|run| &run.series);
    let y_axis = latency_axis(second_stats.flat_map(|second| [second.p50_us, second.p99_us]));
    draw_over_time(runs, &lines, y_axis, screen)
}

/// Draws throughput over time, with the leader changes.
pub fn draw_throughput_over_time(runs: &[RunResult], screen: ScreenWidth) -> SvgResult {
    let highest_rate = runs.iter().flat_map(|run| &run.series).map(|second| second.ops_per_s).fold(1.0, f64::max);
    let throughput_points = |run: &RunResult| run.series.iter().map(|second| (second.at_s, second.ops_per_s)).collect();
    let throughput_line =
        |(run, color): (&RunResult, RGBColor)| GraphLine { points: throughput_points(run), color: color.mix(1.0) };
    let lines: Vec<GraphLine> = runs.iter().zip(RUN_COLORS).map(throughput_line).collect();
    draw_over_time(
        runs,
        &lines,
        Axis::linear(highest_rate * 1.1, Y_TICKS_MAX, format_count, "requests a second"),
        screen,
    )
}

fn draw_over_time(runs: &[RunResult], lines: &[GraphLine], y_axis: Axis, screen: ScreenWidth) -> SvgResult {
    let end_s = runs.iter().filter_map(|run| run.series.last()).map(|second| second.at_s).fold(1.0, f64::max);
    let frame = GraphFrame {
        screen,
        x_axis: Axis::linear(end_s, screen.x_ticks_max(), format_seconds, ""),
        y_axis,
        leader_changes_s: runs.iter().flat_map(|run| &run.leader_changes).copied().filter(|at| *at <= end_s).collect(),
        labeled_points: Vec::new(),
    };
    draw_graph(lines, &frame)
}

/// Draws latency against throughput, one point per step of a sweep, labeled with its number of clients.
pub fn draw_sweep(steps: &[RunResult], screen: ScreenWidth) -> SvgResult {
    let latency_points = |latency_us: fn(&RunResult) -> f64| {
        log_latency_points(steps.iter().map(|step| (step.ops_per_s, latency_us(step))))
    };
    let lines = [
        GraphLine { points: latency_points(|step| step.p99_us), color: RUN_COLORS[0].mix(P99_OPACITY) },
        GraphLine { points: latency_points(|step| step.p50_us), color: RUN_COLORS[0].mix(1.0) },
    ];
    let labeled_steps = steps.iter().filter(|step| step.p50_us > 0.0);
    let client_count =
        |step: &RunResult| step.config["clients"].as_u64().map_or(String::new(), |clients| clients.to_string());
    let highest_rate = steps.iter().map(|step| step.ops_per_s).fold(1.0, f64::max);
    let frame = GraphFrame {
        screen,
        x_axis: Axis::linear(highest_rate * 1.1, screen.x_ticks_max(), format_count, "requests a second"),
        y_axis: latency_axis(steps.iter().flat_map(|step| [step.p50_us, step.p99_us])),
        leader_changes_s: Vec::new(),
        labeled_points: labeled_steps.map(|step| (step.ops_per_s, step.p50_us.log10(), client_count(step))).collect(),
    };
    draw_graph(&lines, &frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formatted_numbers_are_rounded_and_have_units() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(format_share), ["0%", "90%", "99%", "99.9%", "99.99%"]);
        assert_eq!([7.0, 1500.0, 31_000.0, 2_000_000.0].map(format_duration), ["7 µs", "1.5 ms", "31 ms", "2.0 s"]);
        assert_eq!([7.0, 31_641.0, 1_500_000.0].map(format_count), ["7", "32k", "1.5M"]);
        assert!((nines_of_share(0.999) - 3.0).abs() < 1e-9 && nines_of_share(1.0).is_finite());
    }

    #[test]
    fn tick_labels_are_round_numbers() {
        assert_eq!(
            [500.0, 1e3, 2e4, 5e5, 1e6].map(|us: f64| format_log_latency(us.log10())),
            ["500 µs", "1 ms", "20 ms", "500 ms", "1 s"]
        );
        assert_eq!([0.0, 0.5, 20.0].map(format_seconds), ["0 s", "0.5 s", "20 s"]);
        assert_eq!(format_share(nines_of_share(0.5)), "50%");
    }

    #[test]
    fn distribution_ends_at_last_sample() {
        let run =
            RunResult { total: 1000, curve: vec![(0.5, 1.0), (0.999, 2.0), (0.999_999, 3.0)], ..RunResult::default() };
        assert!(distribution_points(&run).iter().all(|(x, _)| *x <= 3.0));
    }

    #[test]
    fn sweep_graph_labels_its_ticks_and_client_counts() {
        let step_with_clients = |clients: u64| RunResult {
            ops_per_s: 1000.0 * clients as f64,
            p50_us: 398.0,
            p99_us: 6310.0,
            config: serde_json::json!({ "clients": clients }),
            ..RunResult::default()
        };
        for screen in [ScreenWidth::Wide, ScreenWidth::Narrow] {
            let svg = draw_sweep(&[step_with_clients(17), step_with_clients(64)], screen).unwrap();
            // Each text is on a line of its own.
            let texts: Vec<&str> = svg.lines().map(str::trim).collect();
            for text in ["17", "64", "200 µs", "10 ms", LATENCY_TITLE] {
                assert!(texts.contains(&text), "{text}: {svg}");
            }
            let second =
                |s: u32| SecondStats { at_s: f64::from(s), p50_us: 900.0, p99_us: 950.0, ..SecondStats::default() };
            let run = RunResult { series: (1..=5).map(second).collect(), ..RunResult::default() };
            assert!(draw_latency_over_time(&[run], screen).unwrap().lines().any(|line| line.trim() == "5 s"));
        }
    }

    #[test]
    fn empty_result_can_be_drawn() {
        let empty_runs = [RunResult::default()];
        for screen in [ScreenWidth::Wide, ScreenWidth::Narrow] {
            for draw in [draw_percentiles, draw_latency_over_time, draw_throughput_over_time, draw_sweep] {
                assert!(draw(&empty_runs, screen).unwrap().starts_with("<svg"));
            }
        }
    }
}
