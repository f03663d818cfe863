//! The same load from more and more clients: what latency a throughput costs.

use super::args::Bench;
use super::draw::duration;
use super::load::measure;
use super::outcome::Outcome;
use super::page;
use super::report::grouped;
use crate::cli::trouble::Trouble;

/// One run for each number of clients; all of them in a table, and in a picture if one is wanted.
pub fn run(args: &Bench, clients: &[u64]) -> Result<(), Trouble> {
    let mut steps = Vec::new();
    for clients in clients {
        let step = Bench { clients: *clients, sweep: Vec::new(), report: None, ..args.clone() };
        let (outcome, verdict) = measure(&step);
        steps.extend(outcome);
        verdict?;
    }
    if !args.cluster.json() {
        print(&steps);
    }
    args.report.as_deref().map_or(Ok(()), |path| page::of_sweep(path, &steps))
}

fn print(steps: &[Outcome]) {
    println!("{:>8} {:>12} {:>10} {:>10} {:>10} {:>10}", "clients", "ops/s", "p50", "p99", "p99.9", "max");
    for step in steps {
        let [p50, p99, p999, max] = [step.p50_us, step.p99_us, step.p999_us, step.max_us].map(duration);
        let clients = step.config["clients"].as_u64().unwrap_or_default();
        println!("{clients:>8} {:>12} {p50:>10} {p99:>10} {p999:>10} {max:>10}", grouped(step.ops_per_s as u64));
    }
}
