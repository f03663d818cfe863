//! What every verb that talks to a cluster takes, and how its troubles are told.

use super::trouble::Trouble;
use crate::client::{Client, ClientError, Options};
use clap::{Args, ValueEnum};
use std::time::{Duration, Instant};

/// Where the cluster is, and how patient to be.
#[derive(Args, Clone, Debug)]
pub struct Cluster {
    /// Some of its nodes: HOST:PORT,HOST:PORT,…
    #[arg(
        long,
        env = "DRAVE_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403"
    )]
    pub endpoints: Vec<String>,
    /// When to give up
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How to print an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Cluster {
    /// A client of it.
    pub fn client(&self) -> Client {
        let usual = Options::default();
        let patience = usual.patience.min(self.timeout);
        Client::with(self.endpoints.clone(), Options { timeout: self.timeout, patience })
    }

    /// Whether programs read the answer.
    pub fn json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Milliseconds since then, with what a person wants to know of them.
pub fn ms_since(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e4).round() / 10.0
}

impl From<ClientError> for Trouble {
    /// One line of what and where, one of advice.
    fn from(error: ClientError) -> Trouble {
        let advice = match &error {
            ClientError::Refused(tried) => {
                let (endpoints, took) = (tried.endpoints.join(", "), tried.took.as_secs_f64());
                format!("\n  tried {endpoints} for {took:.1} s · nothing was applied · see: drave status")
            }
            ClientError::Unknown(tried) => {
                let (endpoints, took) = (tried.endpoints.join(", "), tried.took.as_secs_f64());
                format!(
                    "\n  tried {endpoints} for {took:.1} s · it may have been applied, or be yet: look before you repeat it"
                )
            }
            ClientError::Lapsed => "\n  look before you repeat it".to_owned(),
            _ => String::new(),
        };
        Trouble { what: format!("{error}{advice}"), code: error.exit_code() }
    }
}
