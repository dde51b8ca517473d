//! Load for xenstored.
fn main() {}
