//! Checks the layering of the crate against the code: allowed imports of each module, forbidden words in pure modules,
//! `mod.rs` files without definitions, and lengths of files and functions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Allowed imports of each module. A module may use the modules below it, never one above it.
const MODULES: &[(&str, &[&str])] = &[
    ("types", &["limits"]),
    ("limits", &[]),
    ("disk", &[]),
    ("secure", &[]),
    ("codec", &["types", "limits"]),
    ("api", &["types", "limits", "codec"]),
    ("consensus", &["types", "limits", "codec", "api"]),
    ("machine", &["types", "limits", "codec", "api"]),
    ("wal", &["types", "limits", "codec", "disk"]),
    ("snapshot", &["types", "limits", "codec", "disk"]),
    ("apply", &["types", "limits", "codec", "api", "machine"]),
    ("wire", &["types", "limits", "codec", "api", "consensus"]),
    ("client", &["types", "limits", "wire", "api", "secure"]),
    ("shelf", &["types", "limits", "codec", "disk", "machine", "wal", "snapshot", "apply"]),
    ("node", &["types", "limits", "api", "consensus", "wal", "apply"]),
    ("pipeline", &["types", "limits", "api"]),
    ("admission", &["types", "limits", "consensus", "wire"]),
    (
        "net",
        &[
            "types",
            "limits",
            "codec",
            "api",
            "wire",
            "node",
            "pipeline",
            "admission",
            "apply",
            "machine",
            "wal",
            "consensus",
            "snapshot",
            "shelf",
            "secure",
        ],
    ),
    (
        "sim",
        &[
            "types",
            "limits",
            "codec",
            "api",
            "disk",
            "consensus",
            "machine",
            "wal",
            "apply",
            "wire",
            "node",
            "admission",
            "client",
            "pipeline",
            "snapshot",
            "shelf",
        ],
    ),
    ("inspect", &["types", "limits", "codec", "api", "disk", "machine", "wal", "snapshot"]),
    ("config", &["types", "limits", "consensus", "wal", "node", "net", "secure"]),
    (
        "server",
        &[
            "types",
            "limits",
            "api",
            "config",
            "client",
            "net",
            "node",
            "secure",
            "wal",
            "apply",
            "disk",
            "machine",
            "consensus",
            "snapshot",
            "shelf",
        ],
    ),
];

/// Allowed imports of the program's modules from one another. All of them may use the library; it cannot use them.
const PROGRAM: &[(&str, &[&str])] = &[
    ("output", &[]),
    ("remote", &[]),
    ("tui", &["remote"]),
    ("loadgen", &["remote", "output"]),
    ("cli", &["remote", "tui", "loadgen", "output"]),
];

/// The path of the program's modules within `src`.
const PROGRAM_PATH: &str = "bin/drave/";

/// Forbidden words in pure modules: time is an argument, randomness a seed, and network input plain data.
const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "rand::rng(",
    "println!",
    "log::",
];

/// Path prefixes of the pure modules.
const PURE: &[&str] = &[
    "types/",
    "consensus/",
    "node/",
    "apply/",
    "machine/",
    "wal/view.rs",
    "codec.rs",
    "api.rs",
    "pipeline.rs",
    "admission.rs",
    "client/in_flight.rs",
    "client/known.rs",
    "client/mux_protocol.rs",
    "client/scout_protocol.rs",
    "client/call_protocol.rs",
];

/// Longer files are listed with a reason, and the list may only shrink.
const LINES_MAX: usize = 600;
const LONG_FILES: &[(&str, &str)] = &[];

/// Longer functions likewise.
const FUNCTION_MAX: usize = 70;
const LONG_FUNCTIONS: &[(&str, &str)] = &[("wal/open.rs:resume", "one sequence of steps, each needs the one before")];

