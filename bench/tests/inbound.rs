//! Flows that begin outside, as the comparison measures them: whom their frames reach, and what they
//! are compared with.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weir_bench::compare::mode::Mode;
use weir_bench::compare::site::{Kind, Site};
use weir_bench::compare::weir::{self, Tier};
use weir_bench::compare::{self, System};
use weir_bench::ip_version::IpVersion;
use weir_kit::weir::Weir;
use weir_layout::counters::Counter;

const FLOWS: u32 = 64;
const ROOM: u32 = 1024;
/// Bytes of a server's receive buffer.
const BUFFER: usize = 1 << 20;
/// Time between frames: what a server that is a program keeps up with.
const PACE: Duration = Duration::from_micros(50);

/// Answers whoever asks until it is told to stop; who asked.
fn answer(socket: &UdpSocket, stop: &AtomicBool) -> BTreeSet<SocketAddr> {
    let (mut clients, mut datagram) = (BTreeSet::new(), [0; 2048]);
    while !stop.load(Ordering::Relaxed) {
        if let Ok((len, client)) = socket.recv_from(&mut datagram) {
            socket.send_to(&datagram[..len], client).unwrap();
            clients.insert(client);
        }
    }
    clients
}

/// A server has the host's own address and port, so that nothing else reaches it.
#[test]
fn frames_from_outside_reach_the_server_at_its_address_inside() {
    for tier in [Tier::User, Tier::Kernel] {
        let mut site = Site::build_for(Kind::Inbound, FLOWS).unwrap();
        let weir = Weir::start(&site.topology, &weir::configuration(&site, tier, ROOM)).unwrap();
        let host = site.topology.hosts[0].netns.clone();
        site.traffic.attach(weir_traffic::PASS, &host, "eth0").unwrap();
        let socket = host.run(|| UdpSocket::bind(site.service())).unwrap().unwrap();
        // All may come before it runs once.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = AtomicBool::new(false);
        let clients = std::thread::scope(|scope| {
            let server = scope.spawn(|| answer(&socket, &stop));
            let asked = ask(&mut site, &weir, tier);
            stop.store(true, Ordering::Relaxed);
            let clients = server.join().unwrap();
            asked.unwrap();
            clients
        });
        assert_eq!(clients.len(), FLOWS as usize, "{tier:?}: {clients:?}");
        assert_eq!(weir.proven().unwrap(), FLOWS as usize);
    }
}

/// Every flow is answered three times, the last time by the tier.
fn ask(site: &mut Site, weir: &Weir, tier: Tier) -> anyhow::Result<()> {
    site.wait_for_answer()?;
    site.establish(PACE)?;
    site.establish(PACE)?;
    let before = weir.counters()?.sum(Counter::XdpForwarded);
    site.establish(PACE)?;
    let in_kernel = weir.counters()?.sum(Counter::XdpForwarded) - before;
    // Both directions.
    let least = if tier == Tier::Kernel { 2 * u64::from(FLOWS) } else { 0 };
    anyhow::ensure!(in_kernel >= least && (tier == Tier::Kernel || in_kernel == 0), "{in_kernel}");
    Ok(())
}

#[test]
fn flows_from_outside_are_compared_with_flows_from_inside_in_both_tiers() {
    let systems = vec![
        System::LinuxNat,
        System::XdpRedirect,
        System::XdpLimit,
        System::WeirUser,
        System::WeirUserNat44,
        System::WeirKernel,
        System::WeirNat44,
    ];
    let options = compare::Options {
        flows: vec![FLOWS],
        sizes: Vec::new(),
        family: IpVersion::V4,
        mode: Some(Mode::Inbound),
        rounds: 1,
        seconds: 0.05,
        systems,
    };
    let reports = compare::measure(&options).unwrap();
    assert!(reports[0].absent.is_empty(), "{:?}", reports[0].absent);
    assert_eq!(reports[0].measured.len(), 8);
    for system in [System::WeirKernel, System::WeirNat44] {
        let measured = reports[0].of(system).unwrap();
        assert!(measured.mpps[0] > 0.0 && measured.in_kernel[0] > 0.99, "{measured:?}");
    }
    for system in [System::WeirUser, System::WeirUserNat44] {
        assert_eq!(reports[0].of(system).unwrap().in_kernel, [0.0]);
    }
    let json = reports[0].json();
    assert_eq!(json["mode"], "inbound");
    for key in [
        "ratio_inbound_vs_outbound",
        "ratio_user_inbound_vs_outbound",
        "ratio_kernel_vs_linux_nat",
        "ratio_kernel_vs_xdp_redirect",
        "ratio_kernel_vs_xdp_limit",
    ] {
        assert!(json[key].as_f64().unwrap() > 0.0, "{key}: {json}");
    }
}
