//! Signals that stop a long-running command.

use super::failure::CliError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The signals that end a command that prints lines. SIGHUP is not among them: the command may outlive its terminal.
pub const LINE_OUTPUT_SIGNALS: &[i32] = &[SIGINT, SIGTERM];
/// The signals that end a command that draws on the terminal: also SIGHUP, the end of the terminal, and SIGQUIT, whose
/// default action would leave the terminal raw.
pub const LIVE_VIEW_SIGNALS: &[i32] = &[SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// A flag that the first of these signals sets. The caller polls the flag and ends the command in order. A second
/// signal ends the program at once, with 128 plus the number of the signal as the exit code.
pub fn stop_flag(signals: &[i32]) -> Result<Arc<AtomicBool>, CliError> {
    let stop_flag = Arc::new(AtomicBool::new(false));
    for signal in signals {
        // The order matters: the first signal must find the flag unset, and the second one must find it set.
        signal_hook::flag::register_conditional_shutdown(*signal, 128 + signal, stop_flag.clone())
            .and_then(|_signal_id| signal_hook::flag::register(*signal, stop_flag.clone()))
            .map_err(|error| CliError { message: format!("cannot register a signal handler: {error}"), code: 74 })?;
    }
    Ok(stop_flag)
}
