//! The flows of one worker: making both directions of a flow, following TCP, ending it.

use weir_shm::flows::{Action4, FlowTable4};
use weir_wire::layout::control::Timeouts;
use weir_wire::layout::flow::{FlowEntry4, FlowKey4, FlowState, flag};
use weir_wire::layout::neighbour::{Neighbour, mark};
use weir_wire::parse::Parsed;
use weir_wire::rewrite::compile4;
use weir_wire::{icmp, tcp};
use zerocopy::FromZeros;

/// The key of a parsed packet.
#[inline]
pub fn key_of(p: &Parsed) -> FlowKey4 {
    FlowKey4::new(p.src, p.dst, p.sport, p.dport, p.proto)
}

/// The key of packets that answer those of `key`.
#[inline]
pub fn reversed(key: &FlowKey4) -> FlowKey4 {
    FlowKey4::new(key.dst, key.src, key.dport, key.sport, key.proto)
}

/// A flow to be made: packets of `inside` leave as `outside`.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// The first packet's key.
    pub inside: FlowKey4,
    /// The same after translation.
    pub outside: FlowKey4,
    /// Hashes of the keys of its packets and of those that answer.
    pub hashes: [u64; 2],
    /// Uplink index.
    pub uplink: u8,
    /// Where the first packet came from.
    pub host: Neighbour,
    /// The host's index in the neighbour table.
    pub host_index: u16,
    /// The port it leaves by.
    pub port: u8,
    /// Owner.
    pub worker: u8,
    /// Milliseconds.
    pub now: u32,
}

/// Publishes both directions and links them; the forward slot. `None`: no room, nothing changed.
pub fn create(table: &FlowTable4, new: &NewFlow) -> Option<u32> {
    let translated = if new.inside == new.outside { 0 } else { flag::NAT };
    let state =
        if new.inside.proto == tcp::PROTOCOL { FlowState::Opening } else { FlowState::Stateless };
    let entry = |from: &FlowKey4, to: &FlowKey4, (port, host): (u8, u16), flags: u8| {
        let mut entry = FlowEntry4::new_zeroed();
        (entry.src, entry.dst) = (from.src, from.dst);
        (entry.sport, entry.dport, entry.proto) = (from.sport, from.dport, from.proto);
        (entry.flags, entry.flow_state) = (flags | translated, state as u8);
        (entry.uplink, entry.worker) = (new.uplink, new.worker);
        (entry.port, entry.host) = (port, host);
        entry.rewrite = compile4(from, to);
        entry.last_seen = new.now;
        entry
    };
    let (answer, answered) = (reversed(&new.outside), reversed(&new.inside));
    let [hash, answers] = new.hashes;
    let home = (new.host.port, new.host_index);
    let back = table.insert(answers, &entry(&answer, &answered, home, 0))?;
    let flags = flag::FORWARD | flag::SEEN | flag::TO_UPLINK;
    let out = (new.port, mark(new.host.to_word(), back));
    let forward = entry(&new.inside, &new.outside, out, flags);
    let Some(index) = table.insert(hash, &forward) else {
        table.retire(back);
        return None;
    };
    table.link(index, back);
    Some(index)
}

/// Follows a flow by one packet: marks the direction as seen, keeps the TCP state.
///
/// A flow is offered to the kernel tier once both directions were seen (TCP: and the handshake is
/// complete). After one FIN a connection may go on for hours (half-close, RFC 5382 REQ-2); after
/// both, or a RST, it is closing, and a SYN from outside opens it again; one from the inside begins
/// a flow of its own, see [`is_over`].
#[inline]
pub fn follow(table: &FlowTable4, index: u32, action: &Action4, proto: u8, tcp_flags: u8) {
    const EVENTS: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;
    let opening = action.flow_state == FlowState::Opening as u8;
    if action.flags & flag::SEEN != 0 && tcp_flags & EVENTS == 0 && !opening {
        return;
    }
    follow_slowly(table, index, action, proto, tcp_flags);
}

