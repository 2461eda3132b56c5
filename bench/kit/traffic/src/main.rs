//! The traffic programs: see the library.
#![no_std]
#![no_main]

#[cfg(not(target_arch = "bpf"))]
compile_error!(
    "the traffic programs are built for bpfel-unknown-none only: run scripts/ebpf-build"
);

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_tail};
use aya_ebpf::macros::{map, socket_filter, xdp};
use aya_ebpf::maps::{Array, DevMap, PerCpuArray};
use aya_ebpf::programs::{SkBuffContext, XdpContext};
use weir_traffic::{
    ARRIVAL_SLOTS, Arrivals, COUNT_FAR, COUNT_HOME, Count, DELAY_BUCKETS, HEADER_LEN, MODE_REFLECT,
    MODE_WATCH, OUT_GATEWAY, OUT_GENERATOR, PORT, Page, Pattern, SIZES, STAMP_AT, State, Stream,
    TCP, UDP, ipv6,
};

#[map]
static STREAM: Array<Stream> = Array::with_max_entries(1, 0);
#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);
#[map]
static COUNTS: PerCpuArray<Count> = PerCpuArray::with_max_entries(2, 0);
#[map]
static DELAYS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DELAY_BUCKETS, 0);
#[map]
static ARRIVALS: PerCpuArray<Arrivals> = PerCpuArray::with_max_entries(ARRIVAL_SLOTS, 0);
#[map]
static TABLE: Array<Page> = Array::with_max_entries(1, MMAPABLE);
#[map]
static OUT: DevMap = DevMap::with_max_entries(2, 0);
#[map]
static PATTERN: Array<Pattern> = Array::with_max_entries(1, 0);
#[map]
static MOMENT: Array<u64> = Array::with_max_entries(1, 0);

/// [`weir_traffic::PAGES`]. Set when the program is loaded, so that the verifier makes a number of it.
#[unsafe(no_mangle)]
static PAGES: u32 = 1;

const MMAPABLE: u32 = 1 << 10;
/// How far behind its schedule a generator that was held up may be, and catch up.
const MOST_BEHIND_NS: u64 = 100_000;
/// Looks at the clock, each some 20 ns, before a frame goes too early: [`weir_traffic::MAX_INTERVAL_NS`]
/// is well below what they take. The verifier follows at most 8192 jumps out of a loop.
const LOOKS: u32 = 8000;

#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    let Some((stream, state)) = begin() else { return XDP_ABORTED };
    let Some((frame_len, now)) = next_frame(&ctx, stream, state) else { return XDP_ABORTED };
    if ctx.data() + STAMP_AT + 8 > ctx.data_end() {
        return XDP_ABORTED;
    }
    let [a, b, c, d, e, f, behind] = match stream.flood {
        0 => {
            let [a, b, c, d, e, f] = weir_traffic::header(stream, state.flow, frame_len);
            [a, b, c, d, e, f, now]
        }
        _ => weir_traffic::flood(stream, state.flow, frame_len),
    };
    let frame = ctx.data() as *mut u64;
    // SAFETY: the comparison shows that the bytes are there. Pages of a test run are aligned, and
    // so is the headroom.
    unsafe {
        frame.write(a);
        frame.add(1).write(b);
        frame.add(2).write(c);
        frame.add(3).write(d);
        frame.add(4).write(e);
        frame.add(5).write(f);
        frame.add(STAMP_AT / 8).write(behind);
    }
    sent(stream, state)
}

#[xdp]
fn generate6(ctx: XdpContext) -> u32 {
    let Some((stream, state)) = begin() else { return XDP_ABORTED };
    let Some((frame_len, now)) = next_frame(&ctx, stream, state) else { return XDP_ABORTED };
    if ctx.data() + ipv6::STAMP_AT + 8 > ctx.data_end() {
        return XDP_ABORTED;
    }
    let words = ipv6::header(stream, state.flow, frame_len, now);
    let frame = ctx.data() as *mut u64;
    // SAFETY: as in `generate`.
    unsafe {
        frame.write(words[0]);
        frame.add(1).write(words[1]);
        frame.add(2).write(words[2]);
        frame.add(3).write(words[3]);
        frame.add(4).write(words[4]);
        frame.add(5).write(words[5]);
        frame.add(6).write(words[6]);
        frame.add(7).write(words[7]);
        frame.add(ipv6::STAMP_AT / 8).write(now);
    }
    sent(stream, state)
}

