//! WATCH and UNWATCH.

use super::context::{ACK, RequestContext};
use crate::domain::FEATURE_WATCH_DEPTH;
use crate::types::{Errno, PathSpace};

/// Executes WATCH: queues the reply, and right behind it the initial event with the path as the client wrote it.
pub fn watch(cx: &mut RequestContext<'_>, raw: &[u8], token: &[u8], depth: Option<u16>) {
    let has_depth = cx.session.domain.features() & FEATURE_WATCH_DEPTH != 0;
    let result = if depth.is_some() && !has_depth {
        Err(Errno::EINVAL)
    } else {
        cx.session.add_watch(cx.core, cx.caller, (raw, token, depth))
    };
    cx.reply(result.map(|_| ACK));
    if let Ok(id) = result {
        cx.session.fire_once(cx.core, id);
    }
}

/// Executes UNWATCH: no event of the watch follows its reply.
pub fn unwatch(cx: &mut RequestContext<'_>, raw: &[u8], token: &[u8]) -> Result<(), Errno> {
    let mut space = PathSpace::new();
    let path = cx.session.resolve(cx.core, raw, &mut space)?;
    cx.session.remove_watch(cx.core, path, token)
}
