//! The files and identifiers that the documents name exist.

use std::collections::HashSet;
use std::fs;
use std::process::Command;

/// Names of other programs, which look like types.
const FOREIGN: [&str; 1] = ["ProtectControlGroups"];

/// Returns the tracked files.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Returns the texts between backticks, and those of links, with their line numbers. Code blocks are left out.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (number, line) in (1..).zip(text.lines()) {
        in_block ^= line.trim_start().starts_with("```");
        if in_block {
            continue;
        }
        found.extend(line.split('`').skip(1).step_by(2).map(|quote| (number, quote)));
        let links = line.split('[').skip(1).filter_map(|rest| rest.split_once("]("));
        found.extend(links.map(|(link, _)| (number, link)));
    }
    found
}

/// Whether a word looks like a type's name: two capitals, and lower case.
fn is_type(word: &str) -> bool {
    word.starts_with(char::is_uppercase)
        && word.chars().filter(|c| c.is_uppercase()).count() > 1
        && word.contains(char::is_lowercase)
        && !word.contains('_')
}

#[test]
fn files_and_identifiers_in_documents_exist() {
    let files = files();
    let is_code = |name: &&String| name.ends_with(".rs") || name.ends_with(".py");
    let sources: Vec<_> =
        files.iter().filter(is_code).filter_map(|name| fs::read_to_string(name).ok()).collect();
    let known: HashSet<&str> = sources.iter().flat_map(|text| words(text)).collect();
    let mut missing = Vec::new();
    // The changelog may name things that no longer exist.
    for document in files.iter().filter(|name| name.ends_with(".md") && *name != "CHANGELOG.md") {
        let Ok(text) = fs::read_to_string(document) else { continue };
        for (line, quote) in quoted(&text) {
            let paths = quote.split([' ', ',', ';']).filter(|word| word.ends_with(".rs"));
            for path in paths {
                let end = format!("/{}", path.trim_start_matches("../"));
                if !files.iter().any(|name| format!("/{name}").ends_with(&end)) {
                    missing.push(format!("{document}:{line}: {path}"));
                }
            }
            let is_path = quote.contains("::") && !quote.contains(['*', ' ', '.']);
            let last = is_path.then(|| words(quote).last()).flatten();
            let types = (!quote.contains(' ')).then(|| words(quote).filter(|word| is_type(word)));
            for word in last.into_iter().chain(types.into_iter().flatten()) {
                if !known.contains(word) && !FOREIGN.contains(&word) {
                    missing.push(format!("{document}:{line}: {word} of {quote}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
