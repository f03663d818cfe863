//! Runs the same load with increasing numbers of clients, to show latency against throughput.

use super::args::Bench;
use super::chart::duration;
use super::html;
use super::load::measure;
use super::report::grouped;
use super::result::RunResult;
use crate::output::outln;
use crate::remote::failure::CliError;

/// Measures one run for each number of clients, and prints them as a table; `--report` draws a picture as well. Returns
/// the first error.
pub fn run(args: &Bench, clients: &[u64]) -> Result<(), CliError> {
    let (steps, verdict) = steps(args, clients, measure);
    if steps.is_empty() {
        return verdict;
    }
    if !args.cluster.json() {
        print(&steps);
    }
    // The report is drawn even if a step failed.
    let drawn = args.report.as_deref().map_or(Ok(()), |path| html::of_sweep(path, &steps));
    verdict.and(drawn)
}

/// Returns the results of the steps that finished, and the first error. A step that misses its SLO is kept; a step that
/// does not finish ends the sweep.
fn steps(
    args: &Bench,
    clients: &[u64],
    mut measure: impl FnMut(&Bench) -> (Option<RunResult>, Result<(), CliError>),
) -> (Vec<RunResult>, Result<(), CliError>) {
    let (mut steps, mut all) = (Vec::new(), Ok(()));
    for clients in clients {
        let step = Bench { clients: *clients, sweep: Vec::new(), report: None, ..args.clone() };
        let (outcome, verdict) = measure(&step);
        let verdict =
            verdict.map_err(|CliError { what, code }| CliError { what: format!("--clients {clients}: {what}"), code });
        if let (Err(_), Err(CliError { what, .. })) = (&all, &verdict) {
            eprintln!("warning: {what}");
        }
        all = all.and(verdict);
        let came_to_an_end = outcome.is_some();
        steps.extend(outcome);
        if !came_to_an_end {
            break;
        }
    }
    (steps, all)
}

fn print(steps: &[RunResult]) {
    outln!("{:>8} {:>12} {:>10} {:>10} {:>10} {:>10}", "clients", "ops/s", "p50", "p99", "p99.9", "max");
    for step in steps {
        let [p50, p99, p999, max] = [step.p50_us, step.p99_us, step.p999_us, step.max_us].map(duration);
        let clients = step.config["clients"].as_u64().unwrap_or_default();
        outln!("{clients:>8} {:>12} {p50:>10} {p99:>10} {p999:>10} {max:>10}", grouped(step.ops_per_s as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn trouble(code: i32) -> Result<(), CliError> {
        Err(CliError { what: String::new(), code })
    }

    /// Sweeps 1, 2, 3 and 4 clients with these outcomes; returns the number of steps kept and the exit code.
    fn swept(mut fates: Vec<(bool, Result<(), CliError>)>) -> (usize, Option<i32>) {
        let matches = Bench::augment_args(Command::new("bench")).get_matches_from(["bench", "put"]);
        let args = Bench::from_arg_matches(&matches).unwrap();
        let (steps, verdict) = steps(&args, &[1, 2, 3, 4], |step| {
            let (ends, verdict) = fates.remove(0);
            (ends.then(|| RunResult { total: step.clients, ..RunResult::default() }), verdict)
        });
        assert!(steps.iter().map(|step| step.total).eq(1..=steps.len() as u64));
        (steps.len(), verdict.err().map(|trouble| trouble.code))
    }

    #[test]
    fn step_missing_slo_is_kept_and_failed_step_ends_sweep() {
        let well = || (true, Ok(()));
        assert_eq!(swept(vec![well(), well(), well(), well()]), (4, None));
        assert_eq!(swept(vec![well(), (true, trouble(1)), (true, trouble(74)), well()]), (4, Some(1)));
        assert_eq!(swept(vec![well(), (true, trouble(1)), (false, trouble(3))]), (2, Some(1)));
        assert_eq!(swept(vec![(false, trouble(3))]), (0, Some(3)));
    }
}
