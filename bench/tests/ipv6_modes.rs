//! What must hold of IPv6 whatever uplinks do with addresses: own prefixes, prefixes translated,
//! ports translated, and a prefix of each provider.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use weir_kit::iperf::Load;
use weir_kit::ipv6::{self, Mode, SERVER};
use weir_kit::plan::{Plan, Uplink};
use weir_kit::quic::{self, Transfer};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::udp_flows::{self, Sender};
use weir_kit::weir::Weir;
use weir_kit::{clients, iperf, nginx, wait};
use weir_layout::Family;

const WEIGHTS: [u16; 3] = [5, 3, 2];
const PROVIDERS: usize = WEIGHTS.len();
const BYTES: usize = 3_000_000;
/// Streams of a load that every uplink is to have some of. None of twice so many on an uplink of
/// weight 2 in 10, or of so many on one of three alike, has a chance of less than 1e-7.
const STREAMS: usize = 60;

/// Does this for every address that the site's first host may send from, by programs that take the
/// one that the host's routes say.
fn from_every_address(topology: &Topology, mode: Mode, mut work: impl FnMut()) {
    let addresses = mode.hosts(0, topology.providers.len()).len();
    for provider in 0..addresses {
        if addresses > 1 {
            ipv6::prefer(topology, 0, provider).unwrap();
        }
        work();
    }
}

/// Flows of IPv6 that each uplink was given.
fn created(weir: &Weir) -> Vec<u64> {
    weir.paths(Family::V6).unwrap()[..PROVIDERS].iter().map(|path| path.flows_created).collect()
}

#[test]
fn real_clients_work_by_every_uplink_and_no_provider_sees_a_source_that_is_not_its_own() {
    for mode in Mode::ALL.into_iter().chain([Mode::Stateless, Mode::StatelessSource]) {
        println!("{mode:?}");
        let (topology, weir) = mode.start(Plan::new(PROVIDERS, 1), &WEIGHTS, "").unwrap();
        let (host, internet) = (&topology.hosts[0].netns, &topology.internet);
        let directory = topology.run.file_directory().unwrap();
        let _nginx = nginx::serve(internet, &directory).unwrap();
        fs::write(directory.join("files/content"), vec![7; BYTES]).unwrap();
        let _quic = quic::serve(internet, SERVER, &directory).unwrap();
        from_every_address(&topology, mode, || {
            assert_eq!(clients::ping(host, SERVER, 20).unwrap().received, 20);
            for _ in 0..12 {
                let url = format!("http://[{SERVER}]:{}/content", nginx::PORT);
                assert_eq!(clients::curl(host, &url).unwrap().bytes, BYTES);
            }
            for reverse in [false, true] {
                let _iperf = iperf::serve(internet, SERVER).unwrap();
                let load = Load { seconds: 1, streams: STREAMS, reverse };
                assert!(iperf::tcp(host, SERVER, load).unwrap().bytes > 1_000_000);
            }
            let _iperf = iperf::serve(internet, SERVER).unwrap();
            let load = Load { seconds: 1, streams: 4, reverse: false };
            assert!(iperf::udp(host, SERVER, load, 1_000_000).unwrap().packets > 20);
            let quic = Transfer::download(host, SERVER, BYTES as u64, &directory).unwrap();
            quic.finish().unwrap();
        });
        let packets = ipv6::outbound(&topology).unwrap();
        assert!(packets.iter().all(|packets| *packets > 100), "{packets:?}");
        let of_v4: u64 = weir.uplinks().unwrap().iter().map(|path| path.flows_created).sum();
        assert_eq!(of_v4, 0);
        mode.check_entries(&weir).unwrap();
        weir.check_conservation().unwrap();
        weir.check_tier(10).unwrap();
    }
}

#[test]
fn traceroute_and_tracepath_see_the_gateway_a_provider_and_the_server() {
    for mode in Mode::ALL {
        println!("{mode:?}");
        let (topology, weir) = mode.start(Plan::new(PROVIDERS, 1), &WEIGHTS, "").unwrap();
        let host = &topology.hosts[0].netns;
        let providers = (0..PROVIDERS).map(|provider| ipv6::link(provider, 1));
        let providers: Vec<IpAddr> = providers.map(IpAddr::V6).collect();
        let gateways: Vec<IpAddr> =
            mode.lan_gateways(PROVIDERS).into_iter().map(IpAddr::V6).collect();
        from_every_address(&topology, mode, || {
            let hops = clients::traceroute(host, SERVER).unwrap();
            let [Some(gateway), Some(provider), server] = hops[..] else { panic!("{hops:?}") };
            assert!(gateways.contains(&gateway) && providers.contains(&provider), "{hops:?}");
            assert_eq!(server, Some(SERVER.into()));
            let path = clients::tracepath(host, SERVER).unwrap();
            assert_eq!((path.mtu, path.hops), (1500, Some(3)));
        });
        ipv6::outbound(&topology).unwrap();
        weir.check_conservation().unwrap();
    }
}

