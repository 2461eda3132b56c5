//! Who has heavy flows: pairs of hosts with one of late. A new flow between such a pair promises to
//! be heavy too: a backup's next file, a download's next part.

use weir_wire::family::Family;

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

    /// Takes note of a flow between these hosts that had its last packet at `seen`, given the bytes
    /// of both directions.
    pub fn learn<F: Family>(&mut self, hosts: [&F::Address; 2], bytes: [u64; 2], seen: u32) {
        let [forward, back] = bytes;
        if forward.saturating_add(back) >= HEAVY_BYTES {
            let hash = self.hash::<F>(hosts);
            self.pairs[hash as usize % PAIRS] = (hash, seen);
        }
    }

    /// Had these hosts a heavy flow of late?
    pub fn expects<F: Family>(&self, hosts: [&F::Address; 2], now: u32) -> bool {
        let hash = self.hash::<F>(hosts);
        let (known, seen) = self.pairs[hash as usize % PAIRS];
        known == hash && now.wrapping_sub(seen) < MEMORY_MS
    }

    fn hash<F: Family>(&self, hosts: [&F::Address; 2]) -> u64 {
        let [src, dst] = hosts.map(|address| u64::from(F::digest(self.key, address)));
        let word = src << 32 | dst;
        // Zero is no pair's.
        Purpose::Pair.hash(self.key, word) | 1 << 63
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_wire::family::V4;

    const HOSTS: [&[u8; 4]; 2] = [&[10, 0, 0, 1], &[9; 4]];

    #[test]
    fn a_pair_with_a_heavy_flow_is_expected_to_have_another_for_a_while() {
        let mut heavy = Heavy::new([1, 2]);
        heavy.learn::<V4>(HOSTS, [HEAVY_BYTES - 2, 1], 1000);
        assert!(!heavy.expects::<V4>(HOSTS, 1000));
        heavy.learn::<V4>(HOSTS, [1, HEAVY_BYTES - 1], 1000);
        assert!(heavy.expects::<V4>(HOSTS, 1000 + MEMORY_MS - 1));
        assert!(!heavy.expects::<V4>(HOSTS, 1000 + MEMORY_MS));
        assert!(!heavy.expects::<V4>([&[10, 0, 0, 2], &[9; 4]], 1000));
    }

    #[test]
    fn a_pair_stays_forgotten_while_the_clock_goes_round() {
        const DAY: u32 = 86_400_000;
        let mut heavy = Heavy::new([1, 2]);
        heavy.learn::<V4>(HOSTS, [HEAVY_BYTES, 0], 1000);
        assert!((1..49).all(|day| !heavy.expects::<V4>(HOSTS, 1000 + day * DAY)));
    }
}
