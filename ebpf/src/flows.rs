//! The flow table, read in place.

use aya_ebpf::maps::{Array, LpmTrie, LruHashMap};
use weir_layout::flow::{FlowEntry4, GROUP, PAGE, VALID};
use weir_layout::flow6::FlowEntry6;
use weir_layout::tags::{PAGE_GROUPS, Place, choices, lowest, matching, preferred, spills, tag};
use weir_wire::family::{Family, V4, V6};

use crate::fragments;
use crate::maps::{self, SlotPage, TagPage};
use crate::words::if_zero;

/// [`weir_ebpf::names::FLOW_SECRET`]: the key of the flow hash. Set when the program is loaded, so
/// that the verifier makes numbers of it.
#[unsafe(no_mangle)]
static FLOW_SECRET: [u64; 2] = [0; 2];
/// [`weir_ebpf::names::FLOW_PAGES`]: pages of the table; zero while there is none.
#[unsafe(no_mangle)]
static FLOW_PAGES: u32 = 0;
/// [`weir_ebpf::names::FLOW_PAGES6`]: the same of IPv6.
#[unsafe(no_mangle)]
static FLOW_PAGES6: u32 = 0;

/// A family whose flows the program reads.
pub trait Table: Family {
    /// An entry of the table.
    type Entry: 'static;
    /// Where an entry has the word of adjacency, mark and peer: in words of 64 bits.
    const OUT: usize;
    /// Where it has how far the direction has come ([`FlowEntry4::next_seq`]): in words of 32 bits.
    const NEXT_SEQ: usize;

    /// The table's pages and their tags.
    fn pages() -> (&'static Array<SlotPage<Self::Entry>>, &'static Array<TagPage>);
    /// Number of pages.
    fn number_of_pages() -> *const u32;
    /// Destinations that stay on the gateway.
    fn hosts() -> &'static LpmTrie<Self::Address, u32>;
    /// Datagrams of flows of which fragments may follow.
    fn fragments() -> &'static LruHashMap<fragments::Datagram<Self>, u8>;
    /// Counts a packet on an entry of the table.
    fn count(entry: *mut Self::Entry, bytes: u64);
}

impl Table for V4 {
    type Entry = FlowEntry4;
    const OUT: usize = 5;
    const NEXT_SEQ: usize = 13;

    #[inline(always)]
    fn pages() -> (&'static Array<SlotPage<FlowEntry4>>, &'static Array<TagPage>) {
        (&maps::FLOWS4, &maps::TAGS4)
    }

    #[inline(always)]
    fn number_of_pages() -> *const u32 {
        &raw const FLOW_PAGES
    }

    #[inline(always)]
    fn hosts() -> &'static LpmTrie<[u8; 4], u32> {
        &maps::HOSTS4
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<fragments::Datagram<V4>, u8> {
        &fragments::FRAGMENTS
    }

    #[inline(always)]
    fn count(entry: *mut FlowEntry4, bytes: u64) {
        // SAFETY: the entry is of the table, and these fields are the forwarding tier's.
        unsafe {
            (*entry).packets = (*entry).packets.wrapping_add(1);
            (*entry).bytes = (*entry).bytes.wrapping_add(bytes);
        }
    }
}

impl Table for V6 {
    type Entry = FlowEntry6;
    const OUT: usize = 6;
    const NEXT_SEQ: usize = 14;

    #[inline(always)]
    fn pages() -> (&'static Array<SlotPage<FlowEntry6>>, &'static Array<TagPage>) {
        (&maps::FLOWS6, &maps::TAGS6)
    }

    #[inline(always)]
    fn number_of_pages() -> *const u32 {
        &raw const FLOW_PAGES6
    }

    #[inline(always)]
    fn hosts() -> &'static LpmTrie<[u8; 16], u32> {
        &maps::HOSTS6
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<fragments::Datagram<V6>, u8> {
        &fragments::FRAGMENTS6
    }

    /// Touches the second line once in 4 GiB.
    #[inline(always)]
    fn count(entry: *mut FlowEntry6, bytes: u64) {
        // SAFETY: the entry is of the table, and these fields are the forwarding tier's.
        unsafe {
            let total = u64::from((*entry).bytes_low) + bytes;
            (*entry).bytes_low = total as u32;
            if total >> 32 != 0 {
                (*entry).bytes_high = (*entry).bytes_high.wrapping_add(1);
            }
        }
    }
}

/// Where an entry has when a packet last took its direction, in words of 32 bits.
const LAST_SEEN: usize = 1;
/// Where an IPv4 entry's rewrite begins, in words of 64 bits.
pub const REWRITE4: usize = 3;
/// Where an IPv6 entry's rewrite begins, likewise.
pub const REWRITE6: usize = 8;

