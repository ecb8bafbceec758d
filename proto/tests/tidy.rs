//! The house rules that the compiler does not know, read off the sources.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 800;

/// What a pure crate may not name.
const IMPURE: &[&str] = &["tokio", "std::net::Tcp", "std::net::Udp", "std::thread", "std::fs", "std::env"];

/// Assembled, so that this file does not hold them.
fn unfinished() -> Vec<String> {
    [("todo", "!("), ("unimplemented", "!("), ("FIX", "ME"), ("XX", "X:")].map(|(a, b)| format!("{a}{b}")).to_vec()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn each_source(mut look: impl FnMut(&Path, &str)) {
    let mut found = Vec::new();
    for part in ["proto", "edge", "origin", "supervisor", "loadtest"] {
        sources(&root().join(part), &mut found);
    }
    assert!(found.len() > 50, "the sources were not found");
    for path in found {
        look(&path, &fs::read_to_string(&path).unwrap());
    }
}

#[test]
fn files_are_short_and_finished() {
    let mut faults = Vec::new();
    let words = unfinished();
    each_source(|path, text| {
        if text.lines().count() > FILE_LINES_MAX {
            faults.push(format!("{}: more than {FILE_LINES_MAX} lines", path.display()));
        }
        for (i, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                faults.push(format!("{}:{}: {word}", path.display(), i + 1));
            }
        }
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn media_and_wire_do_no_io() {
    let mut faults = Vec::new();
    each_source(|path, text| {
        let pure = ["proto/media/src", "proto/wire/src"].iter().any(|dir| path.starts_with(root().join(dir)));
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code.filter(|_| pure) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                faults.push(format!("{}: names {word}", path.display()));
            }
        }
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `wire -> media`; `node -> media`, `proto` (access rules name streams); `edge`, `origin` -> all four; the supervisor's
/// library -> `proto`, `node`.
#[test]
fn imports_point_one_way() {
    let allowed: &[(&str, &[&str])] = &[
        ("proto/media", &[]),
        ("proto/wire", &["media"]),
        ("proto/src", &[]),
        ("proto/node", &["media", "proto"]),
        ("edge", &["media", "wire", "node", "proto"]),
        ("origin", &["media", "wire", "node", "proto"]),
    ];
    let all = ["media", "wire", "node", "proto", "edge", "origin", "supervisor"];
    let mut faults = Vec::new();
    each_source(|path, text| {
        for (dir, may) in allowed.iter().filter(|(dir, _)| path.starts_with(root().join(dir))) {
            for name in all.iter().filter(|name| !may.contains(name) && !dir.ends_with(**name)) {
                if text
                    .lines()
                    .any(|line| line.trim_start().starts_with("use ") && line.contains(&format!("weir_{name}::")))
                {
                    faults.push(format!("{}: weir_{name}", path.display()));
                }
            }
        }
        let library =
            path.starts_with(root().join("supervisor/src")) && !path.starts_with(root().join("supervisor/src/cli"));
        if library && (text.contains("weir_edge::") || text.contains("weir_origin::")) {
            faults.push(format!("{}: only the executable names the roles", path.display()));
        }
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
