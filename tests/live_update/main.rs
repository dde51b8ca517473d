//! Domains of a live-update stream that Debian's C daemon wrote arrive in this store.

#[path = "../world/mod.rs"]
mod world;
mod written;

#[test]
fn what_c_wrote_arrives() {
    written::arrive(include_bytes!("../golden/c-4.17.stream"));
}
