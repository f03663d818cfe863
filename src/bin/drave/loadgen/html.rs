//! Renders a run, two runs side by side, or a sweep as one HTML page without scripts or external resources.

use super::chart::{self, Picture, Screen, duration};
use super::report::grouped;
use super::result::{Machine, RunResult};
use crate::remote::failure::CliError;
use std::fmt::Write;
use std::path::Path;

const STYLE: &str = "\
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
struct ReportFigure<'a> {
    name: &'static str,
    legend: String,
    draw: &'a dyn Fn(Screen) -> Picture,
}

/// A legend entry in the color of its line; `tail` for the fainter of two lines.
fn entry(run: usize, tail: bool, what: &str) -> String {
    let class = if tail { " tail" } else { "" };
    format!("<span class=\"run{run}{class}\">━ {what}</span>")
}

/// The legend for one or two runs. `lines` holds the name of each line of a run, and whether it is the fainter one.
fn legend(runs: &[RunResult], lines: &[(&str, bool)]) -> String {
    let mut out = String::new();
    for run in 0..runs.len() {
        for (what, tail) in lines {
            let whose = match (runs.len(), run) {
                (1, _) => "",
                (_, 0) => "first: ",
                _ => "second: ",
            };
            out.push_str(&entry(run, *tail, &format!("{whose}{what}")));
        }
    }
    out
}

/// Writes the page of one run, or of two runs side by side.
pub fn of_runs(path: &Path, runs: &[RunResult]) -> Result<(), CliError> {
    let title = match runs {
        [run] => format!("drave bench {}", run.what),
        _ => "drave bench, two runs compared".to_owned(),
    };
    let over_time = |lines: &[(&str, bool)]| {
        let marked = runs.iter().any(|run| !run.leader_changes.is_empty());
        let mark = if marked { "<span class=\"mark\">┃ new leader</span>" } else { "" };
        legend(runs, lines) + mark
    };
    let pictures = [
        ReportFigure {
            name: "Latency by percentile",
            legend: legend(runs, &[("latency", false)]),
            draw: &|screen| chart::percentiles(runs, screen),
        },
        ReportFigure {
            name: "Latency over time",
            legend: over_time(&[("p50 of each second", false), ("p99", true)]),
            draw: &|screen| chart::latency_over_time(runs, screen),
        },
        ReportFigure {
            name: "Throughput over time",
            legend: over_time(&[("requests a second", false)]),
            draw: &|screen| chart::throughput_over_time(runs, screen),
        },
    ];
    write(path, &title, &figures(runs), pictures, runs)
}

/// Writes the page of a sweep.
pub fn of_sweep(path: &Path, steps: &[RunResult]) -> Result<(), CliError> {
    let first = &steps[..steps.len().min(1)];
    let pictures = [ReportFigure {
        name: "Latency against throughput",
        legend: legend(first, &[("p50, with the number of clients at each point", false), ("p99", true)]),
        draw: &|screen| chart::sweep(steps, screen),
    }];
    write(path, "drave bench, sweep", &rows_of_steps(steps), pictures, first)
}

