//! Transactions: two conflict only if one saw data that the other changed.

#[path = "../common/mod.rs"]
mod common;
mod conflicts;
mod costs;
mod events;
mod ids;

use std::time::{Duration, Instant};

use common::{Control, HANG, World, check, op};
