//! One bad part takes out only itself: LAN ports and uplinks that are missing, wrong, taken away and
//! brought back, at start and while everything is under load.

use std::iter::StepBy;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use rustix::net::{AddressFamily, SocketType};
use weir_ebpf::{OBJECT, names};
use weir_kit::plan::{Lan, Plan};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::udp_flows::{self, UdpReport};
use weir_kit::wait;
use weir_kit::weir::{self, Weir, tier};
use weir_kit::witness::{Clients, Talk, Witness};
use weir_layout::control::{Device, path_state};
use weir_layout::counters::Counter;
use weir_shm::counters::Counters;
use weir_xsk::{BindMode, Socket, SocketConfig, Umem, UmemConfig};

const UPLINKS: usize = 3;
const CABLE: usize = 1;
const LTE: usize = 2;
const TAP: &str = "weirtx0";
/// Flows of each host that exist before anything happens.
const FLOWS: usize = 40;
/// New flows of a host that are asked for at a time, and the pause after them.
const WAVE: u16 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Two LAN ports with a host each, three uplinks, and a server for every set of uplinks that a test
/// means: the first by any, those after it by all but one.
fn build(queues: u32) -> (Topology, Vec<Server>) {
    let mut plan = Plan::new(UPLINKS, 2);
    (plan.lan, plan.queues, plan.servers) = (Lan::Direct, queues, 1 + UPLINKS);
    let topology = Topology::build(plan).unwrap();
    let start = |address| Server::start(&topology.internet, address).unwrap();
    let servers = topology.servers.iter().copied().map(start).collect();
    (topology, servers)
}

fn configuration(topology: &Topology) -> String {
    Weir::configuration(topology, &[1; UPLINKS])
        + "[health]\nhold_down_ms = 100\nhold_down_max_ms = 100\n"
}

/// What sends to a server of its own by all uplinks but one.
fn policies_of_the_others(topology: &Topology) -> String {
    let mut text = String::new();
    for uplink in 0..UPLINKS {
        let others = (0..UPLINKS).filter(|other| *other != uplink);
        let members = others.map(|other| format!("{{ uplink = \"{}\" }}", weir::UPLINKS[other]));
        text += &format!(
            "[[policy]]\nname = \"but{uplink}\"\nselection = \"flow\"\nmembers = [{}]\n\
             [[rule]]\ndestination = \"{}/32\"\npolicy = \"but{uplink}\"\n",
            members.collect::<Vec<_>>().join(", "),
            topology.servers[1 + uplink],
        );
    }
    text
}

fn echo(topology: &Topology) -> SocketAddrV4 {
    SocketAddrV4::new(topology.servers[0], ECHO_PORT)
}

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Uplink(usize),
    Lan(usize),
}

/// Flows over everything, and what they have seen so far.
struct Load<'t> {
    topology: &'t Topology,
    weir: &'t Weir,
    /// By host.
    clients: Vec<Option<Clients>>,
    /// By server, source ports that no flow to it had.
    ports: Vec<StepBy<Range<u16>>>,
}

impl<'t> Load<'t> {
    fn start(topology: &'t Topology, weir: &'t Weir) -> Self {
        let ports = vec![(10_000..60_000).step_by(WAVE.into()); topology.servers.len()];
        let mut load = Self { topology, weir, clients: vec![], ports };
        load.renew();
        load
    }

    /// Deals the flows out anew.
    fn renew(&mut self) {
        self.clients.clear();
        self.clients = (0..self.topology.hosts.len()).map(|host| Some(self.open(host))).collect();
    }

    fn open(&self, host: usize) -> Clients {
        let (host, server) = (&self.topology.hosts[host], self.topology.servers[0]);
        Clients::open(host, host.address, server, FLOWS, 2).unwrap()
    }

    /// By host, its long flows.
    fn talks(&self) -> Vec<Vec<Talk>> {
        let talks = |clients: &Option<Clients>| clients.as_ref().map(Clients::talks);
        self.clients.iter().map(|clients| talks(clients).unwrap_or_default()).collect()
    }

    fn is_of(&self, part: Part, host: usize, origin: SocketAddrV4) -> bool {
        match part {
            Part::Uplink(uplink) => self.topology.providers[uplink].addresses[0] == *origin.ip(),
            Part::Lan(port) => port == host,
        }
    }

    /// Resets of connections that do not pass the part, or did not when they began.
    fn resets(&self, part: Part) -> usize {
        let of = |(host, clients): (usize, &Option<Clients>)| {
            let idle = clients.as_ref().map(Clients::idle).unwrap_or_default();
            idle.iter()
                .filter(|c| !self.is_of(part, host, c.origin) && c.reset_ns.is_some())
                .count()
        };
        self.clients.iter().enumerate().map(of).sum()
    }

