//! Runs the commands that README.md and the pages in docs/ show against a demo, and compares their output with the
//! pages.
//!
//! A command block is indented by four spaces and has lines that start with `$ `. The block is either listed in
//! [`TESTED_BLOCKS`], or the page gives the reason in a comment before it: `<!-- not run: REASON -->`.

mod support;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{BackgroundProgram, command_if_installed, drave_command, reserve_ports, run, wait_until};

/// The demo's first ports on the pages: native, Redis, HTTP.
const PAGE_PORTS: [u16; 3] = [7401, 7501, 7601];

/// The command that starts the demo. The tests do not run this command, since each test has started a demo of its own.
const DEMO_COMMAND: &str = "cargo run --release -- demo";

/// The blocks that the tests run, by page and start of the first command.
const TESTED_BLOCKS: &[(&str, &str)] = &[
    ("README.md", DEMO_COMMAND),
    ("docs/operations.md", "drave put lunch"),
    ("docs/membership.md", "drave transfer"),
    ("docs/logs.md", "drave log-level"),
    ("docs/redis.md", "redis-cli -p 7501 set lunch"),
    ("docs/redis.md", "redis-cli -p 7501 set session:7"),
    ("docs/http.md", "curl -X PUT"),
];

/// The start of a comment on a page that gives the reason why no test runs the next block.
const NOT_RUN_COMMENT: &str = "<!-- not run:";

/// A command line of a page and the output shown for it.
#[derive(Debug)]
struct PageCommand {
    line: String,
    expected_output: Vec<String>,
}

/// The commands in one indented block of a page, in their order.
#[derive(Debug, Default)]
struct CommandBlock {
    commands: VecDeque<PageCommand>,
    /// The reason why no test runs the block, if the page gives one.
    not_run_reason: Option<String>,
}

impl CommandBlock {
    fn begins_with(&self, prefix: &str) -> bool {
        self.commands.front().is_some_and(|command| command.line.starts_with(prefix))
    }
}

fn repository_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read_page(page: &str) -> String {
    std::fs::read_to_string(repository_root().join(page)).unwrap()
}

