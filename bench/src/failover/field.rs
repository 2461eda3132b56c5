//! A gateway whose established flows all leave by one of three uplinks, which fails.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use weir_kit::ipv6::{self, Mode};
use weir_kit::moments::{Notice, now_ns, when_changed};
use weir_kit::plan::{self, OWNED_PREFIX, Plan};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::{Host, Provider, TOWARDS_GATEWAY};
use weir_kit::traffic::Traffic;
use weir_kit::wait;
use weir_kit::weir::{UPLINKS, Weir};
use weir_layout::Family;
use weir_layout::control::{PathId, path_state};
use weir_traffic::{Arrivals, MODE_WATCH, Stream};

use super::connections::{CONNECTIONS, ConnectionTimes, Connections};
use crate::compare::GATEWAY_CPU;
use crate::compare::site::{Kind, Site, shortest};
use crate::compare::weir::{establish, flow_table};

/// The uplink that fails; the others take over.
const OLD: usize = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Time between frames.
pub const PACE: Duration = Duration::from_micros(10);
/// Traffic before a fault, from when the generator has sent `MANY` frames: it may be late.
const BEFORE: Duration = Duration::from_millis(80);
const MANY: u64 = 1000;
/// First source port of real sockets, below those that the kernel gives.
const FIRST_PORT: u16 = 10_000;
/// How long it must be well before it is used again.
const HOLD_DOWN_MS: u32 = 300;
/// Fewest frames while an uplink returns: for its hold-down, and three times as long.
const RETURNING: u32 = 120_000;
/// How often flows that seem broken are asked, each time at half the rate, but no slower than this.
const ATTEMPTS: u32 = 6;
/// Nanoseconds between frames, see [`ATTEMPTS`].
const SLOWEST_NS: u64 = 40_000;
/// Milliseconds from one probe of a target to the next.
pub const INTERVAL_MS: u32 = 100;

/// What an uplink does with source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Translation {
    /// NAT44, or NPTv6.
    Translated,
    /// None: the customer's own prefix.
    Routed,
}

impl Translation {
    /// What the flows of a family are.
    fn kind(self, family: Family) -> Kind {
        match (family, self) {
            (Family::V4, _) => Kind::V4,
            (Family::V6, Self::Translated) => Kind::V6(Mode::Npt66),
            (Family::V6, Self::Routed) => Kind::V6(Mode::None),
        }
    }
}

/// What happens to the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Its link loses the carrier.
    Cut,
    /// Its provider forwards nothing any more, silently.
    BlackHole,
}

impl Fault {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cut, Self::BlackHole];

    /// Frames of a round: the set-up of the call, the time before the fault, and what the reaction
    /// may take.
    pub const fn frames(self) -> u32 {
        match self {
            Self::Cut => 40_000,
            Self::BlackHole => 80_000,
        }
    }
}

/// One fault. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Debug)]
pub struct Round {
    /// Before whatever makes the fault.
    pub asked_ns: u64,
    /// The fault: what the kernel told of the carrier, or the last echo that came out of the hole.
    pub fault_ns: u64,
    /// The uplink's state word said that it is not usable.
    pub decided_ns: u64,
    /// The first UDP packet by another uplink.
    pub udp_ns: u64,
    /// The first TCP segment by another uplink.
    pub tcp_ns: u64,
    /// How long no UDP frame arrived by any uplink: the last by the old one, the first by another.
    pub gap_ns: u64,
    /// UDP frames that the faulty uplink lost.
    pub lost: f64,
    /// UDP frames lost while it came back; none where it was not used again before they ended.
    pub lost_at_return: Option<f64>,
    /// UDP flows of the round that did not reach the far side afterwards.
    pub udp_broken: u64,
    /// The connections.
    pub connections: Vec<ConnectionTimes>,
}

/// Weir with established flows, all by the uplink that will fail.
pub struct Field {
    translation: Translation,
    // Dropped before the namespaces they are in.
    weir: Weir,
    _server: Server,
    /// What the router of the old uplink forgets of IPv6 when its port is down.
    routes: String,
    site: Site,
    flows: Stream,
    next: u32,
    next_port: u16,
}

