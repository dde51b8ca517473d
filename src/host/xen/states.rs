//! Domain states, by whichever of two interfaces the hypervisor provides.

use std::io;

use super::abi::SYSCTL_VERSIONS;
use super::hypercall::Privcmd;
use super::stable::Stable;
use super::sysctl::Listing;
use crate::host::DomainState;
use crate::types::Domid;

/// A reader of domain states.
pub struct States {
    privcmd: Privcmd,
    interface: Interface,
}

enum Interface {
    Stable(Stable),
    Sysctl(Listing),
}

impl States {
    /// Opens the devices and probes the interfaces.
    ///
    /// # Errors
    /// Those of open(2), with the device's name; `Unsupported`, with the interfaces tried, for a release that has
    /// neither.
    pub fn open() -> io::Result<States> {
        let privcmd = Privcmd::open()?;
        // The stable interface first: it names the changed domains and has an id for each incarnation.
        let interface = match Stable::open(&privcmd)? {
            Some(stable) => Some(Interface::Stable(stable)),
            None => Listing::open(&privcmd)?.map(Interface::Sysctl),
        };
        match interface {
            Some(interface) => Ok(States { privcmd, interface }),
            None => Err(unknown(privcmd.release()?)),
        }
    }

    /// Returns the hypervisor's release and the interface in use, for the log.
    pub fn describe(&self) -> io::Result<String> {
        let (major, minor) = self.privcmd.release()?;
        Ok(match &self.interface {
            Interface::Stable(_) => format!("Xen {major}.{minor}, get_domain_state"),
            Interface::Sysctl(listing) => {
                format!("Xen {major}.{minor}, sysctl version {:#x}", listing.version())
            }
        })
    }

    /// Returns the state of a domain, `None` if it does not exist.
    pub fn domain(&mut self, domid: Domid) -> io::Result<Option<DomainState>> {
        match &mut self.interface {
            Interface::Stable(stable) => stable.domain(&self.privcmd, domid),
            Interface::Sysctl(listing) => listing.domain(&self.privcmd, domid),
        }
    }

    /// See [`crate::host::Host::changed`].
    pub fn changed(
        &mut self,
        known: &mut dyn Iterator<Item = Domid>,
        changed: &mut Vec<Domid>,
    ) -> io::Result<()> {
        match &mut self.interface {
            Interface::Stable(stable) => stable.changed(&self.privcmd, changed),
            Interface::Sysctl(listing) => {
                changed.extend(listing.changed(&self.privcmd, known)?);
                Ok(())
            }
        }
    }
}

fn unknown((major, minor): (u32, u32)) -> io::Error {
    let [newer, older] = SYSCTL_VERSIONS;
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "Xen {major}.{minor} supports neither get_domain_state (Xen 4.21 and later) nor sysctl \
             version {newer:#x} (Xen 4.17 to 4.20) or {older:#x} (Xen 4.16); use one of these \
             releases"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_xen_version_is_named() {
        let error = unknown((4, 14));
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "Xen 4.14 supports neither get_domain_state (Xen 4.21 and later) nor sysctl version \
             0x15 (Xen 4.17 to 4.20) or 0x14 (Xen 4.16); use one of these releases"
        );
    }
}
