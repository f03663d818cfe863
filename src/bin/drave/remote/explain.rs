//! The text of a command's errors: what happened, to which endpoints, and what to do.

use super::cluster::{ClusterArgs, DEMO_ENDPOINTS};
use super::failure::CliError;
use super::poll::poll;
use drave::api::{Refusal, RoleName};
use drave::client::ClientError;
use drave::types::Membership;

impl ClusterArgs {
    /// The error of a command, with advice. If there is no leader, the text names the voters that do not answer, if
    /// they are known.
    pub fn explain_error(&self, error: ClientError) -> CliError {
        let silent_voters = match &error {
            ClientError::Refused(tried) => match tried.refusal {
                None | Some(Refusal::NoLeader | Refusal::NotLeader { .. }) => self.silent_voters(),
                Some(_) => None,
            },
            _ => None,
        };
        let has_no_refusal = matches!(&error, ClientError::Refused(tried) if tried.refusal.is_none());
        let mut cli_error = CliError::from(error);
        if has_no_refusal {
            cli_error.message.push_str(self.endpoints_hint());
        }
        match silent_voters.zip(cli_error.message.split_once('\n')) {
            Some((silent_voters, (_, advice))) => {
                CliError { message: format!("no leader: {silent_voters}\n{advice}"), code: cli_error.code }
            }
            None => cli_error,
        }
    }

    /// The voters that do not answer, as text; `None` if all voters answer, if a node leads, or if the voters are
    /// unknown.
    fn silent_voters(&self) -> Option<String> {
        let statuses: Vec<_> = poll(self).into_iter().filter_map(|result| result.status.ok()).collect();
        if statuses.iter().any(|status| status.role == RoleName::Leader) {
            return None;
        }
        let voters = statuses.first()?.membership.split(['=', ' ']).nth(1)?.split(',');
        let voters: Vec<u64> = voters.map(|id| id.parse().ok()).collect::<Option<_>>()?;
        let silent_ids: Vec<String> = voters
            .iter()
            .filter(|voter| statuses.iter().all(|status| status.node != **voter))
            .map(u64::to_string)
            .collect();
        // With fewer endpoints than voters, a voter may answer at an address that was not polled.
        let (last, others) = silent_ids.split_last().filter(|_| self.endpoints.len() >= voters.len())?;
        let silent_text = match others {
            [] => format!("node {last} of {} does not answer", voters.len()),
            others => format!("nodes {} and {last} of {} do not answer", others.join(", "), voters.len()),
        };
        Some(format!("{silent_text} (a quorum is {})", Membership::majority_of(voters.len())))
    }

    /// The error for a cluster of which no endpoint answers. It names the endpoints that were tried.
    pub fn no_answer_error(&self) -> CliError {
        CliError {
            message: format!("no node answers\n  tried {}{}", self.endpoints.join(", "), self.endpoints_hint()),
            code: 3,
        }
    }

    /// Advice to set `--endpoints` if the option has its default; otherwise empty.
    fn endpoints_hint(&self) -> &'static str {
        match self.endpoints.iter().map(String::as_str).eq(DEMO_ENDPOINTS.split(',')) {
            true => " · give your cluster's addresses: --endpoints HOST:PORT,…",
            false => "",
        }
    }
}

impl From<ClientError> for CliError {
    /// The first line is the error, the second one the endpoints that were tried, and advice.
    fn from(error: ClientError) -> CliError {
        let advice = match &error {
            ClientError::Refused(tried) if tried.refusal == Some(Refusal::NoSpace) => {
                let elapsed_s = tried.duration.as_secs_f64();
                format!(
                    "\n  tried for {elapsed_s:.1} s · nothing was applied · reads and deletes still work; free disk \
                     space, and writes resume by themselves"
                )
            }
            ClientError::Refused(tried) if matches!(tried.refusal, Some(Refusal::NotMember { .. })) => {
                let (endpoints, elapsed_s) = (tried.endpoints.join(", "), tried.duration.as_secs_f64());
                format!(
                    "\n  tried {endpoints} for {elapsed_s:.1} s · nothing was applied · a removed node rejoins with: \
                     drave member add ID=HOST:PORT"
                )
            }
            ClientError::Refused(tried) => {
                let (endpoints, elapsed_s) = (tried.endpoints.join(", "), tried.duration.as_secs_f64());
                format!("\n  tried {endpoints} for {elapsed_s:.1} s · nothing was applied · see: drave status")
            }
            ClientError::Unknown(tried) => {
                let (endpoints, elapsed_s) = (tried.endpoints.join(", "), tried.duration.as_secs_f64());
                format!(
                    "\n  tried {endpoints} for {elapsed_s:.1} s · it may have been applied, or may be later: check \
                     before you repeat it"
                )
            }
            ClientError::SessionExpired => "\n  check before you repeat it".to_owned(),
            _ => String::new(),
        };
        CliError { message: format!("{error}{advice}"), code: error.exit_code() }
    }
}