impl Field {
    /// Builds the site and establishes the flows.
    ///
    /// # Errors
    /// When weir does not start, or does not make every flow.
    pub fn prepare(family: Family, translation: Translation, flows: u32) -> Result<Self> {
        let kind = translation.kind(family);
        // Sockets of IPv4 have a host and a LAN port of their own.
        let hosts = if family == Family::V4 { 2 } else { 1 };
        let plan = Plan { owned_prefix: true, ..Plan::new(UPLINKS.len(), hosts) };
        let mut site = Site::with_plan(kind, flows, plan)?;
        site.pair_flows();
        let server = Server::start(&site.topology.internet, server(&site))?;
        // The world reaches the own prefix by a provider that is well.
        let ((prefix, length), (router, _)) = (OWNED_PREFIX, plan::transit(UPLINKS.len() - 1));
        let route = format!("route replace {prefix}/{length} via {router}\n");
        site.topology.internet.ip(&route)?;
        let weir = Weir::start(&site.topology, &configuration(&site, translation))?;
        weir.wait_until_usable_in(family, &[0, 1, 2])?;
        site.count_at_far_side()?;
        let flows = Stream {
            mode: MODE_WATCH,
            interval_ns: PACE.as_nanos() as u64,
            ..site.load(shortest(family))
        };
        let routes = routes_by_link(&site.topology.providers[OLD])?;
        let mut field = Self {
            translation,
            weir,
            _server: server,
            routes,
            site,
            flows,
            next: 0,
            next_port: FIRST_PORT,
        };
        field.others(0)?;
        establish(&mut field.site, &field.weir)?;
        Ok(field)
    }

    /// Makes the fault under traffic of flows that leave by the uplink; then it returns.
    ///
    /// # Errors
    /// When the fault is not noticed, or the flows do not move.
    pub fn round(&mut self, fault: Fault) -> Result<Round> {
        let start = self.next;
        let walked = u64::from(fault.frames()) * u64::from(self.flows.stride);
        self.next = ((u64::from(start) + walked) % u64::from(self.flows.flows)) as u32;
        self.others(0)?;
        let host = self.host()?.clone();
        let source: IpAddr = match (self.site.kind, self.translation) {
            (Kind::V6(mode), _) => mode.host(0).into(),
            (Kind::V4 | Kind::Inbound, Translation::Translated) => host.address.into(),
            (Kind::V4 | Kind::Inbound, Translation::Routed) => {
                host.owned.context("the host has no own address")?.into()
            }
        };
        let source = SocketAddr::new(source, self.next_port);
        self.next_port += CONNECTIONS;
        let echo = SocketAddr::new(server(&self.site), ECHO_PORT);
        let connections = host.netns.run(|| Connections::open(source, echo))??;
        self.others(1)?;
        self.site.traffic.set_stream_from(&self.flows, start)?;
        let mut round = self.fail(fault, start, connections)?;
        round.udp_broken = self.broken(fault, start)?;
        round.lost_at_return = self.come_back(fault, start)?;
        Ok(round)
    }

    /// The host of the sockets.
    fn host(&self) -> Result<&Host> {
        self.site.topology.hosts.last().context("a site without hosts")
    }

    /// The uplink's path in the family of the flows.
    fn path(&self) -> PathId {
        PathId::new(OLD as u8, self.site.kind.family())
    }

