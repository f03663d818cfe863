//! The rules that stored logs must obey, and their violations.

use serde::Serialize;

/// A rule that the stored logs of a cluster obey. The first four are the safety properties of Raft (Figure 3 of the
/// paper).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// At most one leader can be elected in a given term (§5.2).
    ElectionSafety,
    /// A leader never overwrites or deletes entries in its log (§5.3).
    LeaderAppendOnly,
    /// If two logs contain an entry with the same index and term, the logs are identical up to that entry (§5.3).
    LogMatching,
    /// If a node has applied an entry at an index, no other node applies a different entry there (§5.4.3).
    StateMachineSafety,
    /// Terms never fall, neither of a node nor along a log, and no entry has a term that its node has not seen.
    Terms,
    /// The cluster's clock never goes back along a log.
    Time,
    /// Each configuration follows the previous one as joint consensus allows (§6).
    Configurations,
    /// Snapshots of one position have equal digests, and the log's term at a snapshot's index is the snapshot's term.
    Snapshots,
}

impl Rule {
    /// All rules, in the order in which they are reported.
    pub const ALL: [Rule; 8] = [
        Rule::ElectionSafety,
        Rule::LeaderAppendOnly,
        Rule::LogMatching,
        Rule::StateMachineSafety,
        Rule::Terms,
        Rule::Time,
        Rule::Configurations,
        Rule::Snapshots,
    ];

    /// The name that `check` prints.
    pub fn name(self) -> &'static str {
        match self {
            Rule::ElectionSafety => "Election Safety",
            Rule::LeaderAppendOnly => "Leader Append-Only",
            Rule::LogMatching => "Log Matching",
            Rule::StateMachineSafety => "State Machine Safety",
            Rule::Terms => "Terms",
            Rule::Time => "Time",
            Rule::Configurations => "Configurations",
            Rule::Snapshots => "Snapshots",
        }
    }
}

/// One case in which the stored logs violate a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// The rule that does not hold.
    pub rule: Rule,
    /// The names of the directories that show the violation.
    pub places: Vec<String>,
    /// The positions and nodes concerned, as text for the operator.
    #[serde(rename = "what")]
    pub description: String,
}

/// The maximum number of violations that are listed; further ones are only counted.
const VIOLATIONS_LISTED_MAX: usize = 200;

/// The violations found so far.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    /// The first violations, at most `VIOLATIONS_LISTED_MAX`, in the order in which they were found.
    pub listed: Vec<Violation>,
    /// The number of violations that are not in `listed`.
    pub unlisted_count: u64,
}

impl Violations {
    /// Adds a violation of `rule` that the directories `places` show. After the first `VIOLATIONS_LISTED_MAX` it is
    /// only counted.
    pub fn add(&mut self, rule: Rule, places: &[&str], description: String) {
        if self.listed.len() >= VIOLATIONS_LISTED_MAX {
            self.unlisted_count += 1;
            return;
        }
        let places = places.iter().map(|place| (*place).to_owned()).collect();
        self.listed.push(Violation { rule, places, description });
    }

    /// Adds the violations of `other`: beyond `VIOLATIONS_LISTED_MAX` they are only counted.
    pub fn extend(&mut self, other: &Violations) {
        for violation in &other.listed {
            let places: Vec<&str> = violation.places.iter().map(String::as_str).collect();
            self.add(violation.rule, &places, violation.description.clone());
        }
        self.unlisted_count += other.unlisted_count;
    }

    /// The number of all violations, listed or only counted.
    pub fn count(&self) -> u64 {
        self.listed.len() as u64 + self.unlisted_count
    }
}