/// The stream and where the generator is in it.
#[inline(always)]
fn begin() -> Option<(&'static Stream, &'static mut State)> {
    let (stream, state) = (STREAM.get(0)?, STATE.get_ptr_mut(0)?);
    // SAFETY: one generator runs at a time, and user space writes between runs only.
    Some((stream, unsafe { &mut *state }))
}

/// Waits until the next frame is due, and makes it as long as it is to be; its length and the time.
#[inline(always)]
fn next_frame(ctx: &XdpContext, stream: &Stream, state: &mut State) -> Option<(u16, u64)> {
    let now = if stream.interval_ns == 0 { 0 } else { departure(stream, state) };
    let size = state.size as usize;
    if size >= SIZES {
        return None;
    }
    let frame_len = stream.sizes[size];
    state.size = if size + 1 == SIZES { 0 } else { size as u32 + 1 };
    let shorter = stream.frame_len as i32 - i32::from(frame_len);
    // SAFETY: the context is the kernel's.
    if shorter > 0 && unsafe { bpf_xdp_adjust_tail(ctx.ctx, -shorter) } != 0 {
        return None;
    }
    Some((frame_len, now))
}

/// Sends the frame that was made.
#[inline(always)]
fn sent(stream: &Stream, state: &mut State) -> u32 {
    state.flow = weir_traffic::next_flow(stream, state.flow);
    state.sent += 1;
    OUT.redirect(OUT_GENERATOR, 0).unwrap_or_else(|action| action)
}

/// Waits until the next frame is due; the time then.
#[inline(always)]
fn departure(stream: &Stream, state: &mut State) -> u64 {
    // SAFETY: the helper has no conditions.
    let mut now = unsafe { bpf_ktime_get_ns() };
    if now < state.next_ns {
        state.waited += 1;
        for _ in 0..LOOKS {
            // SAFETY: as above.
            now = unsafe { bpf_ktime_get_ns() };
            if now >= state.next_ns {
                break;
            }
        }
    }
    let behind = now - MOST_BEHIND_NS;
    let due = if state.next_ns < behind { behind } else { state.next_ns };
    state.next_ns = due + stream.interval_ns;
    now
}

#[xdp]
fn far(ctx: XdpContext) -> u32 {
    match ethertype(&ctx) {
        Some(Ip4::ETHERTYPE) => arrive::<Ip4>(&ctx),
        Some(Ip6::ETHERTYPE) => arrive::<Ip6>(&ctx),
        _ => XDP_PASS,
    }
}

#[inline(always)]
fn arrive<P: Places>(ctx: &XdpContext) -> u32 {
    let Some(header) = test_frame::<P>(ctx) else { return XDP_PASS };
    // SAFETY: the ports are in the header.
    if unsafe { header.add(P::PORTS + 1).read() } != PORT.to_be() {
        return XDP_PASS;
    }
    count(ctx, COUNT_FAR);
    let Some(stream) = STREAM.get(0) else { return XDP_ABORTED };
    if stream.mode == MODE_REFLECT {
        return reflect::<P>(header);
    }
    if stream.mode == MODE_WATCH {
        // SAFETY: the header has hardware addresses.
        watch(unsafe { header.add(2).read() } >> 8);
        return XDP_DROP;
    }
    if stream.interval_ns != 0 && ctx.data() + P::STAMP_AT + 8 <= ctx.data_end() {
        let stamp = (ctx.data() + P::STAMP_AT) as *const [u16; 4];
        // SAFETY: the comparison shows that the bytes are there.
        let [a, b, c, d] = unsafe { *stamp };
        let sent = u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48;
        // SAFETY: the helper has no conditions.
        let now = unsafe { bpf_ktime_get_ns() };
        let bucket = weir_traffic::delay_bucket(now.wrapping_sub(sent));
        if let Some(delays) = DELAYS.get_ptr_mut(bucket) {
            // SAFETY: this CPU's own.
            unsafe { *delays += 1 };
        }
    }
    XDP_DROP
}

