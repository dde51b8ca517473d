//! Moving domains between hosts: what is carried, and in which form.

pub mod bytes;
pub mod libxl;
pub mod stream;
