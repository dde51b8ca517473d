//! Requests as data: what the parser of an operation returns.

use super::super::args::Strings;
use crate::words::Domid;

/// A request of the store's socket or of a ring, whose arguments have the form that its operation asks for.
/// Paths, quota names and permission entries are as the client wrote them: what they mean depends on the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// READ to SET_PERMS of a path.
    Node(&'a [u8], NodeRequest<'a>),
    /// WATCH of a path with a token, to this depth.
    Watch(&'a [u8], &'a [u8], Option<u16>),
    /// UNWATCH of a path with a token.
    Unwatch(&'a [u8], &'a [u8]),
    /// RESET_WATCHES.
    ResetWatches,
    /// TRANSACTION_START.
    StartTransaction,
    /// TRANSACTION_END: whether it commits.
    EndTransaction(bool),
    /// CONTROL, with its words.
    Control(Strings<'a>),
    /// A request about a domain, which the domain's owner thread serves.
    Domain(Domid, DomainRequest),
    /// QUIESCE of these domains, in order of their numbers, each once.
    Quiesce(Vec<Domid>, Form),
    /// UNQUIESCE of these domains, likewise.
    Unquiesce(Vec<Domid>, Form),
    /// GET_DOMAIN_PATH.
    GetDomainPath(Domid),
    /// IS_DOMAIN_INTRODUCED.
    IsDomainIntroduced(Domid),
    /// GET_FEATURE of a domain, or of the client's own.
    GetFeature(Option<Domid>),
    /// SET_FEATURE of a domain to these bits.
    SetFeature(Domid, u32),
    /// GET_QUOTA: the names of all quotas.
    QuotaNames,
    /// GET_QUOTA of a domain, or of the defaults, by name.
    GetQuota(Option<Domid>, &'a [u8]),
    /// SET_QUOTA of a domain, or of the defaults: name and value, which are read after the domain is found.
    SetQuota(Option<Domid>, &'a [u8], &'a [u8]),
}

/// A request on one path (xenstore.txt, "Database read, write and permissions operations").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeRequest<'a> {
    /// READ.
    Read,
    /// DIRECTORY.
    Directory,
    /// DIRECTORY_PART from this byte of the list on.
    DirectoryPart(u32),
    /// GET_PERMS.
    GetPerms,
    /// WRITE of a value.
    Write(&'a [u8]),
    /// MKDIR.
    Mkdir,
    /// RM.
    Rm,
    /// SET_PERMS to these entries.
    SetPerms(Strings<'a>),
}

/// A request about a domain, as its owner thread gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainRequest {
    /// INTRODUCE: the number of its ring's page, if the client knows one, and the domain's unbound event channel.
    Introduce(Option<u64>, u32),
    /// RELEASE; with a mark only of a domain that is as an export of that mark saw it.
    Release(Option<u64>),
    /// RESUME: its shutdown is reported again.
    Resume,
    /// SET_TARGET: it gets the rights of another domain.
    SetTarget(Domid),
    /// GET_DOMAIN_WATCHES: its watches from the one at an index on.
    ListWatches(usize, WatchListing),
    /// ADD_DOMAIN_WATCHES: watches that are set on its behalf.
    AddWatches(Vec<NewWatch>),
    /// START_DOMAIN_TRANSACTION: a transaction on its behalf with this identifier, which is not 0.
    StartTransaction(u32),
}

/// How arguments and replies of an extension are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Strings with a NUL each.
    Strings,
    /// For people and scripts, as a command of CONTROL: a line for each, odd bytes of tokens as `\xhh`.
    Text,
}

/// How a list of watches is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchListing {
    /// As strings or as text.
    pub form: Form,
    /// With the depth of each watch.
    pub has_depth: bool,
}

/// A watch to be set on a domain's behalf, as the domain would write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWatch {
    /// Absolute, relative or special.
    pub path: Box<[u8]>,
    /// The domain's own name for it.
    pub token: Box<[u8]>,
    /// Levels below the path that it reaches; `None` for all.
    pub depth: Option<u16>,
}

/// A request of the migration socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationRequest {
    /// EXPORT_DOMAINS: domains are quiesced and their streams written.
    Export(Vec<Range>),
    /// IMPORT_DOMAINS from the descriptors that come along; whether they are only checked.
    Import(bool),
    /// DISCARD_DOMAINS: imports are taken back.
    Discard(Vec<Range>),
    /// DOMAIN_STATES.
    States(Vec<Range>),
}

/// Domains of a request of the migration socket: one, or the known ones of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// `<domid>`.
    One(Domid),
    /// `<first>-<last>`.
    Known(Domid, Domid),
}
