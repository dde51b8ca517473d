//! The requests that touch nodes, as the store sees them.

use std::borrow::Cow;

use super::node::NodeArc;
use crate::words::{Path, PathBuf, Perms};

/// A request on one path.
#[derive(Clone)]
pub struct Op<'a> {
    /// The path, absolute or (for the permissions of special nodes) special.
    pub path: Path<'a>,
    /// What is asked.
    pub verb: Verb<'a>,
}

impl Op<'_> {
    /// Whether it writes a value that is worth not to be copied for the log.
    pub fn has_long_value(&self) -> bool {
        matches!(&self.verb, Verb::Write(value) if value.len() >= SHARED_VALUE_BYTES)
    }

    /// What keeping it in a log costs, in bytes.
    pub fn logged_bytes(&self) -> usize {
        let value = if let Verb::Write(value) = &self.verb { value.len() } else { 0 };
        size_of::<LoggedOp>() + self.path.bytes().len() + value
    }
}

/// What is asked of a path (xenstore.txt, "Database read, write and permissions operations").
#[derive(Clone)]
pub enum Verb<'a> {
    /// Answers the value.
    Read,
    /// Answers the names of the children, each with a NUL.
    Directory,
    /// Answers the generation with a NUL, then children from this byte of the list on; an empty
    /// name ends the list.
    DirectoryPart(usize),
    /// Answers the permission entries, each with a NUL.
    GetPerms,
    /// Sets the value; creates the node and missing parents.
    Write(Cow<'a, [u8]>),
    /// Creates the node and missing parents, unless it is there.
    Mkdir,
    /// Removes the node and all below it.
    Rm,
    /// Sets the permissions, stamped with the birth clock of the request.
    SetPerms(Perms),
}

impl Verb<'_> {
    /// Whether it changes anything.
    pub fn writes(&self) -> bool {
        matches!(self, Verb::Write(_) | Verb::Mkdir | Verb::Rm | Verb::SetPerms(_))
    }

    /// The name in xenstore.txt.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Read => "READ",
            Verb::Directory => "DIRECTORY",
            Verb::DirectoryPart(_) => "DIRECTORY_PART",
            Verb::GetPerms => "GET_PERMS",
            Verb::Write(_) => "WRITE",
            Verb::Mkdir => "MKDIR",
            Verb::Rm => "RM",
            Verb::SetPerms(_) => "SET_PERMS",
        }
    }

    /// The same with nothing borrowed, for a transaction's log.
    pub fn into_owned(self) -> Verb<'static> {
        match self {
            Verb::Read => Verb::Read,
            Verb::Directory => Verb::Directory,
            Verb::DirectoryPart(offset) => Verb::DirectoryPart(offset),
            Verb::GetPerms => Verb::GetPerms,
            Verb::Write(value) => Verb::Write(Cow::Owned(value.into_owned())),
            Verb::Mkdir => Verb::Mkdir,
            Verb::Rm => Verb::Rm,
            Verb::SetPerms(perms) => Verb::SetPerms(perms),
        }
    }
}

/// An [`Op`] kept in a transaction's log.
pub struct LoggedOp {
    /// The path.
    pub path: PathBuf,
    /// What was asked; of a written value that lies in a node of the transaction, nothing.
    pub verb: Verb<'static>,
    /// That node. It shares its value with the log as long as it is not changed again.
    written: Option<NodeArc>,
}

/// From this length on a written value is not copied for the log, in bytes.
const SHARED_VALUE_BYTES: usize = 128;

impl LoggedOp {
    /// Copies an operation, whose path is `path`; of a written value that is long the node where it lies, if
    /// that is `written`.
    pub fn of(op: &Op<'_>, path: PathBuf, written: Option<&NodeArc>) -> LoggedOp {
        let written = written.cloned();
        let verb = match &written {
            Some(_) => Verb::Write(Cow::Borrowed(&[])),
            None => op.verb.clone().into_owned(),
        };
        LoggedOp { path, verb, written }
    }

    /// How many bytes of it lie in a node of the transaction.
    pub fn shared_bytes(&self) -> usize {
        self.written.as_ref().map_or(0, |node| node.value().len())
    }

    /// Shares the value with the node that it was written to when the operation was run again, if it shared it
    /// before; returns how many bytes.
    pub fn share_anew(&mut self, written: Option<&NodeArc>) -> usize {
        let (Some(node), Some(written)) = (&mut self.written, written) else { return 0 };
        *node = NodeArc::clone(written);
        self.shared_bytes()
    }

    /// The operation, to be run again.
    pub fn op(&self) -> Op<'_> {
        let verb = match (&self.verb, &self.written) {
            (_, Some(node)) => Verb::Write(Cow::Borrowed(node.value())),
            (Verb::Write(value), None) => Verb::Write(Cow::Borrowed(value)),
            (other, None) => other.clone(),
        };
        Op { path: self.path.as_path(), verb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_write_costs_its_path_and_value() {
        let cost = |verb| Op { path: Path::parse(b"/a/b").expect("a path"), verb }.logged_bytes();
        let value = std::borrow::Cow::Borrowed(&[0; 1000][..]);
        assert_eq!(cost(Verb::Read), size_of::<LoggedOp>() + 4);
        assert_eq!(cost(Verb::Write(value)), cost(Verb::Read) + 1000);
    }
}
