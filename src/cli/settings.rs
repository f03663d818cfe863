//! The settings of a command, and where each comes from.

use crate::cli::output::outln;
use clap::ArgMatches;
use clap::parser::ValueSource;

/// One setting.
struct Setting {
    name: String,
    value: String,
    source: &'static str,
}

/// Each setting that has a value.
fn all(matches: &ArgMatches) -> impl Iterator<Item = Setting> {
    matches.ids().filter_map(|id| {
        let name = id.as_str();
        let values = matches.try_get_raw(name).ok().flatten()?;
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let source = match matches.value_source(name) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            _ => "default",
        };
        // A group of settings is listed as one too.
        let is_one = name.chars().next().is_some_and(char::is_lowercase);
        let value = values.join(",");
        (is_one && !value.is_empty()).then(|| Setting { name: name.replace('_', "-"), value, source })
    })
}

/// Prints each setting, its value, and where it comes from.
pub fn print(matches: &ArgMatches) {
    for Setting { name, value, source } in all(matches) {
        outln!("{name:<20} {value:<40} {source}");
    }
}

/// The settings that somebody made, as the flags they are or could be. None of them is a secret: passwords and keys are
/// given as files.
pub fn differing(matches: &ArgMatches) -> String {
    let made = all(matches).filter(|setting| setting.source != "default");
    let words: Vec<String> = made
        .map(|Setting { name, value, source }| {
            let flag = if value == "true" { format!("--{name}") } else { format!("--{name} {value}") };
            if source == "environment" { format!("{flag} (environment)") } else { flag }
        })
        .collect();
    words.join(" ")
}
