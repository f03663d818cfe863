//! The settings of a command, and where each comes from.

use crate::output::outln;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

struct Setting {
    name: String,
    value: String,
    source: &'static str,
}

/// Each setting of the command; the value is empty if it has none.
fn all(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let arguments = command.get_arguments().filter(|argument| argument.get_long() != Some("print-config"));
    let setting = |argument: &clap::Arg| {
        let id = argument.get_id().as_str();
        let values = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            Some(_) => "default",
            None => "unset",
        };
        Setting { name: argument.get_long().unwrap_or(id).to_owned(), value: values.join(","), source }
    };
    arguments.map(setting).collect()
}

/// Prints each setting, its value, and where it comes from: a flag, the environment, the default, or nowhere.
pub fn print(command: &Command, matches: &ArgMatches) {
    for Setting { name, value, source } in all(command, matches) {
        let value = if value.is_empty() { "-" } else { &value };
        outln!("{name:<20} {value:<40} {source}");
    }
}

/// The settings given as flags or in the environment, written as flags. None of them is a secret: passwords and keys
/// are given as files.
pub fn differing(command: &Command, matches: &ArgMatches) -> String {
    let made = all(command, matches).into_iter().filter(|setting| matches!(setting.source, "flag" | "environment"));
    let words: Vec<String> = made
        .map(|Setting { name, value, source }| {
            let flag = if value == "true" { format!("--{name}") } else { format!("--{name} {value}") };
            if source == "environment" { format!("{flag} (environment)") } else { flag }
        })
        .collect();
    words.join(" ")
}
