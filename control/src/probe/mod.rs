//! Probers, each bound to its uplink.
pub mod pace;
