//! Producer and consumer of a ring shared with the kernel.
//!
//! Indices are `u32`, only ever grow, and wrap; a slot is `index & (size - 1)`. Each side owns one
//! index: it stores its own with release, after touching the slots, and loads the other's with
//! acquire, before touching them (`net/xdp/xsk_queue.h`, "The structure of the shared state of the
//! rings"). Both keep a copy of the other's index and look at the shared one only when the copy
//! says there is nothing to do.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// `XDP_RING_NEED_WAKEUP` of `linux/if_xdp.h`.
const NEED_WAKEUP: u32 = 1;

/// Where a ring lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingMemory<T> {
    pub producer: NonNull<AtomicU32>,
    pub consumer: NonNull<AtomicU32>,
    pub flags: Option<NonNull<AtomicU32>>,
    pub slots: NonNull<T>,
    /// A power of two.
    pub size: u32,
}

impl<T: Copy> RingMemory<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: the maker of the memory keeps it mapped while a ring on it lives.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above.
        let flags = self.flags.map(|flags| unsafe { flags.as_ref() });
        flags.is_none_or(|flags| flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0)
    }

    fn write(&self, index: u32, value: T) {
        // SAFETY: the slot is in the array by the mask, and between consumer and producer, where
        // only the producing side writes; the caller checked that.
        unsafe { self.slots.add((index & (self.size - 1)) as usize).write(value) }
    }

    fn read(&self, index: u32) -> T {
        // SAFETY: the slot is in the array by the mask, and was published by the other side.
        unsafe { self.slots.add((index & (self.size - 1)) as usize).read() }
    }
}

/// The producing side: of fill and tx.
#[derive(Debug)]
pub struct Producer<T> {
    memory: RingMemory<T>,
    /// Next slot to write.
    next: u32,
    /// The consumer's index when last looked at.
    consumed: u32,
    _memory: PhantomData<*mut T>,
}

impl<T: Copy> Producer<T> {
    pub(crate) fn new(memory: RingMemory<T>) -> Self {
        let next = memory.producer().load(Ordering::Relaxed);
        let consumed = memory.consumer().load(Ordering::Acquire);
        Self { memory, next, consumed, _memory: PhantomData }
    }

    /// Can a slot be written now? Looks at the shared index only when the copy says no.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        self.outstanding() < self.memory.size || self.free() > 0
    }

    /// Slots that can be written now, by the shared index.
    pub fn free(&mut self) -> u32 {
        self.consumed = self.memory.consumer().load(Ordering::Acquire);
        self.memory.size - self.outstanding()
    }

    fn outstanding(&self) -> u32 {
        // A peer that breaks the rules cannot make the count exceed the ring.
        self.next.wrapping_sub(self.consumed).min(self.memory.size)
    }

    /// Writes a slot, to be seen after [`Self::publish`]; `false` when the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> bool {
        if !self.has_room() {
            return false;
        }
        self.memory.write(self.next, value);
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Lets the other side see what was pushed.
    #[inline]
    pub fn publish(&mut self) {
        self.memory.producer().store(self.next, Ordering::Release);
    }

    /// Published slots that the other side has not taken.
    pub fn pending(&self) -> u32 {
        let consumed = self.memory.consumer().load(Ordering::Acquire);
        self.memory.producer().load(Ordering::Relaxed).wrapping_sub(consumed).min(self.memory.size)
    }

    /// Does the other side sleep? Always true for a ring without flags.
    pub fn needs_wakeup(&self) -> bool {
        self.memory.needs_wakeup()
    }
}

/// The consuming side: of rx and completion.
#[derive(Debug)]
pub struct Consumer<T> {
    memory: RingMemory<T>,
    /// Next slot to read.
    next: u32,
    /// The producer's index when last looked at.
    produced: u32,
    _memory: PhantomData<*mut T>,
}

impl<T: Copy> Consumer<T> {
    pub(crate) fn new(memory: RingMemory<T>) -> Self {
        let next = memory.consumer().load(Ordering::Relaxed);
        Self { memory, next, produced: next, _memory: PhantomData }
    }

    /// The next slot's value; the slot is the other side's again after [`Self::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.memory.producer().load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        let value = self.memory.read(self.next);
        self.next = self.next.wrapping_add(1);
        Some(value)
    }

    /// Slots that wait to be read.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.memory.producer().load(Ordering::Acquire).wrapping_sub(self.next)
    }

    /// Gives the slots that were read back to the other side.
    #[inline]
    pub fn release(&mut self) {
        self.memory.consumer().store(self.next, Ordering::Release);
    }
}

