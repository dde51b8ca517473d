//! The layers of src: imports point downwards only, unsafe code is in one place, files stay short, and a type's methods
//! are in few files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers that each layer may import besides itself. A layer is a folder, or a folder in one; a file without a
/// layer fails.
const LAYERS: [(&str, &[&str]); 21] = [
    ("sync", &[]),
    ("types", &["sync"]),
    ("log", &["types", "sync"]),
    ("domain", &["types", "log", "sync"]),
    ("watch", &["domain", "types", "log", "sync"]),
    ("store", &["watch", "domain", "types", "log", "sync"]),
    ("protocol", &["types", "log"]),
    ("host", &["types", "log", "sync"]),
    ("transport", &["host", "types", "log", "sync"]),
    ("control", &["store", "watch", "domain", "protocol", "types", "log", "sync"]),
    ("migration/stream", &["types"]),
    ("migration/store", &["migration/stream", "store", "domain", "types", "sync"]),
    (
        "server",
        &[
            "transport",
            "protocol",
            "store",
            "watch",
            "domain",
            "host",
            "control",
            "migration/stream",
            "types",
            "log",
            "sync",
        ],
    ),
    (
        "migration/server",
        &[
            "server",
            "migration/store",
            "migration/stream",
            "store",
            "transport",
            "protocol",
            "domain",
            "types",
            "log",
            "sync",
        ],
    ),
    (
        "live_update",
        &[
            "server",
            "migration/store",
            "migration/stream",
            "store",
            "host",
            "domain",
            "types",
            "sync",
        ],
    ),
    // The root module of these layers declares its folders, and imports nothing.
    ("migration", &[]),
    ("listener", &["types", "log", "sync"]),
    (
        "daemon",
        &[
            "live_update",
            "migration/server",
            "server",
            "listener",
            "control",
            "host",
            "domain",
            "protocol",
            "types",
            "log",
            "sync",
        ],
    ),
    ("guest", &["daemon", "host", "protocol", "types"]),
    ("xsctl", &["migration/stream", "transport", "protocol", "types"]),
    ("lib", &[]),
];

/// Maximum number of lines of a file; exceptions are listed here with the reason.
const LINES_MAX: usize = 400;
const LONG: [(&str, usize, &str); 1] =
    [("host/sim/tests.rs", 600, "tests, which are read one by one")];

/// Returns all files of src: the name below it, and the text.
fn sources() -> Vec<(String, String)> {
    let found = files("src");
    assert!(found.len() > 50, "src was not found");
    found
}

/// Returns all Rust files below a directory of the project: the name below it, and the text.
fn files(directory: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let (mut todo, mut found) = (vec![root.clone()], Vec::new());
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!found.is_empty(), "{directory} was not found");
    found
}

fn code(text: &str) -> String {
    let without_comment = |line: &str| line.split("//").next().unwrap_or("").to_owned() + "\n";
    text.lines().map(without_comment).collect()
}

fn is_word(byte: char) -> bool {
    byte.is_ascii_alphanumeric() || byte == '_'
}

/// Returns the layer of a file or module by its path: its folder, or the folder in that one if it is a layer of its
/// own.
fn layer(path: &str) -> String {
    let mut names = path.split(['/', '.']);
    let above = names.next().unwrap_or_default();
    let below = names.next().map(|name| format!("{above}/{name}"));
    let own = below.filter(|below| LAYERS.iter().any(|(layer, _)| layer == below));
    own.unwrap_or_else(|| above.to_owned())
}

/// Returns the layers that `code` names after `crate::`, or by going up to the crate itself. If a folder's folders are
/// layers and none of them is named, as in a list, this is the folder itself, which no layer may import.
fn imports(code: &str) -> Vec<String> {
    let after = |mark: &'static str| {
        code.match_indices(mark).map(move |(at, _)| {
            let is_in_path = |&c: &char| is_word(c) || c == ':';
            let path = code[at + mark.len()..].chars().take_while(is_in_path).collect::<String>();
            layer(&path.replace("::", "/"))
        })
    };
    let is_layer = |name: &String| LAYERS.iter().any(|(layer, _)| layer == name);
    let up = after("super::super::").filter(is_layer);
    after("crate::").chain(up).collect()
}

