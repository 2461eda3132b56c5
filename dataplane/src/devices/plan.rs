//! What is wanted of a device: its queues, which worker serves each, and the rings and the packet
//! memory for them.

use weir_layout::control::{ControlHalf, Device};

use crate::memory;

/// Sockets of a device and a worker that have rings of full size.
const FULL_RINGS: usize = 16;
/// Smallest ring.
const SMALLEST_RING: u32 = 64;
/// Frames that a worker maps in a turn, unless one socket needs more.
const MAPPED_AT_A_TIME: u32 = 4096;

/// A device that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// Index in the control page.
    pub device: u8,
    /// Kernel interface index; 0: it is missing, or of a kind that cannot be used.
    pub ifindex: u32,
    /// Interface name.
    pub name: String,
    /// Its queues.
    pub queues: u32,
    /// MTU, bytes.
    pub mtu: u32,
    /// The XDP program may send frames by it.
    pub xdp_transmit: bool,
}

impl DevicePlan {
    /// Those of a published state.
    pub fn all(half: &ControlHalf) -> Vec<Self> {
        let named = (0u8..).zip(&half.devices).filter(|(_, device)| device.name.0[0] != 0);
        let plan = |(device, published): (u8, &Device)| Self {
            device,
            ifindex: published.ifindex,
            name: published.name.as_str().to_owned(),
            queues: published.queues.max(1),
            mtu: published.mtu,
            xdp_transmit: published.xdp_transmit == 1,
        };
        named.map(plan).collect()
    }

    /// The worker that serves a queue. Devices with fewer queues than there are workers do not all
    /// burden the first ones.
    fn worker_of(&self, queue: u32, workers: u8) -> u8 {
        let first = if self.queues < workers.into() { u32::from(self.device) } else { 0 };
        ((queue + first) % u32::from(workers.max(1))) as u8
    }

    pub(super) fn queues_of(&self, worker: u8, workers: u8) -> Vec<u32> {
        (0..self.queues).filter(|queue| self.worker_of(*queue, workers) == worker).collect()
    }

    /// The worker that sends by the device for one that has no queue of it.
    pub(super) fn sender_for(&self, worker: u8, workers: u8) -> Option<u8> {
        let queue = u32::from(worker) % self.queues;
        self.queues_of(worker, workers).is_empty().then(|| self.worker_of(queue, workers))
    }

    /// Does a change to this one need other sockets?
    pub(super) fn needs_other_sockets(&self, new: &Self) -> bool {
        let frame_size = memory::frame_size(self.mtu) != memory::frame_size(new.mtu);
        frame_size || (self.ifindex, self.queues) != (new.ifindex, new.queues)
    }
}

/// Slots of each ring of a worker's sockets of one device. Many have smaller ones, because the
/// worker comes round to each as often, and each takes memory.
pub(super) fn ring_size(wanted: u32, sockets: usize) -> u32 {
    let mut size = wanted;
    while size > SMALLEST_RING && sockets * size as usize > FULL_RINGS * wanted as usize {
        size /= 2;
    }
    size
}

/// Sockets that a worker opens in one turn: their frames may have to be mapped, and its packets wait
/// meanwhile.
pub(super) fn sockets_at_a_time(ring_size: u32) -> usize {
    (MAPPED_AT_A_TIME / (2 * ring_size)).max(1) as usize
}

/// What a worker's packet memory begins with: for each UMEM the bytes of a frame, and how many frames
/// the rings of its sockets hold. A device that is missing is taken to have one queue.
pub fn memory_of(plans: &[DevicePlan], worker: u8, workers: u8, ring: u32) -> Vec<(u32, u32)> {
    let umems_of = |size: u32| {
        let plans = plans.iter().filter(|plan| memory::frame_size(plan.mtu) == size);
        let rings = plans.flat_map(|plan| {
            let sockets = plan.queues_of(worker, workers).len();
            std::iter::repeat_n(2 * ring_size(ring, sockets), sockets)
        });
        let frames: Vec<u32> = rings.collect();
        let umem = |rings: &[u32]| (size, rings.iter().sum());
        frames.chunks(memory::SHARERS).map(umem).collect::<Vec<_>>()
    };
    [2048, 4096].into_iter().flat_map(umems_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(device: u8, queues: u32, mtu: u32) -> DevicePlan {
        DevicePlan { device, ifindex: 7, name: "wan0".into(), queues, mtu, xdp_transmit: true }
    }

    #[test]
    fn every_queue_has_one_worker_and_every_worker_a_way_out() {
        for (queues, workers) in [(1, 1), (1, 4), (3, 4), (4, 4), (96, 4), (5, 3), (256, 32)] {
            for device in [0, 1, 5] {
                let plan = plan(device, queues, 1500);
                let of = |worker| plan.queues_of(worker, workers);
                let mut served: Vec<u32> = (0..workers).flat_map(of).collect();
                served.sort_unstable();
                assert_eq!(served, (0..queues).collect::<Vec<_>>());
                for worker in 0..workers {
                    let sender = plan.sender_for(worker, workers);
                    assert_eq!(sender.is_none(), !of(worker).is_empty());
                    assert!(sender.is_none_or(|sender| !of(sender).is_empty()));
                }
            }
        }
    }

    #[test]
    fn devices_with_one_queue_are_spread_over_the_workers() {
        let of = |device| plan(device, 1, 1500).worker_of(0, 4);
        assert_eq!([0, 1, 2, 3, 4].map(of), [0, 1, 2, 3, 0]);
    }

    #[test]
    fn the_rings_of_many_queues_are_smaller_and_never_too_small() {
        assert_eq!([1, 16, 17, 96, 256].map(|n| ring_size(2048, n)), [2048, 2048, 1024, 256, 128]);
        assert_eq!(ring_size(64, 256), 64);
    }

    #[test]
    fn memory_is_for_the_rings_of_all_devices_by_the_size_of_their_frames() {
        let plans = [plan(0, 2, 1500), plan(1, 1, 1400), plan(2, 1, 3000)];
        assert_eq!(memory_of(&plans, 0, 2, 2048), [(2048, 4096), (4096, 4096)]);
        assert_eq!(memory_of(&plans, 1, 2, 2048), [(2048, 8192)]);
        assert_eq!(memory_of(&[], 0, 1, 2048), []);
        let many = vec![(2048, 16 * 512); 6];
        assert_eq!(memory_of(&[plan(0, 96, 1500)], 0, 1, 2048), many);
    }

    #[test]
    fn a_change_of_mtu_needs_other_sockets_only_for_frames_of_another_size() {
        let needs = |from, to| plan(0, 1, from).needs_other_sockets(&plan(0, 1, to));
        assert!(!needs(1500, 1400) && !needs(1400, 1774) && !needs(3000, 3800));
        assert!(needs(1500, 3000) && needs(3000, 1500));
        assert!(plan(0, 1, 1500).needs_other_sockets(&plan(0, 2, 1500)), "another queue");
    }
}
