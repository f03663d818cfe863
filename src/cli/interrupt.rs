//! How a program that goes on until it is told to end is told to.

use super::failure::CliError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What tells a program to end that speaks in lines. It may well outlive its terminal.
pub const IN_LINES: &[i32] = &[SIGINT, SIGTERM];
/// What tells a program to end that draws: the end of its terminal as well, and SIGQUIT, whose default would leave the
/// terminal raw.
pub const LIVE: &[i32] = &[SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// A flag that is set by the first of these signals. Whoever asked for it looks at it every moment, and ends in
/// order; a second signal ends the program at once, with 128 and its number as the exit code.
pub fn told_by(signals: &[i32]) -> Result<Arc<AtomicBool>, CliError> {
    let told = Arc::new(AtomicBool::new(false));
    for signal in signals {
        // In this order: at the first signal the flag is not set yet.
        signal_hook::flag::register_conditional_shutdown(*signal, 128 + signal, told.clone())
            .and_then(|_kept_for_life| signal_hook::flag::register(*signal, told.clone()))
            .map_err(|error| CliError { what: format!("signals: {error}"), code: 74 })?;
    }
    Ok(told)
}
