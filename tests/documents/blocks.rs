//! The code blocks of the documents.

use std::fs;
use std::path::Path;

/// A code block.
pub struct Block {
    /// The document that contains the block.
    pub file: String,
    /// The line at which the block begins.
    pub line: usize,
    pub text: String,
}

/// Returns all code blocks of all documents, in order.
pub fn all() -> Vec<Block> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = Vec::new();
    find(root, root, &mut names);
    names.sort();
    assert!(names.len() > 15, "documents not found, only: {names:?}");
    names
        .iter()
        .flat_map(|name| blocks(name, &fs::read_to_string(root.join(name)).unwrap()))
        .collect()
}

/// Collects the names, relative to `root`, of the Markdown documents and manual pages below `folder`.
fn find(root: &Path, folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        let is_manual = folder.ends_with("dist/man");
        if path.is_dir() {
            find(root, &path, names);
        } else if is_manual || path.extension().is_some_and(|ending| ending == "md") {
            names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

fn blocks(file: &str, text: &str) -> Vec<Block> {
    let is_manual = !file.ends_with(".md");
    let mut found = Vec::new();
    let mut lines = (1..).zip(text.lines()).peekable();
    let mut after_blank = true;
    while let Some((line, first)) = lines.next() {
        let mut text = String::new();
        let mut add = |line: &str| text.extend([line, "\n"]);
        if is_manual && let Some(command) = first.strip_prefix(".Dl ") {
            add(command);
        } else if is_manual && first.starts_with(".Bd") {
            lines.by_ref().take_while(|(_, line)| *line != ".Ed").for_each(|(_, line)| add(line));
        } else if first.starts_with("```") {
            lines.by_ref().take_while(|(_, line)| *line != "```").for_each(|(_, line)| add(line));
        } else if !is_manual && after_blank && first.starts_with("    ") {
            add(&first[4..]);
            while let Some((_, line)) =
                lines.next_if(|(_, line)| line.starts_with("    ") || line.is_empty())
            {
                add(line.get(4..).unwrap_or(""));
            }
        }
        after_blank = first.is_empty() || !text.is_empty();
        if !text.is_empty() {
            let text = text.trim_end().to_owned() + "\n";
            found.push(Block { file: file.to_owned(), line, text });
        }
    }
    found
}