/// Slots of a group that a search for a flow to forward looks at: of the flows in a full table, one
/// in a million stands behind three with its own tag. The user tier finds them all.
const LOOKS: u32 = 3;

/// A published entry. What is read of it holds if [`Self::stands`] says so afterwards.
pub struct Found<F: Table> {
    /// The entry.
    pub entry: *mut F::Entry,
    state: u32,
    /// The word of its key's ports, protocol and flags.
    pub meta: u64,
}

impl<F: Table> Found<F> {
    /// Does the entry still hold the flow that was found in it? See [`weir_layout::flow`].
    #[inline(always)]
    pub fn stands(&self) -> bool {
        // SAFETY: the pointer is from `look`; the state comes first.
        unsafe { self.entry.cast::<u32>().read_volatile() == self.state }
    }

    /// A word of the entry, read once.
    #[inline(always)]
    pub fn word<const AT: usize>(&self) -> u64 {
        const { assert!(8 * AT < size_of::<F::Entry>()) };
        // SAFETY: the pointer is to a whole entry.
        unsafe { self.entry.cast::<u64>().add(AT).read_volatile() }
    }
}

/// A page of the table, and its tags.
struct Page<F: Table> {
    slots: *mut F::Entry,
    tags: *const u64,
}

impl<F: Table> Clone for Page<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Table> Copy for Page<F> {}

impl<F: Table> Page<F> {
    #[inline(always)]
    fn number(page: u32) -> Option<Self> {
        let (slots, tags) = F::pages();
        let (slots, tags) = (slots.get_ptr_mut(page)?, tags.get_ptr(page)?);
        Some(Self { slots: slots.cast(), tags: tags.cast() })
    }

    #[inline(always)]
    fn tags(self, group: u32) -> u64 {
        // SAFETY: the index is masked to the page's words.
        unsafe { self.tags.add((group & (PAGE_GROUPS - 1)) as usize).read_volatile() }
    }

    #[inline(always)]
    fn slot(self, group: u32, slot: u32) -> *mut F::Entry {
        let index = (group * GROUP + slot) & (PAGE - 1);
        // SAFETY: the index is masked to the page's slots.
        unsafe { self.slots.add(index as usize) }
    }

    /// Brings a slot into the cache.
    #[inline(always)]
    fn touch(self, group: u32, slot: u32) {
        // SAFETY: the pointer is to a whole entry, whose state comes first.
        unsafe { self.slot(group, slot).cast::<u32>().read_volatile() };
    }

    /// The entry in this slot, if it has this key.
    #[inline(always)]
    fn look(self, group: u32, slot: u32, key: F::Words) -> Option<Found<F>> {
        let entry = self.slot(group, slot);
        let (words, key) = (entry.cast::<u64>(), key.as_ref());
        let last = F::WORDS - 1;
        // SAFETY: the pointer is to a whole entry; each word is read once, and the state first.
        let state = unsafe { entry.cast::<u32>().read_volatile() };
        let mut other = 0;
        for at in 0..last {
            // SAFETY: as above.
            other |= unsafe { words.add(1 + at).read_volatile() } ^ key[at];
        }
        // SAFETY: as above.
        let meta = unsafe { words.add(1 + last).read_volatile() };
        let same = other == 0 && meta & 0xff_ffff_ffff == key[last];
        (state & VALID != 0 && same).then_some(Found { entry, state, meta })
    }

    /// The entry with this key in one of the groups, of which at most `LOOKS` slots are looked at.
    #[inline(always)]
    fn search<const LOOKS: u32>(
        self,
        groups: [u32; 2],
        hash: u64,
        key: F::Words,
    ) -> Option<Found<F>> {
        for group in groups {
            let mut mask = matching(self.tags(group), tag(hash));
            for _ in 0..LOOKS {
                if mask == 0 {
                    break;
                }
                if let Some(found) = self.look(group, lowest(mask), key) {
                    return Some(found);
                }
                mask &= mask - 1;
            }
        }
        None
    }
}

/// A search whose loads are under way: what they bring is not needed before [`Self::finish`].
pub struct Search<F: Table> {
    hash: u64,
    key: F::Words,
    page: Page<F>,
    groups: [u32; 2],
    tags: [u64; 2],
}

impl<F: Table> Search<F> {
    /// Begins to look for the entry with this key, given by its words.
    #[inline(always)]
    pub fn begin(key: F::Words) -> Option<Self> {
        let hash = hash::<F>(&key)?;
        let Place { page, groups } = choices(hash, pages::<F>());
        let page = Page::<F>::number(page)?;
        // In a large table each of these is a cache miss. Together they take the time of one; one
        // after the other, as they depend on each other, they would not.
        let preferred = preferred(hash);
        page.touch(groups[0], preferred);
        let tags = [page.tags(groups[0]), page.tags(groups[1])];
        page.touch(groups[0], (preferred + 1) % GROUP);
        page.touch(groups[1], preferred);
        Some(Self { hash, key, page, groups, tags })
    }

