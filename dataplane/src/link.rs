//! Layer 2 on the way out: addresses, and the VLAN tag of the port a packet leaves by.

use weir_layout::control::Mac;
use weir_wire::ethernet;
use weir_wire::rewrite::{self, LinkHeader};

use crate::packet::Buffer;

/// The hardware address a frame comes from.
#[inline(always)]
pub fn source(frame: &[u8]) -> Mac {
    frame.get(6..).and_then(|rest| rest.first_chunk()).map_or(Mac::NONE, |mac| Mac::new(*mac))
}

/// Gives a frame its new addresses, and adds, changes or removes its tag; `tagged` says whether it
/// has one. `false` when a tag has to be added and there is no room, or there
/// is no header.
#[inline]
pub fn set_header<B: Buffer>(frame: &mut B, tagged: bool, new: &LinkHeader) -> bool {
    match (tagged, new.vlan != 0) {
        (false, true) => {
            if !frame.grow_front(ethernet::TAG_LEN) {
                return false;
            }
            let [hi, lo] = new.vlan.to_be_bytes();
            // The ethertype is where it was; the tag goes in front of it.
            if let Some(tag) = frame.data_mut().get_mut(12..16) {
                tag.copy_from_slice(&[0x81, 0x00, hi, lo]);
            }
        }
        (true, false) => {
            frame.shrink_front(ethernet::TAG_LEN);
        }
        (true, true) => {
            if let Some(tag) = frame.data_mut().get_mut(14..16) {
                tag.copy_from_slice(&new.vlan.to_be_bytes());
            }
        }
        (false, false) => {}
    }
    rewrite::set_addresses(frame.data_mut(), new).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::HeapFrame;

    const UNTAGGED: [u8; 16] = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0];
    const TAGGED: [u8; 20] = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x81, 0, 0, 7, 8, 0, 0x45, 0];

    fn through(frame: &[u8], tagged: bool, vlan: u16) -> Vec<u8> {
        let mut frame = HeapFrame::new(frame);
        let new = LinkHeader { destination: Mac::new([3; 6]), source: Mac::new([4; 6]), vlan };
        assert!(set_header(&mut frame, tagged, &new));
        frame.data().to_vec()
    }

    fn expected(rest: &[u8]) -> Vec<u8> {
        [&[3; 6][..], &[4; 6], rest].concat()
    }

    #[test]
    fn an_untagged_frame_stays_untagged() {
        assert_eq!(through(&UNTAGGED, false, 0), expected(&[8, 0, 0x45, 0]));
    }

    #[test]
    fn a_tag_is_added() {
        assert_eq!(through(&UNTAGGED, false, 0x123), expected(&[0x81, 0, 1, 0x23, 8, 0, 0x45, 0]));
    }

    #[test]
    fn a_tag_is_removed() {
        assert_eq!(through(&TAGGED, true, 0), expected(&[8, 0, 0x45, 0]));
    }

    #[test]
    fn a_tag_is_changed() {
        assert_eq!(through(&TAGGED, true, 9), expected(&[0x81, 0, 0, 9, 8, 0, 0x45, 0]));
    }
}
