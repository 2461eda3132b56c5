//! Mixed load of real programs while each of three uplinks in turn is cut and returns.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use weir_api::Request;
use weir_kit::moments::now_ns;
use weir_kit::netns::Netns;
use weir_kit::plan::{self, OWNED_PREFIX, Plan};
use weir_kit::process::{self, Process};
use weir_kit::quic::{self, Transfer};
use weir_kit::server::{self, Server};
use weir_kit::topology::{Host, Topology};
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::witness::{Clients, Witness};
use weir_kit::{clients, dns, iperf, wait};
use weir_layout::control::path_state;

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// UDP flows and idle TCP connections that are watched one by one. None of so many connections on
/// one of three uplinks: a chance of (2/3)^48, below 1e-8.
const FLOWS: usize = 30;
const CONNECTIONS: usize = 48;
/// Datagrams of a fifth of a second: fewer are lost on the way if that is how long a CPU stands still.
const FEW: u64 = 10;
/// Long enough at this rate to be under way when the last uplink is back; they end at full speed.
const QUIC_BYTES: u64 = 400_000_000;
const RATE: &str = "16mbit";
/// Bytes of one of many downloads.
const DOWNLOAD: usize = 500_000;

/// Probes every 100 ms of two servers behind all providers; an uplink is back after half a second.
const HEALTH: &str = r#"
[health]
interval_ms = 100
timeout_ms = 1000
up = 3
hold_down_ms = 500
hold_down_max_ms = 500
[[health.targets]]
name = "first"
probe = "icmp"
address = "198.51.100.1"
[[health.targets]]
name = "second"
probe = "icmp"
address = "198.51.100.2"
"#;

/// A flow as `weir flows` shows it.
struct Flow {
    uplink: usize,
    inside: String,
    destination: String,
}

struct Site {
    weir: Weir,
    topology: Topology,
    routed: bool,
}

impl Site {
    fn build(routed: bool) -> Self {
        let topology = Topology::build(Plan { owned_prefix: routed, ..Plan::new(3, 6) }).unwrap();
        let (lan, path) = match routed {
            true => (plan::owned_line(), "translate = \"none\"\n"),
            false => Default::default(),
        };
        let configuration = Weir::configuration_with(&topology, &[1, 1, 1], &lan, |_| path.into());
        for host in &topology.hosts {
            let Some(owned) = host.owned else { continue };
            let gateway = plan::lan_gateway(host.port);
            host.netns.ip(&format!("route replace default via {gateway} src {owned}\n")).unwrap();
        }
        let weir = Weir::start(&topology, &(configuration + HEALTH)).unwrap();
        let site = Self { weir, topology, routed };
        site.wait_for("all uplinks to be well", |states| *states == [path_state::USABLE; 3]);
        site
    }

    fn source(&self, host: usize) -> Ipv4Addr {
        let host = &self.topology.hosts[host];
        host.owned.unwrap_or(host.address)
    }

    fn wait_for(&self, what: &str, wanted: impl Fn(&[u32]) -> bool) {
        wait::until(what, wait::BOUND, || Ok(wanted(&self.weir.states()?).then_some(()))).unwrap();
    }

    /// The flows of a host.
    fn flows(&self, host: usize, protocol: &str) -> Vec<Flow> {
        let source = self.source(host).to_string();
        let arguments = ["flows", "--json", "--limit", "100000", "--source", &source];
        let mut command = self.weir.cli(&arguments).unwrap();
        let output = process::output(command.args(["--protocol", protocol])).unwrap().stdout;
        let said: serde_json::Value = serde_json::from_slice(&output).unwrap();
        let values = said["flows"]["shown"].as_array().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let uplink = |name: &serde_json::Value| UPLINKS.iter().position(|u| name == u).unwrap();
        let flow = |value: &serde_json::Value| Flow {
            uplink: uplink(&value["uplink"]),
            inside: text(&value["inside"]),
            destination: text(&value["destination"]),
        };
        values.iter().map(flow).collect()
    }

    /// The source ports of a host's flows to the witness, on one uplink.
    fn ports_on(&self, host: usize, protocol: &str, uplink: usize) -> BTreeSet<u16> {
        self.ports_to(weir_kit::witness::PORT, host, protocol, uplink)
    }

