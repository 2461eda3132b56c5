//! The load engine against its promises.
