//! The rules of the layout, kept by a test: which room may use which, where unsafe code may stand,
//! what lies at the top, how long a file may grow.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rooms, by tier. A room may use every room of a later tier, and never one of its own; the last
/// tier stands below all of them and uses nothing.
const TIERS: [&[&str]; 5] = [
    &["cli"],
    &["image", "container", "reclaim", "union", "bench"],
    &["archive", "store", "db"],
    &["sys"],
    &["model"],
];

/// What one room must not use though the tiers would allow it, and why.
const FORBIDDEN: [(&str, &str, &str); 2] = [
    ("union", "db", "it is given open directories"),
    (
        "sys",
        "model",
        "it wraps system calls and knows nothing of images",
    ),
];

const MAX_LINES: usize = 700;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file: its path from the top, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The room that it is part of; `None` for the crate's own two files.
    fn room(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src").ok()?;
        let first = below.iter().next()?.to_str()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(room, "lib" | "main")).then_some(room)
    }

    /// How many modules it is below the crate's root.
    fn depth(&self) -> usize {
        let below = self.path.strip_prefix("src").unwrap_or(&self.path);
        let is_named =
            |part: &OsStr| !matches!(part.to_str(), Some("mod.rs" | "lib.rs" | "main.rs"));
        below.iter().filter(|part| is_named(part)).count()
    }

    /// The text with comments and the contents of literals blanked out, lines kept.
    fn code(&self) -> String {
        blank(&self.text)
    }
}

/// The source files below a directory of the top, which must have some.
fn sources(dir: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![top().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(top()).unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty(), "no source files in {dir}");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Blanks comments, strings and character literals of Rust code.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let keep_lines = |out: &mut String, part: &[u8]| {
        out.extend(part.iter().map(|b| if *b == b'\n' { '\n' } else { ' ' }));
    };
    while i < bytes.len() {
        let rest = &bytes[i..];
        let raw_prefix = [&b"br"[..], b"r"].iter().find_map(|prefix| {
            let hashes = rest.strip_prefix(*prefix)?;
            let count = hashes.iter().take_while(|b| **b == b'#').count();
            let word_before =
                i > 0 && (bytes[i - 1].is_ascii_alphanumeric() || bytes[i - 1] == b'_');
            (hashes.get(count) == Some(&b'"') && !word_before).then_some((prefix.len(), count))
        });
        let len = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            let mut depth = 0;
            let mut at = 0;
            loop {
                match rest.get(at..at + 2) {
                    Some(b"/*") => (depth, at) = (depth + 1, at + 2),
                    Some(b"*/") => (depth, at) = (depth - 1, at + 2),
                    Some(_) => at += 1,
                    None => break rest.len(),
                }
                if depth == 0 {
                    break at;
                }
            }
        } else if let Some((prefix, hashes)) = raw_prefix {
            let end = [b"\"".to_vec(), vec![b'#'; hashes]].concat();
            let start = prefix + hashes + 1;
            rest[start..]
                .windows(end.len())
                .position(|w| w == end)
                .map_or(rest.len(), |at| start + at + end.len())
        } else if rest[0] == b'"' {
            let mut at = 1;
            while at < rest.len() && rest[at] != b'"' {
                at += if rest[at] == b'\\' { 2 } else { 1 };
            }
            (at + 1).min(rest.len())
        } else if rest[0] == b'\'' {
            match text[i + 1..].chars().next() {
                Some('\\') => {
                    let end = rest[3..].iter().position(|b| *b == b'\'');
                    end.map_or(1, |at| at + 4)
                }
                // 'x' is a character; 'x without the second quote is a lifetime.
                Some(c) if rest.get(1 + c.len_utf8()) == Some(&b'\'') => c.len_utf8() + 2,
                _ => 1,
            }
        } else {
            0
        };
        match len {
            0 => {
                let c = text[i..].chars().next().unwrap();
                out.push(c);
                i += c.len_utf8();
            }
            len => {
                keep_lines(&mut out, &rest[..len]);
                i += len;
            }
        }
    }
    out
}

/// The rooms that paths from `crate`, `layerctl`, `self` and `super` lead to, in `use` trees and
/// inline. The code is that of a module so many levels below the crate's root.
fn rooms_used(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["crate", "layerctl", "self", "super"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].trim_end();
            let is_start = !code[..at].ends_with(is_of_word) && !before.ends_with("::");
            if is_start {
                leads_to(&code[at..], depth + inline_modules(&code[..at]), &mut found);
            }
        }
    }
    found
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How many modules written in the file itself are open at the end of `code`.
fn inline_modules(code: &str) -> usize {
    let mut open = Vec::new();
    for (at, c) in code.char_indices() {
        match c {
            '{' => {
                let before = code[..at].trim_end().trim_end_matches(is_of_word);
                open.push(ends_with_word(before.trim_end(), "mod"));
            }
            '}' => {
                open.pop();
            }
            _ => {}
        }
    }
    open.into_iter().filter(|is_module| *is_module).count()
}