    /// The source ports of a host's flows to a port of the server, on one uplink.
    fn ports_to(&self, port: u16, host: usize, protocol: &str, uplink: usize) -> BTreeSet<u16> {
        let to = format!("{SERVER}:{port}");
        let port = |flow: Flow| flow.inside.rsplit(':').next().unwrap().parse().unwrap();
        let flows = self.flows(host, protocol).into_iter();
        flows.filter(|flow| flow.uplink == uplink && flow.destination == to).map(port).collect()
    }

    /// The world reaches the own prefix by a provider that is well, as a routing protocol sees to.
    fn announce_away_from(&self, uplink: usize) {
        if self.routed {
            let (well, (prefix, length)) = ((uplink + 1) % 3, OWNED_PREFIX);
            let route = |via| format!("route replace {prefix}/{length} via {via}\n");
            // A provider's own route went with its carrier, if that was away before.
            let provider = &self.topology.providers[well];
            provider.netns.ip(&route(provider.addresses[0])).unwrap();
            self.topology.internet.ip(&route(plan::transit(well).0)).unwrap();
        }
    }
}

/// Something that is done again and again until it is dropped.
struct Repeated {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 2]>,
    thread: Option<JoinHandle<()>>,
}

impl Repeated {
    fn start(work: impl Fn() -> bool + Send + 'static) -> Self {
        let (stop, counts): (Arc<AtomicBool>, Arc<[AtomicUsize; 2]>) = Default::default();
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&counts));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                count[usize::from(!work())].fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, counts, thread: Some(thread) }
    }

    fn well(&self) -> usize {
        self.counts[0].load(Ordering::Relaxed)
    }

    fn failed(&self) -> usize {
        self.counts[1].load(Ordering::Relaxed)
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// One long TCP transfer by `iperf3`, begun anew when it breaks.
struct Long {
    server: Option<Process>,
    client: Process,
    internet: Netns,
    host: Netns,
}

impl Long {
    fn start(internet: &Netns, host: &Netns) -> Self {
        let server = iperf::serve(internet, SERVER).unwrap();
        let mut client = Command::new("iperf3");
        client.args(["--client", &SERVER.to_string(), "--time", "600", "--bitrate", "4M"]);
        let client = host.spawn(client.stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
        Self { server: Some(server), client, internet: internet.clone(), host: host.clone() }
    }

    /// The client's ports, of its control connection and of its data's.
    fn ports(&self) -> BTreeSet<u16> {
        wait::until("both connections of iperf3", wait::BOUND, || {
            let mut command = Command::new("ss");
            let wanted = format!("state established dport = {}", iperf::PORT);
            let output = self.host.output(command.arg("-Htn").args(wanted.split(' ')))?.stdout;
            let local =
                |line: &str| line.split_whitespace().nth(2)?.rsplit(':').next()?.parse().ok();
            let ports: BTreeSet<u16> =
                String::from_utf8(output)?.lines().filter_map(local).collect();
            Ok((ports.len() == 2).then_some(ports))
        })
        .unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.client.child().try_wait().unwrap().is_none()
    }

    fn again(&mut self) {
        // Frees the port.
        self.server = None;
        *self = Self::start(&self.internet, &self.host);
    }
}

/// The load, by host: 0 QUIC download, 1 QUIC upload, 2 downloads, 3 iperf3, 4 DNS, 5 the flows
/// that are watched.
struct Load {
    download: Transfer,
    upload: Transfer,
    downloads: Repeated,
    long: Long,
    queries: Repeated,
    watched: Clients,
    witness: Witness,
    _servers: (Server, Process, Process),
}

impl Load {
    fn start(site: &Site) -> Self {
        let (internet, hosts) = (&site.topology.internet, &site.topology.hosts);
        let directory = site.topology.run.file_directory().unwrap();
        let servers = (
            Server::start(internet, SERVER).unwrap(),
            quic::serve(internet, SERVER, &directory).unwrap(),
            dns::serve(internet, SERVER).unwrap(),
        );
        let witness = Witness::start(internet, SERVER).unwrap();
        for host in 0..4 {
            shape(site, host, true);
        }
        let to = |name: &str| -> PathBuf {
            let directory = directory.join(name);
            std::fs::create_dir_all(&directory).unwrap();
            directory
        };
        let host = |index: usize| &hosts[index].netns;
        let (curl, dig) = (host(2).clone(), host(4).clone());
        let url = server::content_url(SERVER, DOWNLOAD);
        Self {
            download: Transfer::download(host(0), SERVER, QUIC_BYTES, &to("down")).unwrap(),
            upload: Transfer::upload(host(1), SERVER, QUIC_BYTES, &to("up")).unwrap(),
            downloads: Repeated::start(move || clients::curl(&curl, &url).is_ok()),
            long: Long::start(internet, host(3)),
            queries: Repeated::start(move || dns::query(&dig, SERVER).unwrap()),
            watched: Clients::open(&hosts[5], site.source(5), SERVER, FLOWS, CONNECTIONS).unwrap(),
            witness,
            _servers: servers,
        }
    }
}

/// Makes a host's link slow, both ways, so that a transfer lasts; or fast again.
fn shape(site: &Site, host: usize, slow: bool) {
    let Host { netns, .. } = &site.topology.hosts[host];
    let switch = site.topology.switch.as_ref().unwrap();
    for (netns, device) in [(netns, "eth0".to_owned()), (switch, format!("host{host}"))] {
        let mut command = Command::new("tc");
        let arguments = match slow {
            true => format!("qdisc add dev {device} root tbf rate {RATE} burst 32kb latency 50ms"),
            false => format!("qdisc del dev {device} root"),
        };
        netns.output(command.args(arguments.split(' '))).unwrap();
    }
}

/// Waits until everything of the load has made progress.
fn progress(load: &mut Load) {
    let before = (load.downloads.well(), load.queries.well(), answers(load));
    wait::until("the load to go on", wait::BOUND, || {
        let on = load.downloads.well() > before.0 + 1 && load.queries.well() > before.1 + 1;
        let all = answers(load).iter().zip(&before.2).all(|(now, before)| now > before);
        Ok((on && all).then_some(()))
    })
    .unwrap_or_else(|error| {
        panic!(
            "{error:#}: downloads {} and {} failed, queries {} and {} failed, answers {:?} → {:?}",
            load.downloads.well(),
            load.downloads.failed(),
            load.queries.well(),
            load.queries.failed(),
            before.2,
            answers(load)
        )
    });
    assert!(load.download.is_under_way().unwrap(), "the QUIC download ended early");
    assert!(load.upload.is_under_way().unwrap(), "the QUIC upload ended early");
}

fn answers(load: &Load) -> Vec<u64> {
    load.watched.talks().iter().map(|talk| talk.answered).collect()
}

/// Takes an uplink out of use under load, and lets it return.
fn out_and_back(site: &Site, load: &mut Load, uplink: usize, out: &dyn Fn(bool)) {
    let name = UPLINKS[uplink];
    site.announce_away_from(uplink);
    progress(load);
    let (udp, tcp) = (site.ports_on(5, "udp", uplink), site.ports_on(5, "tcp", uplink));
    let ports = load.long.ports();
    // Others to that port are of a transfer that broke before.
    let to_iperf = site.ports_to(iperf::PORT, 3, "tcp", uplink);
    let breaks = !site.routed && !ports.is_disjoint(&to_iperf);
    let (talks, failed) = (load.watched.talks(), load.downloads.failed());
    let alive: Vec<bool> = load.watched.idle().iter().map(|i| i.reset_ns.is_none()).collect();

    let asked = now_ns();
    out(true);
    site.wait_for("the uplink to be out of use", |s| s[uplink] & path_state::USABLE == 0);
    let must_break: Vec<bool> = (load.watched.idle().iter().zip(&alive))
        .map(|(idle, alive)| *alive && !site.routed && tcp.contains(&idle.port))
        .collect();
    wait::until("connections of the dead uplink to be reset", wait::BOUND, || {
        let idle = load.watched.idle();
        let mut broken = idle.iter().zip(&must_break);
        Ok(broken.all(|(idle, must)| !must || idle.reset_ns.is_some()).then_some(()))
    })
    .unwrap();
    progress(load);
    out(false);
    site.wait_for("the uplink to be back", |s| s[uplink] == path_state::USABLE);
    progress(load);

    // UDP: all go on, those of healthy uplinks from where they were and without a loss, but for what
    // a device's ring has no room for while its CPU stands still.
    let mut lost = 0;
    for (now, before) in load.watched.talks().iter().zip(&talks) {
        if udp.contains(&now.port) {
            lost += now.lost - before.lost;
            let moves = now.origins.len() - before.origins.len();
            assert_eq!(moves, usize::from(!site.routed), "{name}: {now:?} moved once");
        } else {
            let same = now.origins == before.origins && now.lost.saturating_sub(before.lost) <= FEW;
            assert!(same, "{name}: {before:?} of another uplink became {now:?}");
        }
    }
    // TCP: those of the uplink are reset, and nobody else.
    let idle = load.watched.idle();
    let mut resets = Vec::new();
    for ((idle, alive), must) in idle.iter().zip(&alive).zip(&must_break) {
        assert_eq!(*alive && idle.reset_ns.is_some(), *must, "{name}: {idle:?}");
        if let (true, Some(reset)) = (must, idle.reset_ns) {
            resets.push((reset - asked) as f64 / 1e6);
        }
    }
    resets.sort_by(f64::total_cmp);
    if breaks {
        wait::until("iperf3 to end", wait::BOUND, || Ok((!load.long.is_alive()).then_some(())))
            .unwrap();
        load.long.again();
    } else {
        assert!(load.long.is_alive(), "{name}: iperf3 of another uplink broke");
    }
    let curls = load.downloads.failed() - failed;
    println!(
        "{name}: {} of {FLOWS} UDP flows moved, {lost} datagrams lost; {} of {CONNECTIONS} connections \
         reset, the first after {:.1} ms, the last after {:.1} ms; iperf3 {}, {curls} downloads broken",
        udp.len(),
        resets.len(),
        resets.first().unwrap_or(&0.0),
        resets.last().unwrap_or(&0.0),
        if breaks { "begun anew" } else { "went on" },
    );
    assert!(curls == 0 || !site.routed, "{name}: {curls} routed downloads broke");
}

/// Everything that has not been told to break ends well.
fn finish(site: &Site, load: Load) {
    let Load { download, upload, downloads, queries, watched, .. } = load;
    assert_eq!(queries.failed(), 0, "of {} queries", queries.well());
    drop((downloads, queries));
    for host in 0..4 {
        shape(site, host, false);
    }
    let alive = watched.idle().iter().filter(|idle| idle.reset_ns.is_none()).count();
    assert_eq!(watched.stop().unwrap(), alive, "connections that were not reset still work");
    download.finish().unwrap();
    upload.finish().unwrap();
    for provider in &site.topology.providers {
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
}

fn survives_cuts(routed: bool) {
    let site = Site::build(routed);
    let mut load = Load::start(&site);
    for uplink in 0..3 {
        let provider = site.topology.providers[uplink].clone();
        out_and_back(&site, &mut load, uplink, &|out| provider.set_carrier(!out).unwrap());
    }
    finish(&site, load);
}

#[test]
fn translated_load_survives_the_cut_and_return_of_every_uplink() {
    survives_cuts(false);
}

#[test]
fn routed_load_survives_the_cut_and_return_of_every_uplink() {
    survives_cuts(true);
}

#[test]
fn an_uplink_set_down_resets_its_connections_at_both_ends() {
    let site = Site::build(false);
    let mut load = Load::start(&site);
    let on_it = site.ports_on(5, "tcp", 0);
    let idle = load.watched.idle().into_iter().filter(|idle| on_it.contains(&idle.port));
    let origins: BTreeSet<_> = idle.map(|idle| idle.origin.into()).collect();
    assert!(!origins.is_empty(), "none of {CONNECTIONS} connections is on one of three uplinks");
    out_and_back(&site, &mut load, 0, &|out| {
        let uplink = UPLINKS[0].to_owned();
        let request = if out { Request::Down { uplink } } else { Request::Up { uplink } };
        site.weir.request(&request).unwrap();
    });
    assert_eq!(load.witness.resets().into_iter().collect::<BTreeSet<_>>(), origins);
    finish(&site, load);
}
