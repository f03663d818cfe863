//! Checks the layering of the crate against the code: allowed imports of each module, no cycle of imports between its
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
    ("scrub", &["types", "disk", "wal", "snapshot"]),
    ("node", &["types", "limits", "api", "consensus", "wal", "apply", "scrub"]),
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
            "scrub",
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
            "scrub",
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
            "scrub",
        ],
    ),
];

/// Allowed imports of the program's modules from one another. All of them may use the library, which cannot use them.
const PROGRAM_MODULES: &[(&str, &[&str])] = &[
    ("output", &[]),
    ("remote", &[]),
    ("tui", &["remote"]),
    ("loadgen", &["remote", "output"]),
    ("cli", &["remote", "tui", "loadgen", "output"]),
];

/// The path of the program's modules within `src`.
const PROGRAM_PATH: &str = "bin/drave/";

/// Forbidden words in pure modules: time is an argument, randomness a seed, and network input plain data.
const IMPURE_NAMES: &[&str] = &[
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
const PURE_PATHS: &[&str] = &[
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
    "client/leader_query_protocol.rs",
    "client/call_protocol.rs",
];

/// Maximum length of a file in lines. Longer files are listed below with a reason, and the list may only shrink.
const FILE_LINES_MAX: usize = 600;
const LONG_FILES: &[(&str, &str)] = &[];

/// Maximum length of a function in lines. Longer functions are listed below with a reason.
const FUNCTION_LINES_MAX: usize = 70;
const LONG_FUNCTIONS: &[(&str, &str)] = &[("wal/open.rs:resume", "one sequence of steps, each needs the one before")];

/// Files that import one another, each cycle with its reason. The list may only shrink.
const ALLOWED_CYCLES: &[(&[&str], &str)] = &[(
    &["consensus/leader.rs", "consensus/leader/transfer.rs"],
    "a role, and the part of it that transfers leadership",
)];

fn read_sources() -> BTreeMap<String, String> {
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
    let relative_path = |path: &PathBuf| path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (relative_path(path), std::fs::read_to_string(path).unwrap())).collect()
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
    let mut violations = Vec::new();
    for (name, text) in read_sources() {
        let (allowed, name) = match name.strip_prefix(PROGRAM_PATH) {
            Some(inside) => (PROGRAM_MODULES, inside),
            None => (MODULES, name.as_str()),
        };
        let own_module = module_of(name);
        if matches!(own_module, "lib" | "main") || is_test(name) {
            continue;
        }
        let Some((_, below)) = allowed.iter().find(|(module, _)| *module == own_module) else {
            violations.push(format!("{name}: module {own_module} is not listed in MODULES or PROGRAM_MODULES"));
            continue;
        };
        let code: Vec<&str> = without_tests(&text).lines().filter(|line| !is_comment(line)).collect();
        for imported in imported_modules(&code.join("\n")) {
            if imported != own_module && !below.contains(&imported.as_str()) {
                violations.push(format!("{name} imports {imported}, which is not allowed"));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// The modules named after `crate::`, alone or in braces.
fn imported_modules(code: &str) -> BTreeSet<String> {
    let identifier = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut modules: BTreeSet<String> = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        modules.insert(identifier(rest));
        let mut depth = 0;
        for (offset, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && matches!(c, '{' | ',') {
                modules.insert(identifier(&rest[offset + 1..]));
            }
            if depth == 0 {
                break;
            }
        }
    }
    modules.remove("");
    modules
}

#[test]
fn imports_are_found_in_every_form() {
    let code = "use crate::{\n    api::{Reply, Request},\n    net, node,\n};\nuse crate::wal::{self, Fault};\nfn f() { crate::sim::run() }";
    assert!(imported_modules(code).iter().eq(["api", "net", "node", "sim", "wal"]), "{:?}", imported_modules(code));
}

#[test]
fn module_layers_have_no_cycle() {
    for table in [MODULES, PROGRAM_MODULES] {
        let mut ordered: Vec<&str> = Vec::new();
        while ordered.len() < table.len() {
            let next =
                table.iter().find(|(name, below)| !ordered.contains(name) && below.iter().all(|b| ordered.contains(b)));
            let Some((name, _)) = next else { panic!("the imports of all modules but {ordered:?} have a cycle") };
            ordered.push(name);
        }
    }
}

/// A path of an import, or the path of a file's module: its words in order.
type ModulePath = Vec<String>;

#[test]
fn files_of_a_module_have_no_import_cycle() {
    let sources = read_sources();
    let (program, library): (Vec<_>, Vec<_>) = sources.iter().partition(|(name, _)| name.starts_with(PROGRAM_PATH));
    let mut found_cycles = import_cycles(&imports_of_files(&library, ""));
    found_cycles.append(&mut import_cycles(&imports_of_files(&program, PROGRAM_PATH)));
    let listed_cycles: BTreeSet<BTreeSet<&str>> =
        ALLOWED_CYCLES.iter().map(|(files, _)| files.iter().copied().collect()).collect();
    let mut violations: Vec<String> = found_cycles
        .difference(&listed_cycles)
        .map(|files| format!("these files import one another: {files:?}"))
        .collect();
    let stale = listed_cycles.difference(&found_cycles);
    violations.extend(stale.map(|files| format!("{files:?} have no cycle now: remove it from ALLOWED_CYCLES")));
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// The files that each file imports by a path that begins with `crate`, `super` or `self`. A `mod.rs` defines nothing,
/// so that it neither imports nor is imported.
fn imports_of_files<'a>(files: &[(&'a String, &String)], prefix: &str) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let module = |name: &str| -> ModulePath {
        name[prefix.len()..].trim_end_matches(".rs").split('/').map(str::to_owned).collect()
    };
    let is_counted = |name: &str| !name.ends_with("mod.rs") && !is_test(name) && name != "lib.rs";
    let files = files.iter().filter(|(name, _)| is_counted(name));
    let modules: BTreeMap<ModulePath, &str> = files.clone().map(|(name, _)| (module(name), name.as_str())).collect();
    let mut imports = BTreeMap::new();
    for (name, text) in files {
        let code: Vec<&str> = without_tests(text).lines().filter(|line| !is_comment(line)).collect();
        let targets = import_paths(&code.join("\n")).into_iter().filter_map(|path| {
            let target = absolute_path(module(name), path);
            // The longest beginning of the path that names a file is that file; the rest names an item in it.
            (1..=target.len()).rev().find_map(|length| modules.get(&target[..length]).copied())
        });
        imports.insert(name.as_str(), targets.filter(|target| target != name).collect());
    }
    imports
}

