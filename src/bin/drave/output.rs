//! Standard output: a failed write is an error, never a panic and never silent.

use std::fmt::Arguments;
use std::io::{self, Write};

/// The exit code of a command whose output could not be written: an I/O error.
const EXIT_CODE_OUTPUT_FAILED: i32 = 74;

/// Prints a line to standard output.
macro_rules! outln {
    () => { $crate::output::write(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints to standard output, without an end of line.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::write(format_args!($($text)*)) };
}

pub(crate) use {out, outln};

/// Writes to standard output. Ends the process with an error if that fails: the command may have been executed, but its
/// result is lost.
pub fn write(text: Arguments<'_>) {
    if let Err(error) = io::stdout().lock().write_fmt(text) {
        exit_with_write_error(&error);
    }
}

/// Flushes standard output. Ends the process with an error if that fails.
pub fn flush() {
    if let Err(error) = io::stdout().flush() {
        exit_with_write_error(&error);
    }
}

fn exit_with_write_error(error: &io::Error) -> ! {
    let _stderr_may_be_closed = writeln!(io::stderr(), "error: standard output: {error}\n  the answer was not printed");
    std::process::exit(EXIT_CODE_OUTPUT_FAILED)
}
