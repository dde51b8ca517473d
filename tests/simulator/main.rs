//! The whole daemon in virtual time, on one thread: workers, reaper and matcher run by the steps of a seed, with guests
//! and sockets in memory. Everything that a client gets is compared with the naive model.
//!
//! `SIM_SEEDS=<n>` sets the number of seeds, `SIM_SEED=<n>` runs one. A failure prints its seed and the fewest steps
//! that still fail.

mod check;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod expected;
mod follow;
mod host;
mod link;
#[path = "../naive/mod.rs"]
mod naive;
mod observer;
mod seeds;
mod shrink;
mod simulation;
mod steps;
mod update;
