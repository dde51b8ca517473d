use std::fmt;

/// A domain id (xen.h, `domid_t`). A domid does not identify the incarnation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Domid(pub u16);

impl Domid {
    /// The control domain (dom0), where the toolstack runs.
    pub const CONTROL: Domid = Domid(0);
    /// The first id that no real domain has (xen.h, `DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: u16 = 0x7FF0;
    /// The calling domain (xen.h, `DOMID_SELF`).
    pub const SELF: Domid = Domid(0x7FF0);
    /// In a permission entry: every domain (xen.h, `DOMID_ANY`; XENSTORE_SERVER_FEATURE_DOMID_ANY).
    pub const ANY: Domid = Domid(0x7FF5);

    /// Returns whether a real domain can have this id.
    pub fn is_real(self) -> bool {
        self.0 < Self::FIRST_RESERVED
    }

    /// Parses decimal digits as clients send them. Returns `None` unless the digits are a number from 0 to 65535.
    pub fn parse(digits: &[u8]) -> Option<Domid> {
        parse_decimal(digits)?.try_into().ok().map(Domid)
    }

    /// Parses the *canonical* decimal form, without leading zeros: `7` is domain 7, but `007` is an ordinary name. Only
    /// canonical forms decide which partition holds a path.
    pub fn parse_canonical(digits: &[u8]) -> Option<Domid> {
        match digits {
            [b'0', _, ..] => None,
            _ => Domid::parse(digits).filter(|d| d.is_real()),
        }
    }
}

/// Parses decimal digits only (no sign, no blanks) as a 32-bit number.
fn parse_decimal(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    digits.iter().try_fold(0u32, |value, &digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u32::from(digit - b'0')),
        _ => None,
    })
}

impl fmt::Display for Domid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_domids_name_a_partition() {
        assert_eq!(Domid::parse_canonical(b"7"), Some(Domid(7)));
        assert_eq!(Domid::parse_canonical(b"0"), Some(Domid(0)));
        assert_eq!(Domid::parse_canonical(b"007"), None);
        assert_eq!(Domid::parse_canonical(b"32752"), None); // DOMID_SELF
        assert_eq!(Domid::parse(b"007"), Some(Domid(7)));
        assert_eq!(Domid::parse(b"65536"), None);
        assert_eq!(Domid::parse(b""), None);
        assert_eq!(Domid::parse(b"-1"), None);
        assert_eq!(Domid::parse(b"7 "), None);
    }
}
