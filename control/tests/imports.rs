//! The arrows between modules. In no crate do modules of different folders import each other, be it
//! by a detour; between crates cargo sees to that. Tests may import what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Segments of a module's path from the crate's root.
type Module = Vec<String>;

/// A crate's files by their path below `src`, with their text.
type Files = BTreeMap<String, String>;

/// What the code of a file names: paths, and the modules that it declares for tests alone.
#[derive(Default)]
struct Names {
    paths: BTreeSet<Vec<String>>,
    tests: BTreeSet<String>,
}

impl Names {
    fn of(text: &str) -> Self {
        let mut names = Self::default();
        names.read(text.parse().expect("Rust"), &[]);
        names
    }

    /// Reads code, or in a `use` the braces behind `prefix`.
    fn read(&mut self, code: TokenStream, prefix: &[String]) {
        let tokens: Vec<TokenTree> = code.into_iter().collect();
        let mut rest = &tokens[..];
        while let Some((first, mut behind)) = rest.split_first() {
            match first {
                TokenTree::Punct(hash) if hash.as_char() == '#' && is_test(behind) => {
                    behind = self.pass_over(&behind[1..]);
                }
                TokenTree::Group(group) => self.read(group.stream(), &[]),
                TokenTree::Ident(ident) if !prefix.is_empty() || is_followed(behind) => {
                    let mut path = prefix.to_vec();
                    path.push(ident.to_string());
                    while let Some((next, after)) = segment(behind) {
                        behind = after;
                        match next {
                            TokenTree::Group(group) => self.read(group.stream(), &path),
                            next => path.push(next.to_string()),
                        }
                    }
                    self.paths.insert(path);
                }
                _ => {}
            }
            rest = behind;
        }
    }

    /// Leaves out an item that is for tests.
    fn pass_over<'t>(&mut self, mut tokens: &'t [TokenTree]) -> &'t [TokenTree] {
        while let Some((first, rest)) = tokens.split_first() {
            match first {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return rest,
                TokenTree::Punct(end) if end.as_char() == ';' => return rest,
                TokenTree::Ident(word) if word == "mod" => {
                    self.tests.extend(rest.first().map(ToString::to_string));
                }
                _ => {}
            }
            tokens = rest;
        }
        tokens
    }
}

/// Is it the attribute of an item for tests?
fn is_test(tokens: &[TokenTree]) -> bool {
    let text = tokens.first().map(ToString::to_string).unwrap_or_default().replace(' ', "");
    text.starts_with("[cfg(test") || text.starts_with("[cfg(all(test")
}

/// Does `::` come next?
fn is_followed(tokens: &[TokenTree]) -> bool {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ':');
    matches!(tokens, [one, two, ..] if is_colon(one) && is_colon(two))
}

/// What follows `::`, a name or braces, and the rest.
fn segment(tokens: &[TokenTree]) -> Option<(&TokenTree, &[TokenTree])> {
    let [_, _, next, rest @ ..] = tokens else { return None };
    let goes_on = match next {
        TokenTree::Ident(_) => true,
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    (is_followed(tokens) && goes_on).then_some((next, rest))
}

/// The module of a file.
fn module(file: &str) -> Module {
    let mut path: Module = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    path.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    path
}

/// The folder of a file.
fn folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Arrows from a file to one of another folder that leads back to it.
fn circles(files: &Files) -> Vec<String> {
    let names: BTreeMap<&str, Names> =
        files.iter().map(|(file, text)| (file.as_str(), Names::of(text))).collect();
    let tests: BTreeSet<Module> = names
        .iter()
        .flat_map(|(file, names)| {
            names.tests.iter().map(|test| [module(file), vec![test.clone()]].concat())
        })
        .collect();
    let is_test = |file: &str| tests.iter().any(|test| module(file).starts_with(test));
    let code: BTreeMap<Module, &str> =
        files.keys().filter(|file| !is_test(file)).map(|file| (module(file), &**file)).collect();
    let arrows: BTreeMap<&str, BTreeSet<&str>> =
        code.iter().map(|(of, file)| (*file, named(&names[file], of, &code))).collect();
    let mut circles = Vec::new();
    for (from, all) in &arrows {
        let others = all.iter().filter(|to| folder(to) != folder(from));
        let back = others.filter(|to| reached(to, &arrows).contains(from));
        circles.extend(back.map(|to| format!("{from} → {to} → … → {from}")));
    }
    circles
}

/// The files whose modules a file names.
fn named<'f>(names: &Names, of: &Module, code: &BTreeMap<Module, &'f str>) -> BTreeSet<&'f str> {
    let found = names.paths.iter().filter_map(|path| {
        let ups = path.iter().take_while(|segment| *segment == "super").count();
        let (mut at, rest) = match path[0].as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (of.clone(), &path[1..]),
            "super" => (of[..of.len().checked_sub(ups)?].to_vec(), &path[ups..]),
            _ => (of.clone(), &path[..path.len() - 1]),
        };
        for segment in rest {
            at.push(segment.clone());
            if !code.contains_key(&at) {
                at.pop();
                break;
            }
        }
        code.get(&at).copied()
    });
    found.filter(|file| module(file) != *of).collect()
}

