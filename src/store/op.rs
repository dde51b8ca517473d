//! The requests that touch nodes, as the store sees them.

use std::borrow::Cow;

use crate::words::{Errno, Path, PathBuf, Perms};

/// A request on one path.
#[derive(Clone)]
pub struct Op<'a> {
    /// The path, absolute or (for the permissions of special nodes) special.
    pub path: Path<'a>,
    /// What is asked.
    pub verb: Verb<'a>,
}

impl Op<'_> {
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
    /// What was asked.
    pub verb: Verb<'static>,
}

impl LoggedOp {
    /// Copies an operation.
    pub fn of(op: &Op<'_>) -> LoggedOp {
        LoggedOp { path: op.path.to_buf(), verb: op.verb.clone().into_owned() }
    }

    /// The operation, to be run again.
    pub fn op(&self) -> Op<'_> {
        let verb = match &self.verb {
            Verb::Write(value) => Verb::Write(Cow::Borrowed(value)),
            other => other.clone(),
        };
        Op { path: self.path.as_path(), verb }
    }
}

/// Why an operation did not happen.
#[derive(Debug)]
pub enum Stop {
    /// It is refused: the reply is this error.
    Refused(Errno),
    /// It needs a lock that is not held: nothing was changed; begin again with this shard too,
    /// exclusively if it says so.
    Needs(crate::words::ShardId, bool),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Refused(errno)
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
