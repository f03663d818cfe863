//! `drave bench`: runs the benchmark that the arguments select.

use super::args::{Bench, Workload};
use super::load::measure;
use super::result::RunResult;
use super::{baseline, failover, html, sweep};
use crate::remote::failure::CliError;

/// `drave bench`: runs a scenario, a load, or a measurement of the hardware.
pub fn run(args: &Bench) -> Result<(), CliError> {
    args.check_report_options()?;
    if args.failover.scenario.is_some() {
        return failover::run(args);
    }
    match args.workload {
        Workload::Disk => baseline::run_disk(args),
        Workload::Net => baseline::run_net(args),
        Workload::Put | Workload::Get | Workload::Mixed | Workload::Incr => run_load(args),
    }
}

/// `drave bench put|get|mixed|incr`: runs one load or a sweep, or draws earlier results.
fn run_load(args: &Bench) -> Result<(), CliError> {
    if !args.results.is_empty() {
        let runs = args.results.iter().map(|path| RunResult::read(path)).collect::<Result<Vec<_>, _>>()?;
        return write_report(args, &runs);
    }
    if !args.sweep_clients.is_empty() {
        return sweep::run(args, &args.sweep_clients);
    }
    let (outcome, verdict) = measure(args);
    // The report is drawn even if the verification or the SLO failed.
    let report_result = outcome.map_or(Ok(()), |outcome| write_report(args, &[outcome]));
    verdict.and(report_result)
}

fn write_report(args: &Bench, runs: &[RunResult]) -> Result<(), CliError> {
    args.report.as_deref().map_or(Ok(()), |path| html::write_runs_page(path, runs))
}
