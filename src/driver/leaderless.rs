//! How long a node has seen no leader. It is logged after two seconds, then with growing intervals.

use crate::types::Time;
use std::time::Duration;

/// How long an election may take before it is logged.
const FIRST: Duration = Duration::from_secs(2);
/// The longest interval between two lines.
const GAP_MAX: Duration = Duration::from_secs(60);

/// How long a node has seen no leader.
#[derive(Debug, Default)]
pub struct Leaderless {
    /// Since when, when the next line is due, and the interval after that.
    since: Option<(Time, Time, Duration)>,
}

impl Leaderless {
    /// Updates the state. Returns for how long there was no leader, if that has to be logged now.
    pub fn update(&mut self, now: Time, has_leader: bool) -> Option<Duration> {
        if has_leader {
            self.since = None;
            return None;
        }
        let (since, due, gap) = self.since.get_or_insert((now, now + FIRST, FIRST));
        if now < *due {
            return None;
        }
        *due = now + *gap;
        *gap = (*gap * 2).min(GAP_MAX);
        Some(now.since(*since))
    }

    /// When the next line is due.
    pub fn deadline(&self) -> Time {
        self.since.map_or(Time::NEVER, |(_, due, _)| due)
    }
}

/// Formats the line: which of the other voters are heard, and why the rest are not.
pub fn line(since: Duration, heard: &[String], unheard: &[String]) -> String {
    let seconds = since.as_secs();
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
    fn missing_leader_is_logged_with_growing_gaps() {
        let mut leaderless = Leaderless::default();
        assert_eq!(leaderless.deadline(), Time::NEVER);
        let begin = Time::ZERO + Duration::from_secs(5);
        assert_eq!(leaderless.update(begin, true), None);
        assert_eq!(leaderless.update(begin, false), None);
        let mut said = Vec::new();
        let mut now = begin;
        for _ in 0..9 {
            now = leaderless.deadline();
            said.push(leaderless.update(now, false).unwrap().as_secs());
            assert_eq!(leaderless.update(now, false), None);
        }
        assert_eq!(said, [2, 4, 8, 16, 32, 64, 124, 184, 244]);
        assert_eq!(leaderless.update(now, true), None);
        assert_eq!(leaderless.update(now, false), None);
        assert_eq!(leaderless.deadline(), now + FIRST, "the interval starts again at its shortest");
    }

    #[test]
    fn line_names_heard_and_unheard_voters() {
        let line = |heard: &[&str], unheard: &[&str]| {
            let owned = |all: &[&str]| all.iter().map(|one| one.to_string()).collect::<Vec<_>>();
            line(Duration::from_millis(2400), &owned(heard), &owned(unheard))
        };
        assert_eq!(line(&["n2"], &["n3 (refused)"]), "no leader for 2 s: heard n2, not n3 (refused)");
        assert_eq!(line(&[], &["n2 (TLS)"]), "no leader for 2 s: not heard n2 (TLS)");
        assert_eq!(line(&["n2"], &[]), "no leader for 2 s: heard n2");
        assert_eq!(line(&[], &[]), "no leader for 2 s");
    }
}
