//! The log of NAT allocations, against what a server on the Internet sees: each host writes it its own
//! address and port, and it sees those outside.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_kit::plan::{self, Plan};
use weir_kit::topology::Topology;
use weir_kit::wait;
use weir_kit::weir::Weir;

const PATIENCE: Duration = Duration::from_secs(10);

/// Who had which port outside, by which protocol.
struct Seen {
    protocol: &'static str,
    inside: String,
    outside: SocketAddr,
}

impl Seen {
    /// As it stands in a line of the log.
    fn words(&self) -> String {
        let Self { protocol, inside, outside } = self;
        format!("\"protocol\":\"{protocol}\",\"inside\":\"{inside}\",\"outside\":\"{outside}\"")
    }
}

struct Site {
    topology: Topology,
    weir: Weir,
    log: PathBuf,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Site {
    fn new() -> Self {
        let topology = Topology::build(Plan::new(2, 2)).unwrap();
        let log = topology.run.file_directory().unwrap().join("nat.log");
        let mut file = Weir::configuration(&topology, &[1, 1]);
        file += &format!("[nat_log]\nfile = \"{}\"\n", log.display());
        let weir = Weir::start(&topology, &file).unwrap();
        let server = |port| SocketAddrV4::new(plan::server_address(0), port);
        let listen = || {
            let udp = UdpSocket::bind(server(7777)).unwrap();
            udp.set_read_timeout(Some(PATIENCE)).unwrap();
            (udp, TcpListener::bind(server(7778)).unwrap())
        };
        let (udp, tcp) = topology.internet.run(listen).unwrap();
        Self { topology, weir, log, udp, tcp }
    }

    /// Each host begins so many flows of UDP and connections; what the server sees.
    fn flows(&self, count: usize) -> Vec<Seen> {
        (0..count)
            .flat_map(|_| (0..2).flat_map(|host| [self.datagram(host), self.connection(host)]))
            .collect()
    }

    fn datagram(&self, host: usize) -> Seen {
        let (host, to) = (&self.topology.hosts[host], self.udp.local_addr().unwrap());
        let send = || {
            let socket = UdpSocket::bind((host.address, 0)).unwrap();
            socket.send_to(socket.local_addr().unwrap().to_string().as_bytes(), to).unwrap();
        };
        host.netns.run(send).unwrap();
        let mut text = [0; 64];
        let (len, outside) = self.udp.recv_from(&mut text).unwrap();
        let inside = String::from_utf8(text[..len].to_vec()).unwrap();
        Seen { protocol: "udp", inside, outside }
    }

    fn connection(&self, host: usize) -> Seen {
        let (host, to) = (&self.topology.hosts[host], self.tcp.local_addr().unwrap());
        let connect = || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.write_all(stream.local_addr().unwrap().to_string().as_bytes()).unwrap();
        };
        host.netns.run(connect).unwrap();
        let (mut stream, outside) = self.tcp.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut inside = String::new();
        stream.read_to_string(&mut inside).unwrap();
        Seen { protocol: "tcp", inside, outside }
    }

    fn wait_for(&self, seen: &[Seen]) {
        let has_all = || {
            let log = read(&self.log);
            Ok(seen.iter().all(|seen| log.contains(&seen.words())).then_some(()))
        };
        wait::until("the log to have what the server saw", wait::BOUND, has_all).unwrap();
    }
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

#[test]
fn whom_a_port_outside_was_of_is_in_the_log_whichever_process_was_killed() {
    let mut site = Site::new();
    let mut seen = site.flows(20);
    site.wait_for(&seen);
    site.weir.kill_control();
    seen.extend(site.flows(20));
    site.weir.start_control().unwrap();
    seen.extend(site.flows(5));
    site.wait_for(&seen);
    site.weir.kill_dataplane();
    site.weir.start_dataplane().unwrap();
    seen.extend(site.flows(20));
    site.wait_for(&seen);
    wait::until("what stands to be listed by both dataplanes", wait::BOUND, || {
        let log = read(&site.log);
        let listings: Vec<_> = log.split("\"event\":\"listing\"").skip(1).collect();
        let last = listings.last().is_some_and(|of| of.contains("\"event\":\"listed\""));
        Ok((listings.len() >= 2 && last).then_some(()))
    })
    .unwrap();
    let log = read(&site.log);
    assert!(log.ends_with('\n') && !log.contains("\"event\":\"lost\""), "{log}");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    let of = |protocol: &str| {
        let is_of = |line: &&str| line.contains(&format!("\"protocol\":\"{protocol}\""));
        log.lines().filter(is_of).all(|line| line.contains("\"remote\":\"") == (protocol == "tcp"))
    };
    assert!(of("tcp") && of("udp"), "a destination stands where the port is for that alone");
}
