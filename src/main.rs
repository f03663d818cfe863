//! The front door: reads the command line, does what it says, and says what went wrong.

use drave::cli;
use std::io::Write;

fn main() {
    let matches = cli::command::describe().get_matches();
    if let Err(trouble) = cli::command::run(&matches) {
        // The terminal may be what is gone.
        let _nobody_may_read = writeln!(std::io::stderr(), "error: {}", trouble.what);
        std::process::exit(trouble.code);
    }
    cli::output::flush();
}
