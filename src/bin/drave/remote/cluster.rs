//! The arguments of every command that connects to a cluster.

use super::tls::Tls;
use clap::{Args, ValueEnum};
use drave::client::{Client, Options};
use drave::machine::KIND;
use drave::types::address::{AddressError, check_address};
use std::time::{Duration, Instant};

/// The default endpoints: those of `drave demo` without options.
pub(super) const DEMO_ENDPOINTS: &str = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403";

/// How to connect to a cluster, how long to retry, and how to print the result.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Addresses of some nodes of the cluster: HOST:PORT,HOST:PORT,…
    #[arg(
        long,
        env = "DRAVE_ENDPOINTS",
        value_delimiter = ',',
        value_parser = parse_endpoint,
        default_value = DEMO_ENDPOINTS
    )]
    pub endpoints: Vec<String>,
    /// How long to retry before giving up
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// The TLS keys
    #[command(flatten)]
    pub tls: Tls,
}

/// The output format of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// Parses an endpoint; blanks around it are ignored.
pub fn parse_endpoint(text: &str) -> Result<String, String> {
    match check_address(text.trim()) {
        // A host that other machines cannot reach, such as 0.0.0.0, still reaches this machine.
        Ok(()) | Err(AddressError::UndialableHost) => Ok(text.trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl ClusterArgs {
    /// A client for status and membership, which works with any state machine: it proposes no commands.
    pub fn client(&self) -> Client {
        self.client_with("", true)
    }

    /// A client for keys and values: a cluster with another state machine rejects it.
    pub fn kv_client(&self) -> Client {
        self.client_with(KIND, false)
    }

    fn client_with(&self, machine_kind: &'static str, is_operator: bool) -> Client {
        let defaults = Options::default();
        let node_timeout = defaults.node_timeout.min(self.timeout);
        Client::with_options(
            self.endpoints.clone(),
            Options {
                timeout: self.timeout,
                node_timeout,
                keys: self.tls.keys.clone(),
                machine_kind,
                is_operator,
                ..defaults
            },
        )
    }

    /// Whether the output is JSON, as `-o json` selects it.
    pub fn prints_json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Milliseconds since `began`, to a tenth.
pub fn ms_since(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e4).round() / 10.0
}
