//! Flows are begun as fast as can be, by a host of the LAN or from outside at a published service, and
//! what becomes of others: of flows that they have, and of connections that they open; beside the
//! kernel.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use core_affinity::CoreId;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde::Serialize;
use serde_json::{Value, json};
use weir_kit::netns::Netns;
use weir_kit::plan::server_address;
use weir_kit::topology::{Host, TOWARDS_GATEWAY};
use weir_kit::traffic::{GENERATOR_CPU, Traffic};
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::witness::{Clients, PORT, Witness};
use weir_layout::Family;
use weir_traffic::{FLOOD_HOSTS, FLOOD_PORTS, Stream, TCP, UDP};

use crate::compare::site::{Kind, Site, load, refused, shortest};
use crate::compare::{GATEWAY_CPU, System, linux, published};
use crate::section::{Section, figure, median, table};

/// Hosts beside the one that floods.
const USERS: u8 = 4;
/// UDP flows of each, which send 50 datagrams a second.
const FLOWS: usize = 10;
/// Flows that either gateway has room for.
const ROOM: u32 = 1 << 20;
/// Frames between looks at the clock.
const BURST: u32 = 100_000;
/// How long the last answers may take.
const LAST: Duration = Duration::from_millis(500);
/// A connection that takes longer has failed: three tries of its host (RFC 6298 §2).
const PATIENCE: Duration = Duration::from_millis(3500);
/// One that takes longer has been tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The service that is flooded from outside.
const FLOODED: SocketAddrV4 = SocketAddrV4::new(user(0), PORT);

/// What the flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// UDP datagrams.
    Udp,
    /// TCP segments that begin a connection.
    Syn,
}

/// Where the flood comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A host of the LAN.
    Lan,
    /// Many addresses beyond an uplink, to a published service of another host.
    Outside,
}

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the flood comes from.
    #[arg(long, default_value = "lan")]
    pub from: Origin,
    /// Length of each flood.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Nanoseconds from one frame of the flood to the next, at least; 0 for as fast as possible.
    #[arg(long, default_value_t = 1000)]
    pub interval_ns: u64,
    /// Rounds; figures are medians over them.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// What the flood is made of.
    #[arg(long, value_delimiter = ',', default_value = "udp,syn")]
    pub protocols: Vec<Protocol>,
}

/// What one flood did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Frames per second of the flood.
    pub offered: f64,
    /// Share of the datagrams of established flows of others that were not answered, but for those
    /// that their device refused.
    pub lost: f64,
    /// Packets of others that their device had no room for: they reached no gateway.
    pub refused: u64,
    /// Connections that others tried to open.
    pub tried: u64,
    /// Share of them that opened.
    pub opened: f64,
    /// Share that opened within a second: at the first try.
    pub opened_at_once: f64,
}

/// The rounds of a system.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What the flood is made of.
    pub protocol: Protocol,
    /// The gateway.
    pub system: System,
    /// The rounds.
    pub rounds: Vec<Round>,
}

impl Line {
    fn median(&self, of: fn(&Round) -> f64) -> f64 {
        median(&self.rounds.iter().map(of).collect::<Vec<_>>())
    }
}

/// Measures what the options say.
///
/// # Errors
/// When a system does not work without a flood.
pub fn run(options: &Options) -> Result<Section> {
    Ok(section(&measure(options)?, options))
}

/// As [`run`], without words around.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &Options) -> Result<Vec<Line>> {
    ensure!(options.rounds > 0, "the rounds must be 1 or more");
    let mut lines = Vec::new();
    for protocol in &options.protocols {
        for system in [System::LinuxNat, System::WeirKernel] {
            lines.push(Line { protocol: *protocol, system, rounds: Vec::new() });
        }
    }
    for _ in 0..options.rounds {
        for line in &mut lines {
            linux::wait_for_cleanup();
            let round = round(line.system, line.protocol, options).context(line.system.name())?;
            line.rounds.push(round);
        }
    }
    Ok(lines)
}

fn round(system: System, protocol: Protocol, options: &Options) -> Result<Round> {
    if system == System::LinuxNat {
        let mut prepared = linux::nat_without_flows(Kind::V4, ROOM)?;
        // As a gateway has them that nobody measures.
        prepared.site.topology.gateway.sysctl(&[
            ("net/netfilter/nf_conntrack_udp_timeout", "30"),
            ("net/netfilter/nf_conntrack_udp_timeout_stream", "120"),
        ])?;
        if options.from == Origin::Outside {
            prepared.site.topology.gateway.nft(&published::by_linux(FLOODED))?;
        }
        return flood(&mut prepared.site, protocol, options);
    }
    let mut site = Site::build(ROOM)?;
    let mut configuration = configuration(&site);
    if options.from == Origin::Outside {
        configuration += &published::by_weir(FLOODED);
    }
    let weir = Weir::start(&site.topology, &configuration)?;
    weir.wait_until_usable_in(Family::V4, &[0, 1])?;
    site.count_at_far_side()?;
    flood(&mut site, protocol, options)
}

