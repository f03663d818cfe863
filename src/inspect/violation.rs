//! The rules that stored logs must obey, and their violations.

use serde::Serialize;

/// A rule that stored logs obey or violate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// At most one leader can be elected in a given term (§5.2).
    ElectionSafety,
    /// A leader never overwrites or deletes entries in its log (§5.3).
    LeaderAppendOnly,
    /// If two logs contain an entry with the same index and term, they are identical up to it (§5.3).
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

    /// The rule's name.
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

/// A violation of a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// The rule that does not hold.
    pub rule: Rule,
    /// The directories that show it.
    pub places: Vec<String>,
    /// A description of the violation.
    pub what: String,
}

/// The most violations that are kept; further ones are only counted.
const KEPT: usize = 200;

/// The violations that were found.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    /// The first violations, at most `KEPT`.
    pub kept: Vec<Violation>,
    /// The number of further violations.
    pub more: u64,
}

impl Violations {
    /// Adds a violation; after the first `KEPT` it is only counted.
    pub fn add(&mut self, rule: Rule, places: &[&str], what: String) {
        if self.kept.len() >= KEPT {
            self.more += 1;
            return;
        }
        let places = places.iter().map(|place| (*place).to_owned()).collect();
        self.kept.push(Violation { rule, places, what });
    }

    /// Adds all violations of `other`.
    pub fn extend(&mut self, other: &Violations) {
        for violation in &other.kept {
            let places: Vec<&str> = violation.places.iter().map(String::as_str).collect();
            self.add(violation.rule, &places, violation.what.clone());
        }
        self.more += other.more;
    }

    /// The number of violations, with those that were only counted.
    pub fn count(&self) -> u64 {
        self.kept.len() as u64 + self.more
    }
}
