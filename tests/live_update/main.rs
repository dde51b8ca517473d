//! Domains of a stream that Debian's C daemon wrote for its live update arrive in a store here.

#[path = "../world/mod.rs"]
mod world;
mod written;

#[test]
fn what_c_wrote_arrives() {
    written::arrive(include_bytes!("../golden/c-4.17.stream"));
}
