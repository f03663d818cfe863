//! The logger of a node: filters records by level, formats them as text or JSON, and changes the level at run time.

use super::json;
use super::sink::{LogSink, StandardError};
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

/// How long [`flush`] waits at most until all lines are written: the reader of the log may have stopped reading.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The format of log lines, as `--log-format` selects it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object a line: time, level, target, node, message.
    Json,
}

/// Two loggers of `env_logger`: one filters, and the other formats and accepts every level, so that the level can
/// change at run time.
struct Logger {
    /// The filter from `--log-level` or `RUST_LOG`; its formatting is not used.
    filter: env_logger::Logger,
    formatter: env_logger::Logger,
    /// The level of this program's own lines as a number, if it was changed since the start; else
    /// [`NO_LEVEL_OVERRIDE`].
    level_override: AtomicUsize,
    /// Held while the level is changed, so that concurrent changes are logged one after the other.
    level_change_lock: Mutex<()>,
    sink: LogSink,
    format: LogFormat,
    node: u64,
}

/// The value of [`Logger::level_override`] while the level is that of the start.
const NO_LEVEL_OVERRIDE: usize = usize::MAX;

static LOGGER: OnceLock<Logger> = OnceLock::new();

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        match self.level_override() {
            Some(level) if metadata.target().starts_with("drave") => metadata.level() <= level,
            _ => self.filter.enabled(metadata),
        }
    }

    fn log(&self, record: &Record) {
        // The filter may also match the message (`RUST_LOG=info/pattern`).
        let matches_filter = || self.level_override().is_some() || self.filter.matches(record);
        if self.enabled(record.metadata()) && matches_filter() {
            self.formatter.log(record);
        }
    }

    fn flush(&self) {
        self.sink.flush(FLUSH_TIMEOUT);
    }
}

/// Starts the log of a node. The level is `level`, else `RUST_LOG`, else info. SIGUSR1 switches this program's debug
/// lines on, and off again. Panics are logged too. From then on SIGHUP does not end the process.
///
/// # Errors
///
/// The system refuses a thread or a signal.
pub fn start(level: Option<LevelFilter>, format: LogFormat, node: u64) -> Result<(), CliError> {
    let start_error = |error: io::Error| CliError { message: format!("cannot start the log: {error}"), code: 74 };
    let sink = LogSink::default();
    let mut filter = Builder::from_env(Env::default().default_filter_or("info"));
    if let Some(level) = level {
        filter.filter_level(level);
    }
    let logger = Logger {
        filter: filter.build(),
        formatter: build_formatter(format, node, &sink),
        level_override: AtomicUsize::new(NO_LEVEL_OVERRIDE),
        level_change_lock: Mutex::new(()),
        sink: sink.clone(),
        format,
        node,
    };
    let out = StandardError::open().map_err(start_error)?;
    let writer_thread = thread::Builder::new().name("log lines".into()).spawn(move || -> () {
        sink.write_lines_forever(out, |lost| {
            log::warn!(node; "{lost} log lines were lost here: standard error did not accept them");
        });
    });
    writer_thread.map_err(start_error)?;
    let logger = LOGGER.get_or_init(|| logger);
    log::set_max_level(logger.filter.filter());
    log::set_logger(logger).map_err(|error| start_error(io::Error::other(error)))?;
    std::panic::set_hook(Box::new(log_panic));
    // SIGHUP makes a running node read its certificates again. A starting node has just read them, and ignores the
    // signal.
    signal_hook::flag::register(SIGHUP, Arc::default()).map_err(start_error)?;
    let mut signals = Signals::new([SIGUSR1]).map_err(start_error)?;
    let watch_signals = move || signals.forever().for_each(|_| logger.toggle_debug_level());
    thread::Builder::new().name("log level".into()).spawn(watch_signals).map(drop).map_err(start_error)
}

