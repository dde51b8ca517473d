//! The state on which the recognition of a known difference depends, besides the step itself.

/// A set of guests by domid, without the control domain. Domids above 62, of which sequences use only one, share a
/// bit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guests(u64);

impl Guests {
    fn bit(domid: u16) -> u64 {
        if domid == 0 { 0 } else { 1 << domid.min(63) }
    }

    /// Adds the guest with this domid, unless it is 0.
    pub fn insert(&mut self, domid: u16) {
        self.0 |= Guests::bit(domid);
    }

    /// Removes the guest with this domid.
    pub fn remove(&mut self, domid: u16) {
        self.0 &= !Guests::bit(domid);
    }

    /// Returns the union with `others`.
    pub fn and(self, others: Guests) -> Guests {
        Guests(self.0 | others.0)
    }

    /// Returns whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether the set has the guest with this domid.
    pub fn contain(self, domid: u16) -> bool {
        self.0 & Guests::bit(domid) != 0
    }
}

/// The state before a step, derived from the sequence's history.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// The step is in a transaction, and something outside of it changed since its START.
    pub disturbed: bool,
    /// A changed node is the step's node, an ancestor or a descendant.
    pub touched: bool,
    /// A changed node is that of an RM or MKDIR in the transaction, an ancestor or a descendant: a request that had
    /// no effect might have one now, or vice versa.
    pub redone: bool,
    /// The transaction has a request that oxenstored cannot replay, successful or refused.
    pub foreign: bool,
    /// Subtrees removed by the step: that of an RM, or those of all RMs at an END.
    pub removes: Vec<Vec<u8>>,
    /// The nodes created by an END's MKDIRs.
    pub makes: Vec<Vec<u8>>,
    /// A domain died since the transaction began.
    pub bereft: bool,
    /// A request of the transaction hit a quota.
    pub refused: bool,
    /// The node is, is below, or is the parent of one that a guest may have made; or the step removes such a node.
    pub by_guests: bool,
    /// The guest that dies in this step made nodes below nodes of other owners.
    pub elsewhere: bool,
    /// Large value: the step's own, that of its node, or that of an ancestor that may get a new child.
    pub large: bool,
    /// The step introduced a domain that was already introduced.
    pub again: bool,
    /// Existing guests.
    pub alive: Guests,
    /// Guests that are shut down.
    pub shut: Guests,
    /// Shut-down guests that have been resumed since.
    pub resumed: Guests,
    /// Guests that have died.
    pub dead: Guests,
    /// Domids named in a RELEASE.
    pub released: Guests,
    /// Guests granted a permission at the step's node or an ancestor before they existed; at END, at any node.
    pub early: Guests,
}
