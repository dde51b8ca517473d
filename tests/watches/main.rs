//! Watches: matching, permissions, and the order of events.

#[path = "../common/mod.rs"]
mod common;
mod matches;
mod order;
mod permissions;

use common::{Control, World, check, check_with, op};
