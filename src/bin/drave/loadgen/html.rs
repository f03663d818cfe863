//! Renders a run, two runs side by side, or a sweep as one HTML page without scripts or external resources.

use super::chart::{self, ScreenWidth, SvgResult, format_duration};
use super::report::group_digits;
use super::result::{MachineInfo, RunResult};
use crate::remote::failure::CliError;
use std::fmt::Write;
use std::path::Path;

const PAGE_CSS: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
svg{width:100%;height:auto}\
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:right}\
td:first-child,th:first-child{text-align:left}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;opacity:.85}\
.run0{color:#2f86c8}.run1{color:#e06c10}.tail{opacity:.55}.mark{color:#c83c3c}\
.legend{margin:.3rem 0}.legend span{margin-right:1.2rem;white-space:nowrap}\
.narrow{display:none}\
@media(max-width:40rem){body{margin:1rem auto;padding:0 .7rem}.wide{display:none}.narrow{display:block}\
table{display:block;overflow-x:auto;white-space:nowrap}}";

/// A picture of the page: its title, its legend and the function that draws it.
struct ReportPicture<'a> {
    name: &'static str,
    legend: String,
    draw: &'a dyn Fn(ScreenWidth) -> SvgResult,
}

/// A legend entry in the color of its line. `is_faint` is set for the p99 line of a run, which is fainter.
fn legend_entry(run_index: usize, is_faint: bool, label: &str) -> String {
    let class = if is_faint { " tail" } else { "" };
    format!("<span class=\"run{run_index}{class}\">━ {label}</span>")
}

/// The legend for one or two runs. `lines` contains the label of each line of a run, and whether the line
/// is the fainter one.
fn legend(runs: &[RunResult], lines: &[(&str, bool)]) -> String {
    let mut out = String::new();
    for run in 0..runs.len() {
        for (label, is_faint) in lines {
            let run_label = match (runs.len(), run) {
                (1, _) => "",
                (_, 0) => "first: ",
                _ => "second: ",
            };
            out.push_str(&legend_entry(run, *is_faint, &format!("{run_label}{label}")));
        }
    }
    out
}

/// Writes the page of one run, or of two runs side by side.
pub fn write_runs_page(path: &Path, runs: &[RunResult]) -> Result<(), CliError> {
    let title = match runs {
        [run] => format!("drave bench {}", run.what),
        _ => "drave bench, two runs compared".to_owned(),
    };
    let legend_over_time = |lines: &[(&str, bool)]| {
        let has_leader_change = runs.iter().any(|run| !run.leader_changes.is_empty());
        let leader_change_entry = if has_leader_change { "<span class=\"mark\">┃ new leader</span>" } else { "" };
        legend(runs, lines) + leader_change_entry
    };
    let pictures = [
        ReportPicture {
            name: "Latency by percentile",
            legend: legend(runs, &[("latency", false)]),
            draw: &|screen| chart::draw_percentiles(runs, screen),
        },
        ReportPicture {
            name: "Latency over time",
            legend: legend_over_time(&[("p50 of each second", false), ("p99", true)]),
            draw: &|screen| chart::draw_latency_over_time(runs, screen),
        },
        ReportPicture {
            name: "Throughput over time",
            legend: legend_over_time(&[("requests a second", false)]),
            draw: &|screen| chart::draw_throughput_over_time(runs, screen),
        },
    ];
    write_page(path, &title, &runs_table(runs), pictures, runs)
}

/// Writes the HTML page that compares the steps of a sweep, one run for each number of clients.
pub fn write_sweep_page(path: &Path, steps: &[RunResult]) -> Result<(), CliError> {
    let first_step = &steps[..steps.len().min(1)];
    let pictures = [ReportPicture {
        name: "Latency against throughput",
        legend: legend(first_step, &[("p50, with the number of clients at each point", false), ("p99", true)]),
        draw: &|screen| chart::draw_sweep(steps, screen),
    }];
    write_page(path, "drave bench, sweep", &sweep_table(steps), pictures, first_step)
}