fn sources() -> BTreeMap<String, String> {
    fn walk(directory: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    let name = |path: &PathBuf| path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The code without its unit tests, which are exempt.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

fn module_of(name: &str) -> &str {
    name.split(['/', '.']).next().unwrap()
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/")
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn modules_import_only_modules_below_them() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let (allowed, name) = match name.strip_prefix(PROGRAM_PATH) {
            Some(inside) => (PROGRAM, inside),
            None => (MODULES, name.as_str()),
        };
        let here = module_of(name);
        if matches!(here, "lib" | "main") || is_test(name) {
            continue;
        }
        let Some((_, below)) = allowed.iter().find(|(module, _)| *module == here) else {
            wrong.push(format!("{name}: {here} is in no table of modules"));
            continue;
        };
        let code: Vec<&str> = without_tests(&text).lines().filter(|line| !is_comment(line)).collect();
        for used in modules_used(&code.join("\n")) {
            if used != here && !below.contains(&used.as_str()) {
                wrong.push(format!("{name} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The modules named after `crate::`, alone or in braces.
fn modules_used(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut used: BTreeSet<String> = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        used.insert(word(rest));
        let mut depth = 0;
        for (at, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && matches!(c, '{' | ',') {
                used.insert(word(&rest[at + 1..]));
            }
            if depth == 0 {
                break;
            }
        }
    }
    used.remove("");
    used
}

#[test]
fn imports_are_found_in_every_form() {
    let code = "use crate::{\n    api::{Reply, Request},\n    net, node,\n};\nuse crate::wal::{self, Fault};\nfn f() { crate::sim::run() }";
    assert!(modules_used(code).iter().eq(["api", "net", "node", "sim", "wal"]), "{:?}", modules_used(code));
}

#[test]
fn module_layers_have_no_cycle() {
    for table in [MODULES, PROGRAM] {
        let mut done: Vec<&str> = Vec::new();
        while done.len() < table.len() {
            let next =
                table.iter().find(|(name, below)| !done.contains(name) && below.iter().all(|b| done.contains(b)));
            let Some((name, _)) = next else { panic!("the imports of all modules but {done:?} have a cycle") };
            done.push(name);
        }
    }
}

#[test]
fn pure_modules_use_no_clock_thread_file_or_randomness() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if !PURE.iter().any(|pure| name.starts_with(pure)) || is_test(&name) {
            continue;
        }
        for line in without_tests(&text).lines().filter(|line| !is_comment(line)) {
            for word in IMPURE.iter().filter(|word| line.contains(*word)) {
                // `consensus` has a module of its own named `log`, which is not the `log` crate.
                if *word == "log::" && (line.contains("super::log::") || line.contains("consensus::log::")) {
                    continue;
                }
                wrong.push(format!("{name} uses {word}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_raft_core_names_the_role_modules() {
    for (name, text) in sources() {
        let may = matches!(
            name.as_str(),
            "consensus/raft.rs" | "consensus/role.rs" | "consensus/invariants.rs" | "consensus/mod.rs"
        );
        if name.starts_with("consensus/") && !may {
            for role in ["super::follower", "super::candidate", "super::leader"] {
                assert!(!text.contains(role), "{name} names {role}");
            }
        }
    }
}

#[test]
fn mod_files_define_nothing() {
    for (name, text) in sources() {
        if name != "lib.rs" && !name.ends_with("mod.rs") {
            continue;
        }
        for line in text.lines().filter(|line| !is_comment(line) && !line.trim().is_empty()) {
            let ok = ["pub mod ", "mod ", "pub use ", "pub(crate) mod ", "use ", "#[cfg", "}", "    ", "#!["];
            assert!(ok.iter().any(|start| line.starts_with(start)), "{name} defines something: {line}");
        }
    }
}

#[test]
fn files_have_module_docs_and_stay_short() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//! ") {
            wrong.push(format!("{name} does not begin with //!"));
        }
        let lines = text.lines().count();
        let listed = LONG_FILES.iter().any(|(long, _)| *long == name);
        if lines > LINES_MAX && !listed {
            wrong.push(format!("{name} has {lines} lines"));
        }
        if lines <= LINES_MAX && listed {
            wrong.push(format!("{name} is short enough now: remove it from LONG_FILES"));
        }
        for vague in ["util", "common", "helper", "manager", "misc"] {
            if name.contains(vague) {
                wrong.push(format!("{name} has a catch-all name"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_stay_short() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let words =
                code.trim_start_matches("pub ").trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ");
            let starts = words.starts_with("fn ") || words.starts_with("const fn ") || words.starts_with("unsafe fn ");
            if !starts || is_comment(line) {
                continue;
            }
            let indent = line.len() - code.len();
            let closes = |l: &&str| l.trim_end() == format!("{}}}", " ".repeat(indent));
            let Some(length) = lines[at..].iter().position(closes) else { continue };
            let function = words.split(['(', '<']).next().unwrap().rsplit(' ').next().unwrap();
            if length > FUNCTION_MAX && !LONG_FUNCTIONS.iter().any(|(long, _)| *long == format!("{name}:{function}")) {
                wrong.push(format!("{name}: {function} has {length} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn code_has_no_unfinished_markers() {
    for (name, text) in sources() {
        for word in ["todo!", "unimplemented!", "FIXME", "XXX", "dbg!"] {
            assert!(!text.contains(word), "{name} contains {word}");
        }
    }
}
