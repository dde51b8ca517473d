//! Load for xenstored: its guests, toolstacks and hostile clients, and the peers it is compared
//! with.

pub mod differential;
pub mod target;
