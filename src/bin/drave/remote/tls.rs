//! `--tls-…`: the TLS keys, read while the command line is parsed.

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};
use drave::secure::keys::UnusableKeyFile;
use drave::secure::{KeyFiles, Keys};
use std::path::PathBuf;

/// The values of `--tls-ca`, `--tls-cert` and `--tls-key`. Without `--tls-ca` nothing is encrypted.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The keys and certificates, read from the files; `None` without TLS.
    pub keys: Option<Keys>,
    /// The files that the keys were read from, to read them again on SIGHUP.
    pub files: Option<KeyFiles>,
    /// Whether this process presents a certificate, which a node must do and a client need not.
    pub has_certificate: bool,
}

const CA_OPTION: &str = "tls-ca";
const CERT_OPTION: &str = "tls-cert";
const KEY_OPTION: &str = "tls-key";

impl Args for Tls {
    fn augment_args(command: Command) -> Command {
        let file_arg = |name: &'static str, variable: &'static str, help: &'static str| {
            let arg = Arg::new(name).long(name).env(variable).value_name("FILE").value_parser(value_parser!(PathBuf));
            arg.help(help).help_heading("Encryption")
        };
        command
            .arg(file_arg(
                CA_OPTION,
                "DRAVE_TLS_CA",
                "Enables TLS: the certificates of the authorities that sign the nodes' certificates, as PEM",
            ))
            .arg(
                file_arg(
                    CERT_OPTION,
                    "DRAVE_TLS_CERT",
                    "The certificate that a node presents, as PEM; a client needs none",
                )
                .requires(KEY_OPTION),
            )
            .arg(
                file_arg(KEY_OPTION, "DRAVE_TLS_KEY", "The private key of --tls-cert, as PEM")
                    .requires(CERT_OPTION)
                    .requires(CA_OPTION),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Tls::augment_args(command)
    }
}

impl FromArgMatches for Tls {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Tls, Error> {
        let option_value = |name| matches.get_one::<PathBuf>(name).cloned();
        let Some(authority) = option_value(CA_OPTION) else { return Ok(Tls::default()) };
        let own_certificate_and_key = option_value(CERT_OPTION).zip(option_value(KEY_OPTION));
        let has_certificate = own_certificate_and_key.is_some();
        let key_file_error = |error: UnusableKeyFile| {
            let advice =
                "name PEM files that this user can read and that belong together: --tls-ca, --tls-cert, --tls-key";
            Error::raw(ErrorKind::Io, format!("{error}\n  {advice}"))
        };
        let files = KeyFiles { certificate_and_key: own_certificate_and_key, authority };
        let keys = Keys::read(&files).map_err(key_file_error)?;
        Ok(Tls { keys: Some(keys), files: Some(files), has_certificate })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Tls::from_arg_matches(matches)?;
        Ok(())
    }
}
