//! The front door: reads the command line, does what it says, and says what went wrong.

use drave::cli;

fn main() {
    let matches = cli::command::without_empty_variables(cli::command::describe()).get_matches();
    if let Err(trouble) = cli::command::run(&matches) {
        cli::logging::say_last(&trouble.what);
        std::process::exit(trouble.code);
    }
    cli::output::flush();
}
