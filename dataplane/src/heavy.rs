//! Who has heavy flows: pairs of hosts with one of late. A new flow between such a pair promises to
//! be heavy too: a backup's next file, a download's next part.

use weir_layout::flow::FlowEntry4;

use crate::purpose::Purpose;

/// A flow is heavy from so many bytes on, both directions together.
pub const HEAVY_BYTES: u64 = 8 << 20;
/// For so long after a heavy flow's last packet its hosts count, milliseconds.
pub const MEMORY_MS: u32 = 60_000;
/// Pairs that are remembered, a power of two; the newest stays.
const PAIRS: usize = 1024;

/// The pairs, by hash.
#[derive(Debug)]
pub struct Heavy {
    key: [u64; 2],
    pairs: Box<[(u64, u32)]>,
}

impl Heavy {
    /// None yet; `key` is a secret.
    pub fn new(key: [u64; 2]) -> Self {
        Self { key, pairs: vec![(0, 0); PAIRS].into() }
    }

    /// Takes note of a flow that had its last packet at `seen`, given the bytes of its other
    /// direction.
    pub fn learn(&mut self, forward: &FlowEntry4, back_bytes: u64, seen: u32) {
        if forward.bytes.saturating_add(back_bytes) >= HEAVY_BYTES {
            let hash = self.hash(forward.src, forward.dst);
            self.pairs[hash as usize % PAIRS] = (hash, seen);
        }
    }

    /// Had these hosts a heavy flow of late?
    pub fn expects(&self, src: [u8; 4], dst: [u8; 4], now: u32) -> bool {
        let hash = self.hash(src, dst);
        let (known, seen) = self.pairs[hash as usize % PAIRS];
        known == hash && now.wrapping_sub(seen) < MEMORY_MS
    }

    fn hash(&self, src: [u8; 4], dst: [u8; 4]) -> u64 {
        let word = u64::from(u32::from_be_bytes(src)) << 32 | u64::from(u32::from_be_bytes(dst));
        // Zero is no pair's.
        Purpose::Pair.hash(self.key, word) | 1 << 63
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn flow(bytes: u64) -> FlowEntry4 {
        FlowEntry4 { src: [10, 0, 0, 1], dst: [9; 4], bytes, ..FlowEntry4::new_zeroed() }
    }

    #[test]
    fn a_pair_with_a_heavy_flow_is_expected_to_have_another_for_a_while() {
        let mut heavy = Heavy::new([1, 2]);
        heavy.learn(&flow(HEAVY_BYTES - 2), 1, 1000);
        assert!(!heavy.expects([10, 0, 0, 1], [9; 4], 1000));
        heavy.learn(&flow(1), HEAVY_BYTES - 1, 1000);
        assert!(heavy.expects([10, 0, 0, 1], [9; 4], 1000 + MEMORY_MS - 1));
        assert!(!heavy.expects([10, 0, 0, 1], [9; 4], 1000 + MEMORY_MS));
        assert!(!heavy.expects([10, 0, 0, 2], [9; 4], 1000));
    }

    #[test]
    fn a_pair_stays_forgotten_while_the_clock_goes_round() {
        const DAY: u32 = 86_400_000;
        let mut heavy = Heavy::new([1, 2]);
        heavy.learn(&flow(HEAVY_BYTES), 0, 1000);
        assert!((1..49).all(|day| !heavy.expects([10, 0, 0, 1], [9; 4], 1000 + day * DAY)));
    }
}