#[cold]
fn follow_slowly(table: &FlowTable4, index: u32, action: &Action4, proto: u8, tcp_flags: u8) {
    let (slot, peer) = (table.slot(index), table.slot(action.peer));
    let mut other = peer.action();
    let mut flags = action.flags | flag::SEEN;
    let mut state = FlowState::from_byte(action.flow_state);
    if proto != tcp::PROTOCOL {
        if other.flags & flag::SEEN != 0 {
            flags |= flag::OFFLOAD;
            other.flags |= flag::OFFLOAD;
        }
    } else if tcp_flags & tcp::flag::RST != 0 {
        state = FlowState::Closing;
    } else if tcp_flags & tcp::flag::SYN != 0 {
        if state == FlowState::Closing && tcp_flags & tcp::flag::ACK == 0 {
            state = FlowState::Opening;
            flags &= !(flag::FIN | flag::OFFLOAD);
            other.flags &= !(flag::FIN | flag::OFFLOAD | flag::SEEN);
        }
    } else {
        if state == FlowState::Opening && other.flags & flag::SEEN != 0 {
            state = FlowState::Established;
            flags |= flag::OFFLOAD;
            other.flags |= flag::OFFLOAD;
        }
        if tcp_flags & tcp::flag::FIN != 0 {
            flags |= flag::FIN;
            if other.flags & flag::FIN != 0 {
                state = FlowState::Closing;
            }
        }
    }
    if state == FlowState::Closing {
        flags &= !flag::OFFLOAD;
        other.flags &= !flag::OFFLOAD;
    }
    slot.set_meta(flags, state as u8);
    peer.set_meta(other.flags, state as u8);
}

/// Is it the forward entry of a connection that has ended? The next with the same ports is another:
/// it may go by another uplink, and from another address.
pub fn is_over(action: &Action4) -> bool {
    action.flags & flag::FORWARD != 0 && action.flow_state == FlowState::Closing as u8
}

/// Makes a TCP flow one that is closing, given its forward slot: the kernel tier leaves it alone.
pub fn close(table: &FlowTable4, forward: u32) {
    let slot = table.slot(forward);
    let action = slot.action();
    let peer = table.slot(action.peer);
    let state = FlowState::Closing as u8;
    slot.set_meta(action.flags & !flag::OFFLOAD, state);
    peer.set_meta(peer.action().flags & !flag::OFFLOAD, state);
}

/// Idle time after which a flow ends, milliseconds.
pub fn timeout_ms(timeouts: &Timeouts, proto: u8, flow_state: u8) -> u32 {
    let seconds = match FlowState::from_byte(flow_state) {
        FlowState::Opening => timeouts.tcp_opening,
        FlowState::Established => timeouts.tcp_established,
        FlowState::Closing => timeouts.tcp_closing,
        FlowState::Stateless if proto == icmp::PROTOCOL => timeouts.icmp,
        FlowState::Stateless => timeouts.udp,
    };
    seconds.saturating_mul(1000)
}

/// For how long has neither direction been used, milliseconds? The clock wraps after 49 days; a
/// timestamp that is ahead of `now` is fresh.
pub fn idle_ms(table: &FlowTable4, forward: &FlowEntry4, now: u32) -> u32 {
    let idle = |seen: u32| now.wrapping_sub(seen) as i32;
    let back = table.slot(forward.peer).last_seen();
    idle(forward.last_seen).min(idle(back)).max(0) as u32
}

#[cfg(test)]
mod tests {
    use weir_wire::hash::flow4;

    use super::*;

    const SECRET: [u64; 2] = [3, 5];

    fn new_flow(proto: u8) -> NewFlow {
        let (lan, site) = ([10, 0, 0, 1], [198, 51, 100, 1]);
        let inside = FlowKey4::new(lan, site, [1, 1], [2, 2], proto);
        let outside = FlowKey4::new([192, 0, 2, 1], site, [9, 9], [2, 2], proto);
        NewFlow {
            inside,
            outside,
            hashes: hashes(&inside, &outside),
            uplink: 1,
            host: Neighbour { mac: [2; 6], port: 0 },
            host_index: 70,
            port: 1,
            worker: 0,
            now: 1000,
        }
    }

    fn hashes(inside: &FlowKey4, outside: &FlowKey4) -> [u64; 2] {
        [*inside, reversed(outside)].map(|key| flow4(SECRET, &key))
    }

    struct Pair {
        table: FlowTable4,
        forward: u32,
        back: u32,
        proto: u8,
    }

    impl Pair {
        fn new(proto: u8) -> Self {
            let table = FlowTable4::anonymous(64).unwrap();
            let forward = create(&table, &new_flow(proto)).unwrap();
            let back = table.slot(forward).action().peer;
            Self { table, forward, back, proto }
        }

        fn see(&self, index: u32, tcp_flags: u8) {
            let action = self.table.slot(index).action();
            follow(&self.table, index, &action, self.proto, tcp_flags);
        }

        fn state(&self) -> FlowState {
            let (a, b) =
                (self.table.slot(self.forward).action(), self.table.slot(self.back).action());
            assert_eq!(a.flow_state, b.flow_state);
            FlowState::from_byte(a.flow_state)
        }

        fn offered(&self) -> bool {
            let (a, b) =
                (self.table.slot(self.forward).action(), self.table.slot(self.back).action());
            assert_eq!(a.flags & flag::OFFLOAD, b.flags & flag::OFFLOAD);
            a.flags & flag::OFFLOAD != 0
        }

