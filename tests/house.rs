//! Checks the layering of the crate against the code: allowed imports of each module, no circle of imports between its
//! files, forbidden words in pure modules, `mod.rs` files without definitions, and lengths of files and functions.

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
    ("snapshotting", &["types", "limits", "codec", "disk", "machine", "wal", "snapshot", "apply"]),
    ("node", &["types", "limits", "api", "consensus", "wal", "apply"]),
    ("pipeline", &["types", "limits", "api"]),
    ("admission", &["types", "limits", "consensus", "wire"]),
    ("gateway", &["types", "limits", "codec", "api", "machine", "pipeline", "wire"]),
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
            "gateway",
            "admission",
            "machine",
            "consensus",
            "secure",
        ],
    ),
    (
        "driver",
        &[
            "types",
            "consensus",
            "limits",
            "codec",
            "api",
            "net",
            "node",
            "apply",
            "machine",
            "wal",
            "snapshot",
            "snapshotting",
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
            "snapshotting",
        ],
    ),
    ("inspect", &["types", "limits", "codec", "api", "disk", "machine", "wal", "snapshot"]),
    ("config", &["types", "limits", "consensus", "wal", "node", "net", "driver", "gateway", "secure"]),
    (
        "server",
        &[
            "types",
            "limits",
            "api",
            "config",
            "client",
            "net",
            "driver",
            "gateway",
            "node",
            "secure",
            "wal",
            "apply",
            "disk",
            "machine",
            "consensus",
            "snapshot",
            "snapshotting",
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
    "api/",
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

/// Files that import one another, each circle with its reason. The list may only shrink.
const CIRCLES: &[(&[&str], &str)] = &[(
    &["consensus/leader.rs", "consensus/leader/transfer.rs"],
    "a role, and the part of it that transfers leadership",
)];

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

/// A path of an import, or the path of a file's module: its words in order.
type ModulePath = Vec<String>;

#[test]
fn files_of_a_module_have_no_import_circle() {
    let sources = sources();
    let (program, library): (Vec<_>, Vec<_>) = sources.iter().partition(|(name, _)| name.starts_with(PROGRAM_PATH));
    let mut found = circles(&imports_of_files(&library, ""));
    found.append(&mut circles(&imports_of_files(&program, PROGRAM_PATH)));
    let listed: BTreeSet<BTreeSet<&str>> = CIRCLES.iter().map(|(files, _)| files.iter().copied().collect()).collect();
    let mut wrong: Vec<String> =
        found.difference(&listed).map(|files| format!("these files import one another: {files:?}")).collect();
    let gone = listed.difference(&found);
    wrong.extend(gone.map(|files| format!("{files:?} are no circle any more: remove it from CIRCLES")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The files that each file imports by a path that begins with `crate`, `super` or `self`. A `mod.rs` defines nothing,
/// so that it neither imports nor is imported.
fn imports_of_files<'a>(files: &[(&'a String, &String)], prefix: &str) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let module = |name: &str| -> ModulePath {
        name[prefix.len()..].trim_end_matches(".rs").split('/').map(str::to_owned).collect()
    };
    let counts = |name: &str| !name.ends_with("mod.rs") && !is_test(name) && name != "lib.rs";
    let files = files.iter().filter(|(name, _)| counts(name));
    let modules: BTreeMap<ModulePath, &str> = files.clone().map(|(name, _)| (module(name), name.as_str())).collect();
    let mut imports = BTreeMap::new();
    for (name, text) in files {
        let code: Vec<&str> = without_tests(text).lines().filter(|line| !is_comment(line)).collect();
        let targets = import_paths(&code.join("\n")).into_iter().filter_map(|path| {
            let target = absolute(module(name), path);
            // The longest beginning of the path that names a file: the rest names an item in it.
            (1..=target.len()).rev().find_map(|length| modules.get(&target[..length]).copied())
        });
        imports.insert(name.as_str(), targets.filter(|target| target != name).collect());
    }
    imports
}

/// The path from the root of the crate, for a path in the module `here`.
fn absolute(mut here: ModulePath, path: ModulePath) -> ModulePath {
    for word in path {
        match word.as_str() {
            "crate" => here.clear(),
            "super" => drop(here.pop()),
            "self" => {}
            _ => here.push(word),
        }
    }
    here
}

/// All paths in the code that begin with `crate`, `super` or `self`, imported or inline.
fn import_paths(code: &str) -> Vec<ModulePath> {
    let mut paths = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            // `super::super::x` is one path, and `$crate::x` is in a macro.
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                read_path(&code[at..], ModulePath::new(), &mut paths);
            }
        }
    }
    paths
}

