//! The program `drave`: parses the command line, runs the command, and prints the failure, if any.

mod cli;
mod loadgen;
mod output;
mod remote;
mod tui;

fn main() {
    let matches = cli::command::without_empty_variables(cli::command::describe()).get_matches();
    if let Err(failure) = cli::command::run(&matches) {
        cli::logging::say_last(&failure.what);
        std::process::exit(failure.code);
    }
    output::flush();
}