/// A ring over ordinary memory, for tests of what is built on rings.
pub mod testing {
    use super::*;

    /// The memory of one ring; hands out both of its sides.
    #[derive(Debug)]
    pub struct PlainRing<T> {
        indices: Box<[AtomicU32; 3]>,
        slots: Box<[T]>,
    }

    impl<T: Copy + Default> PlainRing<T> {
        /// A ring of `size` slots, a power of two, whose indices begin at `start`.
        pub fn new(size: u32, start: u32) -> Self {
            assert!(size.is_power_of_two());
            let indices = Box::new([start, start, 0].map(AtomicU32::new));
            Self { indices, slots: vec![T::default(); size as usize].into() }
        }

        /// The two sides. They borrow the memory mutably, so there is one pair at a time.
        pub fn split(&mut self) -> (Sided<'_, Producer<T>>, Sided<'_, Consumer<T>>) {
            let size = self.slots.len() as u32;
            let memory = RingMemory {
                producer: NonNull::from(&self.indices[0]),
                consumer: NonNull::from(&self.indices[1]),
                flags: Some(NonNull::from(&self.indices[2])),
                slots: NonNull::from(&mut *self.slots).cast(),
                size,
            };
            (
                Sided { side: Producer::new(memory), _of: PhantomData },
                Sided { side: Consumer::new(memory), _of: PhantomData },
            )
        }
    }

    /// One side of a [`PlainRing`], which it borrows.
    #[derive(Debug)]
    pub struct Sided<'r, S> {
        side: S,
        _of: PhantomData<&'r mut ()>,
    }

    impl<S> std::ops::Deref for Sided<'_, S> {
        type Target = S;

        fn deref(&self) -> &S {
            &self.side
        }
    }

    impl<S> std::ops::DerefMut for Sided<'_, S> {
        fn deref_mut(&mut self) -> &mut S {
            &mut self.side
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::testing::PlainRing;

    #[test]
    fn a_full_ring_takes_no_more_until_released() {
        let mut ring = PlainRing::new(4, 0);
        let (mut producer, mut consumer) = ring.split();
        for n in 0..4u64 {
            assert!(producer.push(n));
        }
        assert!(!producer.push(9));
        producer.publish();
        assert_eq!(consumer.pop(), Some(0));
        assert!(!producer.push(9), "a slot is not free before it is released");
        consumer.release();
        assert!(producer.push(9));
    }

    #[test]
    fn nothing_is_seen_before_it_is_published() {
        let mut ring = PlainRing::new(4, 0);
        let (mut producer, mut consumer) = ring.split();
        producer.push(1u64);
        assert_eq!(consumer.pop(), None);
        producer.publish();
        assert_eq!(consumer.pop(), Some(1));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u64),
        Publish,
        Pop,
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => any::<u64>().prop_map(Step::Push),
            2 => Just(Step::Publish),
            3 => Just(Step::Pop),
            2 => Just(Step::Release),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against a model of three queues, from starts on both sides of the wrap.
        #[test]
        fn a_ring_is_a_bounded_queue(
            steps in steps(),
            size in (0u32..5).prop_map(|n| 1 << n),
            start in prop_oneof![Just(0), (u32::MAX - 40)..=u32::MAX],
        ) {
            let mut ring = PlainRing::new(size, start);
            let (mut producer, mut consumer) = ring.split();
            let (mut written, mut visible, mut held) = (VecDeque::new(), VecDeque::new(), 0);
            for step in steps {
                match step {
                    Step::Push(value) => {
                        let room = written.len() + visible.len() + held < size as usize;
                        prop_assert_eq!(producer.has_room(), room);
                        prop_assert_eq!(producer.push(value), room);
                        if room {
                            written.push_back(value);
                        }
                    }
                    Step::Publish => {
                        producer.publish();
                        visible.append(&mut written);
                    }
                    Step::Pop => {
                        let expected = visible.pop_front();
                        held += usize::from(expected.is_some());
                        prop_assert_eq!(consumer.pop(), expected);
                    }
                    Step::Release => {
                        consumer.release();
                        held = 0;
                    }
                }
                prop_assert_eq!(producer.pending() as usize, visible.len() + held);
            }
        }
    }
}