    /// Does something to a part, and asks for new flows that need not pass it all the while: of what
    /// was there and passes other parts no datagram may be lost, of what is new one in 1000.
    fn during(&mut self, what: &str, part: Part, work: impl FnOnce()) {
        println!("{what}: {part:?}");
        let (before, resets) = (self.talks(), self.resets(part));
        let counters = self.weir.counters().unwrap();
        let counted = counters.all();
        let report = self.new_flows_during(part, work);
        // What was sent until now shows what it lost when it, or what was sent after it, is answered.
        let then = self.talks();
        let all_answered = || {
            let now = self.talks();
            let mut flows = then.iter().flatten().zip(now.iter().flatten());
            let over = |(then, now): (&Talk, &Talk)| now.answered + now.lost >= then.sent;
            Ok(flows.all(over).then_some(()))
        };
        wait::until("all flows to go on", wait::BOUND, all_answered).unwrap();
        let after = self.talks();
        let mut others = 0;
        for (host, (before, after)) in before.iter().zip(&after).enumerate() {
            for (before, after) in before.iter().zip(after) {
                let passes_by = before.origins.last().is_some_and(|o| self.is_of(part, host, *o));
                if !passes_by {
                    others += 1;
                    let drops = || drops(&counters, &counted);
                    let what = || format!("{what}, {part:?}: {before:?} {after:?}, {:?}", drops());
                    assert_eq!(after.lost, before.lost, "{}", what());
                }
            }
        }
        assert!(others >= FLOWS / 2, "{what}, {part:?}: {others} other flows");
        assert_eq!(self.resets(part), resets, "{what}, {part:?}: other connections were reset");
        let missing = report.sent - report.answered;
        let enough = report.sent >= 1000 && report.wrong == 0;
        assert!(enough && missing * 1000 <= report.sent, "{what}, {part:?}: {report:?}");
    }

    /// New flows while `work` is done, at least a thousand.
    fn new_flows_during(&mut self, part: Part, work: impl FnOnce()) -> UdpReport {
        let (server, hosts) = match part {
            Part::Uplink(uplink) => (1 + uplink, &self.topology.hosts[..]),
            Part::Lan(0) => (0, &self.topology.hosts[1..]),
            Part::Lan(_) => (0, &self.topology.hosts[..1]),
        };
        let to = SocketAddrV4::new(self.topology.servers[server], ECHO_PORT);
        let ports = &mut self.ports[server];
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flows = scope.spawn(|| {
                let mut sum = UdpReport::default();
                while !over.load(Ordering::Relaxed) || sum.sent < 1000 {
                    let first = ports.next().expect("a port that no flow had");
                    let report = udp_flows::run_from(hosts, to, WAVE.into(), first).unwrap();
                    sum.sent += report.sent;
                    sum.answered += report.answered;
                    sum.wrong += report.wrong;
                    std::thread::sleep(PAUSE);
                }
                sum
            });
            work();
            over.store(true, Ordering::Relaxed);
            flows.join().unwrap()
        })
    }
}

/// What was dropped since the counters were so, by reason.
fn drops(counters: &Counters, then: &[(Counter, u64)]) -> Vec<(Counter, u64)> {
    let since = counters
        .all()
        .into_iter()
        .zip(then)
        .map(|((counter, now), (_, then))| (counter, now - then));
    since.filter(|(counter, count)| counter.is_drop() && *count > 0).collect()
}

/// Another program in the driver of an interface, for as long as what is returned lives.
fn foreign_program(topology: &Topology, interface: &str) -> Result<Ebpf> {
    let attach = || -> Result<Ebpf> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        let program = ebpf.program_mut(names::TRANSMIT).context("no such program")?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        program.attach(interface, XdpMode::Driver)?;
        Ok(ebpf)
    };
    topology.gateway.run(attach)?
}

fn set_mtu(topology: &Topology, provider: usize, mtu: u32) {
    let provider = &topology.providers[provider];
    // The peer first: a veth does not take more than its peer while it carries XDP.
    provider.netns.ip(&format!("link set gw mtu {mtu}\n")).unwrap();
    topology.gateway.ip(&format!("link set {} mtu {mtu}\n", provider.interface())).unwrap();
}

