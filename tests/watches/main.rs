//! Watches: what matches, who may see it, in which order it comes.

#[path = "../common/mod.rs"]
mod common;
mod matches;
mod order;
mod permissions;

use common::{Control, World, check, check_with, op};
