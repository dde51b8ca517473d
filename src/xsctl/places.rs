//! The states of a domain at the end of a move, their meaning, and the commands that resolve them.

use std::borrow::Cow;
use std::path::Path;

use crate::types::Domid;

/// The state of a domain at the source daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Served.
    Served,
    /// Served or quiesced: its EXPORT got no reply.
    Unsure,
    /// Quiesced.
    Quiesced,
    /// Quiesced or released: its RELEASE got no reply.
    InDoubt,
    /// Released: the move is committed.
    Released,
    /// No longer at the source, for a reason other than this move.
    Gone,
}

/// The state of a domain at the destination daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Not there.
    Absent,
    /// Absent or quiesced: its IMPORT got no reply.
    Unsure,
    /// Imported, quiesced.
    Quiesced,
    /// Served.
    Served,
}

impl Source {
    /// Returns the name in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Source::Served => "served",
            Source::Unsure => "served-or-quiesced",
            Source::Quiesced => "quiesced",
            Source::InDoubt => "quiesced-or-released",
            Source::Released => "released",
            Source::Gone => "gone",
        }
    }
}

impl Destination {
    /// Returns the name in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Destination::Absent => "absent",
            Destination::Unsure => "absent-or-quiesced",
            Destination::Quiesced => "quiesced",
            Destination::Served => "served",
        }
    }
}

/// Returns a command line for the given domains.
pub fn command(name: &str, socket: &Path, domids: &str) -> String {
    format!("xsctl {name} --socket {} --domains {domids}", quoted(socket))
}

/// Quotes a path for the shell.
pub fn quoted(path: &Path) -> String {
    let word = path.to_string_lossy();
    // Quoting fails only for a NUL, which a file's path cannot contain.
    shlex::try_quote(&word).map_or_else(|_| word.to_string(), Cow::into_owned)
}

/// Describes a domain's state in a clause, and returns the commands, in order, after which exactly one daemon serves
/// the domain.
pub fn explain(
    domid: Domid,
    (source, source_socket): (Source, &Path),
    (destination, destination_socket): (Destination, &Path),
) -> (String, Vec<String>) {
    let of = |name, socket| command(name, socket, &domid.to_string());
    let discard = || of("discard", destination_socket);
    let unquiesce_source = || of("unquiesce", source_socket);
    let unquiesce_destination = || of("unquiesce", destination_socket);
    let there = match destination {
        Destination::Absent => "not at the destination",
        Destination::Unsure => "possibly quiesced at the destination",
        Destination::Quiesced => "quiesced at the destination",
        Destination::Served => "served at the destination",
    };
    let take_up = || format!("{}; {}", of("introduce", source_socket), unquiesce_source());
    let has_copy = matches!(destination, Destination::Unsure | Destination::Quiesced);
    let discards = has_copy.then(discard).into_iter();
    match source {
        Source::Unsure | Source::Quiesced if destination == Destination::Served => (
            format!(
                "it is quiesced at the source, {there}; destroy it at the source with the toolstack"
            ),
            Vec::new(),
        ),
        Source::Served => (format!("it is served at the source, {there}"), discards.collect()),
        Source::Unsure => (
            format!("it is served or quiesced at the source, {there}"),
            discards.chain([unquiesce_source()]).collect(),
        ),
        Source::Quiesced => (
            format!("it is quiesced at the source, {there}"),
            discards.chain([unquiesce_source()]).collect(),
        ),
        Source::Gone => (format!("it is gone from the source, {there}"), discards.collect()),
        Source::Released if has_copy => (
            format!(
                "it is released at the source, {there} (only if the destination has lost it: {})",
                take_up()
            ),
            vec![unquiesce_destination()],
        ),
        Source::Released => (format!("it is released at the source, {there}"), Vec::new()),
        // Only the operator can find out whether the source will ever serve the domain again.
        Source::InDoubt => (
            format!(
                "it is {there}, and the source did not report whether it released the domain; if \
                 the source did, or is lost: {}; if the source did, and the destination has lost \
                 the domain: {}; else: {}; {}",
                unquiesce_destination(),
                take_up(),
                discard(),
                unquiesce_source()
            ),
            Vec::new(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_but_in_doubt_has_commands_toward_one_host() {
        let [here, there] = ["/a b/s", "/b"].map(Path::new);
        for (source, destination, commands) in [
            (Source::Served, Destination::Absent, &[][..]),
            (Source::Served, Destination::Quiesced, &["discard --socket /b"]),
            (Source::Quiesced, Destination::Absent, &["unquiesce --socket '/a b/s'"]),
            (
                Source::Quiesced,
                Destination::Unsure,
                &["discard --socket /b", "unquiesce --socket '/a b/s'"],
            ),
            (Source::Unsure, Destination::Absent, &["unquiesce --socket '/a b/s'"]),
            (Source::Quiesced, Destination::Served, &[]),
            (Source::Gone, Destination::Quiesced, &["discard --socket /b"]),
            (Source::Released, Destination::Quiesced, &["unquiesce --socket /b"]),
            (Source::Released, Destination::Served, &[]),
            (Source::InDoubt, Destination::Quiesced, &[]),
        ] {
            let (_, said) = explain(Domid(5), (source, here), (destination, there));
            let expected: Vec<_> =
                commands.iter().map(|command| format!("xsctl {command} --domains 5")).collect();
            assert_eq!(said, expected, "{source:?} {destination:?}");
        }
        let released = (Source::Released, here);
        let (said, _) = explain(Domid(5), released, (Destination::Quiesced, there));
        let take_up = "xsctl introduce --socket '/a b/s' --domains 5; \
                       xsctl unquiesce --socket '/a b/s' --domains 5";
        assert!(said.contains(take_up), "{said}");
        for name in ["it's", "a b", "$HOME", "x;y", "", "~", r"a\b", "#", "-v", "a!b", "über"] {
            let words = shlex::split(&quoted(Path::new(name)));
            assert_eq!(words, Some(vec![name.to_owned()]), "{name:?}");
        }
    }
}
