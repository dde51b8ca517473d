//! Load generator for xenstored: thousands of guests, toolstacks and hostile clients in one program.
//!
//! ```text
//!   scenario   the load, and the expected results
//!      |
//!   client     connections                       target    the daemons under load
//!      |                                            |
//!   measure    samples, medians   <-- CPU time -----+
//!      |
//!   report     table, JSON, HTML
//! ```

pub mod client;
pub mod delay;
pub mod differential;
pub mod measure;
pub mod report;
pub mod scenario;
pub mod target;
pub mod trouble;