fn ends_with_word(code: &str, word: &str) -> bool {
    code.strip_suffix(word)
        .is_some_and(|before| !before.ends_with(is_of_word))
}

/// The first segments below the crate's root of a path, or of a `{…}` tree of paths, that begins in
/// a module `depth` levels below it.
fn leads_to(path: &str, depth: usize, found: &mut BTreeSet<String>) {
    let path = path.trim_start();
    let Some(tree) = path.strip_prefix('{') else {
        let end = path.find(|c| !is_of_word(c)).unwrap_or(path.len());
        let (word, rest) = path.split_at(end);
        let depth = match word {
            "crate" | "layerctl" => 0,
            "super" => depth.saturating_sub(1),
            "self" => depth,
            _ if depth == 0 => {
                found.insert(word.to_owned());
                return;
            }
            // Further down in the same room.
            _ => return,
        };
        if let Some(rest) = rest.trim_start().strip_prefix("::") {
            leads_to(rest, depth, found);
        }
        return;
    };
    let (mut braces, mut start) = (0, 0);
    for (at, c) in tree.char_indices() {
        match c {
            '{' => braces += 1,
            ',' if braces == 0 => {
                leads_to(&tree[start..at], depth, found);
                start = at + 1;
            }
            '}' if braces == 0 => return leads_to(&tree[start..at], depth, found),
            '}' => braces -= 1,
            _ => {}
        }
    }
}

fn tier(room: &str) -> Option<usize> {
    TIERS.iter().position(|rooms| rooms.contains(&room))
}

/// Why `from` must not use `to`, if it must not.
fn objection(from: &str, to: &str) -> Option<String> {
    let (from_tier, to_tier) = (tier(from)?, tier(to)?);
    if from == to {
        return None;
    }
    if to_tier <= from_tier {
        return Some(format!("`{from}` must not use `{to}`: data flows one way"));
    }
    FORBIDDEN
        .iter()
        .find(|(a, b, _)| (*a, *b) == (from, to))
        .map(|(_, _, why)| format!("`{from}` must not use `{to}`: {why}"))
}

/// Whether `word` stands in `code` as a word of its own.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_of_word) && !code[at + word.len()..].starts_with(is_of_word)
    })
}

#[track_caller]
fn none(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn rooms_use_only_rooms_below() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let Some(from) = source.room() else {
            continue;
        };
        let path = source.path.display();
        if tier(from).is_none() {
            broken.push(format!("{path}: `{from}` is no room of the plan"));
        }
        for to in rooms_used(&source.code(), source.depth()) {
            if let Some(why) = objection(from, &to) {
                broken.push(format!("{path}: {why}"));
            }
        }
    }
    none(broken);
}