/// Reads one path, or the paths of a tree in braces, behind `path`. Returns the code behind it.
fn read_path<'a>(mut code: &'a str, mut path: ModulePath, paths: &mut Vec<ModulePath>) -> &'a str {
    loop {
        code = code.trim_start();
        if let Some(mut tree) = code.strip_prefix('{') {
            loop {
                tree = read_path(tree, path.clone(), paths).trim_start();
                let Some(next) = tree.strip_prefix(',') else { break };
                tree = next;
            }
            return tree.strip_prefix('}').unwrap_or(tree);
        }
        let length = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
        let (word, rest) = code.split_at(length);
        if word.is_empty() {
            // A glob names the module itself; nothing follows the last comma of a tree.
            let glob = code.strip_prefix('*');
            paths.extend(glob.map(|_| path));
            return glob.unwrap_or(code);
        }
        path.push(word.to_owned());
        match rest.strip_prefix("::").filter(|next| !next.starts_with('<')) {
            Some(next) => code = next,
            None => {
                paths.push(path);
                let renamed = rest.strip_prefix(" as ").map(|name| name.trim_start_matches(char::is_alphanumeric));
                return renamed.unwrap_or(rest);
            }
        }
    }
}

/// The largest sets of files of which each imports, directly or not, every other.
fn circles<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reached = |from: &str| {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = imports[from].iter().copied().collect();
        while let Some(file) = next.pop() {
            if reached.insert(file) {
                next.extend(&imports[file]);
            }
        }
        reached
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = imports.keys().map(|file| (*file, reached(file))).collect();
    let circle = |file: &&'a str| -> BTreeSet<&'a str> {
        imports.keys().copied().filter(|other| reached[file].contains(other) && reached[other].contains(file)).collect()
    };
    imports.keys().map(circle).filter(|files| !files.is_empty()).collect()
}

#[test]
fn import_paths_are_read_from_trees_and_inline_paths() {
    let code = "use super::{\n    a::{self, B as C},\n    d::*,\n};\nfn f() { crate::e::g::<u8>(); $crate::h() }";
    let mut paths: Vec<String> = import_paths(code).iter().map(|path| path.join("::")).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["crate::e::g", "super::a::B", "super::a::self", "super::d"]);
}

