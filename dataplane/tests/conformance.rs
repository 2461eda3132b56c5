//! The tests that `docs/conformance.md` names exist.

use std::fs;
use std::path::{Path, PathBuf};

/// What the table calls a directory.
const DIRECTORIES: [(&str, &str); 11] = [
    ("engine/", "dataplane/tests/engine/"),
    ("bench/", "bench/tests/"),
    ("wire/src/", "wire/src/"),
    ("wire/", "wire/tests/"),
    ("xdp/", "ebpf/tests/xdp/"),
    ("site/", "control/site/src/"),
    ("publish/", "control/publish/src/"),
    ("pcp/src/", "control/pcp/src/"),
    ("pcp/", "control/pcp/tests/"),
    ("upnp/", "control/upnp/tests/"),
    ("src/", "dataplane/src/"),
];

/// The file that the table calls so.
fn file(root: &Path, name: &str) -> PathBuf {
    let of = DIRECTORIES
        .iter()
        .find_map(|(short, directory)| Some(format!("{directory}{}", name.strip_prefix(short)?)));
    root.join(of.unwrap_or_else(|| panic!("no directory is called as that of {name}")))
}

/// The tests that a cell names, each with its file: names in backticks, and behind them the file of
/// those since the last one.
fn named(cell: &str) -> Vec<(String, String)> {
    let mut tests = Vec::new();
    for part in cell.split(')') {
        let Some((names, file)) = part.rsplit_once('(') else { continue };
        let names = names.split('`').skip(1).step_by(2);
        tests.extend(names.map(|name| (name.to_owned(), file.to_owned())));
    }
    tests
}

#[test]
fn every_test_that_the_table_names_is_in_its_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let mut missing = Vec::new();
    let mut count = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let Some(cell) = cells.get(3) else { continue };
        for (name, short) in named(cell) {
            count += 1;
            let text = fs::read_to_string(file(&root, &short)).unwrap_or_default();
            if !text.contains(&format!("fn {name}(")) {
                missing.push(format!("{name} ({short})"));
            }
        }
    }
    assert!(missing.is_empty(), "not there: {missing:#?}");
    assert!(count > 100, "{count} tests named");
}

#[test]
fn a_requirement_that_is_met_names_a_test_or_needs_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let rows = table.lines().filter_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let &[_, requirement, _, verdict, tests, _] = cells.as_slice() else { return None };
        Some((requirement, verdict, tests))
    });
    let bare: Vec<_> = rows
        .filter(|(_, verdict, tests)| {
            let claims = verdict.starts_with("meets") || verdict.starts_with("by choice");
            claims && !verdict.ends_with("there are none") && tests.is_empty()
        })
        .collect();
    assert!(bare.is_empty(), "{bare:#?}");
}
