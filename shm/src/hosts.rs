//! The longest-prefix map of destinations that stay on the gateway.
//!
//! Written by control through the BPF system call, read by the XDP program; values are
//! `weir_wire::layout::control::host_class`.

use std::collections::BTreeMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};

use crate::pins::name;
use crate::{Error, Pins};

/// Prefixes the map can hold.
pub const MAX_HOST_PREFIXES: u32 = 4096;

const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;
const BPF_F_NO_PREALLOC: u32 = 1;

/// Prefix (address, length) to class.
pub type HostPrefixes = BTreeMap<([u8; 4], u8), u32>;

/// The map, open for writing.
#[derive(Debug)]
pub struct Hosts4 {
    trie: LpmTrie<MapData, [u8; 4], u32>,
    path: std::path::PathBuf,
}

impl Hosts4 {
    /// Opens the pinned map, creating it when there is none.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let path = pins.path(name::HOSTS4);
        let failed = |action, source| Error::Map { action, path: path.clone(), source };
        let lock = pins.lock()?;
        if !path.exists() {
            let object = aya_obj::Map::new_from_params(
                BPF_MAP_TYPE_LPM_TRIE,
                8,
                4,
                MAX_HOST_PREFIXES,
                BPF_F_NO_PREALLOC,
            );
            let map = MapData::create(object, name::HOSTS4, None)
                .map_err(|e| failed("create", Box::new(e)))?;
            map.pin(&path).map_err(|e| failed("pin", Box::new(e)))?;
        }
        drop(lock);
        let map = MapData::from_pin(&path).map_err(|e| failed("open", Box::new(e)))?;
        let trie = LpmTrie::try_from(Map::LpmTrie(map)).map_err(|e| failed("open", Box::new(e)))?;
        Ok(Self { trie, path })
    }

    /// Makes the map hold exactly `wanted`: enters first, removes afterwards, so that a prefix
    /// in both never goes missing.
    pub fn sync(&mut self, wanted: &HostPrefixes) -> Result<(), Error> {
        let present = self.prefixes()?;
        let key = |(address, length): ([u8; 4], u8)| Key::new(u32::from(length), address);
        for (prefix, class) in wanted {
            if present.get(prefix) != Some(class) {
                self.trie.insert(&key(*prefix), class, 0).map_err(|e| self.failed("write", e))?;
            }
        }
        for prefix in present.keys().filter(|p| !wanted.contains_key(p)) {
            self.trie.remove(&key(*prefix)).map_err(|e| self.failed("write", e))?;
        }
        Ok(())
    }

    /// What the map holds.
    pub fn prefixes(&self) -> Result<HostPrefixes, Error> {
        let entry = |item: Result<(Key<[u8; 4]>, u32), _>| {
            item.map(|(key, class)| ((key.data(), key.prefix_len() as u8), class))
        };
        self.trie.iter().map(entry).collect::<Result<_, _>>().map_err(|e| self.failed("list", e))
    }

    fn failed(&self, action: &'static str, source: aya::maps::MapError) -> Error {
        Error::Map { action, path: self.path.clone(), source: Box::new(source) }
    }
}
