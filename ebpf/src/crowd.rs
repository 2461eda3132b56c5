//! Who sends more of what begins something than a worker can take ([`weir_layout::allowance`]).

use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use weir_layout::MAX_UPLINKS;
use weir_layout::allowance::{self, ALL, PLACES, PURPOSE, SOURCES};
use weir_layout::control::{Port, PortRole};
use weir_wire::hash::hash2;
use weir_wire::parse::{Kind, Parsed};

use crate::flows::{self, Table};
use crate::maps;

/// What came from sources, by [`allowance::counted`].
#[map]
static CROWD: PerCpuArray<u64> = PerCpuArray::with_max_entries(PLACES as u32, 0);

/// Who has an allowance.
#[derive(Clone, Copy)]
pub enum Sender {
    /// The packet's source.
    Source,
    /// All that ask by an uplink.
    Uplink(u8),
}

impl Sender {
    /// Who sends what comes in by a port.
    #[inline(always)]
    pub fn of(port: &Port) -> Self {
        if port.role == PortRole::Lan as u8 { Self::Source } else { Self::Uplink(port.uplink) }
    }
}

/// Is the packet, which would go to this socket, one too many of its sender, and of no flow?
#[inline(always)]
pub fn is_over<F: Table>(socket: Option<u32>, sender: Sender, p: &Parsed<F>) -> bool {
    let Some(socket) = socket else { return false };
    let allowed = maps::allowance(socket);
    // Without a socket there is no ring that could be full.
    if allowed == ALL || maps::XSKS.get(socket).is_none() || is_of_flow(p) {
        return false;
    }
    let place = match sender {
        Sender::Source => {
            let key = flows::secret();
            let hash = hash2(key, F::digest(key, &p.src).into(), PURPOSE) >> 32;
            hash as u32 & (SOURCES as u32 - 1)
        }
        Sender::Uplink(uplink) => SOURCES as u32 + u32::from(uplink) % MAX_UPLINKS as u32,
    };
    let Some(place) = CROWD.get_ptr_mut(place) else { return false };
    // SAFETY: the helper has no conditions, and the word is this CPU's own.
    let count = unsafe {
        *place = allowance::counted(*place, bpf_jiffies64());
        allowance::count(*place)
    };
    count > allowed
}

#[inline(always)]
fn is_of_flow<F: Table>(p: &Parsed<F>) -> bool {
    match p.kind {
        Kind::Flow | Kind::Fragment { first: true } => flows::exists::<F>(p.key().words()),
        _ => false,
    }
}
