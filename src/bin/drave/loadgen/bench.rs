//! `drave bench`: decides by the arguments what to run.

use super::args::{Bench, Workload};
use super::load::measure;
use super::result::RunResult;
use super::{failover, html, raw, sweep};
use crate::remote::failure::CliError;

/// `drave bench`.
pub fn run(args: &Bench) -> Result<(), CliError> {
    args.check_pictures()?;
    if args.story.scenario.is_some() {
        return failover::run(args);
    }
    match args.what {
        Workload::Disk => raw::disk(args),
        Workload::Net => raw::net(args),
        Workload::Put | Workload::Get | Workload::Mixed | Workload::Incr => run_load(args),
    }
}

/// `drave bench put|get|mixed|incr`.
fn run_load(args: &Bench) -> Result<(), CliError> {
    if !args.results.is_empty() {
        let runs = args.results.iter().map(|path| RunResult::read(path)).collect::<Result<Vec<_>, _>>()?;
        return draw(args, &runs);
    }
    if !args.sweep.is_empty() {
        return sweep::run(args, &args.sweep);
    }
    let (outcome, verdict) = measure(args);
    // The report is drawn even if the verification or the SLO failed.
    let drawn = outcome.map_or(Ok(()), |outcome| draw(args, &[outcome]));
    verdict.and(drawn)
}

fn draw(args: &Bench, runs: &[RunResult]) -> Result<(), CliError> {
    args.report.as_deref().map_or(Ok(()), |path| html::of_runs(path, runs))
}
