//! The absence of a leader, as one node sees it: it is logged after two seconds, then at growing intervals.

use crate::types::Time;
use std::time::Duration;

/// How long a node knows no leader before the first warning: shorter elections are not logged.
const FIRST_WARNING_AFTER: Duration = Duration::from_secs(2);
/// The longest interval between two warnings.
const WARNING_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Measures for how long a node has known no leader, and decides when to log a warning.
#[derive(Debug, Default)]
pub struct LeaderAbsence {
    /// When the node lost the leader, when the next warning is due, and the interval after that warning; `None` while
    /// the node knows a leader.
    warning_schedule: Option<(Time, Time, Duration)>,
}

impl LeaderAbsence {
    /// Records whether the node knows a leader now. Returns for how long it has known none, if a warning is due.
    pub fn record_leader(&mut self, now: Time, has_leader: bool) -> Option<Duration> {
        if has_leader {
            self.warning_schedule = None;
            return None;
        }
        let (since, due, interval) =
            self.warning_schedule.get_or_insert((now, now + FIRST_WARNING_AFTER, FIRST_WARNING_AFTER));
        if now < *due {
            return None;
        }
        *due = now + *interval;
        *interval = (*interval * 2).min(WARNING_INTERVAL_MAX);
        Some(now.since(*since))
    }

    /// When the next warning is due; `NEVER` while the node knows a leader.
    pub fn deadline(&self) -> Time {
        self.warning_schedule.map_or(Time::NEVER, |(_, due, _)| due)
    }
}

/// Formats the warning: the duration of the absence, the voters from which messages arrive (`heard`), and the voters
/// from which none arrive, each with the reason.
pub fn format_warning(absence: Duration, heard: &[String], unheard: &[String]) -> String {
    let seconds = absence.as_secs();
    match (heard, unheard) {
        ([], []) => format!("no leader for {seconds} s"),
        ([], unheard) => format!("no leader for {seconds} s: not heard {}", unheard.join(", ")),
        (heard, []) => format!("no leader for {seconds} s: heard {}", heard.join(", ")),
        (heard, unheard) => {
            format!("no leader for {seconds} s: heard {}, not {}", heard.join(", "), unheard.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_leader_is_logged_at_growing_intervals() {
        let mut absence = LeaderAbsence::default();
        assert_eq!(absence.deadline(), Time::NEVER);
        let absence_began_at = Time::ZERO + Duration::from_secs(5);
        assert_eq!(absence.record_leader(absence_began_at, true), None);
        assert_eq!(absence.record_leader(absence_began_at, false), None);
        let mut warned_after_seconds = Vec::new();
        let mut now = absence_began_at;
        for _ in 0..9 {
            now = absence.deadline();
            warned_after_seconds.push(absence.record_leader(now, false).unwrap().as_secs());
            assert_eq!(absence.record_leader(now, false), None);
        }
        assert_eq!(warned_after_seconds, [2, 4, 8, 16, 32, 64, 124, 184, 244]);
        assert_eq!(absence.record_leader(now, true), None);
        assert_eq!(absence.record_leader(now, false), None);
        assert_eq!(absence.deadline(), now + FIRST_WARNING_AFTER, "the interval starts again at its shortest");
    }

    #[test]
    fn warning_names_heard_and_unheard_voters() {
        let format_for = |heard: &[&str], unheard: &[&str]| {
            let to_strings = |voters: &[&str]| voters.iter().map(|voter| voter.to_string()).collect::<Vec<_>>();
            format_warning(Duration::from_millis(2400), &to_strings(heard), &to_strings(unheard))
        };
        assert_eq!(format_for(&["n2"], &["n3 (refused)"]), "no leader for 2 s: heard n2, not n3 (refused)");
        assert_eq!(format_for(&[], &["n2 (TLS)"]), "no leader for 2 s: not heard n2 (TLS)");
        assert_eq!(format_for(&["n2"], &[]), "no leader for 2 s: heard n2");
        assert_eq!(format_for(&[], &[]), "no leader for 2 s");
    }
}
