//! The traffic programs, loaded: live frames out of one namespace, and what became of them.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::{Array, DevMap, Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use core_affinity::CoreId;
use weir_traffic::{
    ARRIVAL_SLOTS, ARRIVALS, Arrivals, COUNT_FAR, COUNT_HOME, COUNTS, Count, DELAYS, GENERATE,
    GENERATE6, MIN_FRAME, OUT, OUT_GATEWAY, OUT_GENERATOR, SIZES, STATE, STREAM, State, Stream,
};
use zerocopy::transmute;

use crate::netns::Netns;

/// The CPU the generator runs on, and with it every kernel path its frames take.
pub const GENERATOR_CPU: usize = 0;

/// The programs, as `scripts/ebpf-build` made them.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!("../traffic/prog/traffic.o");

/// All but [`weir_traffic::NOTICE`], which is no program of a device.
const PROGRAMS: [&str; 8] = [
    GENERATE,
    GENERATE6,
    weir_traffic::FAR,
    weir_traffic::HOME,
    weir_traffic::REDIRECT,
    weir_traffic::LIMIT,
    weir_traffic::LIMIT6,
    weir_traffic::PASS,
];

/// Frames per batch of a live-frame run; the kernel flushes redirected frames after each.
const BATCH: u32 = 64;

/// What arrives, by provider.
pub struct Arriving(PerCpuArray<MapData, [u64; 3]>);

impl Arriving {
    /// Frames that arrived by a provider since [`Traffic::forget_arrivals`].
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn by(&self, provider: usize) -> Result<u64> {
        let counts = self.0.get(&u32::try_from(provider)?, 0)?;
        Ok(counts.iter().map(|[packets, ..]| packets).sum())
    }
}

/// The programs of one site.
pub struct Traffic {
    ebpf: Ebpf,
    generator: Netns,
    ifindex: u32,
    /// Of the stream: which program makes it, and of which length.
    program: &'static str,
    frame_len: usize,
}

/// One call of the generator.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Frames it sent.
    pub sent: u64,
    /// Frames that had reached the far side when it returned.
    pub received: u64,
    /// Frames that waited for their time, of those that are paced.
    pub waited: u64,
    /// Time of the call, its set-up and end included.
    pub time: Duration,
    /// Test runs that it took: one, and one more for each that a signal ended.
    pub runs: u32,
}

impl Call {
    /// Time less the set-up and end of each test run, of which one takes `empty`.
    #[must_use]
    pub fn sending(&self, empty: Duration) -> Duration {
        self.time.saturating_sub(empty * self.runs)
    }
}

impl Traffic {
    /// Loads the programs; frames will leave by `device` of `generator`.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses a program.
    pub fn load(generator: &Netns, device: &str) -> Result<Self> {
        Self::with_table(generator, device, 1)
    }

    /// As [`Self::load`], with so many pages of lines for [`weir_traffic::LIMIT`].
    ///
    /// # Errors
    /// As [`Self::load`], and when there is no memory for the table.
    pub fn with_table(generator: &Netns, device: &str, pages: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(weir_traffic::TABLE, pages)
            .override_global(weir_traffic::PAGES, &pages, true)
            .load(OBJECT)
            .context("traffic programs")?;
        for name in PROGRAMS {
            weir_shm::program::load(program(&mut ebpf, name)?)
                .with_context(|| format!("traffic program {name}"))?;
        }
        let ifindex = generator.ifindex(device)?;
        let mut traffic = Self {
            ebpf,
            generator: generator.clone(),
            ifindex,
            program: GENERATE,
            frame_len: MIN_FRAME,
        };
        traffic.out(OUT_GENERATOR, generator, device)?;
        Ok(traffic)
    }

    /// Attaches a program to a device, for as long as `self` lives.
    ///
    /// # Errors
    /// When the device is not there, or has a program.
    pub fn attach(&mut self, name: &str, netns: &Netns, device: &str) -> Result<()> {
        let program = program(&mut self.ebpf, name)?;
        netns
            .run(|| program.attach(device, XdpMode::Driver))?
            .with_context(|| format!("cannot attach {name} to {device} in {}", netns.name()))?;
        Ok(())
    }

    /// Makes `device` the one that [`weir_traffic::REDIRECT`] and [`weir_traffic::LIMIT`] send by.
    ///
    /// # Errors
    /// When the device is not there.
    pub fn redirect_to(&mut self, netns: &Netns, device: &str) -> Result<()> {
        self.out(OUT_GATEWAY, netns, device)
    }

    /// Sets what to send from now on, and starts with the first flow.
    ///
    /// # Errors
    /// When the maps cannot be written.
    pub fn set_stream(&mut self, stream: &Stream) -> Result<()> {
        self.set_stream_from(stream, 0)
    }

