//! Live updates: another process goes on with the state of this daemon; and domains of a live-update stream that
//! Debian's C daemon wrote arrive in this store.

#[path = "../common/mod.rs"]
mod common;
mod refused;
mod replaced;
mod upgrade;
#[path = "../world/mod.rs"]
mod world;
mod written;

#[test]
fn live_update_stream_of_c_xenstored_is_imported() {
    written::arrive(include_bytes!("../golden/c-4.17.stream"));
}