/// The logger that formats all records as text or JSON, and queues the lines in `sink`.
fn build_formatter(format: LogFormat, node: u64, sink: &LogSink) -> env_logger::Logger {
    let mut builder = Builder::new();
    builder.filter_level(LevelFilter::Trace).format_timestamp_millis().target(Target::Pipe(Box::new(sink.clone())));
    match std::env::var("RUST_LOG_STYLE") {
        Ok(style) => _ = builder.parse_write_style(&style),
        Err(_) if uses_colors() => _ = builder.write_style(WriteStyle::Always),
        Err(_) => {}
    }
    if format == LogFormat::Json {
        builder.write_style(WriteStyle::Never);
        builder.format(move |out, record| {
            let time = out.timestamp_millis().to_string();
            out.write_all(json::format_line(record, &time, node).as_bytes())
        });
    }
    builder.build()
}

/// Whether standard error is a terminal that shows colors, and `NO_COLOR` is not set.
fn uses_colors() -> bool {
    let are_colors_disabled = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    io::stderr().is_terminal() && !are_colors_disabled && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

impl Logger {
    /// The level of this program's own lines, if it was changed since the start.
    fn level_override(&self) -> Option<LevelFilter> {
        LevelFilter::iter().nth(self.level_override.load(Ordering::Relaxed))
    }

    /// Handles SIGUSR1: sets the level to debug, or resets it if it was changed to debug or trace.
    fn toggle_debug_level(&self) {
        let is_verbose = self.level_override().is_some_and(|level| level >= LevelFilter::Debug);
        self.apply_level_request(if is_verbose {
            LogLevelRequest::Reset
        } else {
            LogLevelRequest::Set(LogLevel::Debug)
        });
    }

    /// Reads or changes the level, and logs a change. Returns the level then in force.
    fn apply_level_request(&self, request: LogLevelRequest) -> LogLevelInForce {
        let _guard = self.level_change_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let new_level = match request {
            LogLevelRequest::Read => return self.level_in_force(),
            LogLevelRequest::Reset => None,
            LogLevelRequest::Set(level) => LevelFilter::iter().nth(level as usize),
        };
        let node = self.node;
        let log_change = || match new_level {
            Some(level) => log::info!(node; "the log level is {} from here on", level.as_str().to_lowercase()),
            None => log::info!(node; "from here on, the log level is that of the start"),
        };
        // The line is logged at the more verbose of the two levels: otherwise a log that becomes quiet here
        // would not show the reason.
        let start_level = self.filter.filter();
        let is_quieter = new_level.unwrap_or(start_level) < self.level_override().unwrap_or(start_level);
        if is_quieter {
            log_change();
        }
        self.level_override.store(new_level.map_or(NO_LEVEL_OVERRIDE, |level| level as usize), Ordering::Relaxed);
        log::set_max_level(new_level.map_or(start_level, |level| start_level.max(level)));
        if !is_quieter {
            log_change();
        }
        self.level_in_force()
    }

    fn level_in_force(&self) -> LogLevelInForce {
        let level_override = self.level_override();
        let level = level_override.unwrap_or(self.filter.filter());
        LogLevelInForce { level: LogLevel::ALL[level as usize], changed: level_override.is_some() }
    }
}

/// Reads or changes the level of this process's log, and logs a change. Returns the level then in force. Does not wait
/// for the log's reader.
pub fn change_level(request: LogLevelRequest) -> LogLevelInForce {
    match LOGGER.get() {
        Some(logger) => logger.apply_level_request(request),
        None => LogLevelInForce { level: LogLevel::Off, changed: false },
    }
}

/// Logs a panic like any other line, with a backtrace if `RUST_BACKTRACE` requests one, and waits until the line is
/// written: the process may end after the panic.
fn log_panic(panic: &PanicHookInfo) {
    let thread = thread::current();
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    log::error!("thread '{}' panicked at {location}: {message}{backtrace}", thread.name().unwrap_or("unnamed"));
    flush();
}

/// Waits until all queued lines are written, for a second at most.
pub fn flush() {
    log::logger().flush();
}

/// Logs the error that ends the process, after all earlier lines. Waits until the error is written, for a second at
/// most.
pub fn log_final_error(message: &str) {
    match LOGGER.get() {
        Some(logger) if logger.format == LogFormat::Json => log::error!("{message}"),
        Some(logger) => logger.sink.push(format!("error: {message}\n").as_bytes()),
        // A failed write is ignored: the terminal may be gone.
        None => _ = writeln!(io::stderr(), "error: {message}"),
    }
    flush();
}
