//! What must not be in stored logs, and what was found of it.

use serde::Serialize;

/// A promise that stored logs keep, or break.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// At most one leader can be elected in a given term (§5.2).
    ElectionSafety,
    /// A leader never overwrites or deletes entries in its log (§5.3).
    LeaderAppendOnly,
    /// If two logs contain an entry with the same index and term, they are identical up to it (§5.3).
    LogMatching,
    /// What one node has applied at an index, no other applies differently (§5.4.3).
    StateMachineSafety,
    /// Terms never fall: of a node, and along a log; and no entry is of a term that its node has not seen.
    Terms,
    /// The cluster's clock never goes back along a log.
    Time,
    /// Each configuration follows the one before it as joint consensus lets it (§6).
    Configurations,
    /// Equal states have equal digests, and a snapshot's place in the log is the log's.
    Snapshots,
}

impl Rule {
    /// All of them, in the order in which they are told.
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

    /// Its name, for people.
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

/// A promise that is broken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// In which directories that is seen.
    pub places: Vec<String>,
    /// How.
    pub what: String,
}

/// How many violations are kept; of more than that, how many there are.
const KEPT: usize = 200;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    /// The first of them.
    pub kept: Vec<Violation>,
    /// How many more there are.
    pub more: u64,
}

impl Violations {
    /// One more.
    pub fn add(&mut self, rule: Rule, places: &[&str], what: String) {
        if self.kept.len() >= KEPT {
            self.more += 1;
            return;
        }
        let places = places.iter().map(|place| (*place).to_owned()).collect();
        self.kept.push(Violation { rule, places, what });
    }

    /// All of another's as well.
    pub fn extend(&mut self, other: &Violations) {
        for violation in &other.kept {
            let places: Vec<&str> = violation.places.iter().map(String::as_str).collect();
            self.add(violation.rule, &places, violation.what.clone());
        }
        self.more += other.more;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.kept.len() as u64 + self.more
    }
}