fn write_page<const N: usize>(
    path: &Path,
    title: &str,
    table: &str,
    pictures: [ReportPicture<'_>; N],
    runs: &[RunResult],
) -> Result<(), CliError> {
    // The title contains text from a results file, which may hold any characters.
    let title = escape_html(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{PAGE_CSS}</style></head>\
         <body>\n<h1>{title}</h1>\n{table}\n"
    );
    for ReportPicture { name, legend, draw } in pictures {
        page.push_str(&format!("<h2>{name}</h2>\n<p class=\"legend\">{legend}</p>\n"));
        for (class, screen) in [("wide", ScreenWidth::Wide), ("narrow", ScreenWidth::Narrow)] {
            let picture = draw(screen).map_err(|error| CliError { message: format!("{name}: {error}"), code: 70 })?;
            page.push_str(&format!("<div class=\"{class}\">\n{picture}</div>\n"));
        }
    }
    page.push_str("<h2>Command, machine and configuration</h2>\n");
    for (n, run) in runs.iter().enumerate() {
        page.push_str(&format!("<pre class=\"run{n}\">{}</pre>\n", escape_html(&describe_setup(run))));
    }
    page.push_str("</body></html>\n");
    std::fs::write(path, page).map_err(|error| CliError { message: format!("{}: {error}", path.display()), code: 74 })
}

/// The command line, machine and configuration of a run as text.
fn describe_setup(run: &RunResult) -> String {
    let machine = &run.machine;
    let settings = run.config.as_object().into_iter().flatten();
    let config = settings.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(" · ");
    let command = run.command.join(" ");
    let MachineInfo { host, system, processor, processors } = machine;
    // Fields that an older version did not record are left out.
    let date_and_host =
        [&run.date, host].into_iter().filter(|field| !field.is_empty()).map(|field| format!("{field} · "));
    let date_and_host: String = date_and_host.collect();
    format!("{command}\n{date_and_host}{system} · {processor} · {processors} processors\n{config}")
}

/// A row of the table of figures: its heading, and the function that formats the figure of a run.
type FigureRow = (&'static str, fn(&RunResult) -> String);

const FIGURE_ROWS: [FigureRow; 12] = [
    ("requests a second", |run| group_digits(run.ops_per_s as u64)),
    ("p50", |run| format_duration(run.p50_us)),
    ("p90", |run| format_duration(run.p90_us)),
    ("p99", |run| format_duration(run.p99_us)),
    ("p99.9", |run| format_duration(run.p999_us)),
    ("max", |run| format_duration(run.max_us)),
    ("answered", |run| group_digits(run.total)),
    ("refused · unknown · retries", |run| format!("{} · {} · {}", run.errors, run.unknown, run.retries)),
    ("longest time without an answer", |run| format_duration(run.longest_gap_ms * 1e3)),
    ("entries a fsync", |run| run.entries_per_fsync.map_or("not known".into(), |entries| format!("{entries:.1}"))),
    ("fsync p99 of the leader", |run| run.fsync_p99_us.map_or("not known".into(), format_duration)),
    ("leader changes", |run| run.leader_changes.len().to_string()),
];

/// The table of figures, one column per run; with two runs, also the ratio of the second's throughput to the first's.
fn runs_table(runs: &[RunResult]) -> String {
    let mut out = String::from("<table>");
    if let [first, second] = runs {
        let throughput_ratio = second.ops_per_s / first.ops_per_s.max(1e-9);
        // Writing to a string cannot fail.
        let _written = write!(
            out,
            "<tr><th></th><th class=\"run0\">first</th><th class=\"run1\">second</th></tr>\
             <tr><td>requests a second, second run to first</td><td></td><td>× {throughput_ratio:.2}</td></tr>"
        );
    }
    for (name, format_figure) in FIGURE_ROWS {
        let cells: String = runs.iter().map(|run| format!("<td>{}</td>", format_figure(run))).collect();
        let _written = write!(out, "<tr><td>{name}</td>{cells}</tr>");
    }
    out.push_str("</table>");
    out
}

fn sweep_table(steps: &[RunResult]) -> String {
    let mut out = String::from(
        "<table><tr><th>clients</th><th>requests a second</th><th>p50</th><th>p99</th><th>p99.9</th><th>max</th></tr>",
    );
    for step in steps {
        let clients = step.config["clients"].as_u64().unwrap_or_default();
        let cells =
            [step.p50_us, step.p99_us, step.p999_us, step.max_us].map(|us| format!("<td>{}</td>", format_duration(us)));
        let rate = group_digits(step.ops_per_s as u64);
        let _written = write!(out, "<tr><td>{clients}</td><td>{rate}</td>{}</tr>", cells.concat());
    }
    out.push_str("</table>");
    out
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::result::SecondStats;

    fn run_of_workload(workload: &str) -> RunResult {
        RunResult {
            what: workload.into(),
            ops_per_s: 31_641.0,
            p50_us: 940.0,
            curve: vec![(0.5, 940.0), (0.9, 1330.0), (0.99, 2260.0), (1.0, 7100.0)],
            series: (1..=5)
                .map(|s| SecondStats { at_s: f64::from(s), ops_per_s: 3e4, p50_us: 900.0, ..SecondStats::default() })
                .collect(),
            leader_changes: vec![2.5],
            date: "2026-01-02T03:04:05Z".into(),
            machine: MachineInfo { host: "h1".into(), ..MachineInfo::default() },
            command: vec!["drave".into(), "bench".into(), "<script>".into()],
            ..RunResult::default()
        }
    }

    #[test]
    fn report_has_no_scripts_and_no_external_resources() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.html");
        for runs in [vec![run_of_workload("put")], vec![run_of_workload("put"), run_of_workload("put")]] {
            write_runs_page(&path, &runs).unwrap();
            let page = std::fs::read_to_string(&path).unwrap();
            for word in ["31 641", "940 µs", "new leader", "&lt;script&gt;", "<svg", "2026-01-02T03:04:05Z · h1", "━ "]
            {
                assert!(page.contains(word), "{word}");
            }
            for word in ["<script", "<link", "<img", "@import", "url("] {
                assert!(!page.contains(word), "{word}");
            }
            assert_eq!(page.contains("× 1.00"), runs.len() == 2);
        }
        write_sweep_page(&path, &[run_of_workload("put"), run_of_workload("put")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().matches("<tr>").count(), 3);
    }

    #[test]
    fn report_escapes_html() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.html");
        write_runs_page(&path, &[run_of_workload("</title><script>alert(1)</script>&")]).unwrap();
        let page = std::fs::read_to_string(&path).unwrap();
        let title = "drave bench &lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;";
        assert!(page.contains(&format!("<title>{title}</title>")) && page.contains(&format!("<h1>{title}</h1>")));
        assert!(!page.contains("<script"));
    }

    #[test]
    fn unwritable_report_is_an_error() {
        let error = write_runs_page(Path::new("/no/such/place/run.html"), &[run_of_workload("put")]).unwrap_err();
        assert_eq!(error.code, 74);
    }
}
