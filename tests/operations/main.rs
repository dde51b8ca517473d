//! Every operation of xs_wire.h over the wire, inside and outside of transactions: exact payloads, every error, and the
//! order of checks.

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod nodes;
mod order;
mod permissions;
mod settings;
mod sizes;

use common::{Control, World, check, check_with, op};
