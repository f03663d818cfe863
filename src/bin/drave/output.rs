//! Standard output: a failed write is an error, never a panic and never silent.

use std::fmt::Arguments;
use std::io::{self, Write};

/// The exit code of a command whose output could not be written.
const UNWRITTEN: i32 = 74;

/// Prints a line to standard output.
macro_rules! outln {
    () => { $crate::output::write(format_args!("\n")) };
    ($($words:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($words)*))) };
}

/// Prints to standard output, without an end of line.
macro_rules! out {
    ($($words:tt)*) => { $crate::output::write(format_args!($($words)*)) };
}

pub(crate) use {out, outln};

/// Writes to standard output. Ends the process with an error if that fails: the command may have been executed, but its
/// result is lost.
pub fn write(words: Arguments<'_>) {
    if let Err(error) = io::stdout().lock().write_fmt(words) {
        fail(&error);
    }
}

/// Flushes the buffer of standard output.
pub fn flush() {
    if let Err(error) = io::stdout().flush() {
        fail(&error);
    }
}

fn fail(error: &io::Error) -> ! {
    let _nobody_may_read = writeln!(io::stderr(), "error: standard output: {error}\n  the answer was not printed");
    std::process::exit(UNWRITTEN)
}