    fn fail(&mut self, fault: Fault, start: u32, connections: Connections) -> Result<Round> {
        let far = |traffic: &Traffic| Ok(traffic.far()?.packets);
        self.site.traffic.forget_arrivals()?;
        let before = far(&self.site.traffic)?;
        let (asked, sent, seen) = self.watch(fault, start, connections)?;
        let arrived = self.site.settle(far)? - before;
        let arrivals = self.site.traffic.arrivals()?;
        let old = arrivals[OLD];
        ensure!(old.packets > 0 && old.first_ns < asked, "no traffic before the fault");
        let new =
            arrivals.iter().enumerate().filter(|(uplink, new)| *uplink != OLD && new.packets > 0);
        let frame = new.map(|(_, new)| new.first_ns).min().context("no flow has moved")?;
        // The generator stands still now and then, when others use its CPU; the sockets do not.
        let udp_ns = frame.min(seen.datagram.unwrap_or(frame));
        let tcp_ns = seen.segment.context("no connection has moved")?;
        let since = |at: u64| at as i64 - asked as i64;
        ensure!(
            udp_ns.min(tcp_ns) > asked,
            "traffic left by another uplink before the fault: frames {} ns after it, datagrams {:?}, \
             segments {}; the word {:?}, the carrier {:?}",
            since(frame),
            seen.datagram.map(since),
            since(tcp_ns),
            seen.decided.map(since),
            seen.carrier.map(since)
        );
        // The thread that looks may be late; nothing moves before the word.
        let decided = seen.decided.context("the fault was not noticed")?;
        let decided_ns = decided.min(udp_ns).min(tcp_ns);
        let missing = sent as f64 - arrived as f64;
        let (fault_ns, lost) = match fault {
            Fault::Cut => (seen.carrier.context("nobody told that the carrier is lost")?, missing),
            // The far side of the link still counts what goes into the hole.
            Fault::BlackHole => {
                let hole = seen.last_echo(decided_ns).map_or(asked, |echo| echo.max(asked));
                (hole, missing + after(&old, hole))
            }
        };
        Ok(Round {
            asked_ns: asked,
            fault_ns,
            decided_ns,
            udp_ns,
            tcp_ns,
            lost,
            gap_ns: frame.saturating_sub(old.last_ns),
            udp_broken: 0,
            lost_at_return: None,
            connections: seen.connections,
        })
    }

