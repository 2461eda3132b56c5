//! What the benchmarks of the user tier in memory share: no kernel, no device, one thread.
//!
//! | module | what it is |
//! |---|---|
//! | [`options`] | what is measured: flows, pages, rounds, CPU |
//! | [`case`] | flows of a kind in a table of a kind, measured in turns |
//! | [`gateway`] | an engine with a published site: a LAN and four uplinks |
//! | [`traffic`] | the flows and their packets |
//! | [`ring`] | frames in packet memory as AF_XDP has it |
//! | [`meter`] | time and instructions spent in the engine alone |
//! | [`heap`] | memory taken from the heap |
//! | [`driver`] | makes flows and sends their packets through the engine |

pub mod case;
pub mod driver;
pub mod gateway;
pub mod heap;
pub mod meter;
pub mod options;
pub mod ring;
pub mod traffic;
