//! `--tls-…`: the TLS keys, read while the command line is parsed.

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};
use drave::secure::keys::UnusableKeyFile;
use drave::secure::{Files, Keys};
use std::path::PathBuf;

/// TLS keys, if any are given.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The keys, which have been read.
    pub keys: Option<Keys>,
    /// The files that they were read from.
    pub files: Option<Files>,
    /// Whether this process has a certificate to present.
    pub shows: bool,
}

const CA: &str = "tls-ca";
const CERT: &str = "tls-cert";
const KEY: &str = "tls-key";

impl Args for Tls {
    fn augment_args(command: Command) -> Command {
        let file = |name: &'static str, variable: &'static str, help: &'static str| {
            let arg = Arg::new(name).long(name).env(variable).value_name("FILE").value_parser(value_parser!(PathBuf));
            arg.help(help).help_heading("Encryption")
        };
        command
            .arg(file(
                CA,
                "DRAVE_TLS_CA",
                "Enables TLS: the certificates of the authorities that sign the nodes' certificates, as PEM",
            ))
            .arg(
                file(CERT, "DRAVE_TLS_CERT", "The certificate that a node presents, as PEM; a client needs none")
                    .requires(KEY),
            )
            .arg(file(KEY, "DRAVE_TLS_KEY", "The private key of --tls-cert, as PEM").requires(CERT).requires(CA))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Tls::augment_args(command)
    }
}

impl FromArgMatches for Tls {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Tls, Error> {
        let file = |name| matches.get_one::<PathBuf>(name).cloned();
        let Some(authority) = file(CA) else { return Ok(Tls::default()) };
        let own = file(CERT).zip(file(KEY));
        let shows = own.is_some();
        let unusable = |error: UnusableKeyFile| {
            let advice =
                "name PEM files that this user can read and that belong together: --tls-ca, --tls-cert, --tls-key";
            Error::raw(ErrorKind::Io, format!("{error}\n  {advice}"))
        };
        let files = Files { own, authority };
        let keys = Keys::read(&files).map_err(unusable)?;
        Ok(Tls { keys: Some(keys), files: Some(files), shows })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Tls::from_arg_matches(matches)?;
        Ok(())
    }
}
