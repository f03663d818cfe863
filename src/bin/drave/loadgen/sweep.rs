//! Runs the same load with increasing numbers of clients, to show latency against throughput.

use super::args::Bench;
use super::chart::format_duration;
use super::html;
use super::load::measure;
use super::report::group_digits;
use super::result::RunResult;
use crate::output::outln;
use crate::remote::failure::CliError;

/// Measures one run for each number of clients, and prints them as a table; `--report` draws a picture as well. Returns
/// the first error.
pub fn run(args: &Bench, clients: &[u64]) -> Result<(), CliError> {
    let (steps, verdict) = run_steps(args, clients, measure);
    if steps.is_empty() {
        return verdict;
    }
    if !args.cluster.prints_json() {
        print_table(&steps);
    }
    // The report is drawn even if a step failed.
    let report_result = args.report.as_deref().map_or(Ok(()), |path| html::write_sweep_page(path, &steps));
    verdict.and(report_result)
}

/// Returns the results of the steps that finished, and the first error. A step that misses its SLO is kept; a step that
/// does not finish ends the sweep.
fn run_steps(
    args: &Bench,
    clients: &[u64],
    mut measure: impl FnMut(&Bench) -> (Option<RunResult>, Result<(), CliError>),
) -> (Vec<RunResult>, Result<(), CliError>) {
    let (mut steps, mut first_error) = (Vec::new(), Ok(()));
    for clients in clients {
        let step_args = Bench { clients: *clients, sweep_clients: Vec::new(), report: None, ..args.clone() };
        let (outcome, verdict) = measure(&step_args);
        let verdict = verdict.map_err(|CliError { message, code }| CliError {
            message: format!("--clients {clients}: {message}"),
            code,
        });
        if let (Err(_), Err(CliError { message, .. })) = (&first_error, &verdict) {
            eprintln!("warning: {message}");
        }
        first_error = first_error.and(verdict);
        let is_finished = outcome.is_some();
        steps.extend(outcome);
        if !is_finished {
            break;
        }
    }
    (steps, first_error)
}

fn print_table(steps: &[RunResult]) {
    outln!("{:>8} {:>12} {:>10} {:>10} {:>10} {:>10}", "clients", "ops/s", "p50", "p99", "p99.9", "max");
    for step in steps {
        let [p50, p99, p999, max] = [step.p50_us, step.p99_us, step.p999_us, step.max_us].map(format_duration);
        let clients = step.config["clients"].as_u64().unwrap_or_default();
        outln!("{clients:>8} {:>12} {p50:>10} {p99:>10} {p999:>10} {max:>10}", group_digits(step.ops_per_s as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn failure(code: i32) -> Result<(), CliError> {
        Err(CliError { message: String::new(), code })
    }

    /// Sweeps 1, 2, 3 and 4 clients with these outcomes; returns the number of steps kept and the exit code.
    fn run_sweep(mut outcomes: Vec<(bool, Result<(), CliError>)>) -> (usize, Option<i32>) {
        let matches = Bench::augment_args(Command::new("bench")).get_matches_from(["bench", "put"]);
        let args = Bench::from_arg_matches(&matches).unwrap();
        let (steps, verdict) = run_steps(&args, &[1, 2, 3, 4], |step| {
            let (finishes, verdict) = outcomes.remove(0);
            (finishes.then(|| RunResult { total: step.clients, ..RunResult::default() }), verdict)
        });
        assert!(steps.iter().map(|step| step.total).eq(1..=steps.len() as u64));
        (steps.len(), verdict.err().map(|error| error.code))
    }

    #[test]
    fn step_missing_slo_is_kept_and_failed_step_ends_sweep() {
        let success = || (true, Ok(()));
        assert_eq!(run_sweep(vec![success(), success(), success(), success()]), (4, None));
        assert_eq!(run_sweep(vec![success(), (true, failure(1)), (true, failure(74)), success()]), (4, Some(1)));
        assert_eq!(run_sweep(vec![success(), (true, failure(1)), (false, failure(3))]), (2, Some(1)));
        assert_eq!(run_sweep(vec![(false, failure(3))]), (0, Some(3)));
    }
}
