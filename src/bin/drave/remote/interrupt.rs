//! Signals that stop a long-running command.

use super::failure::CliError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The signals that end a program that prints lines. It may outlive its terminal.
pub const IN_LINES: &[i32] = &[SIGINT, SIGTERM];
/// The signals that end a program that draws on the terminal: also SIGHUP, the end of the terminal, and SIGQUIT, whose
/// default action would leave the terminal raw.
pub const LIVE: &[i32] = &[SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// A flag that is set by the first of these signals. The caller polls it and ends in order; a second signal ends the
/// program at once, with 128 plus its number as the exit code.
pub fn stop_flag(signals: &[i32]) -> Result<Arc<AtomicBool>, CliError> {
    let told = Arc::new(AtomicBool::new(false));
    for signal in signals {
        // In this order, since the flag must not be set yet when the first signal checks it.
        signal_hook::flag::register_conditional_shutdown(*signal, 128 + signal, told.clone())
            .and_then(|_kept_for_life| signal_hook::flag::register(*signal, told.clone()))
            .map_err(|error| CliError { what: format!("cannot register a signal handler: {error}"), code: 74 })?;
    }
    Ok(told)
}