/// Resolves a path that occurs in the module `base` to a path from the root of the crate.
fn absolute_path(mut base: ModulePath, path: ModulePath) -> ModulePath {
    for word in path {
        match word.as_str() {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            "self" => {}
            _ => base.push(word),
        }
    }
    base
}

/// All paths in the code that begin with `crate`, `super` or `self`, imported or inline.
fn import_paths(code: &str) -> Vec<ModulePath> {
    let mut paths = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (offset, _) in code.match_indices(root) {
            // `super::super::x` is one path, not two, and `$crate::x` in a macro is skipped.
            let preceding_char = code[..offset].chars().next_back();
            if !preceding_char.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                read_path(&code[offset..], ModulePath::new(), &mut paths);
            }
        }
    }
    paths
}

/// Reads one path, or the paths of a tree in braces, which continue `path`. Returns the rest of the code.
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
        let word_length = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
        let (word, rest) = code.split_at(word_length);
        if word.is_empty() {
            // In a tree of `use`, `a::*` counts as an import of `a`; nothing is imported after a trailing comma.
            let glob = code.strip_prefix('*');
            paths.extend(glob.map(|_| path));
            return glob.unwrap_or(code);
        }
        path.push(word.to_owned());
        match rest.strip_prefix("::").filter(|next| !next.starts_with('<')) {
            Some(next) => code = next,
            None => {
                paths.push(path);
                let after_alias = rest.strip_prefix(" as ").map(|name| name.trim_start_matches(char::is_alphanumeric));
                return after_alias.unwrap_or(rest);
            }
        }
    }
}

