//! The kernel's own ports beside those of the NAT.

/// With fewer ports than this the gateway's own connections are likely to run out of them.
const FEWEST: u16 = 1024;
/// Ports below are privileged, and the kernel gives none of them away.
const FIRST: u16 = 1024;

/// Has one range a port of the other?
pub fn overlap(a: (u16, u16), b: (u16, u16)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

/// The wider of the ranges below and above the NAT's; `None`: neither is wide enough for the
/// gateway's own connections.
pub fn beside((nat_first, nat_last): (u16, u16)) -> Option<(u16, u16)> {
    let (below, above) = (nat_first.saturating_sub(FIRST), u16::MAX - nat_last);
    let enough = below.max(above) >= FEWEST;
    let wider = if below >= above {
        (FIRST, nat_first.saturating_sub(1))
    } else {
        (nat_last + 1, u16::MAX)
    };
    enough.then_some(wider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_the_wider_part_that_the_nat_leaves() {
        assert_eq!(beside((16_384, 65_535)), Some((1024, 16_383)));
        assert_eq!(beside((1024, 40_000)), Some((40_001, 65_535)));
        assert_eq!(beside((2048, 65_535)), Some((1024, 2047)));
        assert_eq!(beside((1024, 65_535)), None);
        assert_eq!(beside((1100, 65_000)), None);
    }
}
