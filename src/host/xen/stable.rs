//! Domain states by the hypercall without an interface version: Xen 4.21 and later.

use std::io;

use rustix::io::Errno;

use super::abi::{
    DOMID_INVALID, Domctl, GetDomainState, STATE_DEAD, STATE_EXIST, STATE_SHUTDOWN,
    XEN_DOMCTL_GET_DOMAIN_STATE,
};
use super::hypercall::{Buffer, Privcmd};
use super::within;
use crate::host::DomainState;
use crate::types::Domid;

/// The hypercall `XEN_DOMCTL_get_domain_state`.
pub struct Stable {
    domctl: Buffer<Domctl>,
}

impl Stable {
    /// Probes the hypercall; returns `None` if the hypervisor lacks it.
    pub fn open(privcmd: &Privcmd) -> io::Result<Option<Stable>> {
        let mut stable = Stable { domctl: Buffer::new()? };
        // The control domain always exists, so any error is the interface's.
        match stable.ask(privcmd, Domid::CONTROL.0) {
            Ok(_) => Ok(Some(stable)),
            // domctl.c checks the interface version, here 0, before the command.
            Err(Errno::ACCESS) => Ok(None),
            Err(error) => Err(within("get_domain_state", error.into())),
        }
    }

    /// Returns the state of a domain, `None` if it does not exist.
    pub fn domain(&mut self, privcmd: &Privcmd, domid: Domid) -> io::Result<Option<DomainState>> {
        match self.ask(privcmd, domid.0) {
            Ok(domctl) => Ok(state(&domctl.state)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends the domains that changed since the last call of any process. Binding `VIRQ_DOM_EXC` marks all existing
    /// domains as changed.
    ///
    /// # Errors
    /// EACCES if this domain has not bound the VIRQ. Domains appended before an error are not reported again.
    pub fn changed(&mut self, privcmd: &Privcmd, changed: &mut Vec<Domid>) -> io::Result<()> {
        until_none(changed, || Ok(Domid(self.ask(privcmd, DOMID_INVALID)?.domain)))
    }

    fn ask(&mut self, privcmd: &Privcmd, domain: u16) -> Result<&Domctl, Errno> {
        // Rebuilt for each query: the hypercall overwrites its input with its output.
        *self.domctl.get_mut() = Domctl {
            cmd: XEN_DOMCTL_GET_DOMAIN_STATE,
            interface_version: 0,
            domain,
            pad: [0; 3],
            state: GetDomainState { state: 0, caps: 0, pad: 0, unique_id: 0 },
            rest: [0; 14],
        };
        // SAFETY: domctl takes a `struct xen_domctl`, in which this command uses no addresses.
        let done = unsafe { privcmd.with_buffer(xen_sys::__HYPERVISOR_domctl, &mut self.domctl) };
        match done {
            Ok(_) => Ok(self.domctl.get()),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}

/// Appends the results of `next` until it returns ENOENT.
fn until_none(
    changed: &mut Vec<Domid>,
    mut next: impl FnMut() -> Result<Domid, Errno>,
) -> io::Result<()> {
    loop {
        match next() {
            Ok(domid) => changed.push(domid),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn state(state: &GetDomainState) -> Option<DomainState> {
    (state.state & STATE_EXIST != 0).then_some(DomainState {
        unique_id: state.unique_id,
        shutdown: state.state & STATE_SHUTDOWN != 0,
        dying: state.state & STATE_DEAD != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_call_keeps_the_changed_domains_found_before_it() {
        let of = |last| {
            let mut answers = [Ok(Domid(3)), Ok(Domid(5)), Err(last)].into_iter();
            let mut changed = Vec::new();
            let result = until_none(&mut changed, || answers.next().unwrap());
            (changed, result.is_ok())
        };
        assert_eq!(of(Errno::NOENT), (vec![Domid(3), Domid(5)], true));
        assert_eq!(of(Errno::NOMEM), (vec![Domid(3), Domid(5)], false));
    }

    #[test]
    fn domain_state_is_decoded_from_bits() {
        let of = |bits| state(&GetDomainState { state: bits, caps: 1, pad: 0, unique_id: 7 });
        let some = |shutdown, dying| Some(DomainState { unique_id: 7, shutdown, dying });
        assert_eq!(of(0), None);
        assert_eq!(of(0x1), some(false, false));
        assert_eq!(of(0x3), some(true, false));
        // "Dying" marks the start of a destruction, when frontends and backends still see the domain.
        assert_eq!(of(0x5), some(false, false));
        assert_eq!(of(0xB), some(true, true));
    }
}