/// The paths of README.md and of the pages in docs/, relative to the repository.
fn list_pages() -> Vec<String> {
    let names = std::fs::read_dir(repository_root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs_pages = names.map(|name| format!("docs/{}", name.to_str().unwrap())).filter(|name| name.ends_with(".md"));
    let mut pages: Vec<String> = docs_pages.chain(["README.md".to_owned()]).collect();
    pages.sort();
    pages
}

/// The blocks of a page that contain commands.
fn read_command_blocks(page: &str) -> Vec<CommandBlock> {
    let (mut blocks, mut in_block, mut reason) = (Vec::<CommandBlock>::new(), false, None);
    for line in read_page(page).lines() {
        let Some(line) = line.strip_prefix("    ") else {
            in_block = false;
            if let Some(rest) = line.strip_prefix(NOT_RUN_COMMENT) {
                reason = rest.strip_suffix("-->").map(|reason| reason.trim().to_owned());
            } else if !line.is_empty() {
                reason = None;
            }
            continue;
        };
        if !in_block {
            blocks.push(CommandBlock { not_run_reason: reason.take(), ..CommandBlock::default() });
        }
        in_block = true;
        let block = &mut blocks.last_mut().unwrap().commands;
        match (line.strip_prefix("$ "), block.back_mut()) {
            (Some(line), _) => {
                let line = line.split(" # ").next().unwrap().trim_end().to_owned();
                block.push_back(PageCommand { line, expected_output: Vec::new() });
            }
            (None, Some(command)) => command.expected_output.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks.retain(|block| !block.commands.is_empty());
    blocks
}

/// A line with its numbers replaced, since they differ from run to run.
fn mask_numbers(line: &str) -> String {
    let mut masked = String::new();
    for letter in line.chars() {
        match letter {
            '0'..='9' if masked.ends_with('#') => {}
            '0'..='9' => masked.push('#'),
            _ => masked.push(letter),
        }
    }
    masked.replace("#.#", "#")
}

/// Runs a command against the demo whose ports begin at `base_port`, and asserts that its output matches the page.
fn run_and_compare(command: &PageCommand, base_port: u16) {
    let mut line = command.line.clone();
    for (page_port, offset) in PAGE_PORTS.into_iter().zip([0, 100, 200]) {
        (0..3).for_each(|n| line = line.replace(&(page_port + n).to_string(), &(base_port + offset + n).to_string()));
    }
    // Adds the flags that these programs need where there is no terminal; `drave kill` needs the port of its demo.
    let mut line = line.replace("redis-cli ", "redis-cli --no-raw ").replace("curl ", "curl -sS ");
    if line.starts_with("drave kill") {
        line += &format!(" --base-port {base_port}");
    }
    let program_directory = Path::new(env!("CARGO_BIN_EXE_drave")).parent().unwrap();
    let path = format!("{}:{}", program_directory.display(), std::env::var("PATH").unwrap());
    let endpoints: Vec<String> = (base_port..base_port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).env("PATH", path).env("DRAVE_ENDPOINTS", endpoints.join(",")).stdin(Stdio::null());
    let output = run(&mut shell);
    let mask_all =
        |lines: &mut dyn Iterator<Item = &str>| lines.map(|line| mask_numbers(line.trim_end())).collect::<Vec<_>>();
    let expected = mask_all(&mut command.expected_output.iter().map(String::as_str));
    // curl's output has no trailing newline.
    assert_eq!(mask_all(&mut output.out.lines()), expected, "{line}\n{output:?}");
}

/// Starts a demo of three nodes and waits until it responds. Returns its first port as well.
fn start_demo(directory: &Path) -> (BackgroundProgram, u16) {
    let base_port = reserve_ports(3);
    let data = directory.join("data");
    let args = ["demo", "--base-port", &base_port.to_string(), "--dir", data.to_str().unwrap()];
    let demo = BackgroundProgram::start(directory, "demo", &mut drave_command(&args));
    let endpoint = format!("127.0.0.1:{base_port}");
    let demo_answers =
        || (run(&mut drave_command(&["get", "lunch", "--endpoints", &endpoint])).code == Some(1)).then_some(());
    wait_until("the demo answers", demo_answers, || {
        std::fs::read_to_string(directory.join("demo.out")).unwrap_or_default()
    });
    (demo, base_port)
}

/// Runs all blocks of a page that [`TESTED_BLOCKS`] lists, against a demo of its own.
fn run_tested_blocks(page: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (mut demo, base_port) = start_demo(directory.path());
    let blocks = read_command_blocks(page);
    for (_, first_command) in TESTED_BLOCKS.iter().filter(|(listed_page, _)| *listed_page == page) {
        let block = blocks.iter().find(|block| block.begins_with(first_command));
        let block = block.unwrap_or_else(|| panic!("{page} has no block that begins with {first_command}"));
        block
            .commands
            .iter()
            .filter(|command| !command.line.starts_with(DEMO_COMMAND))
            .for_each(|command| run_and_compare(command, base_port));
    }
    assert!(demo.is_running());
}

#[test]
fn commands_of_readme_page_print_what_the_page_shows() {
    let demo_block =
        read_command_blocks("README.md").into_iter().find(|block| block.begins_with(DEMO_COMMAND)).unwrap();
    assert_eq!(demo_block.commands.len(), 4);
    run_tested_blocks("README.md");
}

#[test]
fn commands_of_operations_page_print_what_the_page_shows() {
    run_tested_blocks("docs/operations.md");
}

#[test]
fn commands_of_membership_page_print_what_the_page_shows() {
    run_tested_blocks("docs/membership.md");
}

#[test]
fn commands_of_logs_page_print_what_the_page_shows() {
    run_tested_blocks("docs/logs.md");
}

#[test]
fn commands_of_redis_page_print_what_the_page_shows() {
    if command_if_installed("redis-cli").is_some() {
        run_tested_blocks("docs/redis.md");
    }
}

#[test]
fn commands_of_http_page_print_what_the_page_shows() {
    if command_if_installed("curl").is_some() {
        run_tested_blocks("docs/http.md");
    }
}

#[test]
fn every_command_block_is_run_or_gives_a_reason() {
    let mut violations = Vec::new();
    for page in list_pages() {
        for block in read_command_blocks(&page) {
            let first_line = &block.commands[0].line;
            let is_tested = TESTED_BLOCKS
                .iter()
                .any(|(listed_page, first_command)| *listed_page == page && block.begins_with(first_command));
            match (block.not_run_reason.as_deref(), is_tested) {
                (None, false) => {
                    violations.push(format!("{page}: neither run by a test nor marked as not run: {first_line}"))
                }
                (Some(_), true) => {
                    violations.push(format!("{page}: run by a test, but marked as not run: {first_line}"))
                }
                (Some(""), false) => {
                    violations.push(format!("{page}: marked as not run without a reason: {first_line}"))
                }
                _ => {}
            }
        }
        // The indentation of four spaces marks a block: no test would run a command with another indentation.
        let text = read_page(&page);
        let is_outside_block = |line: &&str| line.trim_start().starts_with("$ ") && !line.starts_with("    $ ");
        violations.extend(
            text.lines()
                .filter(is_outside_block)
                .map(|line| format!("{page}: a command outside of a command block: {line}")),
        );
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// The pages also list commands in tables, and no test runs these. This test checks that the commands and their options
/// exist.
#[test]
fn commands_in_tables_exist() {
    let mut violations = Vec::new();
    for page in list_pages() {
        let text = read_page(&page);
        for words in text.split('`').filter_map(|span| span.strip_prefix("drave ")) {
            let words: Vec<&str> = words.split_whitespace().map(|word| word.trim_matches(['[', ']'])).collect();
            let is_name = |word: &&&str| word.starts_with(|first: char| first.is_ascii_lowercase());
            let subcommand_words = if matches!(words[0], "member" | "snapshot" | "upgrade") { 2 } else { 1 };
            let mut help_args: Vec<&str> = words.iter().take(subcommand_words).take_while(is_name).copied().collect();
            help_args.push("--help");
            let output = run(&mut drave_command(&help_args));
            if output.code != Some(0) {
                violations.push(format!("{page}: drave {}", words.join(" ")));
            }
            let missing_options = words.iter().filter(|word| word.starts_with("--") && !output.out.contains(**word));
            violations
                .extend(missing_options.map(|option| format!("{page}: drave {} has no option {option}", words[0])));
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let test_command = "cargo test --release";
    assert!(read_command_blocks("README.md").iter().any(|block| block.begins_with(test_command)));
    assert!(read_page("scripts/check").lines().any(|line| line == test_command));
    assert!(read_page(".ci/run").contains("scripts/check"));
}

#[test]
fn links_lead_to_files() {
    let mut violations = Vec::new();
    for page in list_pages() {
        let directory = repository_root().join(&page).parent().unwrap().to_owned();
        for link in read_page(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let linked_path = link.split('#').next().unwrap();
            if !link.starts_with("http") && !linked_path.is_empty() && !directory.join(linked_path).is_file() {
                violations.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}