fn each_part_in_turn_costs_the_others_nothing(workers: u8) {
    let (topology, _servers) = build(1);
    let _witness = Witness::start(&topology.internet, topology.servers[0]).unwrap();
    let file = configuration(&topology) + &policies_of_the_others(&topology);
    let gateway = format!("[gateway]\nworkers = {workers}");
    let weir = Weir::start(&topology, &file.replacen("[gateway]", &gateway, 1)).unwrap();
    let mut load = Load::start(&topology, &weir);
    let attached = |name: &str| weir.wait_for_device(name, "attached", "").unwrap();
    let missing = |name: &str| {
        weir.wait_for_device(name, "waiting", "there is no such interface").unwrap();
    };
    let back = |name: &str| {
        attached(name);
        weir.wait_until_usable(&[0, CABLE, LTE]).unwrap();
    };
    for uplink in 0..UPLINKS {
        let (name, part) = (topology.providers[uplink].interface(), Part::Uplink(uplink));
        let restore = || topology.restore_uplink(uplink, |_| Ok(())).unwrap();
        load.renew();
        for _ in 0..2 {
            load.during("an uplink goes", part, || {
                topology.remove(&name).unwrap();
                missing(&name);
            });
            load.during("an uplink returns", part, || {
                restore();
                back(&name);
            });
        }
        load.during("an uplink goes and returns at once", part, || {
            topology.remove(&name).unwrap();
            restore();
            back(&name);
        });
    }
    let (part, wan2) = (Part::Uplink(LTE), "wan2");
    for mtu in [1400, 2000, 1500] {
        load.during(&format!("an uplink has an MTU of {mtu}"), part, || {
            set_mtu(&topology, LTE, mtu);
            wait::until("the MTU to be published", wait::BOUND, || {
                let devices = weir.snapshot()?.half.devices;
                let is = |d: &Device| d.name.as_str() == wan2 && d.mtu == mtu;
                Ok(devices.iter().any(is).then_some(()))
            })
            .unwrap();
            attached(wan2);
        });
    }
    load.renew();
    let mut program = None;
    load.during("an uplink returns with another program", part, || {
        topology.remove(wan2).unwrap();
        let restored = topology.restore_uplink(LTE, |name| {
            program = Some(foreign_program(&topology, name)?);
            Ok(())
        });
        restored.unwrap();
        weir.wait_for_device(wan2, "refused", "`ip link set dev wan2 xdp off`").unwrap();
        wait::until("the uplink to be out of use", wait::BOUND, || {
            Ok((weir.states()?[LTE] & path_state::NO_DEVICE != 0).then_some(()))
        })
        .unwrap();
    });
    load.during("the other program goes", part, || {
        program = None;
        back(wan2);
    });
    for lan in [0, 1] {
        let (name, part) = (format!("lan{lan}"), Part::Lan(lan));
        load.clients[lan] = None;
        load.during("a LAN port goes", part, || {
            topology.remove(&name).unwrap();
            missing(&name);
        });
        load.during("a LAN port returns", part, || {
            topology.restore_lan(lan).unwrap();
            attached(&name);
        });
        load.clients[lan] = Some(load.open(lan));
    }
    drop(program);
    weir.check_conservation().unwrap();
}

#[test]
fn each_part_that_goes_and_returns_under_load_costs_the_others_nothing() {
    each_part_in_turn_costs_the_others_nothing(1);
}

/// Of which each has a socket on some of the devices only.
#[test]
fn each_part_that_goes_and_returns_costs_two_workers_nothing() {
    each_part_in_turn_costs_the_others_nothing(2);
}

#[test]
fn parts_that_are_missing_or_wrong_at_start_are_out_alone_and_join_when_they_are_right() {
    let (topology, _servers) = build(1);
    let everything = configuration(&topology);
    for interface in ["lan1", "wan1", "wan2"] {
        topology.remove(interface).unwrap();
    }
    topology.gateway.ip("tuntap add dev wan1 mode tun\nlink set wan1 up\n").unwrap();
    let mut program = None;
    let restored = topology.restore_uplink(LTE, |name| {
        program = Some(foreign_program(&topology, name)?);
        Ok(())
    });
    restored.unwrap();
    let weir = Weir::start_on(&topology, &everything, &[0]).unwrap();
    let device = |name: &str, state: &str, why: &str| {
        weir.wait_for_device(name, state, why).unwrap();
    };
    device("lan0", "attached", "");
    device("lan1", "waiting", "there is no such interface");
    device("wan1", "waiting", "no Ethernet header: not supported");
    device("wan2", "refused", "another XDP program is there");
    let new_flows = |host: usize, port| {
        udp_flows::run_from(&topology.hosts[host..=host], echo(&topology), 300, port)
            .unwrap()
            .answered
    };
    assert_eq!(new_flows(0, 10_000), 300);
    assert_ne!(weir.states().unwrap()[CABLE] & path_state::NO_DEVICE, 0);

    topology.restore_lan(1).unwrap();
    device("lan1", "attached", "");
    assert_eq!(new_flows(1, 10_000), 300);
    drop(program);
    device("wan2", "attached", "");
    weir.wait_until_usable(&[0, LTE]).unwrap();
    topology.remove("wan1").unwrap();
    topology.restore_uplink(CABLE, |_| Ok(())).unwrap();
    device("wan1", "attached", "");
    weir.wait_until_usable(&[0, CABLE, LTE]).unwrap();
    assert_eq!((new_flows(0, 20_000), new_flows(1, 20_000)), (300, 300));
    let created = weir.uplinks().unwrap().iter().map(|u| u.flows_created).collect::<Vec<_>>();
    assert!(created.iter().all(|flows| *flows > 100), "{created:?}");
    weir.check_conservation().unwrap();
}

