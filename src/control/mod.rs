//! CONTROL commands.
