//! Names.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A fixed-size name, UTF-8, zero-padded.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Name(pub [u8; 32]);

impl Name {
    /// The name cut to 31 bytes.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().take(31).zip(name.as_bytes()) {
            *to = *from;
        }
        Self(bytes)
    }

    /// The name, or `"?"` when the bytes are not UTF-8.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        core::str::from_utf8(&self.0[..end]).unwrap_or("?")
    }
}

impl core::fmt::Debug for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.as_str().fmt(f)
    }
}
