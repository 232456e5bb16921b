//! Rules of the repository: sizes, citations of the specification, nothing left undone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LONGEST: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of the tree with this ending, but for build output and hidden folders.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().to_owned()];
    let mut found = vec![];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// The numbered requirements of the specification: `area.topic.1` in backticks.
fn requirements() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for page in files(".md").iter().filter(|page| name(page).starts_with("docs/spec/0")) {
        let text = fs::read_to_string(page).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        ids.extend(quoted.filter(|word| is_id(word)).map(str::to_owned));
    }
    assert!(ids.len() > 60, "the specification was not read");
    ids
}

fn is_id(word: &str) -> bool {
    let parts: Vec<_> = word.split('.').collect();
    let word_like = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    matches!(&parts[..], [area, topic, n] if word_like(area) && word_like(topic) && n.parse::<u32>().is_ok())
}

/// Words of a text that look like requirement ids.
fn cited(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
        .map(|word| word.trim_matches('.').to_owned())
        .filter(|word| is_id(word))
        .collect()
}

#[test]
fn every_requirement_is_cited_by_code_and_by_a_test() {
    let (mut code, mut tests) = (BTreeMap::<String, String>::new(), BTreeSet::new());
    for file in files(".rs") {
        let (text, path) = (fs::read_to_string(&file).unwrap(), name(&file));
        let all_tests = path.contains("tests/") || path.ends_with("tests.rs") || path.ends_with("vectors.rs");
        let (body, test) = match text.split_once("#[cfg(test)]\nmod tests {") {
            _ if all_tests => ("", text.as_str()),
            Some((body, test)) => (body, test),
            None => (text.as_str(), ""),
        };
        code.extend(cited(body).into_iter().map(|id| (id, path.clone())));
        tests.extend(cited(test));
    }
    let ids = requirements();
    let uncited: Vec<_> = ids.iter().filter(|id| !code.contains_key(*id) || !tests.contains(*id)).collect();
    assert!(uncited.is_empty(), "not cited by code and test both: {uncited:?}");
    let areas: BTreeSet<_> = ids.iter().filter_map(|id| id.split('.').next()).collect();
    let known = |id: &str| ids.contains(id) || !id.split('.').next().is_some_and(|area| areas.contains(area));
    let gone: Vec<_> = code.iter().filter(|(id, _)| !known(id)).collect();
    assert!(gone.is_empty(), "cited, but not in the specification: {gone:?}");
}

#[test]
fn files_are_short_and_nothing_is_left_undone() {
    let marks = [["to", "do!("].concat(), ["unimplemented", "!("].concat(), ["FIX", "ME"].concat()];
    let allow = ["#[al", "low("].concat();
    let ignored = ["#[ig", "nore]"].concat();
    for file in files(".rs") {
        let (text, path) = (fs::read_to_string(&file).unwrap(), name(&file));
        let lines = text.lines().count();
        assert!(lines <= LONGEST, "{path} has {lines} lines");
        assert!(!path.ends_with("/mod.rs"), "{path}: name it after its noun");
        for mark in marks.iter().chain([&allow, &ignored]) {
            assert!(!text.contains(mark.as_str()), "{path} contains {mark}");
        }
    }
}
