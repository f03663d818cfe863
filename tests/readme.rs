//! Runs the commands that README.md and the pages in docs/ show against a demo, and compares their output with the
//! pages.
//!
//! A command block is indented by four spaces and has lines that start with `$ `. It is either listed in [`TYPED`], or
//! the page gives the reason in a comment before it: `<!-- not typed: REASON -->`.

mod support;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Beside, drave, installed, ports, run, until};

/// The demo's first ports on the pages: native, Redis, HTTP.
const PORTS: [u16; 3] = [7401, 7501, 7601];

/// The command that starts the demo. Each test has started its own.
const DEMO: &str = "cargo run --release -- demo";

/// The blocks that the tests type, by page and start of the first command.
const TYPED: &[(&str, &str)] = &[
    ("README.md", DEMO),
    ("docs/operations.md", "drave put lunch"),
    ("docs/membership.md", "drave transfer"),
    ("docs/logs.md", "drave log-level"),
    ("docs/redis.md", "redis-cli -p 7501 set lunch"),
    ("docs/redis.md", "redis-cli -p 7501 set session:7"),
    ("docs/http.md", "curl -X PUT"),
];

/// The start of a comment that gives the reason why the next block is not typed.
const NOT_TYPED: &str = "<!-- not typed:";

/// A command line of a page and the output shown for it.
#[derive(Debug)]
struct PageCommand {
    line: String,
    said: Vec<String>,
}

/// A block of commands.
#[derive(Debug, Default)]
struct Block {
    commands: VecDeque<PageCommand>,
    /// Why it is not typed, if the page says so.
    reason: Option<String>,
}

impl Block {
    fn begins(&self, with: &str) -> bool {
        self.commands.front().is_some_and(|typed| typed.line.starts_with(with))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap()
}

/// README.md and the pages in docs/.
fn pages() -> Vec<String> {
    let names = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = names.map(|name| format!("docs/{}", name.to_str().unwrap())).filter(|name| name.ends_with(".md"));
    let mut pages: Vec<String> = docs.chain(["README.md".to_owned()]).collect();
    pages.sort();
    pages
}

/// The blocks of a page that contain commands.
fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut inside, mut reason) = (Vec::<Block>::new(), false, None);
    for line in read(page).lines() {
        let Some(line) = line.strip_prefix("    ") else {
            inside = false;
            if let Some(rest) = line.strip_prefix(NOT_TYPED) {
                reason = rest.strip_suffix("-->").map(|reason| reason.trim().to_owned());
            } else if !line.is_empty() {
                reason = None;
            }
            continue;
        };
        if !inside {
            blocks.push(Block { reason: reason.take(), ..Block::default() });
        }
        inside = true;
        let block = &mut blocks.last_mut().unwrap().commands;
        match (line.strip_prefix("$ "), block.back_mut()) {
            (Some(line), _) => {
                let line = line.split(" # ").next().unwrap().trim_end().to_owned();
                block.push_back(PageCommand { line, said: Vec::new() });
            }
            (None, Some(typed)) => typed.said.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks.retain(|block| !block.commands.is_empty());
    blocks
}

/// A line with its numbers replaced, since they differ from run to run.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for letter in line.chars() {
        match letter {
            '0'..='9' if shape.ends_with('#') => {}
            '0'..='9' => shape.push('#'),
            _ => shape.push(letter),
        }
    }
    shape.replace("#.#", "#")
}

