//! How bytes come and go: a Unix socket, or the ring in a domain's page. Nothing here knows what
//! the bytes mean.

mod ring;

pub use ring::{Ring, RingError};
