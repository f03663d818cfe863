//! The logger of a node: which records are logged, in which form.

use super::json;
use super::sink::{Sink, StandardError};
use crate::remote::failure::CliError;
use clap::ValueEnum;
use drave::api::{LogLevel, LogLevelInForce, LogLevelRequest};
use env_logger::{Builder, Env, Target, WriteStyle};
use log::{LevelFilter, Log, Metadata, Record};
use signal_hook::consts::{SIGHUP, SIGUSR1};
use signal_hook::iterator::Signals;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the process waits at its end for its last lines to be written: the reader of the log may have stopped.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object a line: time, level, target, node, message.
    Json,
}

/// Decides by one logger's filter, and writes with another that accepts every level, so that the level can change at
/// run time.
struct Logger {
    /// `--log-level` or `RUST_LOG`.
    filter: env_logger::Logger,
    formatter: env_logger::Logger,
    /// The level of this program's own lines, if it was changed since the start.
    changed: AtomicUsize,
    /// Held while the level is changed.
    changing: Mutex<()>,
    sink: Sink,
    format: Format,
    node: u64,
}

/// What [`Logger::changed`] holds while the level is as at the start; else a level's number.
const UNCHANGED: usize = usize::MAX;

static LOGGER: OnceLock<Logger> = OnceLock::new();

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        match self.changed() {
            Some(level) if metadata.target().starts_with("drave") => metadata.level() <= level,
            _ => self.filter.enabled(metadata),
        }
    }

    fn log(&self, record: &Record) {
        // The filter may also match the message (`RUST_LOG=info/pattern`).
        let matches = || self.changed().is_some() || self.filter.matches(record);
        if self.enabled(record.metadata()) && matches() {
            self.formatter.log(record);
        }
    }

    fn flush(&self) {
        self.sink.flush(LAST_LINES);
    }
}

/// Starts the log of a node. The level is `level`, else `RUST_LOG`, else info. SIGUSR1 switches this program's debug
/// lines on, and off again. Panics are logged too. From here on SIGHUP does not end the process.
///
/// # Errors
///
/// The system refuses a thread or a signal.
pub fn start(level: Option<LevelFilter>, format: Format, node: u64) -> Result<(), CliError> {
    let trouble = |error: io::Error| CliError { what: format!("cannot start the log: {error}"), code: 74 };
    let sink = Sink::default();
    let mut filter = Builder::from_env(Env::default().default_filter_or("info"));
    if let Some(level) = level {
        filter.filter_level(level);
    }
    let logger = Logger {
        filter: filter.build(),
        formatter: formatter(format, node, &sink),
        changed: AtomicUsize::new(UNCHANGED),
        changing: Mutex::new(()),
        sink: sink.clone(),
        format,
        node,
    };
    let writer = sink;
    let out = StandardError::open().map_err(trouble)?;
    let spawned = thread::Builder::new().name("log lines".into()).spawn(move || -> () {
        writer.write_to(out, |lost| {
            log::warn!(node; "{lost} log lines were lost here: standard error did not accept them");
        });
    });
    spawned.map_err(trouble)?;
    let logger = LOGGER.get_or_init(|| logger);
    log::set_max_level(logger.filter.filter());
    log::set_logger(logger).map_err(|error| trouble(io::Error::other(error)))?;
    std::panic::set_hook(Box::new(log_panic));
    // SIGHUP makes a running node read its certificates again. Before it runs they have just been read.
    signal_hook::flag::register(SIGHUP, Arc::default()).map_err(trouble)?;
    let mut signals = Signals::new([SIGUSR1]).map_err(trouble)?;
    let switch = move || signals.forever().for_each(|_| logger.switch_debug());
    thread::Builder::new().name("log level".into()).spawn(switch).map(drop).map_err(trouble)
}