    /// The entry.
    #[inline(always)]
    pub fn finish(self) -> Option<Found<F>> {
        let Self { hash, key, page, groups: [a, b], tags } = self;
        let [in_a, in_b] = [matching(tags[0], tag(hash)), matching(tags[1], tag(hash))];
        // Which group it is, is arithmetic: no branch predictor could tell.
        let not_a = if_zero(in_a);
        let group = a ^ ((a ^ b) & not_a as u32);
        let mask = in_a | (in_b & not_a);
        match page.look(group, lowest(mask), key) {
            None => page
                .search::<LOOKS>([a, b], hash, key)
                .or_else(|| search_spills::<F, LOOKS>(hash, key)),
            found => found,
        }
    }
}

/// Is there a flow with this key? Looks everywhere: the kernel gets what no flow wants.
#[inline(always)]
pub fn exists<F: Table>(key: F::Words) -> bool {
    let Some(hash) = hash::<F>(&key) else { return false };
    let Place { page, groups } = choices(hash, pages::<F>());
    Page::<F>::number(page).and_then(|page| page.search::<GROUP>(groups, hash, key)).is_some()
        || search_spills::<F, GROUP>(hash, key).is_some()
}

/// Where the direction in a slot has come to, see [`FlowEntry4::next_seq`].
#[inline(always)]
pub fn next_seq<F: Table>(slot: u32) -> Option<u32> {
    let page = Page::<F>::number(slot / PAGE)?;
    // SAFETY: the pointer is to a field of an entry.
    Some(unsafe { next_seq_of::<F>(page.slot(0, slot)).read_volatile() })
}

/// The same of an entry of the table.
#[inline(always)]
pub fn next_seq_of<F: Table>(entry: *mut F::Entry) -> *mut u32 {
    entry.cast::<u32>().wrapping_add(F::NEXT_SEQ)
}

/// When a packet last took the direction of an entry of the table.
#[inline(always)]
pub fn last_seen_of<F: Table>(entry: *mut F::Entry) -> *mut u32 {
    entry.cast::<u32>().wrapping_add(LAST_SEEN)
}

#[inline(always)]
fn search_spills<F: Table, const LOOKS: u32>(hash: u64, key: F::Words) -> Option<Found<F>> {
    let Place { page, groups } = spills(hash, pages::<F>());
    Page::<F>::number(page)?.search::<LOOKS>(groups, hash, key)
}

#[inline(always)]
fn pages<F: Table>() -> u32 {
    // SAFETY: a constant of the loaded program.
    unsafe { F::number_of_pages().read_volatile() }
}

/// The hash of a key; `None` while there is no table.
#[inline(always)]
fn hash<F: Table>(key: &F::Words) -> Option<u64> {
    (pages::<F>() != 0).then(|| F::hash(secret(), key))
}

/// The key of the flow hash, and of those that choose buckets.
#[inline(always)]
pub fn secret() -> [u64; 2] {
    // SAFETY: a constant of the loaded program.
    unsafe { (&raw const FLOW_SECRET).read_volatile() }
}

// What is read by offset: state, key, rewrite, and adjacency. The mask above takes ports and protocol
// from a key's last word, on a little-endian machine.
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(FlowEntry4, state) == 0 && offset_of!(FlowEntry6, state) == 0);
    assert!(offset_of!(FlowEntry4, src) == 8 && offset_of!(FlowEntry6, src) == 8);
    assert!(offset_of!(FlowEntry4, proto) == 20 && offset_of!(FlowEntry6, proto) == 44);
    assert!(offset_of!(FlowEntry4, adjacency) == 8 * V4::OUT);
    assert!(offset_of!(FlowEntry6, adjacency) == 8 * V6::OUT);
    assert!(offset_of!(FlowEntry4, rewrite) == 8 * REWRITE4);
    assert!(offset_of!(FlowEntry6, rewrite) == 8 * REWRITE6);
    assert!(offset_of!(FlowEntry4, last_seen) == 4 * LAST_SEEN);
    assert!(offset_of!(FlowEntry6, last_seen) == 4 * LAST_SEEN);
    assert!(offset_of!(FlowEntry4, next_seq) == 4 * V4::NEXT_SEQ);
    assert!(offset_of!(FlowEntry6, next_seq) == 4 * V6::NEXT_SEQ);
    assert!(cfg!(target_endian = "little"));
};
