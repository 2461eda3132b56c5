//! Packets that leave without a flow, where none needs to be known
//! ([`Stateless`](weir_layout::control::Stateless)): each by what its own headers say.
//!
//! The kernel tier takes those whose headers are read at once. The others are the user tier's, which
//! parses them in full: what has IP options or extension headers, fragments, errors, and whatever is
//! not sound.

use crate::family::{Family, V4};
use crate::plain::Header;
use crate::{tcp, udp};

/// A packet's headers, as whole words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bare<F: Family = V4> {
    /// The IP header.
    pub ip: F::Header,
    /// Of the transport header: the first two words, and of TCP the fourth and fifth. Zero where the
    /// protocol is another.
    pub transport: [u64; 4],
}

impl<F: Family> Bare<F> {
    /// Is it a SYN of TCP, or the answer to one, that has options?
    #[inline(always)]
    pub fn names_sizes(&self) -> bool {
        let [_, _, fourth, _] = self.transport;
        self.ip.proto() == tcp::PROTOCOL
            && (fourth >> 8) as u8 & tcp::flag::SYN != 0
            && fourth as u8 >> 4 > (tcp::HEADER_LEN / 4) as u8
    }

    /// The [ports](crate::bucket::Fields::ports) its bucket is chosen by; `None`: it is the user
    /// tier's. `room` counts the frame's bytes from the IP header on.
    ///
    /// A checksum that a sender [left to its device](Header::is_pseudo) is the user tier's to complete.
    #[inline(always)]
    pub fn ports(&self, room: u64) -> Option<u32> {
        let Self { ip, transport: [first, second, fourth, fifth] } = self;
        if !ip.is_plain(room) || ip.is_extended() {
            return None;
        }
        let len = u64::from(ip.total()) - F::Header::LEN as u64;
        match ip.proto() {
            tcp::PROTOCOL => {
                let header = (fourth & 0xf0) >> 2;
                let sound = header >= tcp::HEADER_LEN as u64 && header <= len;
                (sound && !ip.is_pseudo(fifth & 0xffff)).then_some((*first as u32).swap_bytes())
            }
            udp::PROTOCOL => {
                let stated = u64::from((*second as u16).swap_bytes());
                let sound = stated >= udp::HEADER_LEN as u64 && stated <= len;
                (sound && !ip.is_pseudo((second >> 16) & 0xffff))
                    .then_some((*first as u32).swap_bytes())
            }
            proto if proto == F::ICMP => {
                let kind = *first as u8;
                let echo = len >= 8 && (kind == F::ECHO_REQUEST || kind == F::ECHO_REPLY);
                let ident = (*second as u16).swap_bytes();
                echo.then_some(u32::from(ident) << 16 | u32::from(kind))
            }
            _ => Some(0),
        }
    }
}
