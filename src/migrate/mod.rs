//! Moving domains between hosts: what is carried, and in which form.

pub mod bytes;
pub mod export;
pub mod import;
pub mod libxl;
pub mod machine;
pub mod state;
pub mod stream;
