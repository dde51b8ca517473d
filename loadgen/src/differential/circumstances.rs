//! What a difference that is known depends on, beside the step itself.

/// A set of guests, by domid. The control domain is none of them, and numbers above 62, of which
/// sequences have one, are one number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guests(u64);

impl Guests {
    fn bit(domid: u16) -> u64 {
        if domid == 0 { 0 } else { 1 << domid.min(63) }
    }

    /// Adds the guest of this number, if there is one.
    pub fn insert(&mut self, domid: u16) {
        self.0 |= Guests::bit(domid);
    }

    /// Removes it.
    pub fn remove(&mut self, domid: u16) {
        self.0 &= !Guests::bit(domid);
    }

    /// These and those.
    pub fn and(self, others: Guests) -> Guests {
        Guests(self.0 | others.0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the guest of this number is one of them.
    pub fn contain(self, domid: u16) -> bool {
        self.0 & Guests::bit(domid) != 0
    }
}

/// What the history says of one step.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// It is in a transaction, and since its START something else changed.
    pub disturbed: bool,
    /// And what changed is its node, or one above or below it.
    pub touched: bool,
    /// And what changed is a node of an RM or MKDIR of its transaction, or one above or below it:
    /// what found nothing to do would do something now, or the other way round.
    pub redone: bool,
    /// Its transaction has a request that oxenstored cannot do again, answered or refused.
    pub foreign: bool,
    /// What it removes with all below: an RM one node, an END what its transaction removed.
    pub removes: Vec<Vec<u8>>,
    /// The nodes of an END's MKDIRs.
    pub makes: Vec<Vec<u8>>,
    /// A domain died since its transaction began.
    pub bereft: bool,
    /// A request of its transaction met a quota.
    pub refused: bool,
    /// Its node is at, below or directly above one that a guest may have made; or it removes such.
    pub by_guests: bool,
    /// The guest that dies with it made nodes where others own the parent.
    pub elsewhere: bool,
    /// Its value is large, or that of its node, or of one above that it may make a child of.
    pub large: bool,
    /// It introduced a domain that was introduced already.
    pub again: bool,
    /// Guests that exist.
    pub alive: Guests,
    /// Guests that are shut down.
    pub shut: Guests,
    /// Those of them that RESUME named since.
    pub resumed: Guests,
    /// Guests that have died.
    pub dead: Guests,
    /// Numbers of guests that a RELEASE named.
    pub released: Guests,
    /// Guests that were granted something at its node or above before they were there; at END, at
    /// any node.
    pub early: Guests,
}