    /// Makes the fault under traffic, which is set up; when, how many frames were sent, and what was seen.
    /// The frames are sent again until a connection has moved: how long that takes is measured, and
    /// on a machine that others use too may be anything.
    fn watch(
        &mut self,
        fault: Fault,
        start: u32,
        connections: Connections,
    ) -> Result<(u64, u64, Seen)> {
        let (control, counters) = (self.weir.control()?, self.weir.counters()?);
        let path = self.path();
        let sent = || counters.path(path).tx_packets;
        let silent = sent();
        let echo = SocketAddr::new(server(&self.site), ECHO_PORT);
        let host = self.host()?.netns.clone();
        let Site { topology, traffic, .. } = &mut self.site;
        let [old, new @ ..] = &topology.providers[..] else { bail!("the site has no provider") };
        let carrier = Notice::of_carrier_loss(&topology.gateway, &old.interface())?;
        let packets = |protocol| -> Result<Vec<_>> {
            new.iter().map(|p| Notice::of_packet(&p.netns, protocol, echo)).collect()
        };
        let (segments, datagrams) = (packets(TCP)?, packets(UDP)?);
        let (done, enough) = (&AtomicBool::new(false), &AtomicBool::new(false));
        let flows = self.flows;
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let mut sent = 0;
                loop {
                    // One by one: a frame's time is not that of the batch it waits for.
                    sent += traffic.send(fault.frames(), 1)?.sent;
                    if enough.load(Ordering::Relaxed) {
                        return anyhow::Ok(sent);
                    }
                    traffic.set_stream_from(&flows, start)?;
                }
            });
            let usable = move || u64::from(control.path_state(path) & path_state::USABLE);
            let decided = scope.spawn(move || when_changed(usable, done));
            let talk = scope.spawn(move || host.run(|| connections.talk(done)));
            let begun = wait::until("the frames to leave", wait::BOUND, || {
                Ok((sent() > silent + MANY).then_some(()))
            });
            std::thread::sleep(BEFORE);
            let asked = now_ns();
            let made = make(old, fault, true);
            let moved = wait::until("a connection to move", wait::BOUND, || {
                Ok(earliest(&segments)?.filter(|_| decided.is_finished()))
            });
            enough.store(true, Ordering::Relaxed);
            let framed = joined(sender);
            done.store(true, Ordering::Relaxed);
            let seen = Seen {
                decided: joined(decided)?,
                carrier: carrier.moment()?,
                segment: earliest(&segments)?,
                datagram: earliest(&datagrams)?,
                connections: joined(talk)??,
            };
            begun?;
            made?;
            moved?;
            Ok((asked, framed??, seen))
        })
    }

    /// Flows of the round that no longer reach the far side, at most. Call before the fault is gone. Each
    /// is asked again if some are missing: a busy machine loses a frame of one or another, a flow that
    /// is broken has none arrive.
    fn broken(&mut self, fault: Fault, start: u32) -> Result<u64> {
        let far = |traffic: &Traffic| Ok(traffic.far()?.packets);
        let mut missing = u64::MAX;
        for attempt in 0..ATTEMPTS {
            let before = far(&self.site.traffic)?;
            // A slow machine is given more time.
            let interval_ns = (self.flows.interval_ns << attempt).min(SLOWEST_NS);
            self.site.traffic.set_stream_from(&Stream { interval_ns, ..self.flows }, start)?;
            self.site.traffic.send(fault.frames(), 1)?;
            let arrived = self.site.settle(far)? - before;
            missing = missing.min(u64::from(fault.frames()).saturating_sub(arrived));
            if missing == 0 {
                break;
            }
        }
        Ok(missing)
    }

    /// Gives the uplinks that take over a weight.
    fn others(&self, weight: u32) -> Result<()> {
        UPLINKS[OLD + 1..].iter().try_for_each(|name| self.weir.weight(name, weight).map(drop))
    }

    /// Ends the fault under traffic of the round's flows, which have moved; how many of their packets
    /// did not arrive. None: it was not in use again before the traffic ended.
    fn come_back(&mut self, fault: Fault, start: u32) -> Result<Option<f64>> {
        let far = |traffic: &Traffic| Ok(traffic.far()?.packets);
        let before = far(&self.site.traffic)?;
        let (control, path, flows) = (self.weir.control()?, self.path(), self.flows);
        let is_well = || control.path_state(path) & path_state::USABLE != 0;
        let Site { topology, traffic, .. } = &mut self.site;
        let (old, routes) = (&topology.providers[OLD], &self.routes);
        let passes = RETURNING.div_ceil(fault.frames());
        let in_time = std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                (0..passes).try_for_each(|_| {
                    traffic.set_stream_from(&flows, start)?;
                    traffic.send(fault.frames(), 1).map(drop)
                })
            });
            std::thread::sleep(BEFORE);
            let ended = make(old, fault, false).and_then(|()| old.netns.ip(routes));
            joined(sender)??;
            ended.map(|()| is_well())
        })?;
        let arrived = self.site.settle(far)? - before;
        wait::until("the uplink to be well again", wait::BOUND, || Ok(is_well().then_some(())))?;
        Ok(in_time.then(|| f64::from(passes * fault.frames()) - arrived as f64))
    }
}

/// Whom the sockets talk to.
fn server(site: &Site) -> IpAddr {
    match site.kind {
        Kind::V4 | Kind::Inbound => site.topology.servers[0].into(),
        Kind::V6(_) => ipv6::SERVER.into(),
    }
}

/// What the watchers saw.
struct Seen {
    decided: Option<u64>,
    carrier: Option<u64>,
    segment: Option<u64>,
    datagram: Option<u64>,
    connections: Vec<ConnectionTimes>,
}

impl Seen {
    /// The last echo before a moment: one is due every millisecond.
    fn last_echo(&self, before: u64) -> Option<u64> {
        let echoes = self.connections.iter().flat_map(|times| times.echoed_ns.iter().copied());
        echoes.filter(|at| *at < before).max()
    }
}