fn formatter(format: Format, node: u64, sink: &Sink) -> env_logger::Logger {
    let mut builder = Builder::new();
    builder.filter_level(LevelFilter::Trace).format_timestamp_millis().target(Target::Pipe(Box::new(sink.clone())));
    match std::env::var("RUST_LOG_STYLE") {
        Ok(style) => _ = builder.parse_write_style(&style),
        Err(_) if has_colours() => _ = builder.write_style(WriteStyle::Always),
        Err(_) => {}
    }
    if format == Format::Json {
        builder.write_style(WriteStyle::Never);
        builder.format(move |out, record| {
            let time = out.timestamp_millis().to_string();
            out.write_all(json::line(record, &time, node).as_bytes())
        });
    }
    builder.build()
}

/// Whether standard error is a terminal and colors are not turned off.
fn has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    io::stderr().is_terminal() && !unwanted && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

impl Logger {
    /// The level of this program's own lines, if it was changed since the start.
    fn changed(&self) -> Option<LevelFilter> {
        LevelFilter::iter().nth(self.changed.load(Ordering::Relaxed))
    }

    /// On SIGUSR1: sets the level to debug, or back to that of the start if it is debug or more verbose.
    fn switch_debug(&self) {
        let verbose = self.changed().is_some_and(|level| level >= LevelFilter::Debug);
        self.change(if verbose { LogLevelRequest::Reset } else { LogLevelRequest::Set(LogLevel::Debug) });
    }

    fn change(&self, request: LogLevelRequest) -> LogLevelInForce {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = match request {
            LogLevelRequest::Read => return self.in_force(),
            LogLevelRequest::Reset => None,
            LogLevelRequest::Set(level) => LevelFilter::iter().nth(level as usize),
        };
        let node = self.node;
        let tell = || match wanted {
            Some(level) => log::info!(node; "the log level is {} from here on", level.as_str().to_lowercase()),
            None => log::info!(node; "the log level is as at the start from here on"),
        };
        // The line is logged at the more verbose of the two levels: otherwise a log that ends here would not show why.
        let usual = self.filter.filter();
        let is_quieter = wanted.unwrap_or(usual) < self.changed().unwrap_or(usual);
        if is_quieter {
            tell();
        }
        self.changed.store(wanted.map_or(UNCHANGED, |level| level as usize), Ordering::Relaxed);
        log::set_max_level(wanted.map_or(usual, |level| usual.max(level)));
        if !is_quieter {
            tell();
        }
        self.in_force()
    }

    fn in_force(&self) -> LogLevelInForce {
        let changed = self.changed();
        let level = changed.unwrap_or(self.filter.filter());
        LogLevelInForce { level: LogLevel::ALL[level as usize], changed: changed.is_some() }
    }
}

/// Reads or changes the level of this process's log, and logs a change. Returns the level then in force. Does not wait
/// for the log's reader.
pub fn change_level(request: LogLevelRequest) -> LogLevelInForce {
    match LOGGER.get() {
        Some(logger) => logger.change(request),
        None => LogLevelInForce { level: LogLevel::Off, changed: false },
    }
}

/// Logs a panic like any other line, with a backtrace if `RUST_BACKTRACE` requests one, and waits until it is written:
/// the process may end here.
fn log_panic(panic: &PanicHookInfo) {
    let thread = thread::current();
    let said = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    log::error!("thread '{}' panicked at {place}: {said}{backtrace}", thread.name().unwrap_or("unnamed"));
    flush();
}

/// Waits until all queued lines are written, for a second at most.
pub fn flush() {
    log::logger().flush();
}

/// Logs why the process ends, after all earlier lines, and waits until it is written, for a second at most.
pub fn log_final_error(what: &str) {
    match LOGGER.get() {
        Some(logger) if logger.format == Format::Json => log::error!("{what}"),
        Some(logger) => logger.sink.push(format!("error: {what}\n").as_bytes()),
        // The terminal may be gone.
        None => _ = writeln!(io::stderr(), "error: {what}"),
    }
    flush();
}
