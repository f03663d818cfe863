//! The program `drave`: parses the command line, runs the command, and prints the failure, if any.

mod cli;
mod loadgen;
mod output;
mod remote;
mod tui;

/// The entries of a log are freed in the order in which they were allocated, thousands of them at a time. The C
/// library's allocator merges and splits their blocks again and again, which cost a tenth of the throughput. This one
/// returns unused memory to the system by a thread of its own, some ten seconds after the load that needed it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let matches = cli::command::without_empty_variables(cli::command::describe()).get_matches();
    if matches.subcommand_name() != Some("sim") {
        abort_on_panic();
    }
    if let Err(failure) = cli::command::run(&matches) {
        cli::logging::log_final_error(&failure.what);
        std::process::exit(failure.code);
    }
    output::flush();
}

/// Makes a panic in any thread end the process, with its message: it is a broken invariant, and a node must not go on
/// with it. A simulation reports it as a violation instead, with the seed.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