#[test]
fn a_reload_that_names_a_missing_lan_and_an_uplink_without_ethernet_header_is_taken() {
    let (topology, _servers) = build(1);
    let weir = Weir::start(&topology, &configuration(&topology)).unwrap();
    topology.gateway.ip("tuntap add dev ppp0 mode tun\nlink set ppp0 up\n").unwrap();
    let more = "[[lan]]\ninterface = \"lan7\"\nprefixes = [\"10.99.0.0/16\"]\n";
    let file = configuration(&topology).replace("\"wan2\"", "\"ppp0\"") + more;
    weir.reload(&file).unwrap();
    weir.wait_for_device("lan7", "waiting", "there is no such interface").unwrap();
    weir.wait_for_device("ppp0", "waiting", "no Ethernet header: not supported").unwrap();
    assert_eq!(udp_flows::run(&topology.hosts, echo(&topology), 300).unwrap().answered, 600);
    assert_ne!(weir.states().unwrap()[LTE] & path_state::NO_DEVICE, 0);
}

#[test]
fn a_queue_that_another_socket_has_takes_out_its_device_until_it_is_free() {
    let (topology, _servers) = build(1);
    let hold = || -> Result<_> {
        let umem = Umem::new(UmemConfig { frames: 256, frame_size: 2048, huge_pages: false })?;
        let any = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let ifindex = rustix::net::netdevice::name_to_index(any, "wan1")?;
        let config = SocketConfig { ifindex, queue: 0, ring_size: 64, mode: BindMode::Copy };
        let (_, mut binder) = Socket::open(&umem, config)?;
        binder.bind(None)?;
        Ok(binder)
    };
    let holder = topology.gateway.run(hold).unwrap().unwrap();
    let weir = Weir::start_on(&topology, &configuration(&topology), &[0, LTE]).unwrap();
    weir.wait_for_device("wan1", "refused", "AF_XDP socket of another process").unwrap();
    wait::until("the uplink to be out of use", wait::BOUND, || {
        Ok((weir.states()?[CABLE] & path_state::USABLE == 0).then_some(()))
    })
    .unwrap();
    assert_eq!(udp_flows::run(&topology.hosts, echo(&topology), 300).unwrap().answered, 600);
    drop(holder);
    weir.wait_for_device("wan1", "attached", "").unwrap();
    weir.wait_until_usable(&[0, CABLE, LTE]).unwrap();
    weir.check_conservation().unwrap();
}

/// By the tap device, and without it by the workers that have a socket.
#[test]
fn two_workers_share_devices_of_one_queue() {
    let (topology, _servers) = build(1);
    let two = configuration(&topology).replacen("[gateway]", "[gateway]\nworkers = 2", 1);
    let weir = Weir::start(&topology, &two).unwrap();
    let new_flows =
        |port| udp_flows::run_from(&topology.hosts, echo(&topology), 1000, port).unwrap().answered;
    assert_eq!(new_flows(10_000), 2000);
    topology.gateway.output(Command::new("ip").args(["link", "del", TAP])).unwrap();
    assert_eq!(new_flows(20_000), 2000);
    weir.check_conservation().unwrap();
}

#[test]
fn every_one_of_96_queues_is_served() {
    let (topology, _servers) = build(96);
    let weir = Weir::start(&topology, &configuration(&topology)).unwrap();
    let sent = udp_flows::run(&topology.hosts, echo(&topology), 3000).unwrap();
    assert_eq!((sent.sent, sent.answered), (6000, 6000), "{} tier", tier());
    weir.check_conservation().unwrap();
}