#[test]
fn a_hundred_thousand_flows_follow_the_weights() {
    for mode in [Mode::None, Mode::Npt66, Mode::Nat66] {
        println!("{mode:?}");
        let (topology, weir) = mode.start(Plan::new(PROVIDERS, 16), &WEIGHTS, "").unwrap();
        let _server = Server::start(&topology.internet, SERVER).unwrap();
        let sender = |index: usize| Sender {
            netns: &topology.hosts[index].netns,
            source: mode.host(index).into(),
            flows: 6250,
        };
        let senders: Vec<_> = (0..topology.hosts.len()).map(sender).collect();
        let before = created(&weir);
        all_are_answered(&senders);
        let shares = made_since(&weir, &before);
        let total: u64 = shares.iter().sum();
        assert!(total >= 100_000, "{shares:?}");
        for (share, weight) in shares.iter().zip(WEIGHTS) {
            let difference = *share as f64 * 100.0 / total as f64 - f64::from(weight) * 10.0;
            assert!(difference.abs() < 1.0, "{mode:?}: {shares:?}");
        }
        ipv6::outbound(&topology).unwrap();
        weir.check_conservation().unwrap();
    }
}

#[test]
fn of_a_hundred_thousand_flows_each_leaves_by_the_provider_of_its_source_whatever_the_weights() {
    const HOSTS: usize = 5;
    // Other shares than the weights'.
    const SHARES: [usize; PROVIDERS] = [2, 5, 3];
    let (topology, weir) = Mode::Source.start(Plan::new(PROVIDERS, HOSTS), &WEIGHTS, "").unwrap();
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let before = created(&weir);
    let sender = |host: usize, provider: usize| Sender {
        netns: &topology.hosts[host].netns,
        source: ipv6::by(provider, ipv6::host(host)).into(),
        flows: 2000 * SHARES[provider],
    };
    let senders: Vec<_> = (0..HOSTS)
        .flat_map(|host| (0..PROVIDERS).map(move |provider| (host, provider)))
        .map(|(host, provider)| sender(host, provider))
        .collect();
    all_are_answered(&senders);
    let made = made_since(&weir, &before);
    assert_eq!(made, SHARES.map(|share| (HOSTS * 2000 * share) as u64));
    ipv6::outbound(&topology).unwrap();
    weir.check_conservation().unwrap();
}

/// Opens these flows, each of which gets its own answer.
fn all_are_answered(senders: &[Sender<'_>]) {
    let all: usize = senders.iter().map(|sender| sender.flows).sum();
    assert_eq!(all, 100_000);
    let server = SocketAddr::new(SERVER.into(), ECHO_PORT);
    let report = udp_flows::run_by(senders, server, udp_flows::FIRST_PORT).unwrap();
    assert_eq!((report.sent, report.answered, report.wrong), (all, all, 0));
}

fn made_since(weir: &Weir, before: &[u64]) -> Vec<u64> {
    created(weir).iter().zip(before).map(|(after, before)| after - before).collect()
}

/// A fiber of 1500 bytes, PPPoE, and a tunnel in IPv4.
const MTUS: [u32; PROVIDERS] = [1500, 1492, 1480];

#[test]
fn transfers_pass_paths_of_unlike_mtus_both_ways_and_tracepath_tells_each() {
    for mode in Mode::ALL {
        println!("{mode:?}");
        let mut plan = Plan::new(PROVIDERS, 1);
        plan.uplinks = MTUS.map(|mtu| Uplink { addresses: 1, mtu }).into();
        let (topology, weir) = mode.start(plan, &[1; PROVIDERS], "").unwrap();
        let (host, internet) = (&topology.hosts[0].netns, &topology.internet);
        let directory = topology.run.file_directory().unwrap();
        let _nginx = nginx::serve(internet, &directory).unwrap();
        fs::write(directory.join("files/content"), vec![7; 300_000]).unwrap();
        from_every_address(&topology, mode, || {
            for _ in 0..12 {
                let url = format!("http://[{SERVER}]:{}/content", nginx::PORT);
                assert_eq!(clients::curl(host, &url).unwrap().bytes, 300_000);
            }
            let _iperf = iperf::serve(internet, SERVER).unwrap();
            let load = Load { seconds: 1, streams: STREAMS, reverse: false };
            assert!(iperf::tcp(host, SERVER, load).unwrap().bytes > 1_000_000);
        });
        let packets = ipv6::outbound(&topology).unwrap();
        assert!(packets.iter().all(|packets| *packets > 100), "{packets:?}");
        let mut told = BTreeSet::new();
        wait::until("tracepath to tell of both smaller MTUs", wait::BOUND, || {
            from_every_address(&topology, mode, || {
                let mut forget = Command::new("ip");
                host.output(forget.args(["-6", "route", "flush", "cache"])).unwrap();
                told.insert(clients::tracepath(host, SERVER).unwrap().mtu);
            });
            Ok(MTUS[1..].iter().all(|mtu| told.contains(mtu)).then_some(()))
        })
        .unwrap();
        assert!(told.iter().all(|mtu| MTUS.contains(mtu)), "{told:?}");
        weir.check_conservation().unwrap();
    }
}