/// Sends a test frame back to its sender: hardware addresses, IP addresses and ports change places,
/// which changes no checksum.
#[inline(always)]
fn reflect<P: Places>(header: *mut u16) -> u32 {
    // SAFETY: all of them are in the header.
    unsafe {
        for word in 0..3 {
            core::ptr::swap(header.add(word), header.add(3 + word));
        }
        for word in P::SOURCE..P::SOURCE + P::WORDS {
            core::ptr::swap(header.add(word), header.add(word + P::WORDS));
        }
        core::ptr::swap(header.add(P::PORTS), header.add(P::PORTS + 1));
    }
    XDP_TX
}

#[xdp]
fn home(ctx: XdpContext) -> u32 {
    match ethertype(&ctx) {
        Some(Ip4::ETHERTYPE) => arrive_home::<Ip4>(&ctx),
        Some(Ip6::ETHERTYPE) => arrive_home::<Ip6>(&ctx),
        _ => XDP_PASS,
    }
}

#[inline(always)]
fn arrive_home<P: Places>(ctx: &XdpContext) -> u32 {
    let Some(header) = test_frame::<P>(ctx) else { return XDP_PASS };
    // SAFETY: the ports are in the header.
    if unsafe { header.add(P::PORTS).read() } != PORT.to_be() {
        return XDP_PASS;
    }
    count(ctx, COUNT_HOME);
    XDP_DROP
}

#[xdp]
fn redirect(ctx: XdpContext) -> u32 {
    whole_header::<Ip4>(&ctx).map_or(XDP_DROP, |frame| onward(frame, 0))
}

#[xdp]
fn limit(ctx: XdpContext) -> u32 {
    let Some(frame) = whole_header::<Ip4>(&ctx) else { return XDP_DROP };
    // SAFETY: the header is six words.
    by_line(frame, unsafe { [frame.add(3).read(), frame.add(4).read()] })
}

#[xdp]
fn limit6(ctx: XdpContext) -> u32 {
    let Some(frame) = whole_header::<Ip6>(&ctx) else { return XDP_DROP };
    // SAFETY: the header is eight words.
    by_line(frame, unsafe { ipv6::flow_words(frame.add(4).read(), frame.add(6).read()) })
}

/// Sends a frame on as the line of its flow says, which these words of it are of.
#[inline(always)]
fn by_line(frame: *mut u64, words: [u64; 2]) -> u32 {
    // SAFETY: the static is there, and the loader alone writes to it.
    let pages = unsafe { (&raw const PAGES).read_volatile() };
    let (page, line) = weir_traffic::line_of(words, pages);
    let Some(page) = TABLE.get(page) else { return XDP_ABORTED };
    onward(frame, page[line][0])
}

/// Sends a frame on. What is found of its flow, zero, is added to where it goes, and how: so it
/// cannot leave before that is there.
#[inline(always)]
fn onward(frame: *mut u64, found: u64) -> u32 {
    let Some(stream) = STREAM.get(0) else { return XDP_ABORTED };
    // SAFETY: the header is six words.
    unsafe {
        frame.write(stream.onward[0].wrapping_add(found));
        frame.add(1).cast::<u32>().write(stream.onward[1] as u32);
    }
    OUT.redirect(OUT_GATEWAY.wrapping_add(found as u32), 0).unwrap_or_else(|action| action)
}

#[xdp]
fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

#[socket_filter]
fn notice(ctx: SkBuffContext) -> i64 {
    let (Some(pattern), Some(moment)) = (PATTERN.get(0), MOMENT.get_ptr_mut(0)) else { return 0 };
    for part in &pattern.parts {
        let Ok(bytes) = ctx.load::<[u8; 4]>(part.at as usize) else { return 0 };
        let [bytes, mask, value] = [bytes, part.mask, part.value].map(u32::from_ne_bytes);
        if bytes & mask != value {
            return 0;
        }
    }
    // SAFETY: the helper has no conditions. Another CPU's first message is as good a first.
    unsafe {
        if *moment == 0 {
            *moment = bpf_ktime_get_ns();
        }
    }
    0
}

