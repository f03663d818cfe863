//! Golden traces: scripts for bare Raft cores, each in one file with all that the cores do.
//!
//! A file of `traces/` is a comment, then commands (`> `), and under each command its output: messages as they arrive
//! (`n1 -> n2`), writes as they become durable (`n1 disk`), and under either what the receiver does. `state` prints each
//! log as the terms of its entries, the committed ones before the bar. To record the traces again: `DRAVE_UPDATE_TRACES=1 cargo test --test core traces`.

use super::trace_script::Interpreter;
use drave::types::{Mutant, Mutants};
use std::path::Path;

/// The scenarios that there are: a file that is lost is a failure.
const TRACES: usize = 15;

/// Rules, and the traces that show them.
const BROKEN: [(&str, Mutant); 5] = [
    ("pre_vote", Mutant::NoPreVote),
    ("longer_log_loses", Mutant::VoteForShorterLog),
    ("figure_8", Mutant::CommitEarlierTerms),
    ("disk_before_ack", Mutant::AckBeforeSync),
    ("read_index", Mutant::ReadWithoutRound),
];

/// A longer trace is not read to its end.
const LINES_MAX: usize = 70;

/// Runs a script. Returns the script with its output, or the command that failed.
fn record(script: &str, mutants: Mutants) -> Result<String, String> {
    let header: Vec<&str> = script.lines().take_while(|line| line.starts_with('#')).collect();
    if !(2..=4).contains(&header.len()) || !header.iter().any(|line| line.contains('§')) {
        return Err("it does not begin with two to four lines of comment that cite a section (§)".to_owned());
    }
    let mut interpreter = Interpreter::new(mutants);
    let mut outputs = 0;
    for (i, line) in script.lines().enumerate() {
        if line.starts_with('#') {
            let continues = interpreter.out.last().is_some_and(|last| last.starts_with('#'));
            interpreter.out.extend((!continues && i > 0).then(String::new));
            interpreter.out.push(line.to_owned());
        } else if let Some(command) = line.strip_prefix("> ") {
            interpreter.out.extend((interpreter.out.len() == header.len()).then(String::new));
            interpreter.out.push(line.to_owned());
            let before = interpreter.out.len();
            interpreter.execute(command).map_err(|why| format!("line {}: {line}: {why}", i + 1))?;
            outputs += interpreter.out.len() - before;
        }
    }
    if outputs == 0 {
        return Err("it has no output".to_owned());
    }
    Ok(interpreter.out.join("\n") + "\n")
}

/// The lines in which two texts differ, with two lines before and after.
fn difference(recorded: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (recorded.lines().collect(), actual.lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - same;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let first = same.saturating_sub(2);
    let mut lines = vec![format!("@ line {}", same + 1)];
    lines.extend(old[first..same].iter().map(|line| format!("  {line}")));
    lines.extend(old[same..old.len() - tail].iter().map(|line| format!("- {line}")));
    lines.extend(new[same..new.len() - tail].iter().map(|line| format!("+ {line}")));
    lines.extend(new[new.len() - tail..].iter().take(2).map(|line| format!("  {line}")));
    lines.join("\n")
}

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core/traces")
}

const HEADER: &str = "# An election (§5.2)\n# of three nodes.\n> cluster 3\n";

#[test]
fn faulty_scripts_fail() {
    for (commands, why) in [
        ("> elect n1\n> vote n2\n", "line 5: > vote n2: no such command"),
        ("", "it has no output"),
        ("> quietly timeout n1\n", "it has no output"),
        ("> timeout n4\n", "line 4: > timeout n4: there is no n4"),
        ("> deliver n1 n2\n", "line 4: > deliver n1 n2: nothing is in flight from n1 to n2"),
    ] {
        assert_eq!(record(&format!("{HEADER}{commands}"), Mutants::NONE), Err(why.to_owned()));
    }
    assert!(record("# An election.\n# No section.\n> cluster 3\n> elect n1\n", Mutants::NONE).is_err());
}

#[test]
fn recorded_output_is_the_same_when_it_is_run_again() {
    let first = record(&format!("{HEADER}> timeout n1\n> deliver\n"), Mutants::NONE).unwrap();
    assert_eq!(record(&first, Mutants::NONE), Ok(first.clone()));
    let changed = first.replace("votes of n1, n2", "votes of n1, n3");
    let difference = difference(&changed, &first);
    assert!(difference.contains("\n-       n1: leads") && difference.contains("\n+       n1: leads"), "{difference}");
}

#[test]
fn cores_do_what_the_traces_show() {
    let mut paths: Vec<_> = std::fs::read_dir(directory()).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= TRACES, "{} of {TRACES} traces", paths.len());
    let update = std::env::var("DRAVE_UPDATE_TRACES").is_ok_and(|value| value == "1");
    let mut failures = Vec::new();
    for path in paths {
        let recorded = std::fs::read_to_string(&path).unwrap();
        let failure = match record(&recorded, Mutants::NONE) {
            Err(why) => why,
            Ok(actual) if actual.lines().count() > LINES_MAX => format!("it has more than {LINES_MAX} lines"),
            Ok(actual) if actual == recorded => continue,
            Ok(actual) if update => {
                std::fs::write(&path, actual).unwrap();
                continue;
            }
            Ok(actual) => difference(&recorded, &actual),
        };
        failures.push(format!("{}: {failure}\n", path.display()));
    }
    assert!(failures.is_empty(), "{}\nDRAVE_UPDATE_TRACES=1 records the traces again", failures.join("\n"));
}

/// Each rule that is broken changes the trace that shows the rule.
#[test]
fn broken_rules_change_their_traces() {
    for (trace, mutant) in BROKEN {
        let recorded = std::fs::read_to_string(directory().join(format!("{trace}.txt"))).unwrap();
        let broken = record(&recorded, Mutants::only(mutant));
        assert_ne!(broken, Ok(recorded), "{trace} does not show the rule that {mutant} breaks");
    }
}
