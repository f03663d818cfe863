//! Golden traces: scripts for simulated Raft cores, each stored in one file together with its recorded output.
//!
//! A file in `traces/` contains a comment, then commands (lines that start with `> `), and under each command its
//! output: messages as they arrive (`n1 -> n2`), writes as they become durable (`n1 disk`), and under each of these the
//! reaction of the node. `state` prints each log as the terms of its entries, the committed ones before the bar. To
//! record the traces again, run `DRAVE_UPDATE_TRACES=1 cargo test --test core traces`.

use super::trace_script::Interpreter;
use drave::types::{Mutant, Mutants};
use std::path::Path;

/// The minimum number of trace files: fewer files fail the test, so that no file is lost unnoticed.
const TRACE_COUNT_MIN: usize = 15;

/// Traces, each with a mutant that breaks the rule which the trace shows.
const TRACES_AND_MUTANTS: [(&str, Mutant); 5] = [
    ("pre_vote", Mutant::NoPreVote),
    ("longer_log_loses", Mutant::VoteForShorterLog),
    ("figure_8", Mutant::CommitEarlierTerms),
    ("disk_before_ack", Mutant::AckBeforeSync),
    ("read_index", Mutant::ReadWithoutRound),
];

/// The maximum number of lines of one trace, so that a reader can follow the whole trace.
const TRACE_LINES_MAX: usize = 70;

/// Runs a script. Returns the script with its output, or an error that names the failed command.
fn run_script(script: &str, mutants: Mutants) -> Result<String, String> {
    let header: Vec<&str> = script.lines().take_while(|line| line.starts_with('#')).collect();
    if !(2..=4).contains(&header.len()) || !header.iter().any(|line| line.contains('§')) {
        return Err("the script does not begin with two to four lines of comment that cite a section (§)".to_owned());
    }
    let mut interpreter = Interpreter::new(mutants);
    let mut output_line_count = 0;
    for (i, line) in script.lines().enumerate() {
        if line.starts_with('#') {
            let continues_comment = interpreter.output_lines.last().is_some_and(|last| last.starts_with('#'));
            interpreter.output_lines.extend((!continues_comment && i > 0).then(String::new));
            interpreter.output_lines.push(line.to_owned());
        } else if let Some(command) = line.strip_prefix("> ") {
            interpreter.output_lines.extend((interpreter.output_lines.len() == header.len()).then(String::new));
            interpreter.output_lines.push(line.to_owned());
            let line_count_before = interpreter.output_lines.len();
            interpreter.execute(command).map_err(|why| format!("line {}: {line}: {why}", i + 1))?;
            output_line_count += interpreter.output_lines.len() - line_count_before;
        }
    }
    if output_line_count == 0 {
        return Err("the script has no output".to_owned());
    }
    Ok(interpreter.output_lines.join("\n") + "\n")
}

/// The lines in which two texts differ, with up to two equal lines before and after them.
fn line_difference(recorded: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (recorded.lines().collect(), actual.lines().collect());
    let first_differing_line = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let remaining_len = old.len().min(new.len()) - first_differing_line;
    let common_tail_len =
        old.iter().rev().zip(new.iter().rev()).take(remaining_len).take_while(|(a, b)| a == b).count();
    let first_shown_line = first_differing_line.saturating_sub(2);
    let mut lines = vec![format!("@ line {}", first_differing_line + 1)];
    lines.extend(old[first_shown_line..first_differing_line].iter().map(|line| format!("  {line}")));
    lines.extend(old[first_differing_line..old.len() - common_tail_len].iter().map(|line| format!("- {line}")));
    lines.extend(new[first_differing_line..new.len() - common_tail_len].iter().map(|line| format!("+ {line}")));
    lines.extend(new[new.len() - common_tail_len..].iter().take(2).map(|line| format!("  {line}")));
    lines.join("\n")
}

fn traces_directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core/traces")
}

const SCRIPT_HEADER: &str = "# An election (§5.2)\n# of three nodes.\n> cluster 3\n";

#[test]
fn invalid_trace_script_is_rejected() {
    for (commands, why) in [
        ("> elect n1\n> vote n2\n", "line 5: > vote n2: no such command"),
        ("", "the script has no output"),
        ("> quietly timeout n1\n", "the script has no output"),
        ("> timeout n4\n", "line 4: > timeout n4: there is no n4"),
        ("> deliver n1 n2\n", "line 4: > deliver n1 n2: nothing is in flight from n1 to n2"),
    ] {
        assert_eq!(run_script(&format!("{SCRIPT_HEADER}{commands}"), Mutants::NONE), Err(why.to_owned()));
    }
    assert!(run_script("# An election.\n# No section.\n> cluster 3\n> elect n1\n", Mutants::NONE).is_err());
}

#[test]
fn rerun_trace_script_reproduces_its_output() {
    let first_output = run_script(&format!("{SCRIPT_HEADER}> timeout n1\n> deliver\n"), Mutants::NONE).unwrap();
    assert_eq!(run_script(&first_output, Mutants::NONE), Ok(first_output.clone()));
    let changed_output = first_output.replace("votes of n1, n2", "votes of n1, n3");
    let difference = line_difference(&changed_output, &first_output);
    assert!(difference.contains("\n-       n1: leads") && difference.contains("\n+       n1: leads"), "{difference}");
}

#[test]
fn raft_cores_reproduce_recorded_traces() {
    let mut paths: Vec<_> = std::fs::read_dir(traces_directory()).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= TRACE_COUNT_MIN, "{} of {TRACE_COUNT_MIN} traces", paths.len());
    let updates_traces = std::env::var("DRAVE_UPDATE_TRACES").is_ok_and(|value| value == "1");
    let mut failures = Vec::new();
    for path in paths {
        let recorded_trace = std::fs::read_to_string(&path).unwrap();
        let failure = match run_script(&recorded_trace, Mutants::NONE) {
            Err(why) => why,
            Ok(actual) if actual.lines().count() > TRACE_LINES_MAX => {
                format!("the trace has more than {TRACE_LINES_MAX} lines")
            }
            Ok(actual) if actual == recorded_trace => continue,
            Ok(actual) if updates_traces => {
                std::fs::write(&path, actual).unwrap();
                continue;
            }
            Ok(actual) => line_difference(&recorded_trace, &actual),
        };
        failures.push(format!("{}: {failure}\n", path.display()));
    }
    assert!(failures.is_empty(), "{}\nDRAVE_UPDATE_TRACES=1 records the traces again", failures.join("\n"));
}

/// A mutant that breaks a rule changes the output of the trace that shows the rule.
#[test]
fn mutant_changes_the_trace_of_its_rule() {
    for (trace, mutant) in TRACES_AND_MUTANTS {
        let recorded_trace = std::fs::read_to_string(traces_directory().join(format!("{trace}.txt"))).unwrap();
        let result_with_mutant = run_script(&recorded_trace, Mutants::only(mutant));
        assert_ne!(result_with_mutant, Ok(recorded_trace), "{trace} does not show the rule that {mutant} breaks");
    }
}