/// The largest sets of files of which each imports, directly or not, every other.
fn import_cycles<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reachable_from = |from: &str| {
        let mut reachable: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = imports[from].iter().copied().collect();
        while let Some(file) = next.pop() {
            if reachable.insert(file) {
                next.extend(&imports[file]);
            }
        }
        reachable
    };
    let reachable: BTreeMap<&str, BTreeSet<&str>> = imports.keys().map(|file| (*file, reachable_from(file))).collect();
    let cycle_of = |file: &&'a str| -> BTreeSet<&'a str> {
        imports
            .keys()
            .copied()
            .filter(|other| reachable[file].contains(other) && reachable[other].contains(file))
            .collect()
    };
    imports.keys().map(cycle_of).filter(|files| !files.is_empty()).collect()
}

#[test]
fn import_paths_are_read_from_trees_and_inline_paths() {
    let code = "use super::{\n    a::{self, B as C},\n    d::*,\n};\nfn f() { crate::e::g::<u8>(); $crate::h() }";
    let mut paths: Vec<String> = import_paths(code).iter().map(|path| path.join("::")).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["crate::e::g", "super::a::B", "super::a::self", "super::d"]);
}

#[test]
fn cycles_are_found_through_several_files() {
    let imports = BTreeMap::from([
        ("a", BTreeSet::from(["b"])),
        ("b", BTreeSet::from(["c", "d"])),
        ("c", BTreeSet::from(["a"])),
        ("d", BTreeSet::new()),
    ]);
    assert_eq!(import_cycles(&imports), BTreeSet::from([BTreeSet::from(["a", "b", "c"])]));
}

