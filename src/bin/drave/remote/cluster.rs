//! The arguments of every command that connects to a cluster.

use super::tls::Tls;
use clap::{Args, ValueEnum};
use drave::client::{Client, Options};
use drave::machine::KIND;
use drave::types::address::{AddressError, check_address};
use std::time::{Duration, Instant};

/// The default endpoints: those of a demo.
pub(super) const DEMO: &str = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403";

/// Where the cluster is, and how patient to be.
#[derive(Args, Clone, Debug)]
pub struct Cluster {
    /// Addresses of some nodes of the cluster: HOST:PORT,HOST:PORT,…
    #[arg(
        long,
        env = "DRAVE_ENDPOINTS",
        value_delimiter = ',',
        value_parser = endpoint,
        default_value = DEMO
    )]
    pub endpoints: Vec<String>,
    /// How long to retry before giving up
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// How it is spoken to
    #[command(flatten)]
    pub tls: Tls,
}

/// How to print an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// Parses an endpoint; blanks around it are ignored.
pub fn endpoint(text: &str) -> Result<String, String> {
    match check_address(text.trim()) {
        // Such a host works on this machine, if only to reach this machine.
        Ok(()) | Err(AddressError::Host) => Ok(text.trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Cluster {
    /// An operator's client, for a cluster with any state machine: it proposes nothing.
    pub fn client(&self) -> Client {
        self.client_of("", true)
    }

    /// A client for keys and values: a cluster with another state machine rejects it.
    pub fn kv_client(&self) -> Client {
        self.client_of(KIND, false)
    }

    fn client_of(&self, machine: &'static str, operator: bool) -> Client {
        let usual = Options::default();
        let patience = usual.patience.min(self.timeout);
        Client::with(
            self.endpoints.clone(),
            Options { timeout: self.timeout, patience, keys: self.tls.keys.clone(), machine, operator, ..usual },
        )
    }

    /// Whether to print JSON.
    pub fn json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Milliseconds since `began`, to a tenth.
pub fn ms_since(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e4).round() / 10.0
}
