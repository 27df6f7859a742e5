//! The rules of the tree that a reader relies on and a compiler doesn't check: which module may
//! import which, how long a file may be, where `unsafe` may live, and what is built from what.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const MAX_LINES: usize = 450;

/// Plain data that everything may speak in, itself included.
const GROUND: &[&str] = &["error", "spec", "attachment"];

/// Top-level module, and what it may import besides itself and the ground. `main`, the crate root and `fuzzing`
/// see all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("spec", &[]),
    ("attachment", &[]),
    ("state", &[]),
    ("ipam", &["state", "record"]),
    // The plan is made from the checked configuration, which is plain data.
    ("net", &["cni::config"]),
    ("telemetry", &[]),
    // The journal keeps what the attaching said of itself.
    ("record", &["state", "telemetry::Attached"]),
    ("cni", &["state", "ipam", "net", "record", "telemetry"]),
    ("agent", &["record", "telemetry"]),
    ("cli", &["state", "ipam", "net", "record", "telemetry", "cni", "agent"]),
];

/// The fence: generated types, the calls that libbpf-rs doesn't wrap, and fork(2).
const MAY_BE_UNSAFE: [&str; 2] = ["src/telemetry/", "src/net/aside.rs"];

#[test]
fn imports_point_down() {
    let mut broken = Vec::new();
    for file in rust_files("src") {
        let Some(module) = module_of(&file) else { continue };
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            broken.push(format!("{}: module {module} has no line in MAY_IMPORT", file.display()));
            continue;
        };
        for path in crate_paths(&code(&file)) {
            let within = |module: &str| {
                path.strip_prefix(module)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            };
            if !within(&module) && !allowed.iter().chain(GROUND).any(|other| within(other)) {
                broken.push(format!("{}: must not import crate::{path}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_file_grows_beyond_one_idea() {
    let rust = ["src", "tests", "benches", "conformance", "examples"].map(rust_files);
    let long: Vec<String> = rust
        .into_iter()
        .flatten()
        .chain(files("bpf".as_ref(), &["c", "h"]))
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, file)| format!("{}: {lines} lines, at most {MAX_LINES}", file.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn unsafe_stays_behind_its_fence() {
    let outside: Vec<PathBuf> = rust_files("src")
        .into_iter()
        .filter(|file| !MAY_BE_UNSAFE.iter().any(|fenced| file.starts_with(fenced)))
        .filter(|file| code(file).contains("unsafe"))
        .collect();
    assert!(outside.is_empty(), "unsafe outside {MAY_BE_UNSAFE:?}: {outside:?}");
}

#[test]
fn the_page_in_the_tree_is_built_from_the_sources_beside_it() {
    let sums = "dist/SHA256SUMS";
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "--quiet", sums]).current_dir("web");
    let checked = check.output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}`make web` builds it anew");
    let sums = read("web/dist/SHA256SUMS".as_ref());
    let named: BTreeSet<&str> = sums.lines().filter_map(|line| line.get(66..)).collect();
    for dir in ["src", "dist"] {
        for entry in fs::read_dir(Path::new("web").join(dir)).unwrap() {
            let file = format!("{dir}/{}", entry.unwrap().file_name().to_str().unwrap());
            assert!(named.contains(&*file) || file == "dist/SHA256SUMS", "{file} has no sum");
        }
    }
}

#[test]
fn use_trees_are_written_out() {
    let found =
        crate_paths("use crate::{error::{Error, Kind}, net};\nlet x = crate::ipam::pool::f(1);");
    let want = ["error::Error", "error::Kind", "ipam::pool::f", "net"].map(String::from);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), want);
}

/// `src/net/plan.rs` and `src/net.rs` are of module `net`; the crate's roots are of none.
fn module_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix("src").unwrap().components().next().unwrap();
    let name = Path::new(&below).file_stem().unwrap().to_str().unwrap();
    (!["main", "lib", "fuzzing"].contains(&name)).then(|| name.to_owned())
}

/// Every `crate::a::b` of `code`, with the leaves of `crate::{a, b::{c, d}}` written out.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let flat: String = code.split_whitespace().collect();
    let mut paths = BTreeSet::new();
    for (at, root) in flat.match_indices("crate::") {
        expand(&flat[at + root.len()..], "", &mut paths);
    }
    paths
}

/// Adds the leaves of the use tree at the start of `rest`; returns how many bytes it took.
fn expand(rest: &str, prefix: &str, paths: &mut BTreeSet<String>) -> usize {
    if rest.starts_with('{') {
        let mut at = 1;
        while at < rest.len() && !rest[at..].starts_with('}') {
            at += expand(&rest[at..], prefix, paths).max(1);
        }
        return at + 1;
    }
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let name = format!("{prefix}{}", &rest[..word]);
    if word > 0 && rest[word..].starts_with("::") {
        return word + 2 + expand(&rest[word + 2..], &format!("{name}::"), paths);
    }
    if word > 0 {
        paths.insert(name);
    }
    word
}

/// A file's text without its comments.
fn code(file: &Path) -> String {
    read(file).lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

fn rust_files(dir: &str) -> Vec<PathBuf> {
    files(dir.as_ref(), &["rs"])
}

/// The files below `dir` with one of these endings; none where there is no such directory.
fn files(dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if path.extension().is_some_and(|e| endings.iter().any(|want| e == *want)) {
            found.push(path);
        }
    }
    found
}
