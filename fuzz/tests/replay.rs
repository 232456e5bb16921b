//! The corpora as ordinary tests: whatever was found once is tried in every build.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chive_fuzz::TARGETS;

/// The most bytes of all corpora.
const MOST_BYTES: u64 = 2 << 20;

/// The paths in a folder of this package, in order; none if it does not exist.
fn paths(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a folder that can be read").path()).collect();
    paths.sort();
    paths
}

fn names(folder: &str) -> BTreeSet<String> {
    paths(folder).iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

#[test]
fn every_target_takes_its_corpus_and_what_once_broke_it() {
    std::thread::scope(|scope| {
        for (name, target) in TARGETS {
            let corpus = paths(&format!("corpus/{name}"));
            assert!(!corpus.is_empty(), "{name} has no corpus");
            let regressions = paths(&format!("regressions/{name}"));
            scope.spawn(move || {
                for path in corpus.iter().chain(&regressions) {
                    let bytes = fs::read(path).unwrap();
                    let outcome = std::panic::catch_unwind(|| target(&bytes));
                    assert!(outcome.is_ok(), "{name} does not take {}", path.display());
                }
            });
        }
    });
}

#[test]
fn targets_binaries_and_folders_are_the_same() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    assert!(names("regressions").is_subset(&targets));
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    for name in targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} has no binary");
    }
}

#[test]
fn corpora_stay_small() {
    let sizes = paths("corpus")
        .into_iter()
        .chain(paths("regressions"))
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()));
    let bytes: u64 = sizes.sum();
    assert!(bytes <= MOST_BYTES, "{bytes} bytes: minimise them, as CONTRIBUTING.md says");
}
