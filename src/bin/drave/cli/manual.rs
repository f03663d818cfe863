//! `drave completions` and `drave man`: shell completions and manual pages of the command line.

use crate::output::out;
use crate::remote::failure::CliError;
use clap::{Args, Command};
use clap_complete::Shell;
use std::io;
use std::path::PathBuf;

/// Prints a shell's completion script: drave completions bash > /etc/bash_completion.d/drave
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes a manual page for each command into a directory: drave man /usr/local/share/man/man1
#[derive(Args, Debug)]
pub struct Man {
    /// The directory to write to
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// `drave completions`: prints the completion script for `command`, the whole command line.
pub fn print_completions(args: &Completions, command: &mut Command) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "drave", &mut script);
    out!("{}", String::from_utf8_lossy(&script));
}

/// `drave man`: writes the manual pages of `command`, the whole command line, and prints their number.
pub fn write_man_pages(args: &Man, command: Command) -> Result<(), CliError> {
    let path = args.directory.display();
    let io_error = |error: io::Error| CliError { message: format!("{path}: {error}"), code: 74 };
    std::fs::create_dir_all(&args.directory).map_err(io_error)?;
    clap_mangen::generate_to(command, &args.directory).map_err(io_error)?;
    let page_count = std::fs::read_dir(&args.directory).map_err(io_error)?.count();
    eprintln!("{page_count} pages in {path}");
    Ok(())
}
