//! `xsctl`: shows and compares the streams in which the store's state is carried. xsctl(8) is its
//! manual.
//!
//! ```text
//!     inspect   Reader ---> a Record at a time ---> show ---> Line
//!     diff      Reader ---> State, twice ---> facts ---> Line
//! ```

mod diff;
mod inspect;
mod line;
mod options;
mod show;

pub use options::{Done, Failure, run};
