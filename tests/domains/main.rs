//! Operations on domains, and the host's reports about them.

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod dead_entries;
mod lifecycle;
mod orphans;
mod rings;
mod scan;

use std::sync::atomic::Ordering;
use std::time::Instant;

use common::ring::at;
use common::{Control, HANG, World, check, op};
