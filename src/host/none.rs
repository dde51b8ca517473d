//! No host: nothing can be bound or mapped.

use std::io;

use super::{Channels, DomainState, Gfn, Host, Port, RingPage};
use crate::types::Domid;

/// A host without domains, for a state that is only read, and for tests of sessions.
pub struct NoHost;

impl Host for NoHost {
    fn open_channels(&self) -> io::Result<Box<dyn Channels>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn map_ring(&self, _: Domid, _: Option<Gfn>) -> io::Result<RingPage> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn domain(&self, _: Domid) -> io::Result<Option<DomainState>> {
        Ok(None)
    }

    fn changed(&self, _: &mut dyn Iterator<Item = Domid>, _: &mut Vec<Domid>) -> io::Result<()> {
        Ok(())
    }

    fn control_port(&self) -> io::Result<Option<Port>> {
        Ok(None)
    }
}
