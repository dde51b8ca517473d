//! CONTROL, from the message to the command.

use std::borrow::Cow;

use super::connection::Connection;
use super::mailbox::WatchReport;
use super::thread::{Place, Thread};
use crate::protocol::Header;
use crate::words::Errno;

impl Thread {
    /// CONTROL. `None` if the answer comes later.
    pub(super) fn control(
        &mut self,
        _place: Place,
        _connection: &mut Connection,
        _header: &Header,
        _payload: &[u8],
    ) -> Option<Result<Cow<'static, [u8]>, Errno>> {
        Some(Err(Errno::EINVAL))
    }

    /// Compares the watches of this thread's connections with the store's.
    pub(super) fn check_watches(&self) -> WatchReport {
        WatchReport::default()
    }
}
