//! The longest-prefix maps of destinations that stay on the gateway, one for each address family.
//!
//! Written by control through the BPF system call, read by the XDP program; values are
//! `weir_layout::control::host_class`.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use weir_layout::control::host_class;
use weir_wire::family::{Family, V4, V6};

use crate::blocks::{Filter, Marked};
use crate::pins::name;
use crate::{Error, Pins};

/// Entries of the map, one more than are used. They take memory only when they are there.
pub const MAX_HOST_PREFIXES: u32 = 1 << 20;

const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;
const BPF_F_NO_PREALLOC: u32 = 1;

/// Prefix (address, length) to class.
pub type HostPrefixes<F = V4> = BTreeMap<(<F as Family>::Address, u8), u32>;

/// The same of IPv6.
pub type HostPrefixes6 = HostPrefixes<V6>;

/// The map of a family, open for writing.
#[derive(Debug)]
pub struct Hosts<F: Family> {
    trie: LpmTrie<MapData, F::Address, u32>,
    room: usize,
    path: std::path::PathBuf,
    filter: Filter,
    /// What it holds, as far as that is known: there is one writer, and to list a full map takes
    /// a million system calls.
    present: Option<HostPrefixes<F>>,
}

/// The map of IPv4.
pub type Hosts4 = Hosts<V4>;
/// The map of IPv6.
pub type Hosts6 = Hosts<V6>;

impl<F: Family<Address: Pod + AsRef<[u8]>>> Hosts<F> {
    /// Opens the pinned map, creating it when there is none.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Self::of_size(pins, MAX_HOST_PREFIXES)
    }

    /// As [`open`](Self::open), creating one of `entries`; a map that exists keeps its size.
    pub fn of_size(pins: &Pins, entries: u32) -> Result<Self, Error> {
        let path = pins.path(name::hosts(F::FAMILY));
        let failed = |action, source| Error::Map { action, path: path.clone(), source };
        let lock = pins.lock()?;
        if !path.exists() {
            let object = aya_obj::Map::new_from_params(
                BPF_MAP_TYPE_LPM_TRIE,
                size_of::<Key<F::Address>>() as u32,
                4,
                entries,
                BPF_F_NO_PREALLOC,
            );
            let map = MapData::create(object, name::hosts(F::FAMILY), None)
                .map_err(|e| failed("create", Box::new(e)))?;
            map.pin(&path).map_err(|e| failed("pin", Box::new(e)))?;
        }
        drop(lock);
        let map = MapData::from_pin(&path).map_err(|e| failed("open", Box::new(e)))?;
        let entries = map.info().map_err(|e| failed("open", Box::new(e)))?.max_entries();
        let trie = LpmTrie::try_from(Map::LpmTrie(map)).map_err(|e| failed("open", Box::new(e)))?;
        // Not every kernel replaces an entry of a map that is full.
        let room = entries.saturating_sub(1) as usize;
        let filter = Filter::open(pins, F::FAMILY)?;
        Ok(Self { trie, room, path, filter, present: None })
    }

    /// How many prefixes there is room for.
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Makes the map hold exactly `wanted`, and says how many of them there was no room for: of
    /// what the kernel routes, the longest. Enters first, removes afterwards, so that a prefix that
    /// takes the place of others never goes missing; the other way round where both do not fit.
    pub fn sync(&mut self, wanted: &HostPrefixes<F>) -> Result<usize, Error> {
        let present = match self.present.take() {
            Some(present) => present,
            None => self.prefixes()?,
        };
        let mut ranked: Vec<_> = wanted.iter().map(|(prefix, class)| (*prefix, *class)).collect();
        ranked.sort_by_key(|((_, length), class)| (*class == host_class::KERNEL, *length));
        let left_out = ranked.split_off(ranked.len().min(self.room)).len();
        let kept: HostPrefixes<F> = ranked.iter().copied().collect();
        let stale: Vec<_> = present.keys().filter(|p| !kept.contains_key(p)).collect();
        let both_fit = kept.len() + stale.len() <= self.room;
        let mut marked = Marked::none(F::FAMILY);
        for (address, length) in kept.keys() {
            marked.add(first_bytes(address), *length);
        }
        self.filter.widen(&marked);
        if !both_fit {
            self.remove(&stale)?;
        }
        for (prefix, class) in &ranked {
            if present.get(prefix) != Some(class) {
                self.trie.insert(&key(*prefix), class, 0).map_err(|e| self.failed("write", e))?;
            }
        }
        if both_fit {
            self.remove(&stale)?;
        }
        self.filter.narrow(&marked);
        self.present = Some(kept);
        Ok(left_out)
    }

    fn remove(&mut self, prefixes: &[&(F::Address, u8)]) -> Result<(), Error> {
        for prefix in prefixes {
            self.trie.remove(&key(**prefix)).map_err(|e| self.failed("write", e))?;
        }
        Ok(())
    }

    /// What the map holds.
    pub fn prefixes(&self) -> Result<HostPrefixes<F>, Error> {
        let entry = |item: Result<(Key<F::Address>, u32), _>| {
            item.map(|(key, class)| ((key.data(), key.prefix_len() as u8), class))
        };
        self.trie.iter().map(entry).collect::<Result<_, _>>().map_err(|e| self.failed("list", e))
    }

    fn failed(&self, action: &'static str, source: aya::maps::MapError) -> Error {
        Error::Map { action, path: self.path.clone(), source: Box::new(source) }
    }
}

fn key<A: Pod>((address, length): (A, u8)) -> Key<A> {
    Key::new(u32::from(length), address)
}

/// The first eight bytes in network order, zeros behind the address's end.
fn first_bytes(address: &impl AsRef<[u8]>) -> u64 {
    let mut bytes = [0; 8];
    for (byte, of) in bytes.iter_mut().zip(address.as_ref()) {
        *byte = *of;
    }
    u64::from_be_bytes(bytes)
}