fn configuration(site: &Site) -> String {
    let gateway = format!("tier = \"kernel\"\nflow_table = {ROOM}\ncores = [{GATEWAY_CPU}]\n");
    let uplink =
        |(name, interface)| format!("[[uplink]]\nname = \"{name}\"\ninterface = \"{interface}\"\n");
    let providers = site.topology.providers.iter();
    let uplinks: String = providers.map(|it| uplink((UPLINKS[it.index], it.interface()))).collect();
    format!(
        "[gateway]\n{gateway}[[lan]]\ninterface = \"lan0\"\n{uplinks}[[policy]]\nname = \"all\"\n"
    )
}

/// The address of one who does not flood.
const fn user(user: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, user + 1)
}

/// From beyond the first uplink.
fn outside(site: &Site) -> Result<(Traffic, Stream)> {
    let stream = Stream { from_many: 1, ..load(Kind::Inbound, site.flows(), shortest(Family::V4)) };
    Ok((Traffic::load(&site.topology.providers[0].netns, TOWARDS_GATEWAY)?, stream))
}

fn flood(site: &mut Site, protocol: Protocol, options: &Options) -> Result<Round> {
    let server = server_address(0);
    let _witness = Witness::start(&site.topology.internet, server)?;
    let host = site.topology.hosts[0].clone();
    let users: Vec<_> = (0..USERS).map(user).collect();
    let addresses: String =
        users.iter().map(|user| format!("address add {user}/16 dev eth0\n")).collect();
    host.netns.ip(&addresses)?;
    let _flooded = Witness::start(&host.netns, user(0))?;
    // The users' packets enter the device on the CPU that the flood's do: it takes from both in turn,
    // and its ring, which is before the gateway, refuses none. Threads inherit it.
    let pinned = core_affinity::set_for_current(CoreId { id: GENERATOR_CPU });
    ensure!(pinned, "cannot run on CPU {GENERATOR_CPU}");
    let clients = users.iter().map(|user| Clients::open(&host, *user, server, FLOWS, 0));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    let opening = Opening::start(&host, &users, SocketAddr::from((server, PORT)))?;
    let (before, refused_before) = (talked(&clients), refused_of_others(site)?);
    let mut beyond = match options.from {
        Origin::Lan => None,
        Origin::Outside => Some(outside(site)?),
    };
    let lan = site.load(shortest(Family::V4));
    let (traffic, stream) = match &mut beyond {
        Some((traffic, stream)) => (traffic, *stream),
        None => (&mut site.traffic, lan),
    };
    traffic.set_stream(&Stream {
        flood: match protocol {
            Protocol::Udp => UDP,
            Protocol::Syn => TCP,
        }
        .into(),
        flows: FLOOD_PORTS * FLOOD_HOSTS,
        stride: 1,
        interval_ns: options.interval_ns,
        ..stream
    })?;
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed().as_secs_f64() < options.seconds {
        sent += traffic.blast(BURST)?.sent;
    }
    let offered = sent as f64 / begun.elapsed().as_secs_f64();
    let (tried, opened, at_once) = opening.stop()?;
    std::thread::sleep(LAST);
    let after = talked(&clients);
    let [sent, answered] = [after[0] - before[0], after[1] - before[1]].map(|it| it as f64);
    let refused = refused_of_others(site)?.saturating_sub(refused_before);
    ensure!(tried > 0 && sent > 0.0, "nobody but the flood sent anything");
    let share = |part: u64| part as f64 / tried as f64;
    Ok(Round {
        offered,
        lost: ((sent - answered - refused as f64) / sent).max(0.0),
        refused,
        tried,
        opened: share(opened),
        opened_at_once: share(at_once),
    })
}

