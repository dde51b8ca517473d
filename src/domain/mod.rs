//! Domains as the store knows them: incarnations, accounts, quotas.

mod quota;

pub use quota::{Limits, Quota};
