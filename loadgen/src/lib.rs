//! Load for xenstored: thousands of guests, toolstacks and hostile clients in one program.
//!
//! ```text
//!   scenario   what is done, and what must come of it
//!      |
//!   client     connections that do it            target    the daemons that it is done to
//!      |                                            |
//!   measure    samples, medians   <-- CPU time -----+
//!      |
//!   report     table, JSON, HTML
//! ```

pub mod client;
pub mod differential;
pub mod measure;
pub mod report;
pub mod scenario;
pub mod target;
pub mod trouble;