fn write<const N: usize>(
    path: &Path,
    title: &str,
    table: &str,
    pictures: [ReportFigure<'_>; N],
    runs: &[RunResult],
) -> Result<(), CliError> {
    // The title contains text from a results file.
    let title = escaped(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\
         <body>\n<h1>{title}</h1>\n{table}\n"
    );
    for ReportFigure { name, legend, draw } in pictures {
        page.push_str(&format!("<h2>{name}</h2>\n<p class=\"legend\">{legend}</p>\n"));
        for (class, screen) in [("wide", Screen::Wide), ("narrow", Screen::Narrow)] {
            let picture = draw(screen).map_err(|error| CliError { what: format!("{name}: {error}"), code: 70 })?;
            page.push_str(&format!("<div class=\"{class}\">\n{picture}</div>\n"));
        }
    }
    page.push_str("<h2>Command, machine and configuration</h2>\n");
    for (n, run) in runs.iter().enumerate() {
        page.push_str(&format!("<pre class=\"run{n}\">{}</pre>\n", escaped(&setting(run))));
    }
    page.push_str("</body></html>\n");
    std::fs::write(path, page).map_err(|error| CliError { what: format!("{}: {error}", path.display()), code: 74 })
}

/// The command line, machine and configuration of a run.
fn setting(run: &RunResult) -> String {
    let machine = &run.machine;
    let settings = run.config.as_object().into_iter().flatten();
    let config = settings.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(" · ");
    let command = run.command.join(" ");
    let Machine { host, system, processor, processors } = machine;
    // Fields that an older version did not record are left out.
    let begins = [&run.date, host].into_iter().filter(|known| !known.is_empty()).map(|known| format!("{known} · "));
    let begins: String = begins.collect();
    format!("{command}\n{begins}{system} · {processor} · {processors} processors\n{config}")
}

/// The name of a figure, and the function that formats it.
type Figure = (&'static str, fn(&RunResult) -> String);

const FIGURES: [Figure; 12] = [
    ("requests a second", |run| grouped(run.ops_per_s as u64)),
    ("p50", |run| duration(run.p50_us)),
    ("p90", |run| duration(run.p90_us)),
    ("p99", |run| duration(run.p99_us)),
    ("p99.9", |run| duration(run.p999_us)),
    ("max", |run| duration(run.max_us)),
    ("answered", |run| grouped(run.total)),
    ("refused · unknown · retries", |run| format!("{} · {} · {}", run.errors, run.unknown, run.retries)),
    ("longest time without an answer", |run| duration(run.longest_gap_ms * 1e3)),
    ("entries a fsync", |run| run.entries_per_fsync.map_or("not known".into(), |entries| format!("{entries:.1}"))),
    ("fsync p99 of the leader", |run| run.fsync_p99_us.map_or("not known".into(), duration)),
    ("leader changes", |run| run.leader_changes.len().to_string()),
];

/// The table of figures, one column per run; with two runs, also the ratio of the second's throughput to the first's.
fn figures(runs: &[RunResult]) -> String {
    let mut out = String::from("<table>");
    if let [first, second] = runs {
        let by = second.ops_per_s / first.ops_per_s.max(1e-9);
        // Writing to a string cannot fail.
        let _written = write!(
            out,
            "<tr><th></th><th class=\"run0\">first</th><th class=\"run1\">second</th></tr>\
             <tr><td>requests a second, second run to first</td><td></td><td>× {by:.2}</td></tr>"
        );
    }
    for (name, of) in FIGURES {
        let cells: String = runs.iter().map(|run| format!("<td>{}</td>", of(run))).collect();
        let _written = write!(out, "<tr><td>{name}</td>{cells}</tr>");
    }
    out.push_str("</table>");
    out
}

fn rows_of_steps(steps: &[RunResult]) -> String {
    let mut out = String::from(
        "<table><tr><th>clients</th><th>requests a second</th><th>p50</th><th>p99</th><th>p99.9</th><th>max</th></tr>",
    );
    for step in steps {
        let clients = step.config["clients"].as_u64().unwrap_or_default();
        let cells =
            [step.p50_us, step.p99_us, step.p999_us, step.max_us].map(|us| format!("<td>{}</td>", duration(us)));
        let rate = grouped(step.ops_per_s as u64);
        let _written = write!(out, "<tr><td>{clients}</td><td>{rate}</td>{}</tr>", cells.concat());
    }
    out.push_str("</table>");
    out
}

/// Escapes untrusted text for HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::result::Second;

    fn run(what: &str) -> RunResult {
        RunResult {
            what: what.into(),
            ops_per_s: 31_641.0,
            p50_us: 940.0,
            curve: vec![(0.5, 940.0), (0.9, 1330.0), (0.99, 2260.0), (1.0, 7100.0)],
            series: (1..=5)
                .map(|s| Second { at_s: f64::from(s), ops_per_s: 3e4, p50_us: 900.0, ..Second::default() })
                .collect(),
            leader_changes: vec![2.5],
            date: "2026-01-02T03:04:05Z".into(),
            machine: Machine { host: "h1".into(), ..Machine::default() },
            command: vec!["drave".into(), "bench".into(), "<script>".into()],
            ..RunResult::default()
        }
    }

    #[test]
    fn report_has_no_scripts_and_no_external_resources() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.html");
        for runs in [vec![run("put")], vec![run("put"), run("put")]] {
            of_runs(&path, &runs).unwrap();
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
        of_sweep(&path, &[run("put"), run("put")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().matches("<tr>").count(), 3);
    }

    #[test]
    fn report_escapes_html() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.html");
        of_runs(&path, &[run("</title><script>alert(1)</script>&")]).unwrap();
        let page = std::fs::read_to_string(&path).unwrap();
        let title = "drave bench &lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;";
        assert!(page.contains(&format!("<title>{title}</title>")) && page.contains(&format!("<h1>{title}</h1>")));
        assert!(!page.contains("<script"));
    }

    #[test]
    fn unwritable_report_is_an_error() {
        let trouble = of_runs(Path::new("/no/such/place/run.html"), &[run("put")]).unwrap_err();
        assert_eq!(trouble.code, 74);
    }
}