    /// As [`Self::set_stream`], and starts with this flow.
    ///
    /// # Errors
    /// As [`Self::set_stream`].
    pub fn set_stream_from(&mut self, stream: &Stream, flow: u32) -> Result<()> {
        self.program = if stream.is_ipv6() { GENERATE6 } else { GENERATE };
        self.frame_len = stream.frame_len as usize;
        let bytes: [u8; size_of::<Stream>()] = transmute!(*stream);
        self.array(STREAM)?.set(0, bytes, 0)?;
        let bytes: [u8; size_of::<State>()] = transmute!(State { flow, ..State::default() });
        self.array(STATE)?.set(0, bytes, 0)?;
        Ok(())
    }

    /// Sends `frames` frames and returns when the last one has left, whatever signals come.
    /// `batch` frames leave at a time.
    ///
    /// # Errors
    /// When the kernel refuses, or the generator fails.
    pub fn send(&mut self, frames: u32, batch: u32) -> Result<Call> {
        let (before, received) = (self.state()?, self.far()?.packets);
        let (mut sent, mut runs, mut time, mut whole) = (0, 0, Duration::ZERO, false);
        while !whole {
            let took;
            (whole, took) = self.test_run(frames - sent, batch)?;
            sent = u32::try_from(self.state()?.sent - before.sent)?;
            (runs, time) = (runs + 1, time + took);
        }
        ensure!(sent == frames, "the generator sent {sent} of {frames} frames");
        let (waited, received) =
            (self.state()?.waited - before.waited, self.far()?.packets - received);
        Ok(Call { sent: sent.into(), received, waited, time, runs })
    }

    /// One test run, and how long it took; false when a signal ended it. The kernel looks for
    /// signals between batches (net/bpf/test_run.c, `bpf_test_timer_continue`), and the generator
    /// goes on where it was.
    fn test_run(&mut self, frames: u32, batch: u32) -> Result<(bool, Duration)> {
        let frame = vec![0u8; self.frame_len];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let context: [u32; 6] = [0, u32::try_from(frame.len())?, 0, self.ifindex, 0, 0];
        let context: [u8; 24] = transmute!(context);
        let program: &Xdp = program(&mut self.ebpf, self.program)?;
        let run = || -> Result<(bool, Duration)> {
            let pinned = core_affinity::set_for_current(CoreId { id: GENERATOR_CPU });
            ensure!(pinned, "cannot run on CPU {GENERATOR_CPU}");
            let started = Instant::now();
            let result = program.test_run(TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: frames,
                attrs: TestRunAttrs::new().xdp_live_frames(batch),
                ..TestRunOptions::default()
            });
            let whole = match result {
                Ok(_) => true,
                Err(ProgramError::SyscallError(error))
                    if error.io_error.kind() == ErrorKind::Interrupted =>
                {
                    false
                }
                Err(error) => return Err(error.into()),
            };
            Ok((whole, started.elapsed()))
        };
        self.generator.run(run)?.context("live-frame run")
    }

    /// As [`Self::send`], in batches that suit throughput.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn blast(&mut self, frames: u32) -> Result<Call> {
        self.send(frames, BATCH)
    }

    /// What reached the far side.
    ///
    /// # Errors
    /// When the counts cannot be read.
    pub fn far(&self) -> Result<Count> {
        self.count(COUNT_FAR)
    }

    /// What came home.
    ///
    /// # Errors
    /// When the counts cannot be read.
    pub fn home(&self) -> Result<Count> {
        self.count(COUNT_HOME)
    }

    /// One-way delays of stamped frames so far, by [`weir_traffic::delay_bucket`].
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn delays(&self) -> Result<Vec<u64>> {
        let map = self.ebpf.map(DELAYS).context("no map of delays")?;
        let delays = PerCpuArray::<_, u64>::try_from(map)?;
        delays.iter().map(|lanes| Ok(lanes?.iter().sum())).collect()
    }

    /// When frames arrived since [`Self::forget_arrivals`], by provider.
    ///
    /// # Errors
    /// When the times cannot be read.
    pub fn arrivals(&self) -> Result<Vec<Arrivals>> {
        let map = self.ebpf.map(ARRIVALS).context("no map of arrivals")?;
        let map = PerCpuArray::<_, [u64; 3]>::try_from(map)?;
        let sum = |slot: u32| -> Result<Arrivals> {
            let mut sum = Arrivals::default();
            for [packets, first_ns, last_ns] in map.get(&slot, 0)?.iter().filter(|cpu| cpu[0] > 0) {
                let earlier = sum.packets > 0 && sum.first_ns < *first_ns;
                sum.first_ns = if earlier { sum.first_ns } else { *first_ns };
                sum.last_ns = sum.last_ns.max(*last_ns);
                sum.packets += packets;
            }
            Ok(sum)
        };
        (0..ARRIVAL_SLOTS).map(sum).collect()
    }

    /// For looking at what arrives while frames are sent.
    ///
    /// # Errors
    /// When the map cannot be had.
    pub fn arriving(&self) -> Result<Arriving> {
        let Some(Map::PerCpuArray(data)) = self.ebpf.map(ARRIVALS) else {
            bail!("no map of arrivals");
        };
        let data = MapData::from_fd(data.fd().as_fd().try_clone_to_owned()?)?;
        Ok(Arriving(PerCpuArray::try_from(Map::PerCpuArray(data))?))
    }

    /// Begins anew to note when frames arrive.
    ///
    /// # Errors
    /// When the times cannot be written.
    pub fn forget_arrivals(&mut self) -> Result<()> {
        let cpus = nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
        let map = self.ebpf.map_mut(ARRIVALS).context("no map of arrivals")?;
        let mut map = PerCpuArray::<_, [u64; 3]>::try_from(map)?;
        for slot in 0..ARRIVAL_SLOTS {
            map.set(slot, PerCpuValues::try_from(vec![[0; 3]; cpus])?, 0)?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<State> {
        let bytes = self.array::<{ size_of::<State>() }>(STATE)?.get(&0, 0)?;
        Ok(transmute!(bytes))
    }

    fn count(&self, slot: u32) -> Result<Count> {
        let map = self.ebpf.map(COUNTS).context("no map of counts")?;
        let counts = PerCpuArray::<_, [u64; 2]>::try_from(map)?;
        let mut sum = Count::default();
        for [packets, bytes] in counts.get(&slot, 0)?.iter() {
            sum.packets += packets;
            sum.bytes += bytes;
        }
        Ok(sum)
    }

    fn out(&mut self, slot: u32, netns: &Netns, device: &str) -> Result<()> {
        let ifindex = netns.ifindex(device)?;
        let map = self.ebpf.map_mut(OUT).context("no device map")?;
        let mut map = DevMap::try_from(map)?;
        netns.run(|| map.set(slot, ifindex, None, 0))??;
        Ok(())
    }

    fn array<const N: usize>(&mut self, name: &str) -> Result<Array<&mut MapData, [u8; N]>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(Array::try_from(map)?)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no traffic program {name}"))?.try_into()?)
}

/// Lengths of frames, with the frame check sequence, as RFC 2544 §9 counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All the same.
    Fixed(u16),
    /// 64, 576 and 1500 bytes, 7:4:1.
    Mix,
}

