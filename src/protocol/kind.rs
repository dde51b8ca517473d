/// WATCH_EVENT of xs_wire.h: what a server sends without being asked.
pub const WATCH_EVENT: u32 = 15;
/// ERROR of xs_wire.h: a reply that is an errno's name.
pub const ERROR: u32 = 16;

/// The first number of an operation that Xen does not have. xs_wire.h counts up from 0 and keeps
/// 65535 (`XS_INVALID`) for none, so Xen's own never come so far.
const EXTENSIONS_FROM: u32 = 0x1_0000;

/// The operations that a client may send: those of xs_wire.h, `xsd_sockmsg_type`, and this
/// daemon's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // They are the names of xenstore.txt.
pub enum Kind {
    Control = 0,
    Directory = 1,
    Read = 2,
    GetPerms = 3,
    Watch = 4,
    Unwatch = 5,
    TransactionStart = 6,
    TransactionEnd = 7,
    Introduce = 8,
    Release = 9,
    GetDomainPath = 10,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    IsDomainIntroduced = 17,
    Resume = 18,
    SetTarget = 19,
    ResetWatches = 21,
    DirectoryPart = 22,
    GetFeature = 23,
    SetFeature = 24,
    GetQuota = 25,
    SetQuota = 26,
    // docs/PROTOCOL-EXTENSIONS.md has these.
    Quiesce = EXTENSIONS_FROM,
    Unquiesce,
    GetDomainWatches,
    AddDomainWatches,
    StartDomainTransaction,
    GetDomainWatchesDepth,
    AddDomainWatchesDepth,
}

impl Kind {
    /// The operations that Xen does not have.
    pub const EXTENSIONS: [Kind; 7] = [
        Kind::Quiesce,
        Kind::Unquiesce,
        Kind::GetDomainWatches,
        Kind::AddDomainWatches,
        Kind::StartDomainTransaction,
        Kind::GetDomainWatchesDepth,
        Kind::AddDomainWatchesDepth,
    ];

    /// The operation of a number; `None` for numbers without one (answer `ENOSYS`).
    pub fn from_wire(number: u32) -> Option<Kind> {
        Some(match number {
            0 => Kind::Control,
            1 => Kind::Directory,
            2 => Kind::Read,
            3 => Kind::GetPerms,
            4 => Kind::Watch,
            5 => Kind::Unwatch,
            6 => Kind::TransactionStart,
            7 => Kind::TransactionEnd,
            8 => Kind::Introduce,
            9 => Kind::Release,
            10 => Kind::GetDomainPath,
            11 => Kind::Write,
            12 => Kind::Mkdir,
            13 => Kind::Rm,
            14 => Kind::SetPerms,
            17 => Kind::IsDomainIntroduced,
            18 => Kind::Resume,
            19 => Kind::SetTarget,
            21 => Kind::ResetWatches,
            22 => Kind::DirectoryPart,
            23 => Kind::GetFeature,
            24 => Kind::SetFeature,
            25 => Kind::GetQuota,
            26 => Kind::SetQuota,
            _ => return Kind::EXTENSIONS.into_iter().find(|&kind| kind as u32 == number),
        })
    }

    /// Whether only the control domain may ask (xenstore.txt: "prevents the use of ... other than
    /// by dom0").
    pub fn is_privileged(self) -> bool {
        matches!(
            self,
            Kind::Control
                | Kind::Introduce
                | Kind::Release
                | Kind::IsDomainIntroduced
                | Kind::Resume
                | Kind::SetTarget
                | Kind::SetFeature
                | Kind::GetQuota
                | Kind::SetQuota
        ) || self as u32 >= EXTENSIONS_FROM
    }

    /// Whether a transaction id is ignored, known or not (xenstore.txt, WATCH).
    pub fn ignores_transaction(self) -> bool {
        matches!(self, Kind::Watch | Kind::Unwatch)
    }

    /// The name in xenstore.txt, for people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Control => "CONTROL",
            Kind::Directory => "DIRECTORY",
            Kind::Read => "READ",
            Kind::GetPerms => "GET_PERMS",
            Kind::Watch => "WATCH",
            Kind::Unwatch => "UNWATCH",
            Kind::TransactionStart => "TRANSACTION_START",
            Kind::TransactionEnd => "TRANSACTION_END",
            Kind::Introduce => "INTRODUCE",
            Kind::Release => "RELEASE",
            Kind::GetDomainPath => "GET_DOMAIN_PATH",
            Kind::Write => "WRITE",
            Kind::Mkdir => "MKDIR",
            Kind::Rm => "RM",
            Kind::SetPerms => "SET_PERMS",
            Kind::IsDomainIntroduced => "IS_DOMAIN_INTRODUCED",
            Kind::Resume => "RESUME",
            Kind::SetTarget => "SET_TARGET",
            Kind::ResetWatches => "RESET_WATCHES",
            Kind::DirectoryPart => "DIRECTORY_PART",
            Kind::GetFeature => "GET_FEATURE",
            Kind::SetFeature => "SET_FEATURE",
            Kind::GetQuota => "GET_QUOTA",
            Kind::SetQuota => "SET_QUOTA",
            Kind::Quiesce => "QUIESCE",
            Kind::Unquiesce => "UNQUIESCE",
            Kind::GetDomainWatches => "GET_DOMAIN_WATCHES",
            Kind::AddDomainWatches => "ADD_DOMAIN_WATCHES",
            Kind::StartDomainTransaction => "START_DOMAIN_TRANSACTION",
            Kind::GetDomainWatchesDepth => "GET_DOMAIN_WATCHES_DEPTH",
            Kind::AddDomainWatchesDepth => "ADD_DOMAIN_WATCHES_DEPTH",
        }
    }
}

/// The name of any message, for people: of a request, a reply or an event.
pub fn kind_name(number: u32) -> &'static str {
    match number {
        WATCH_EVENT => "WATCH_EVENT",
        ERROR => "ERROR",
        _ => Kind::from_wire(number).map_or("unknown", Kind::name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_xs_wire_h() {
        for number in (0..100).chain(0x1_0000..0x1_0100) {
            if let Some(kind) = Kind::from_wire(number) {
                assert_eq!(kind as u32, number);
            }
        }
        for absent in [15, 16, 20, 27, 65535, 0x1_0007] {
            assert_eq!(Kind::from_wire(absent), None);
        }
    }
}