#[test]
fn circles_are_found_through_several_files() {
    let imports = BTreeMap::from([
        ("a", BTreeSet::from(["b"])),
        ("b", BTreeSet::from(["c", "d"])),
        ("c", BTreeSet::from(["a"])),
        ("d", BTreeSet::new()),
    ]);
    assert_eq!(circles(&imports), BTreeSet::from([BTreeSet::from(["a", "b", "c"])]));
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
            let ok = ["pub mod ", "mod ", "pub use ", "pub(crate) mod ", "use ", "#[cfg", "#[doc(", "}", "    ", "#!["];
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

/// Names that the field does not use, by module path: neither a type nor a file has one. Each stands for a name that a
/// reader would search for, such as `RequestVote` for `AskVote`.
const FORMER_NAMES: &[(&str, &[&str])] = &[
    ("", &["Asked", "Came", "Found", "Given", "Held", "Kept", "Said", "Told", "Was", "What", "Wish"]),
    ("consensus/", &["Append", "Appended", "Ask", "AskIndex", "AskVote", "Beat", "Chunk", "Chunked", "Conflict"]),
    ("consensus/", &["Handover", "Heard", "Inquiries", "Order", "Outdated", "StepUp", "Vote"]),
    ("types/", &["Base", "Prospect"]),
    ("node/", &["Beforehand", "Governing", "Keeping", "Shipping", "Ticking"]),
    ("snapshotting/", &["BringTogether", "Keeper", "Reviving", "Trouble"]),
    ("machine/", &["Seam", "Words"]),
    ("wal/", &["Believed", "Doubt", "Place", "Reserve", "Side", "Testimony"]),
    ("api/", &["Dangerous", "Forgotten", "Handed", "KeptLead", "Lapsed", "Outside", "Overrun", "Unsound"]),
    ("net/", &["About", "Asking", "Door", "Doorway", "Entrance", "Fate", "Guest", "Hearing", "Leavings", "Look"]),
    ("gateway/", &["About", "Asking", "Door", "Doorway", "Entrance", "Fate", "Guest", "Hearing", "Look", "Scene"]),
    ("gateway/", &["Setting", "Small", "Speech", "Talk", "Telling", "Turns", "Want"]),
    ("net/", &["Scene", "Setting", "Small", "Speech", "Talk", "Telling", "Turns", "Want"]),
    ("sim/", &["Trickle", "Troubles", "Weather", "Whim"]),
    ("bin/drave/", &["Ending", "Errands", "JournalTour", "Story", "Trouble"]),
];

/// Names that stood for several types each: at most one type has one.
const SINGLE_NAMES: &[&str] = &["Head", "Kind", "Pending", "Place", "Reading", "Session"];

/// The names of the types that a file defines at its top level.
fn types_of(text: &str) -> impl Iterator<Item = &str> {
    without_tests(text).lines().filter_map(|line| {
        let words = line.strip_prefix("pub ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
        let (kind, name) = words.split_once(' ')?;
        matches!(kind, "struct" | "enum" | "trait" | "type")
            .then(|| name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default())
    })
}

/// The name of a file as a type would be named: `log_start.rs` is `LogStart`.
fn file_as_type(name: &str) -> String {
    let stem = name.rsplit('/').next().unwrap().trim_end_matches(".rs");
    let upper = |part: &str| part[..1].to_uppercase() + &part[1..];
    stem.split('_').filter(|part| !part.is_empty()).map(upper).collect()
}

#[test]
fn names_are_those_of_the_field() {
    let mut wrong = Vec::new();
    let mut singles: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let sources = sources();
    for (name, text) in sources.iter().filter(|(name, _)| !is_test(name)) {
        let former = |word: &str| {
            let mut of_path = FORMER_NAMES.iter().filter(|(path, _)| name.starts_with(path));
            of_path.any(|(_, names)| names.contains(&word))
        };
        if former(&file_as_type(name)) {
            wrong.push(format!("{name} has a former name"));
        }
        for word in types_of(text) {
            if former(word) {
                wrong.push(format!("{name}: {word} is a former name"));
            }
            if let Some(single) = SINGLE_NAMES.iter().find(|single| **single == word) {
                singles.entry(single).or_default().push(name.clone());
            }
        }
    }
    let several = singles.into_iter().filter(|(_, files)| files.len() > 1);
    wrong.extend(several.map(|(word, files)| format!("{word} is several types: {}", files.join(", "))));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_of_types_and_files_are_found() {
    let text =
        "pub struct Told;\nenum Kept<T> {\n    Said,\n}\npub(super) type What = u8;\n    type Item = u8;\nfn f() {}\n";
    assert!(types_of(text).eq(["Told", "Kept", "What"]));
    assert_eq!(file_as_type("net/ask_vote.rs"), "AskVote");
}