#[test]
fn pure_modules_use_no_clock_thread_file_or_randomness() {
    let mut violations = Vec::new();
    for (name, text) in read_sources() {
        if !PURE_PATHS.iter().any(|pure| name.starts_with(pure)) || is_test(&name) {
            continue;
        }
        for line in without_tests(&text).lines().filter(|line| !is_comment(line)) {
            for word in IMPURE_NAMES.iter().filter(|word| line.contains(*word)) {
                // `consensus` has a module of its own named `log`, which is not the `log` crate.
                if *word == "log::" && (line.contains("super::log::") || line.contains("consensus::log::")) {
                    continue;
                }
                violations.push(format!("{name} is pure, but uses {word}: {}", line.trim()));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn only_raft_core_names_the_role_modules() {
    for (name, text) in read_sources() {
        let may_name_roles = matches!(
            name.as_str(),
            "consensus/raft.rs" | "consensus/role.rs" | "consensus/invariants.rs" | "consensus/mod.rs"
        );
        if name.starts_with("consensus/") && !may_name_roles {
            for role in ["super::follower", "super::candidate", "super::leader"] {
                assert!(!text.contains(role), "{name} must not name the role module {role}");
            }
        }
    }
}

#[test]
fn mod_files_define_nothing() {
    for (name, text) in read_sources() {
        if name != "lib.rs" && !name.ends_with("mod.rs") {
            continue;
        }
        for line in text.lines().filter(|line| !is_comment(line) && !line.trim().is_empty()) {
            let allowed =
                ["pub mod ", "mod ", "pub use ", "pub(crate) mod ", "use ", "#[cfg", "#[doc(", "}", "    ", "#!["];
            assert!(allowed.iter().any(|start| line.starts_with(start)), "{name} may define nothing, but has: {line}");
        }
    }
}

#[test]
fn files_have_module_docs_and_stay_short() {
    let mut violations = Vec::new();
    for (name, text) in read_sources() {
        if !text.starts_with("//! ") {
            violations.push(format!("{name} does not begin with //!"));
        }
        let lines = text.lines().count();
        let is_listed = LONG_FILES.iter().any(|(long, _)| *long == name);
        if lines > FILE_LINES_MAX && !is_listed {
            violations.push(format!("{name} has {lines} lines, more than FILE_LINES_MAX"));
        }
        if lines <= FILE_LINES_MAX && is_listed {
            violations.push(format!("{name} is short enough now: remove it from LONG_FILES"));
        }
        for catch_all in ["util", "common", "helper", "manager", "misc"] {
            if name.contains(catch_all) {
                violations.push(format!("{name} has a name that says nothing: {catch_all}"));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn functions_stay_short() {
    let mut violations = Vec::new();
    for (name, text) in read_sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (line_index, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let signature =
                code.trim_start_matches("pub ").trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ");
            let is_function = signature.starts_with("fn ")
                || signature.starts_with("const fn ")
                || signature.starts_with("unsafe fn ");
            if !is_function || is_comment(line) {
                continue;
            }
            let indent = line.len() - code.len();
            let is_end = |l: &&str| l.trim_end() == format!("{}}}", " ".repeat(indent));
            let Some(length) = lines[line_index..].iter().position(is_end) else { continue };
            let function = signature.split(['(', '<']).next().unwrap().rsplit(' ').next().unwrap();
            if length > FUNCTION_LINES_MAX
                && !LONG_FUNCTIONS.iter().any(|(long, _)| *long == format!("{name}:{function}"))
            {
                violations.push(format!("{name}: {function} has {length} lines, more than allowed"));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn code_has_no_unfinished_markers() {
    for (name, text) in read_sources() {
        for word in ["todo!", "unimplemented!", "FIXME", "XXX", "dbg!"] {
            assert!(!text.contains(word), "{name} contains the marker {word}");
        }
    }
}

/// Former names, by module path, which no type or file may have: Raft and database literature does not use them. A
/// reader would search for `RequestVote`, for example, and not for `AskVote`.
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

/// Names that several types once had: at most one type may have each.
const UNIQUE_TYPE_NAMES: &[&str] = &["Head", "Kind", "Pending", "Place", "Reading", "Session"];

/// The names of the types that a file defines at its top level.
fn type_names(text: &str) -> impl Iterator<Item = &str> {
    without_tests(text).lines().filter_map(|line| {
        let declaration = line.strip_prefix("pub ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
        let (kind, name) = declaration.split_once(' ')?;
        matches!(kind, "struct" | "enum" | "trait" | "type")
            .then(|| name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default())
    })
}

/// The name of a file as a type would be named: `log_start.rs` is `LogStart`.
fn file_as_type(name: &str) -> String {
    let stem = name.rsplit('/').next().unwrap().trim_end_matches(".rs");
    let capitalize = |part: &str| part[..1].to_uppercase() + &part[1..];
    stem.split('_').filter(|part| !part.is_empty()).map(capitalize).collect()
}

#[test]
fn types_and_files_have_no_former_names() {
    let mut violations = Vec::new();
    let mut files_by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let sources = read_sources();
    for (name, text) in sources.iter().filter(|(name, _)| !is_test(name)) {
        let is_former = |word: &str| {
            let mut names_of_path = FORMER_NAMES.iter().filter(|(path, _)| name.starts_with(path));
            names_of_path.any(|(_, names)| names.contains(&word))
        };
        if is_former(&file_as_type(name)) {
            violations.push(format!("{name} is named by a former name"));
        }
        for word in type_names(text) {
            if is_former(word) {
                violations.push(format!("{name}: the type {word} has a former name"));
            }
            if let Some(single) = UNIQUE_TYPE_NAMES.iter().find(|single| **single == word) {
                files_by_name.entry(single).or_default().push(name.clone());
            }
        }
    }
    let ambiguous = files_by_name.into_iter().filter(|(_, files)| files.len() > 1);
    violations.extend(ambiguous.map(|(word, files)| format!("{word} names several types: {}", files.join(", "))));
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn names_of_types_and_files_are_found() {
    let text =
        "pub struct Told;\nenum Kept<T> {\n    Said,\n}\npub(super) type What = u8;\n    type Item = u8;\nfn f() {}\n";
    assert!(type_names(text).eq(["Told", "Kept", "What"]));
    assert_eq!(file_as_type("net/ask_vote.rs"), "AskVote");
}
