//! Runs the commands that README.md shows against a demo, and compares their output with README.md.

mod support;

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Beside, drave, installed, ports, run, until};

/// The demo's first ports in README.md: native, Redis, HTTP.
const PORTS: [u16; 3] = [7401, 7501, 7601];

/// A command line of README.md and the output shown for it.
#[derive(Debug)]
struct Typed {
    line: String,
    said: Vec<String>,
}

/// The blocks of README.md that contain commands.
fn blocks() -> Vec<VecDeque<Typed>> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (mut blocks, mut inside) = (Vec::new(), false);
    for line in readme.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            inside = false;
            continue;
        };
        if !inside {
            blocks.push(VecDeque::new());
        }
        inside = true;
        let block = blocks.last_mut().unwrap();
        match (line.strip_prefix("$ "), block.back_mut()) {
            (Some(line), _) => {
                let line = line.split(" # ").next().unwrap().trim_end().to_owned();
                block.push_back(Typed { line, said: Vec::new() });
            }
            (None, Some(typed)) => typed.said.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks
}

/// The block whose first command starts with `begins`.
fn block(begins: &str) -> VecDeque<Typed> {
    let found = blocks().into_iter().find(|block| block.front().is_some_and(|typed| typed.line.starts_with(begins)));
    found.unwrap_or_else(|| panic!("README.md has no block that begins with {begins}"))
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

/// Runs a command with this demo's ports, and asserts that its output matches README.md.
fn run_and_compare(typed: &Typed, base: u16) {
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

#[test]
fn readme_quick_start_is_accurate() {
    let directory = tempfile::tempdir().unwrap();
    let (mut demo, base) = demo(directory.path());
    let mut first = block("cargo run --release -- demo");
    first.pop_front();
    assert_eq!(first.len(), 3);
    first.iter().for_each(|typed| run_and_compare(typed, base));
    assert!(demo.is_running());
}

#[test]
fn readme_redis_examples_are_accurate() {
    let directory = tempfile::tempdir().unwrap();
    if installed("redis-cli").is_none() {
        return;
    }
    let (mut demo, base) = demo(directory.path());
    for begins in ["redis-cli -p 7501 set lunch", "redis-cli -p 7501 set session:7"] {
        block(begins).iter().for_each(|typed| run_and_compare(typed, base));
    }
    assert!(demo.is_running());
}

#[test]
fn readme_http_examples_are_accurate() {
    let directory = tempfile::tempdir().unwrap();
    if installed("curl").is_none() {
        return;
    }
    let (mut demo, base) = demo(directory.path());
    block("curl -X PUT").iter().for_each(|typed| run_and_compare(typed, base));
    assert!(demo.is_running());
}