/// Runs a command with this demo's ports, and asserts that its output matches the page.
fn run_and_compare(typed: &PageCommand, base: u16) {
    let mut line = typed.line.clone();
    for (written, above) in PORTS.into_iter().zip([0, 100, 200]) {
        (0..3).for_each(|n| line = line.replace(&(written + n).to_string(), &(base + above + n).to_string()));
    }
    // Adds the flags that these programs need where there is no terminal; `drave kill` needs the port of its demo.
    let mut line = line.replace("redis-cli ", "redis-cli --no-raw ").replace("curl ", "curl -sS ");
    if line.starts_with("drave kill") {
        line += &format!(" --base-port {base}");
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_drave")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let endpoints: Vec<String> = (base..base + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).env("PATH", path).env("DRAVE_ENDPOINTS", endpoints.join(",")).stdin(Stdio::null());
    let said = run(&mut shell);
    let shapes = |lines: &mut dyn Iterator<Item = &str>| lines.map(|line| shape(line.trim_end())).collect::<Vec<_>>();
    let shown = shapes(&mut typed.said.iter().map(String::as_str));
    // curl's output has no trailing newline.
    assert_eq!(shapes(&mut said.out.lines()), shown, "{line}\n{said:?}");
}

/// Starts a demo of three nodes and waits until it responds. Returns its first port as well.
fn demo(directory: &Path) -> (Beside, u16) {
    let base = ports(3);
    let data = directory.join("data");
    let words = ["demo", "--base-port", &base.to_string(), "--dir", data.to_str().unwrap()];
    let demo = Beside::start(directory, "demo", &mut drave(&words));
    let at = format!("127.0.0.1:{base}");
    let first = || (run(&mut drave(&["get", "lunch", "--endpoints", &at])).code == Some(1)).then_some(());
    until("the demo answers", first, || std::fs::read_to_string(directory.join("demo.out")).unwrap_or_default());
    (demo, base)
}

/// Types all blocks of a page that [`TYPED`] lists, into a demo of its own.
fn type_page(page: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (mut demo, base) = demo(directory.path());
    let blocks = blocks(page);
    for (_, begins) in TYPED.iter().filter(|(of, _)| *of == page) {
        let block = blocks.iter().find(|block| block.begins(begins));
        let block = block.unwrap_or_else(|| panic!("{page} has no block that begins with {begins}"));
        block
            .commands
            .iter()
            .filter(|typed| !typed.line.starts_with(DEMO))
            .for_each(|typed| run_and_compare(typed, base));
    }
    assert!(demo.is_running());
}

#[test]
fn readme_commands_print_what_the_page_shows() {
    let first = blocks("README.md").into_iter().find(|block| block.begins(DEMO)).unwrap();
    assert_eq!(first.commands.len(), 4);
    type_page("README.md");
}

#[test]
fn operations_commands_print_what_the_page_shows() {
    type_page("docs/operations.md");
}

#[test]
fn membership_commands_print_what_the_page_shows() {
    type_page("docs/membership.md");
}

#[test]
fn logs_commands_print_what_the_page_shows() {
    type_page("docs/logs.md");
}

#[test]
fn redis_commands_print_what_the_page_shows() {
    if installed("redis-cli").is_some() {
        type_page("docs/redis.md");
    }
}

#[test]
fn http_commands_print_what_the_page_shows() {
    if installed("curl").is_some() {
        type_page("docs/http.md");
    }
}

#[test]
fn every_command_block_is_typed_or_gives_a_reason() {
    let mut wrong = Vec::new();
    for page in pages() {
        for block in blocks(&page) {
            let first = &block.commands[0].line;
            let is_typed = TYPED.iter().any(|(of, begins)| *of == page && block.begins(begins));
            match (block.reason.as_deref(), is_typed) {
                (None, false) => wrong.push(format!("{page}: neither typed nor marked: {first}")),
                (Some(_), true) => wrong.push(format!("{page}: typed, and marked as not typed: {first}")),
                (Some(""), false) => wrong.push(format!("{page}: marked without a reason: {first}")),
                _ => {}
            }
        }
        // Blocks are found by their indentation: a command anywhere else would be typed by no test.
        let text = read(&page);
        let outside = |line: &&str| line.trim_start().starts_with("$ ") && !line.starts_with("    $ ");
        wrong.extend(text.lines().filter(outside).map(|line| format!("{page}: outside of a block: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The pages list commands in tables as well, which no test types: at least the command and its options must exist.
#[test]
fn commands_in_tables_exist() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = read(&page);
        for words in text.split('`').filter_map(|span| span.strip_prefix("drave ")) {
            let words: Vec<&str> = words.split_whitespace().map(|word| word.trim_matches(['[', ']'])).collect();
            let is_name = |word: &&&str| word.starts_with(|first: char| first.is_ascii_lowercase());
            let depth = if matches!(words[0], "member" | "snapshot") { 2 } else { 1 };
            let mut help: Vec<&str> = words.iter().take(depth).take_while(is_name).copied().collect();
            help.push("--help");
            let said = run(&mut drave(&help));
            if said.code != Some(0) {
                wrong.push(format!("{page}: drave {}", words.join(" ")));
            }
            let absent = words.iter().filter(|word| word.starts_with("--") && !said.out.contains(**word));
            wrong.extend(absent.map(|option| format!("{page}: drave {}: no {option}", words[0])));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let tests = "cargo test --release";
    assert!(blocks("README.md").iter().any(|block| block.begins(tests)));
    assert!(read("scripts/check").lines().any(|line| line == tests));
    assert!(read(".ci/run").contains("scripts/check"));
}

#[test]
fn links_lead_to_files() {
    let mut wrong = Vec::new();
    for page in pages() {
        let directory = root().join(&page).parent().unwrap().to_owned();
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if !link.starts_with("http") && !file.is_empty() && !directory.join(file).is_file() {
                wrong.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