/// Spread out, so that a large frame is never in one batch with all others of its size.
const MIX: [u16; SIZES] = [64, 576, 64, 64, 576, 64, 1500, 64, 576, 64, 64, 576];
/// Bytes of a frame's check sequence.
pub const FCS: u16 = 4;

impl Size {
    /// Lengths of consecutive frames as the programs count them, without the check sequence.
    #[must_use]
    pub fn frames(self) -> [u16; SIZES] {
        match self {
            Self::Fixed(size) => [size - FCS; SIZES],
            Self::Mix => MIX.map(|size| size - FCS),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => size.fmt(f),
            Self::Mix => f.write_str("imix"),
        }
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Mix);
        }
        text.parse()
            .ok()
            .filter(|size| (64..=1500).contains(size))
            .map(Self::Fixed)
            .ok_or_else(|| format!("{text:?} is neither imix nor 64 to 1500"))
    }
}

/// Distance of the flows of consecutive frames: near the golden section of their number, and prime
/// to it. So all flows are visited in turn, the next one is far from the last, and nothing that
/// prefetches neighbours gains by it. The order is the same in every run.
#[must_use]
pub fn scattering_stride(flows: u32) -> u32 {
    let golden = (u64::from(flows) * 618_034 / 1_000_000) as u32;
    (golden..flows).find(|stride| gcd(*stride, flows) == 1).unwrap_or(0)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stride_is_prime_to_every_number_of_flows() {
        for flows in [2, 3, 64, 1000, 1024, 64_512, 258_048, 1_032_192, 4_128_768] {
            let stride = scattering_stride(flows);
            assert!(stride > 0 && stride < flows && gcd(stride, flows) == 1, "{flows}");
        }
        assert_eq!(scattering_stride(1), 0);
    }

    #[test]
    fn the_mix_is_seven_to_four_to_one() {
        let of = |size| MIX.iter().filter(|s| **s == size).count();
        assert_eq!((of(64), of(576), of(1500)), (7, 4, 1));
    }

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        for size in [Size::Fixed(64), Size::Fixed(1500), Size::Mix] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert!("63".parse::<Size>().is_err() && "1501".parse::<Size>().is_err());
    }
}