/// Where what matters of a frame is: in words of 16 bits, but for the stamp.
trait Places {
    /// As the program loads it.
    const ETHERTYPE: u16;
    /// Bytes of the header.
    const HEADER_LEN: usize;
    /// The source address; the destination is behind it.
    const SOURCE: usize;
    /// Words of an address.
    const WORDS: usize;
    /// The source port; the destination port is behind it.
    const PORTS: usize;
    /// Bytes before the stamp.
    const STAMP_AT: usize;

    /// Is it of a protocol that frames have, right behind the header? `word` gives a word of that.
    fn is_ours(word: impl Fn(usize) -> u16) -> bool;
}

struct Ip4;

impl Places for Ip4 {
    const ETHERTYPE: u16 = 0x0800u16.to_be();
    const HEADER_LEN: usize = HEADER_LEN;
    const SOURCE: usize = 13;
    const WORDS: usize = 2;
    const PORTS: usize = 17;
    const STAMP_AT: usize = STAMP_AT;

    #[inline(always)]
    fn is_ours(word: impl Fn(usize) -> u16) -> bool {
        word(7) & 0xff == 0x45 && matches!((word(11) >> 8) as u8, UDP | TCP)
    }
}

struct Ip6;

impl Places for Ip6 {
    const ETHERTYPE: u16 = 0x86ddu16.to_be();
    const HEADER_LEN: usize = ipv6::HEADER_LEN;
    const SOURCE: usize = 11;
    const WORDS: usize = 8;
    const PORTS: usize = 27;
    const STAMP_AT: usize = ipv6::STAMP_AT;

    #[inline(always)]
    fn is_ours(word: impl Fn(usize) -> u16) -> bool {
        word(10) as u8 == UDP
    }
}

/// The frame, if it has a whole header. Frames of a test run are aligned.
#[inline(always)]
fn whole_header<P: Places>(ctx: &XdpContext) -> Option<*mut u64> {
    (ctx.data() + P::HEADER_LEN <= ctx.data_end()).then_some(ctx.data() as *mut u64)
}

/// As the frame has it.
#[inline(always)]
fn ethertype(ctx: &XdpContext) -> Option<u16> {
    let header = whole_header::<Ip4>(ctx)?.cast::<u16>();
    // SAFETY: the header is 24 words of 16 bits.
    Some(unsafe { header.add(6).read() })
}

/// The frame as words of 16 bits, if its protocol is one of ours, without options or extension headers.
#[inline(always)]
fn test_frame<P: Places>(ctx: &XdpContext) -> Option<*mut u16> {
    let header = whole_header::<P>(ctx)?.cast::<u16>();
    // SAFETY: both families look at words of the header.
    P::is_ours(|at| unsafe { header.add(at).read() }).then_some(header)
}

#[inline(always)]
fn count(ctx: &XdpContext, slot: u32) {
    let Some(count) = COUNTS.get_ptr_mut(slot) else { return };
    // SAFETY: this CPU's own.
    unsafe {
        (*count).packets += 1;
        (*count).bytes += (ctx.data_end() - ctx.data()) as u64;
    }
}

/// Notes a frame's time at the port whose hardware address ends so.
#[inline(always)]
fn watch(last_byte: u16) {
    let Some(arrivals) = ARRIVALS.get_ptr_mut(weir_traffic::arrival_slot(last_byte as u8)) else {
        return;
    };
    // SAFETY: the helper has no conditions, and the arrivals are this CPU's own.
    unsafe {
        let now = bpf_ktime_get_ns();
        if (*arrivals).packets == 0 {
            (*arrivals).first_ns = now;
        }
        (*arrivals).last_ns = now;
        (*arrivals).packets += 1;
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never linked: the verifier would refuse the loop, so a panic that stays in the code is found
/// when the program is loaded.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