/// Returns the violations among the imports of one file.
fn faults(name: &str, code: &str) -> Vec<String> {
    let layer = layer(name);
    // The main files of programs only call the library.
    if matches!(&*layer, "main" | "bin") {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(other, _)| *other == layer) else {
        return vec![format!("{name}: {layer} is not among the layers")];
    };
    let wrong = |to: &String| *to != layer && !allowed.contains(&to.as_str());
    let mut faults: Vec<String> = imports(code)
        .into_iter()
        .filter(wrong)
        .map(|to| format!("{name} imports {to:?}"))
        .collect();
    // In a layer inside a folder, this many `super`s name that folder. `imports` does not resolve such paths, so they
    // are refused.
    let depth = name.split('/').count() - usize::from(name.ends_with("/mod.rs"));
    if let Some((above, _)) = layer.split_once('/')
        && code.contains(&"super::".repeat(depth - 1))
    {
        faults.push(format!("{name} names what is in {above} by super"));
    }
    faults
}

#[test]
fn imports_go_down_only() {
    let faults: Vec<_> =
        sources().iter().flat_map(|(name, text)| faults(name, &code(text))).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn upward_import_is_detected() {
    for (name, code) in [
        ("types/path.rs", "use crate::domain::Quota;"),
        ("protocol/args.rs", "fn f() { crate::store::Tree::default(); }"),
        ("store/tree.rs", "use super::super::protocol;"),
        ("host/page.rs", "use crate::{transport, types};"),
        ("control/mod.rs", "use crate::server::Server;"),
        ("migration/stream/state.rs", "use crate::store::Store;"),
        ("migration/stream/state.rs", "use crate::migration::server::serve;"),
        ("migration/stream/state.rs", "use super::super::server::serve;"),
        ("migration/stream/mod.rs", "use super::server::serve;"),
        ("server/state.rs", "use crate::migration::{server, stream};"),
        ("novel/mod.rs", ""),
    ] {
        assert!(!faults(name, code).is_empty(), "{name}: {code}");
    }
    assert!(faults("store/tree.rs", &code("use crate::types::Path; // crate::server")).is_empty());
}

/// No layer imports a layer that imports it, directly or through others.
#[test]
fn layer_table_has_no_cycle() {
    for (at, (layer, allowed)) in LAYERS.iter().enumerate() {
        for below in *allowed {
            let position = LAYERS.iter().position(|(other, _)| other == below);
            assert!(position.is_some_and(|position| position < at), "{layer} imports {below}");
        }
    }
}

/// Returns the module of a file of src/server, relative to it: "" of server/mod.rs, "session" of server/session/mod.rs.
fn server_module(name: &str) -> Option<&str> {
    let name = name.strip_prefix("server/")?.strip_suffix(".rs")?;
    (!name.ends_with("tests"))
        .then(|| name.strip_suffix("mod").unwrap_or(name).trim_end_matches('/'))
}

/// Returns the modules of src/server that the code of one of them names: of each path, the longest prefix that is one.
fn server_imports(own: &str, code: &str, modules: &[&str]) -> Vec<String> {
    let above = own.rsplit_once('/').map_or("", |(above, _)| above);
    let mut named = Vec::new();
    for (mark, from) in [("crate::server::", ""), ("super::", above)] {
        for (at, _) in code.match_indices(mark) {
            assert!(!code[..at].ends_with("super::"), "{own} imports from above its parent module");
            let rest = &code[at + mark.len()..];
            let path: String = rest.chars().take_while(|&c| is_word(c) || c == ':').collect();
            let list = rest[path.len()..].strip_prefix('{').and_then(|list| list.split('}').next());
            for item in list.unwrap_or_default().split(',') {
                let path = format!("{from}/{path}{}", item.trim()).replace("::", "/");
                let path = path.trim_start_matches('/');
                let is_above = |module: &&&str| {
                    path.strip_prefix(**module)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                let module = modules.iter().filter(is_above).max_by_key(|module| module.len());
                named.extend(module.map(|module| (*module).to_owned()));
            }
        }
    }
    // A submodule is named without the path of its parent.
    let is_below = |module: &&&str| {
        let name = module.strip_prefix(own).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(|name| code.contains(&format!("{name}::")))
    };
    named.extend(modules.iter().filter(is_below).map(|module| (*module).to_owned()));
    named.retain(|module| module != own);
    named
}

#[test]
fn modules_of_the_server_have_no_import_cycle() {
    let sources = sources();
    let files: Vec<_> = sources
        .iter()
        .filter_map(|(name, text)| Some((server_module(name)?, code(text))))
        .map(|(module, code)| (module, code.split("#[cfg(test)]").next().unwrap().to_owned()))
        // The root module re-exports the items that other layers may use.
        .filter(|(module, _)| !module.is_empty())
        .collect();
    let modules: Vec<_> = files.iter().map(|(module, _)| *module).collect();
    let mut left: Vec<(&str, Vec<String>)> = files
        .iter()
        .map(|(module, code)| (*module, server_imports(module, code, &modules)))
        .collect();
    // Modules that import no remaining module are removed repeatedly; the modules that cannot be removed form a cycle.
    loop {
        let names: Vec<_> = left.iter().map(|(module, _)| *module).collect();
        let is_left = |module: &String| names.contains(&module.as_str());
        left.retain(|(_, imports)| imports.iter().any(is_left));
        if left.len() == names.len() {
            break;
        }
    }
    assert!(left.is_empty(), "in an import cycle, or importing from one: {left:#?}");
    let imports = server_imports(
        "a/b",
        "use super::{c::D, e};\nuse crate::server::a::{self};\nfn f() { d::g() }",
        &["a", "a/c", "a/b", "a/b/d"],
    );
    assert_eq!(imports, ["a", "a/c", "a", "a/b/d"]);
}

#[test]
fn a_session_has_no_io_and_no_clock() {
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.ends_with("tests.rs")) {
        let not_named: &[&str] =
            match name.strip_prefix("server/").and_then(|name| name.split_once('/')) {
                Some(("session", _)) => {
                    &["crate::transport", "server::worker", "mio::", "Instant::now", "std::thread"]
                }
                Some(("requests", _)) => &["crate::transport", "server::worker", "mio::"],
                _ => continue,
            };
        let code = code(&text);
        let code = code.split("#[cfg(test)]").next().unwrap();
        for named in not_named {
            assert!(!code.contains(named), "{name} names {named}");
        }
    }
}

/// Excludes loadgen/shim, whose libraries replace C libraries.
const PROJECT: [&str; 8] = [
    "src",
    "benches",
    "examples",
    "tests",
    "fuzz/fuzz_targets",
    "fuzz/targets.rs",
    "loadgen/src",
    "loadgen/tests",
];

fn has_unsafe(code: &str) -> bool {
    code.split(|c| !is_word(c)).any(|word| word == "unsafe")
}

#[test]
fn unsafe_code_is_in_the_host_layer_only() {
    // In this file the word `unsafe` occurs only in a string.
    let may = |name: &str| name.starts_with("src/host/") || name == "tests/layers.rs";
    for directory in PROJECT {
        for (name, text) in files(directory) {
            let name = format!("{directory}/{name}");
            assert!(may(&name) || !has_unsafe(&code(&text)), "{name} has unsafe code");
        }
    }
    assert!(has_unsafe("let fd = unsafe { borrow(fd) };") && !has_unsafe("the_unsafe_code"));
}

#[test]
fn source_files_are_within_the_line_limit() {
    for (name, text) in sources() {
        let (lines, known) = (text.lines().count(), LONG.iter().find(|(long, ..)| *long == name));
        let max = known.map_or(LINES_MAX, |(_, max, _)| *max);
        assert!(lines <= max, "{name} has {lines} lines");
    }
}

/// Maximum number of files with methods of one type: a type with methods in more is several types.
const METHOD_FILES_MAX: usize = 3;

/// Returns the type of which a line begins a block of methods; `None` for the implementation of a trait.
fn methods_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl").filter(|rest| !rest.contains(" for "))?;
    let generics = rest.strip_prefix('<').map_or(0, |rest| {
        let depths = rest.chars().scan(1, |depth, c| {
            *depth += i32::from(c == '<') - i32::from(c == '>');
            Some(*depth)
        });
        1 + depths.take_while(|depth| *depth > 0).count()
    });
    let named = rest[generics..].trim_start_matches(['>', ' ']);
    named.split(|c| !is_word(c)).next().filter(|name| !name.is_empty())
}

#[test]
fn methods_of_a_type_are_in_at_most_three_files() {
    let mut files: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (name, text) in sources() {
        for of in text.lines().filter_map(methods_of) {
            files.entry((layer(&name), of.to_owned())).or_default().insert(name.clone());
        }
    }
    assert!(files.len() > 100, "no methods were found");
    files.retain(|_, files| files.len() > METHOD_FILES_MAX);
    assert!(files.is_empty(), "{files:#?}");
    assert_eq!(methods_of("impl<'a, T: Fn(&'a [u8])> Entries<'a> {"), Some("Entries"));
    assert_eq!(methods_of("impl Store {"), Some("Store"));
    assert_eq!(methods_of("impl fmt::Debug for Store {"), None);
}
