//! The XDP steering program and its committed object
