//! The text of a command's errors: what happened, to which endpoints, and what to do.

use super::cluster::{Cluster, DEMO};
use super::failure::CliError;
use super::poll::poll;
use drave::api::{Refusal, RoleName};
use drave::client::ClientError;
use drave::types::Membership;

impl Cluster {
    /// The text of an error. If there is no leader, it names the voters that do not answer, as far as they are known.
    pub fn explain(&self, error: ClientError) -> CliError {
        let looked = match &error {
            ClientError::Refused(tried) => match tried.refusal {
                None | Some(Refusal::NoLeader | Refusal::NotLeader { .. }) => self.silent_voters(),
                Some(_) => None,
            },
            _ => None,
        };
        let unreached = matches!(&error, ClientError::Refused(tried) if tried.refusal.is_none());
        let mut told = CliError::from(error);
        if unreached {
            told.what.push_str(self.endpoints_hint());
        }
        match looked.zip(told.what.split_once('\n')) {
            Some((silent, (_, advice))) => CliError { what: format!("no leader: {silent}\n{advice}"), code: told.code },
            None => told,
        }
    }

    /// The voters that do not answer, as text; `None` if all do, if a node leads, or if it cannot be known.
    fn silent_voters(&self) -> Option<String> {
        let answered: Vec<_> = poll(self).into_iter().filter_map(|asked| asked.status.ok()).collect();
        if answered.iter().any(|status| status.role == RoleName::Leader) {
            return None;
        }
        let voters = answered.first()?.membership.split(['=', ' ']).nth(1)?.split(',');
        let voters: Vec<u64> = voters.map(|id| id.parse().ok()).collect::<Option<_>>()?;
        let silent: Vec<String> = voters
            .iter()
            .filter(|voter| answered.iter().all(|status| status.node != **voter))
            .map(u64::to_string)
            .collect();
        // Nothing is known of voters whose address is not among the endpoints.
        let (last, others) = silent.split_last().filter(|_| self.endpoints.len() >= voters.len())?;
        let who = match others {
            [] => format!("node {last} of {} does", voters.len()),
            others => format!("nodes {} and {last} of {} do", others.join(", "), voters.len()),
        };
        Some(format!("{who} not answer (a quorum is {})", Membership::majority_of(voters.len())))
    }

    /// The error that no endpoint answers: which were tried, and where else to look.
    pub fn no_answer_error(&self) -> CliError {
        CliError {
            what: format!("no node answers\n  tried {}{}", self.endpoints.join(", "), self.endpoints_hint()),
            code: 3,
        }
    }

    /// A hint at `--endpoints` if it has its default; otherwise empty.
    fn endpoints_hint(&self) -> &'static str {
        match self.endpoints.iter().map(String::as_str).eq(DEMO.split(',')) {
            true => " · give your cluster's addresses: --endpoints HOST:PORT,…",
            false => "",
        }
    }
}

impl From<ClientError> for CliError {
    /// One line with the error and its place, and one with advice.
    fn from(error: ClientError) -> CliError {
        let advice = match &error {
            ClientError::Refused(tried) if tried.refusal == Some(Refusal::NoSpace) => {
                let took = tried.took.as_secs_f64();
                format!(
                    "\n  tried for {took:.1} s · nothing was applied · reads and deletes still work; free disk \
                     space, and writes resume by themselves"
                )
            }
            ClientError::Refused(tried) if matches!(tried.refusal, Some(Refusal::NotMember { .. })) => {
                let (endpoints, took) = (tried.endpoints.join(", "), tried.took.as_secs_f64());
                format!(
                    "\n  tried {endpoints} for {took:.1} s · nothing was applied · a removed node rejoins with: \
                     drave member add ID=HOST:PORT"
                )
            }
            ClientError::Refused(tried) => {
                let (endpoints, took) = (tried.endpoints.join(", "), tried.took.as_secs_f64());
                format!("\n  tried {endpoints} for {took:.1} s · nothing was applied · see: drave status")
            }
            ClientError::Unknown(tried) => {
                let (endpoints, took) = (tried.endpoints.join(", "), tried.took.as_secs_f64());
                format!(
                    "\n  tried {endpoints} for {took:.1} s · it may have been applied, or may be later: check \
                     before you repeat it"
                )
            }
            ClientError::SessionExpired => "\n  check before you repeat it".to_owned(),
            _ => String::new(),
        };
        CliError { what: format!("{error}{advice}"), code: error.exit_code() }
    }
}
