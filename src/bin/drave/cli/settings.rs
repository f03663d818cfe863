//! The settings of a command: their values and the origin of each value.

use crate::output::outln;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// One setting of a command. The value is empty if the setting has none.
struct Setting {
    name: String,
    value: String,
    /// The origin of the value: flag, environment, default or unset.
    source: &'static str,
}

/// All settings of the command but `--print-config`, in the order of its help.
fn list_settings(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let arguments = command.get_arguments().filter(|argument| argument.get_long() != Some("print-config"));
    let setting_of = |argument: &clap::Arg| {
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
    arguments.map(setting_of).collect()
}

/// Prints each setting, its value, and the origin of the value: flag, environment, default or unset.
pub fn print(command: &Command, matches: &ArgMatches) {
    for Setting { name, value, source } in list_settings(command, matches) {
        let value = if value.is_empty() { "-" } else { &value };
        outln!("{name:<20} {value:<40} {source}");
    }
}

/// The settings that were given as flags or in the environment, written as flags, for the log. No setting is a secret:
/// passwords and keys are given as files.
pub fn format_given_settings(command: &Command, matches: &ArgMatches) -> String {
    let given_settings =
        list_settings(command, matches).into_iter().filter(|setting| matches!(setting.source, "flag" | "environment"));
    let flags: Vec<String> = given_settings
        .map(|Setting { name, value, source }| {
            let flag = if value == "true" { format!("--{name}") } else { format!("--{name} {value}") };
            if source == "environment" { format!("{flag} (environment)") } else { flag }
        })
        .collect();
    flags.join(" ")
}
