//! The program `drave`: parses the command line, runs the command, and prints the failure, if any.

mod cli;
mod loadgen;
mod output;
mod remote;
mod tui;

/// The allocator of the process: jemalloc instead of the C library's.
///
/// The entries of a log are freed in the order in which they were allocated, thousands of them at a time. The C
/// library's allocator merges and splits their blocks again and again, which cost a tenth of the throughput. A
/// background thread of jemalloc returns unused memory to the system some ten seconds after the load that needed it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let matches = cli::command::ignore_empty_variables(cli::command::build_command()).get_matches();
    if matches.subcommand_name() != Some("sim") {
        abort_on_panic();
    }
    if let Err(failure) = cli::command::run(&matches) {
        cli::logging::log_final_error(&failure.message);
        std::process::exit(failure.code);
    }
    output::flush();
}

/// Makes a panic in any thread abort the process, after its message: a panic means a broken invariant, and a node must
/// not continue after one. `drave sim` installs its own hook, which prints the seed.
fn abort_on_panic() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default_hook(panic);
        std::process::abort();
    }));
}