fn earliest(notices: &[Notice]) -> Result<Option<u64>> {
    let moments = notices.iter().map(Notice::moment).collect::<Result<Vec<_>>>()?;
    Ok(moments.into_iter().flatten().min())
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the benchmark panicked"))
}

/// Frames that arrived after a moment, if they came evenly.
fn after(arrivals: &Arrivals, moment: u64) -> f64 {
    let all = arrivals.last_ns.saturating_sub(arrivals.first_ns).max(1);
    arrivals.packets as f64 * arrivals.last_ns.saturating_sub(moment) as f64 / all as f64
}

/// The routes of IPv6 by the link to the gateway, which go with it, as lines that lay them again; its
/// addresses stay.
fn routes_by_link(provider: &Provider) -> Result<String> {
    let keep = format!("net/ipv6/conf/{TOWARDS_GATEWAY}/keep_addr_on_down");
    provider.netns.sysctl(&[(&keep, "1")])?;
    let mut show = Command::new("ip");
    let shown =
        provider.netns.output(show.args(["-6", "route", "show", "dev", TOWARDS_GATEWAY]))?;
    let text = String::from_utf8(shown.stdout)?;
    let lay = |line: &str| format!("route replace {} dev {TOWARDS_GATEWAY}\n", line.trim());
    Ok(text.lines().filter(|line| line.contains(" via ")).map(lay).collect())
}

fn make(provider: &Provider, fault: Fault, on: bool) -> Result<()> {
    match fault {
        Fault::Cut => provider.set_carrier(!on),
        Fault::BlackHole => provider.set_black_hole(on),
    }
}

fn configuration(site: &Site, translation: Translation) -> String {
    let translate = match translation {
        Translation::Translated => "nat44",
        Translation::Routed => "none",
    };
    let targets: [IpAddr; 2] = match site.kind {
        Kind::V4 | Kind::Inbound => {
            [site.topology.servers[0].into(), site.topology.servers[1].into()]
        }
        Kind::V6(_) => [ipv6::SERVER.into(), ipv6::STRANGER.into()],
    };
    let [first, second] = targets;
    let flows = flow_table(site.flows());
    let mut text = format!(
        "[gateway]\nflow_table = {flows}\ncores = [{GATEWAY_CPU}]\n\
         [timeouts]\nudp = 3600\n\
         [health]\ninterval_ms = {INTERVAL_MS}\nup = 3\n\
         hold_down_ms = {HOLD_DOWN_MS}\nhold_down_max_ms = {HOLD_DOWN_MS}\n\
         loss_percent = {{ fail = 100, recover = 99 }}\n\
         [[health.targets]]\nname = \"first\"\nprobe = \"icmp\"\naddress = \"{first}\"\n\
         [[health.targets]]\nname = \"second\"\nprobe = \"icmp\"\naddress = \"{second}\"\n\
         [[lan]]\ninterface = \"lan0\"\n"
    );
    text += &match site.kind {
        Kind::V4 | Kind::Inbound => {
            let (own, length) = OWNED_PREFIX;
            format!(
                "[[lan]]\ninterface = \"lan1\"\nprefixes = [\"10.1.0.0/16\", \"{own}/{length}\"]\n"
            )
        }
        Kind::V6(mode) => mode.lan_line(UPLINKS.len()),
    };
    for provider in &site.topology.providers {
        let (name, interface) = (UPLINKS[provider.index], provider.interface());
        let path = match site.kind {
            Kind::V4 | Kind::Inbound => format!("translate = \"{translate}\"\n"),
            Kind::V6(mode) => mode.path(provider.index),
        };
        let _ = write!(text, "[[uplink]]\nname = \"{name}\"\ninterface = \"{interface}\"\n{path}");
    }
    text + "[[policy]]\nname = \"balanced\"\nselection = \"flow\"\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_after_a_moment_are_a_part_of_all() {
        let arrivals = Arrivals { packets: 100, first_ns: 1000, last_ns: 2000 };
        assert_eq!(after(&arrivals, 1500), 50.0);
        assert_eq!(after(&arrivals, 2500), 0.0);
    }
}