/// All files that a file leads to.
fn reached<'f>(from: &'f str, arrows: &BTreeMap<&'f str, BTreeSet<&'f str>>) -> BTreeSet<&'f str> {
    let (mut found, mut ahead) = (BTreeSet::new(), vec![from]);
    while let Some(file) = ahead.pop() {
        ahead.extend(arrows[file].iter().filter(|next| found.insert(**next)));
    }
    found
}

/// The sources of every crate below a folder, by the crate's folder.
fn crates(below: &Path, found: &mut BTreeMap<String, Files>) {
    for entry in fs::read_dir(below).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().unwrap().is_dir() || name == "target" || name.starts_with('.') {
            continue;
        }
        if name == "src" && below.join("Cargo.toml").exists() {
            let files = found.entry(below.display().to_string()).or_default();
            sources(&entry.path(), "", files);
            // A program beside a library is a crate of its own.
            if files.contains_key("lib.rs") {
                files.remove("main.rs");
            }
        } else {
            crates(&entry.path(), found);
        }
    }
}

/// The sources below a folder, but for programs of one file.
fn sources(folder: &Path, prefix: &str, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        match entry.file_type().unwrap().is_dir() {
            true if path != "bin" => sources(&entry.path(), &format!("{path}/"), files),
            false if name.ends_with(".rs") => {
                _ = files.insert(path, fs::read_to_string(entry.path()).unwrap());
            }
            _ => {}
        }
    }
}

#[test]
fn modules_of_different_folders_do_not_import_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = BTreeMap::new();
    crates(root, &mut all);
    assert!(all.contains_key(env!("CARGO_MANIFEST_DIR")), "{:?}", all.keys());
    let found: Vec<String> = all
        .iter()
        .flat_map(|(name, files)| circles(files).into_iter().map(move |c| format!("{name}: {c}")))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_circle_is_found_by_whatever_detour() {
    let files = |texts: &[(&str, &str)]| -> Files {
        texts.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
    };
    let watch = ("watch.rs", "use std::io;\nuse crate::{own::{Own, rules}, time};");
    let own = |text| files(&[("lib.rs", "mod own; mod watch;"), watch, ("own/mod.rs", text)]);
    let circle = ["own/mod.rs → watch.rs → … → own/mod.rs", "watch.rs → own/mod.rs → … → watch.rs"];
    assert_eq!(circles(&own("use crate::watch::Watcher;")), circle);
    assert_eq!(circles(&own("fn f() { super::watch::f() }")), circle);
    assert_eq!(circles(&own("#[cfg(test)]\nmod tests { use crate::watch::f; }")), [""; 0]);
    let mut by_another = own("mod claim; pub use claim::Claim;");
    by_another.insert("own/claim.rs".into(), "use crate::watch;".into());
    assert_eq!(circles(&by_another).len(), 2);
    let mut within = own("mod claim; pub use claim::Claim; pub struct Rule;");
    within.insert("own/claim.rs".into(), "use super::Rule;".into());
    assert_eq!(circles(&within), [""; 0], "of one folder");
}
