//! What the documents name exists.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const DOCUMENTS: [&str; 3] = ["docs/security.md", "docs/threat-model.md", "docs/two-factor.md"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all tests.
fn tests() -> HashSet<String> {
    let mut files = Vec::new();
    for folder in ["src", "tests/it", "gateway/src", "gateway/tests"] {
        sources(&Path::new(ROOT).join(folder), &mut files);
    }
    let mut names = HashSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let mut marked = false;
        for line in text.lines().map(str::trim_start) {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let line = line.strip_prefix("async ").unwrap_or(line);
            match line.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next()) {
                Some(name) if marked => {
                    names.insert(name.to_owned());
                    marked = false;
                }
                Some(_) => {}
                None => marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test"),
            }
        }
    }
    names
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_and_file_that_a_document_names_exists() {
    let tests = tests();
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
        for name in quoted(&text) {
            // A sentence, as tests are called.
            let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let is_sentence = name.chars().all(is_word) && name.matches('_').count() >= 3;
            let is_path = ["src/", "tests/", "docs/", "gateway/"].iter().any(|folder| name.starts_with(folder));
            if (is_sentence && !tests.contains(name)) || (is_path && !Path::new(ROOT).join(name).exists()) {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    // That tests are found at all, and named.
    assert!(tests.contains("every_test_and_file_that_a_document_names_exists"));
    let text = fs::read_to_string(Path::new(ROOT).join(DOCUMENTS[0])).unwrap();
    assert!(quoted(&text).filter(|name| tests.contains(*name)).count() > 100);
}
