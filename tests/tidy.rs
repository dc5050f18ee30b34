//! The shape of the source: layers point downward, files stay short, each library has its place.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first. A module may use those before it and itself.
const LAYERS: &[&str] = &[
    "ids",
    "permits",
    "descriptors",
    "seldom",
    "metrics",
    "verify",
    "buffers",
    "store",
    "wire",
    "transport",
    "holders",
    "transfer",
    "fs",
    "fuse",
    "config",
    "daemon",
    "control",
    "cli",
];

/// The longest a source file may be, in lines, its tests included.
const MAX_LINES: usize = 500;

/// Libraries that only some modules may use.
const PLACES: &[(&str, &[&str])] = &[
    ("clap", &["cli", "config"]),
    ("fuser", &["fuse"]),
    ("rustls", &["transport"]),
    ("tokio_rustls", &["transport"]),
    ("redb", &["store"]),
    ("anyhow", &["main", "cli", "config", "daemon"]),
    ("indicatif", &["cli"]),
    ("rayon", &["verify", "store"]),
];

struct Source {
    path: PathBuf,
    /// The top module it belongs to: `store`, `main`, ...
    module: String,
    /// The code without comment lines.
    code: String,
    lines: Vec<String>,
}

impl Source {
    fn new(path: PathBuf, module: &str, text: &str) -> Self {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        Self { path, module: module.to_owned(), code, lines: text.lines().map(str::to_owned).collect() }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut todo = vec![root.clone()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
                let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source::new(path, &module, &text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The names that follow `prefix`: `store` in `crate::store::Store`, and all those in braces.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        let items: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split(';').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        for item in items {
            names.insert(item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == module)
}

/// What `source` uses that lies above it.
fn upward(source: &Source) -> Vec<String> {
    let Some(own) = rank(&source.module) else { return Vec::new() };
    names_after(&source.code, "crate::").into_iter().filter(|name| rank(name).is_some_and(|used| used > own)).collect()
}

#[test]
fn imports_point_downward() {
    for source in sources("src") {
        let upward = upward(&source);
        assert!(upward.is_empty(), "{} uses {upward:?}, which lies above it", source.path.display());
    }
}

#[test]
fn an_upward_import_would_be_seen() {
    let upward = |text: &str| upward(&Source::new(PathBuf::new(), "store", text));
    assert_eq!(upward("use crate::transfer::Engine;"), ["transfer"]);
    assert_eq!(upward("use crate::{ids::PeerId,\n    fs};"), ["fs"]);
    assert_eq!(upward("let x = crate::fuse::mount();"), ["fuse"]);
    assert!(upward("// crate::fuse\nuse crate::verify::Proof;").is_empty());
}

#[test]
fn every_module_is_a_layer() {
    for source in sources("src") {
        let known = rank(&source.module).is_some() || ["lib", "main"].contains(&source.module.as_str());
        assert!(known, "{} belongs to no layer", source.path.display());
    }
}

#[test]
fn files_are_short() {
    for folder in ["src", "tests", "benches"] {
        for source in sources(folder) {
            let lines = source.lines.len();
            assert!(lines <= MAX_LINES, "{} has {lines} lines, above {MAX_LINES}", source.path.display());
        }
    }
}

#[test]
fn libraries_stay_in_their_places() {
    for source in sources("src") {
        for (library, places) in PLACES {
            let used = source.code.contains(&format!("{library}::"));
            let allowed = places.contains(&source.module.as_str());
            assert!(!used || allowed, "{} uses {library}, which belongs to {places:?}", source.path.display());
        }
    }
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    for source in sources("src") {
        for (number, line) in source.lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if ["unsafe {", "unsafe impl", "unsafe fn"].iter().any(|marker| code.contains(marker)) {
                let said = source.lines[number.saturating_sub(6)..=number].iter().any(|line| line.contains("SAFETY:"));
                assert!(said, "{}:{}: unsafe without a SAFETY line", source.path.display(), number + 1);
            }
        }
    }
}