/// Packets of others than the flood that the devices of the hosts, and of the provider that it comes
/// by, have dropped: the gateway's end of theirs had no room.
fn refused_of_others(site: &Site) -> Result<u64> {
    let provider = &site.topology.providers[0].netns;
    let of = |netns: &Netns, device: &str| {
        let mut command = Command::new("ip");
        let output = netns.output(command.args(["-s", "-j", "link", "show", device]))?;
        let shown: Value = serde_json::from_slice(&output.stdout)?;
        let dropped = shown.pointer("/0/stats64/tx/dropped").and_then(Value::as_u64);
        let dropped = dropped.with_context(|| format!("`ip` shows no tx.dropped of {device}"))?;
        anyhow::Ok(dropped.saturating_sub(refused(netns, device)?))
    };
    Ok(of(&site.topology.hosts[0].netns, "eth0")? + of(provider, TOWARDS_GATEWAY)?)
}

/// Datagrams sent and answered so far.
fn talked(clients: &[Clients]) -> [u64; 2] {
    let talks = clients.iter().flat_map(Clients::talks);
    talks.fold([0; 2], |[sent, answered], talk| [sent + talk.sent, answered + talk.answered])
}

/// Users that open one connection after another.
struct Opening {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Result<[u64; 3]>>>,
}

impl Opening {
    fn start(host: &Host, users: &[Ipv4Addr], server: SocketAddr) -> Result<Self> {
        let stop: Arc<AtomicBool> = Arc::default();
        let thread = |user: &Ipv4Addr| {
            let (stop, user) = (Arc::clone(&stop), *user);
            host.netns.thread("opening", move || open_until(&stop, user, server))
        };
        let threads = users.iter().map(thread).collect::<Result<_>>()?;
        Ok(Self { stop, threads })
    }

    /// Connections that were tried, that opened, and that opened at once.
    fn stop(self) -> Result<(u64, u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = [0; 3];
        for thread in self.threads {
            let counts = thread.join().map_err(|_| anyhow!("a user's thread panicked"))?;
            sum.iter_mut().zip(counts?).for_each(|(sum, count)| *sum += count);
        }
        let [tried, opened, at_once] = sum;
        Ok((tried, opened, at_once))
    }
}

fn open_until(stop: &AtomicBool, user: Ipv4Addr, server: SocketAddr) -> [u64; 3] {
    let mut counts = [0; 3];
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let opened = open(user, server).is_ok();
        counts[0] += 1;
        counts[1] += u64::from(opened);
        counts[2] += u64::from(opened && begun.elapsed() < AGAIN);
        std::thread::sleep(Duration::from_millis(5));
    }
    counts
}

fn open(user: Ipv4Addr, server: SocketAddr) -> Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::sockopt::set_tcp_user_timeout(&socket, PATIENCE.as_millis() as u32)?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Send,
        Some(PATIENCE),
    )?;
    bind(&socket, &SocketAddr::from((user, 0)))?;
    connect(&socket, &server)?;
    drop(TcpStream::from(socket));
    Ok(())
}

fn section(lines: &[Line], options: &Options) -> Section {
    let headings =
        ["", "flood", "frames/s", "datagrams lost", "connections opened", "at the first try"];
    let mut table = table(2, &headings);
    let mut json = json!({ "seconds": options.seconds, "rounds": options.rounds, "lines": lines });
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    for line in lines {
        let flood = serde_json::to_value(line.protocol).unwrap_or_default();
        let flood = flood.as_str().unwrap_or_default();
        let [lost, opened] = [line.median(|r| r.lost), line.median(|r| r.opened)];
        table.add_row([
            line.system.name().to_owned(),
            flood.to_owned(),
            figure(line.median(|r| r.offered)),
            percent(lost),
            percent(opened),
            percent(line.median(|r| r.opened_at_once)),
        ]);
        let name = line.system.name();
        json[format!("flood_{flood}_{name}_lost")] = json!(lost);
        json[format!("flood_{flood}_{name}_opened")] = json!(opened);
    }
    Section {
        name: "flood",
        title: match options.from {
            Origin::Lan => "A host that floods, and the others behind its port",
            Origin::Outside => "A published service that is flooded, and others behind the gateway",
        }
        .into(),
        notes: vec![format!(
            "{who} sends frames of which each begins a flow, {} ns apart or as fast as the \
             generator can, for {} s. {USERS} others behind the same port have {FLOWS} UDP flows \
             each, of 50 datagrams a second, and open one TCP connection after the other. Medians \
             of {} rounds, each on a new site, with room for {ROOM} flows. Generator, the users \
             and the server share the machine's CPUs with the gateway. Datagrams that the users' own \
             device, or the provider's, had no room for are not counted as lost: the flood enters by it.",
            options.interval_ns,
            options.seconds,
            options.rounds,
            who = match options.from {
                Origin::Lan => "One host",
                Origin::Outside => "A network beyond an uplink, with 128 addresses,",
            },
        )],
        json,
        table,
        plots: Vec::new(),
    }
}