#[test]
fn the_direction_is_judged_as_said() {
    for (from, to) in [
        ("cli", "db"),
        ("image", "archive"),
        ("reclaim", "store"),
        ("union", "sys"),
        ("db", "model"),
        ("store", "store"),
    ] {
        assert_eq!(objection(from, to), None, "{from} may use {to}");
    }
    for (from, to) in [
        ("db", "image"),
        ("sys", "store"),
        ("image", "reclaim"),
        ("store", "db"),
        ("model", "sys"),
        ("union", "db"),
        ("sys", "model"),
    ] {
        assert!(objection(from, to).is_some(), "{from} must not use {to}");
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let code = blank(
        "use crate::db::Store;\n\
         use crate::{model::{Digest, name}, sys as s, store};\n\
         // crate::comment::x\n\
         fn f<'a>(x: &'a str) { let c = '\"'; crate::image::load(\"crate::string::x\") }\n\
         pub(crate) mod z; my_crate::other::y(); r#\"crate::raw::x\"#; crate :: spaced::x;",
    );
    let rooms: Vec<String> = rooms_used(&code, 2).into_iter().collect();
    assert_eq!(rooms, ["db", "image", "model", "spaced", "store", "sys"]);
}

#[test]
fn paths_are_followed_upwards() {
    let used = |path: &str, code: &str| {
        let source = Source {
            path: path.into(),
            text: code.to_owned(),
        };
        let rooms = rooms_used(&source.code(), source.depth());
        rooms.into_iter().collect::<Vec<_>>().join(" ")
    };
    for (path, code, rooms) in [
        ("src/union/fs.rs", "use super::super::db::Db;", "db"),
        (
            "src/union/fs.rs",
            "use super::{attr, super::{db, sys as s}};",
            "db sys",
        ),
        (
            "src/union/fs.rs",
            "fn f() { self::super :: super::db::f() }",
            "db",
        ),
        (
            "src/union/fs.rs",
            "use super::db::Db; use self::image::x;",
            "",
        ),
        ("src/union/mod.rs", "use super::db::Db;", "db"),
        ("src/union.rs", "use super::db::Db;", "db"),
        ("src/union/a/b.rs", "use super::super::db; mod m {}", ""),
        ("src/db/s.rs", "mod tests { use super::super::image; }", ""),
        (
            "src/db/s.rs",
            "mod tests { use super::super::super::image; }",
            "image",
        ),
        (
            "src/db/s.rs",
            "mod m { fn f() {} } use super::super::image;",
            "image",
        ),
        (
            "src/db/s.rs",
            "impl X for super::super::image::Y {}",
            "image",
        ),
    ] {
        assert_eq!(used(path, code), rooms, "{code} in {path}");
    }
}

#[test]
fn unsafe_code_stands_in_sys_alone() {
    let broken = sources("src")
        .iter()
        .filter(|source| source.room() != Some("sys") && has_word(&source.code(), "unsafe"))
        .map(|source| format!("{}: unsafe outside src/sys", source.path.display()))
        .collect();
    none(broken);
}

#[test]
fn fuser_is_named_in_the_adapter_alone() {
    let allowed = ["src/union/fuse_adapter", "src/union/session.rs"];
    let broken = sources("src")
        .iter()
        .filter(|source| !allowed.iter().any(|a| source.path.starts_with(a)))
        .filter(|source| has_word(&source.code(), "fuser"))
        .map(|source| format!("{}: fuser outside the adapter", source.path.display()))
        .collect();
    none(broken);
}

#[test]
fn nothing_is_left_to_do() {
    let mut broken = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        for name in ["todo", "unimplemented", "dbg"] {
            if source.code().contains(&format!("{name}!")) {
                broken.push(format!("{}: {name}!", source.path.display()));
            }
        }
    }
    none(broken);
}

/// The README names the test of each thing that it promises.
#[test]
fn the_readme_names_tests_that_exist() {
    let readme = fs::read_to_string(top().join("README.md")).unwrap();
    let mut named = 0;
    let mut broken = Vec::new();
    for word in readme.split('`').skip(1).step_by(2) {
        let Some((topic, name)) = word.split_once("::") else {
            continue;
        };
        if name.is_empty() {
            continue;
        }
        named += 1;
        let text = fs::read_to_string(top().join(format!("tests/suite/{topic}.rs")));
        if !text.unwrap_or_default().contains(&format!("fn {name}(")) {
            broken.push(format!("README.md: there is no test {word}"));
        }
    }
    assert!(named > 20, "only {named} tests are named");
    none(broken);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut broken = Vec::new();
    let dirs = ["src", "tests", "benches"];
    for dir in dirs.into_iter().filter(|dir| top().join(dir).exists()) {
        for source in sources(dir) {
            let path = source.path.display();
            let lines = source.text.lines().count();
            if lines > MAX_LINES {
                broken.push(format!("{path}: {lines} lines, more than {MAX_LINES}"));
            }
            if !source.text.starts_with("//!") {
                broken.push(format!("{path}: does not begin with a //! doc"));
            }
        }
    }
    none(broken);
}

/// What git tracks there, for anybody may leave a file of their own beside it; all where there is no
/// git.
fn names_at_the_top() -> BTreeSet<String> {
    let git = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(top())
        .output();
    let tracked = git
        .ok()
        .filter(|run| run.status.success() && !run.stdout.is_empty());
    match tracked {
        Some(run) => String::from_utf8(run.stdout)
            .unwrap()
            .split_terminator('\0')
            .map(|path| path.split('/').next().unwrap().to_owned())
            .collect(),
        None => fs::read_dir(top())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect(),
    }
}

#[test]
fn the_top_holds_what_the_plan_says() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "src",
        "tools",
        "tests",
        "benches",
        "target",
    ];
    let broken = names_at_the_top()
        .into_iter()
        .filter(|name| !name.starts_with('.') && !allowed.contains(&name.as_str()))
        .map(|name| format!("{name}: not part of the plan"))
        .collect();
    none(broken);
}