        fn handshake(&self) {
            self.see(self.forward, tcp::flag::SYN);
            self.see(self.back, tcp::flag::SYN | tcp::flag::ACK);
            self.see(self.forward, tcp::flag::ACK);
        }
    }

    #[test]
    fn each_direction_undoes_the_other() {
        let pair = Pair::new(17);
        let (out, back) = (
            pair.table.slot(pair.forward).read().unwrap(),
            pair.table.slot(pair.back).read().unwrap(),
        );
        assert_eq!((out.rewrite.src, out.rewrite.sport), (back.dst, back.dport));
        assert_eq!((back.rewrite.dst, back.rewrite.dport), (out.src, out.sport));
        assert_eq!((out.peer, back.peer), (pair.back, pair.forward));
        assert_eq!((out.port, back.port, back.host), (1, 0, 70));
    }

    #[test]
    fn udp_is_offered_when_both_directions_were_seen() {
        let pair = Pair::new(17);
        pair.see(pair.forward, 0);
        assert!(!pair.offered());
        pair.see(pair.back, 0);
        assert!(pair.offered());
    }

    #[test]
    fn tcp_is_established_by_the_third_packet() {
        let pair = Pair::new(tcp::PROTOCOL);
        pair.see(pair.forward, tcp::flag::SYN);
        pair.see(pair.back, tcp::flag::SYN | tcp::flag::ACK);
        assert_eq!(pair.state(), FlowState::Opening);
        assert!(!pair.offered());
        pair.see(pair.forward, tcp::flag::ACK);
        assert_eq!(pair.state(), FlowState::Established);
        assert!(pair.offered());
    }

    #[test]
    fn one_fin_leaves_a_half_open_connection_alive() {
        let pair = Pair::new(tcp::PROTOCOL);
        pair.handshake();
        pair.see(pair.forward, tcp::flag::FIN | tcp::flag::ACK);
        pair.see(pair.back, tcp::flag::ACK);
        assert_eq!(pair.state(), FlowState::Established);
        pair.see(pair.back, tcp::flag::FIN | tcp::flag::ACK);
        assert_eq!(pair.state(), FlowState::Closing);
        assert!(!pair.offered());
    }

    #[test]
    fn a_reset_closes_and_a_new_syn_opens_again() {
        let pair = Pair::new(tcp::PROTOCOL);
        pair.handshake();
        pair.see(pair.back, tcp::flag::RST);
        assert_eq!(pair.state(), FlowState::Closing);
        pair.handshake();
        assert_eq!(pair.state(), FlowState::Established);
        assert!(pair.offered());
    }

    #[test]
    fn either_direction_keeps_a_flow_alive() {
        let pair = Pair::new(17);
        let timeouts = Timeouts::DEFAULT;
        let expired = |now| {
            let entry = pair.table.slot(pair.forward).read().unwrap();
            idle_ms(&pair.table, &entry, now) >= timeout_ms(&timeouts, 17, entry.flow_state)
        };
        assert!(!expired(300_999));
        assert!(expired(301_000));
        pair.table.slot(pair.back).count(100, 200_000);
        assert!(!expired(301_000));
        assert!(expired(500_000));
    }

    #[test]
    fn each_state_has_its_timeout() {
        let t = Timeouts {
            tcp_opening: 1,
            tcp_established: 2,
            tcp_closing: 3,
            udp: 4,
            icmp: 5,
            reserved: 0,
        };
        let of = |proto, state| timeout_ms(&t, proto, state as u8);
        assert_eq!(of(tcp::PROTOCOL, FlowState::Opening), 1000);
        assert_eq!(of(tcp::PROTOCOL, FlowState::Established), 2000);
        assert_eq!(of(tcp::PROTOCOL, FlowState::Closing), 3000);
        assert_eq!(of(17, FlowState::Stateless), 4000);
        assert_eq!(of(icmp::PROTOCOL, FlowState::Stateless), 5000);
    }

    #[test]
    fn a_full_table_leaves_nothing_half_made() {
        let table = FlowTable4::anonymous(64).unwrap();
        let made = (0..100u8)
            .filter(|n| {
                let mut new = new_flow(17);
                (new.inside.sport, new.outside.sport) = ([1, *n], [9, *n]);
                new.hashes = hashes(&new.inside, &new.outside);
                create(&table, &new).is_some()
            })
            .count();
        let entries: Vec<_> =
            (0..64).filter_map(|index| Some((index, table.slot(index).read()?))).collect();
        assert!((24..=32).contains(&made) && entries.len() == 2 * made, "{made}");
        for (index, entry) in entries {
            assert_eq!(table.slot(entry.peer).read().unwrap().peer, index);
        }
    }
}
