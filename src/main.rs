//! The xenstored daemon.

fn main() {}
