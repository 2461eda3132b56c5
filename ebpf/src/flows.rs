//! The flow table, read in place.

use weir_layout::flow::{FlowEntry4, GROUP, PAGE, VALID};
use weir_layout::tags::{PAGE_GROUPS, Place, choices, lowest, matching, preferred, spills, tag};
use weir_wire::hash::flow4_words;

use crate::maps::{FLOWS4, TAGS4};
use crate::words::if_zero;

/// [`weir_ebpf::names::FLOW_SECRET`]: the key of the flow hash. Set when the program is loaded, so
/// that the verifier makes numbers of it.
#[unsafe(no_mangle)]
static FLOW_SECRET: [u64; 2] = [0; 2];
/// [`weir_ebpf::names::FLOW_PAGES`]: pages of the table; zero while there is none.
#[unsafe(no_mangle)]
static FLOW_PAGES: u32 = 0;

/// Slots of a group that a search for a flow to forward looks at: of the flows in a full table, one
/// in a million stands behind three with its own tag. The user tier finds them all.
const LOOKS: u32 = 3;

/// A published entry. What is read of it holds if [`Self::stands`] says so afterwards.
pub struct Found {
    /// The entry.
    pub entry: *mut FlowEntry4,
    state: u32,
    /// The word of its key's ports, protocol and flags.
    pub meta: u64,
}

impl Found {
    /// Does the entry still hold the flow that was found in it? See [`weir_layout::flow`].
    #[inline(always)]
    pub fn stands(&self) -> bool {
        // SAFETY: the pointer is from `look`.
        unsafe { (&raw const (*self.entry).state).read_volatile() == self.state }
    }
}

/// A page of the table, and its tags.
#[derive(Clone, Copy)]
struct Page {
    slots: *mut FlowEntry4,
    tags: *const u64,
}

impl Page {
    #[inline(always)]
    fn number(page: u32) -> Option<Self> {
        let (slots, tags) = (FLOWS4.get_ptr_mut(page)?, TAGS4.get_ptr(page)?);
        Some(Self { slots: slots.cast(), tags: tags.cast() })
    }

    #[inline(always)]
    fn tags(self, group: u32) -> u64 {
        // SAFETY: the index is masked to the page's words.
        unsafe { self.tags.add((group & (PAGE_GROUPS - 1)) as usize).read_volatile() }
    }

    #[inline(always)]
    fn slot(self, group: u32, slot: u32) -> *mut FlowEntry4 {
        let index = (group * GROUP + slot) & (PAGE - 1);
        // SAFETY: the index is masked to the page's slots.
        unsafe { self.slots.add(index as usize) }
    }

    /// Brings a slot into the cache.
    #[inline(always)]
    fn touch(self, group: u32, slot: u32) {
        // SAFETY: the pointer is to a whole entry.
        unsafe { (&raw const (*self.slot(group, slot)).state).read_volatile() };
    }

    /// The entry in this slot, if it has this key.
    #[inline(always)]
    fn look(self, group: u32, slot: u32, key: [u64; 2]) -> Option<Found> {
        let entry = self.slot(group, slot);
        // SAFETY: the pointer is to a whole entry; each word is read once, and in this order.
        let (state, addresses, meta) = unsafe {
            let words = entry.cast::<u64>();
            let state = (&raw const (*entry).state).read_volatile();
            (state, words.add(1).read_volatile(), words.add(2).read_volatile())
        };
        let same = addresses == key[0] && meta & 0xff_ffff_ffff == key[1];
        (state & VALID != 0 && same).then_some(Found { entry, state, meta })
    }

    /// The entry with this key in one of the groups, of which at most `LOOKS` slots are looked at.
    #[inline(always)]
    fn search<const LOOKS: u32>(self, groups: [u32; 2], hash: u64, key: [u64; 2]) -> Option<Found> {
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
pub struct Search {
    hash: u64,
    key: [u64; 2],
    page: Page,
    groups: [u32; 2],
    tags: [u64; 2],
}

impl Search {
    /// Begins to look for the entry with this key ([`weir_layout::flow::FlowKey4::words`]).
    #[inline(always)]
    pub fn begin(key: [u64; 2]) -> Option<Self> {
        let hash = hash(key)?;
        let Place { page, groups } = choices(hash, pages());
        let page = Page::number(page)?;
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
    pub fn finish(self) -> Option<Found> {
        let Self { hash, key, page, groups: [a, b], tags } = self;
        let [in_a, in_b] = [matching(tags[0], tag(hash)), matching(tags[1], tag(hash))];
        // Which group it is, is arithmetic: no branch predictor could tell.
        let not_a = if_zero(in_a);
        let group = a ^ ((a ^ b) & not_a as u32);
        let mask = in_a | (in_b & not_a);
        match page.look(group, lowest(mask), key) {
            None => page
                .search::<LOOKS>([a, b], hash, key)
                .or_else(|| search_spills::<LOOKS>(hash, key)),
            found => found,
        }
    }
}

/// Is there a flow with this key? Looks everywhere: the kernel gets what no flow wants.
#[inline(always)]
pub fn exists(key: [u64; 2]) -> bool {
    let Some(hash) = hash(key) else { return false };
    let Place { page, groups } = choices(hash, pages());
    Page::number(page).and_then(|page| page.search::<GROUP>(groups, hash, key)).is_some()
        || search_spills::<GROUP>(hash, key).is_some()
}

/// Where the direction in a slot has come to, see [`FlowEntry4::next_seq`].
#[inline(always)]
pub fn next_seq(slot: u32) -> Option<u32> {
    let page = Page::number(slot / PAGE)?;
    // SAFETY: the pointer is to a whole entry.
    Some(unsafe { (&raw const (*page.slot(0, slot)).next_seq).read_volatile() })
}

#[inline(always)]
fn search_spills<const LOOKS: u32>(hash: u64, key: [u64; 2]) -> Option<Found> {
    let Place { page, groups } = spills(hash, pages());
    Page::number(page)?.search::<LOOKS>(groups, hash, key)
}

#[inline(always)]
fn pages() -> u32 {
    // SAFETY: a constant of the loaded program.
    unsafe { (&raw const FLOW_PAGES).read_volatile() }
}

/// The hash of a key; `None` while there is no table.
#[inline(always)]
fn hash(key: [u64; 2]) -> Option<u64> {
    // SAFETY: a constant of the loaded program.
    let secret = unsafe { (&raw const FLOW_SECRET).read_volatile() };
    (pages() != 0).then(|| flow4_words(secret, key))
}

// The mask above takes ports and protocol from the third word, on a little-endian machine.
const _: () =
    assert!(core::mem::offset_of!(FlowEntry4, proto) == 20 && cfg!(target_endian = "little"));
