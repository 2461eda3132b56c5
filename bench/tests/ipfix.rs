//! Flows, told to a collector: nfdump and tshark read the same messages, and both find in them what
//! hosts sent and a server saw.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use weir_kit::ipv6::{self, Mode};
use weir_kit::plan::{self, Plan};
use weir_kit::process::{self, Process};
use weir_kit::topology::Topology;
use weir_kit::wait;
use weir_kit::weir::Weir;

/// For what comes at once or never.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the collector listens, on the gateway.
const COLLECTOR: &str = "127.0.0.1:4739";
const PORT: u16 = 4739;
/// Bytes of a capture without packets (pcap-savefile(5)).
const PCAP_HEADER: u64 = 24;
/// Datagrams each way, and bytes of one behind the UDP header.
const DATAGRAMS: u64 = 10;
const LENGTH: usize = 100;

/// A flow as both its ends know it.
#[derive(Debug)]
struct Flow {
    protocol: u8,
    inside: SocketAddr,
    outside: SocketAddr,
    server: SocketAddr,
}

/// A direction of a flow as a collector has it.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    protocol: u64,
    from: [SocketAddr; 2],
    to: [SocketAddr; 2],
    octets: u64,
    packets: u64,
}

impl Flow {
    /// What is told of it, without what it carried.
    fn records(&self) -> [Record; 2] {
        let Self { protocol, inside, outside, server } = *self;
        let of = |from, to| Record { protocol: protocol.into(), from, to, octets: 0, packets: 0 };
        [of([inside, server], [outside, server]), of([server, outside], [server, inside])]
    }
}

struct Site {
    topology: Topology,
    weir: Weir,
    directory: PathBuf,
    capture: Option<Process>,
    nfcapd: Option<Process>,
}

impl Site {
    fn new() -> Self {
        let mode = Mode::Nat66;
        let (topology, weir) = mode.start(Plan::new(1, 1), &[1], "").unwrap();
        let directory = topology.run.file_directory().unwrap();
        let mut site = Self { topology, weir, directory, capture: None, nfcapd: None };
        site.collect();
        let file = mode.configuration(&site.topology, &[1]);
        let ipfix = format!("[ipfix]\ncollector = \"{COLLECTOR}\"\nidle = \"1s\"\n");
        site.weir.reload(&(ipfix + &file)).unwrap();
        // Flows are followed from before the first message on, which has the templates.
        wait::until("templates", wait::BOUND, || {
            let captured = std::fs::metadata(site.messages())?.len();
            Ok((captured > PCAP_HEADER).then_some(()))
        })
        .unwrap();
        site
    }

    /// Starts what listens for messages, and waits until it does.
    fn collect(&mut self) {
        let gateway = &self.topology.gateway;
        std::fs::create_dir(self.files()).unwrap();
        let log = std::fs::File::create(self.directory.join("capture.log")).unwrap();
        let mut capture = Command::new("tcpdump");
        capture.args(["-i", "lo", "-Z", "root", "-U", "-w"]).arg(self.messages());
        capture.args(["udp", "and", "dst", "port", &PORT.to_string()]);
        self.capture = Some(gateway.spawn(capture.stderr(log)).unwrap());
        let mut nfcapd = Command::new("nfcapd");
        nfcapd.args(["-b", "127.0.0.1", "-p", &PORT.to_string(), "-w"]).arg(self.files());
        let silent = nfcapd.stdout(Stdio::null()).stderr(Stdio::null());
        self.nfcapd = Some(gateway.spawn(silent).unwrap());
        wait::until("both to listen", wait::BOUND, || {
            let said = std::fs::read_to_string(self.directory.join("capture.log"))?;
            let sockets =
                gateway.run(|| std::fs::read_to_string("/proc/thread-self/net/udp"))??;
            let is_bound = sockets.contains(&format!(":{PORT:04X} "));
            Ok((said.contains("listening on") && is_bound).then_some(()))
        })
        .unwrap();
    }

    /// Where the messages are, as captured.
    fn messages(&self) -> PathBuf {
        self.directory.join("messages.pcap")
    }

    /// Where nfcapd has its files.
    fn files(&self) -> PathBuf {
        self.directory.join("nfcapd")
    }

    /// A host and a server send each other datagrams.
    fn datagrams(&self, host: IpAddr, server: IpAddr) -> Flow {
        let bind = |address, port| {
            let socket = UdpSocket::bind((address, port)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let listener = self.topology.internet.run(|| bind(server, 7777)).unwrap();
        let client = self.topology.hosts[0].netns.run(|| bind(host, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        let mut outside = None;
        for _ in 0..DATAGRAMS {
            client.send_to(&[7; LENGTH], server).unwrap();
            let (_, from) = listener.recv_from(&mut [0; 2 * LENGTH]).unwrap();
            listener.send_to(&[8; LENGTH], from).unwrap();
            client.recv_from(&mut [0; 2 * LENGTH]).unwrap();
            outside = Some(from);
        }
        let (inside, outside) = (client.local_addr().unwrap(), outside.unwrap());
        Flow { protocol: 17, inside, outside, server }
    }

    /// A host has a server's answer by TCP, and closes.
    fn connection(&self, host: IpAddr, server: IpAddr) -> Flow {
        let listen = || TcpListener::bind((server, 7778)).unwrap();
        let listener = self.topology.internet.run(listen).unwrap();
        let server = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&server, PATIENCE).unwrap();
        let mut client = self.topology.hosts[0].netns.run(connect).unwrap();
        let (mut accepted, outside) = listener.accept().unwrap();
        accepted.write_all(&[9; 20_000]).unwrap();
        accepted.shutdown(Shutdown::Write).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
        let inside = client.local_addr().unwrap();
        assert_eq!(inside.ip(), host);
        Flow { protocol: 6, inside, outside, server }
    }

    /// What tshark reads in the messages so far.
    fn read_by_tshark(&self) -> Vec<Record> {
        let mut command = Command::new("tshark");
        command.args(["-n", "-T", "json", "--no-duplicate-keys", "-r"]).arg(self.messages());
        // The last message may not be whole yet.
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut records = Vec::new();
        if let Ok(messages) = serde_json::from_str(&text) {
            by_tshark(&messages, &mut records);
        }
        records
    }

    /// What nfdump reads in what nfcapd has written, which then ends.
    fn read_by_nfdump(&mut self) -> Vec<Record> {
        self.nfcapd.take().unwrap().stop().unwrap();
        let mut command = Command::new("nfdump");
        command.arg("-R").arg(self.files()).args(["-o", "json"]);
        let text = String::from_utf8(process::output(&mut command).unwrap().stdout).unwrap();
        let values: Vec<Value> =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        values.iter().map(by_nfdump).collect()
    }
}

/// Takes all records out of what tshark says: a tree of fields.
fn by_tshark(tree: &Value, records: &mut Vec<Record>) {
    let Some(fields) = tree.as_object() else {
        tree.as_array().into_iter().flatten().for_each(|part| by_tshark(part, records));
        return;
    };
    if !fields.contains_key("cflow.octets") {
        fields.values().for_each(|part| by_tshark(part, records));
        return;
    }
    let is_v4 = fields.contains_key("cflow.srcaddr");
    let [old, new, blank] = if is_v4 { ["", "ipv4", ""] } else { ["v6", "ipv6", "_"] };
    let text = |name: &str| fields[name].as_str().unwrap();
    let end = |address: &str, port: &str| {
        SocketAddr::new(text(address).parse().unwrap(), text(port).parse().unwrap())
    };
    let before = |which| end(&format!("cflow.{which}addr{old}"), &format!("cflow.{which}port"));
    let after = |which| {
        let port = format!("cflow.post_napt{which}_transport_port");
        end(&format!("cflow.post_nat{blank}{which}_{new}_address"), &port)
    };
    records.push(Record {
        protocol: text("cflow.protocol").parse().unwrap(),
        from: [before("src"), before("dst")],
        to: [after("source"), after("destination")],
        octets: text("cflow.octets").parse().unwrap(),
        packets: fields.get("cflow.packets").map_or(0, |it| it.as_str().unwrap().parse().unwrap()),
    });
}

/// A record as nfdump has it, whose 1.7.1 knows no addresses of IPv6 after translation: of those it
/// has the ports alone.
fn by_nfdump(fields: &Value) -> Record {
    let number = |name: &str| {
        let value = &fields[name];
        value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
    };
    let is_v4 = fields["src4_addr"].is_string();
    let address = |name: String| fields[&name].as_str()?.parse::<IpAddr>().ok();
    let digit = if is_v4 { 4 } else { 6 };
    let before = |which: &str| address(format!("{which}{digit}_addr")).unwrap();
    let after =
        |which: &str| address(format!("{which}{digit}_xlt_ip")).unwrap_or_else(|| before(which));
    let end = |address, port: &str| SocketAddr::new(address, number(port) as u16);
    Record {
        protocol: number("proto"),
        from: [end(before("src"), "src_port"), end(before("dst"), "dst_port")],
        to: [end(after("src"), "src_xlt_port"), end(after("dst"), "dst_xlt_port")],
        octets: number("in_bytes"),
        packets: number("in_packets"),
    }
}

/// What records say of a direction of a flow, all together.
fn sum(records: &[Record], direction: &Record) -> (u64, u64) {
    let is_it = |it: &&Record| Record { octets: 0, packets: 0, ..(*it).clone() } == *direction;
    let of = records.iter().filter(is_it);
    of.fold((0, 0), |(octets, packets), it| (octets + it.octets, packets + it.packets))
}

#[test]
fn two_collectors_read_what_hosts_sent_before_and_after_translation() {
    let mut site = Site::new();
    let (host4, server4) = (site.topology.hosts[0].address, plan::server_address(0));
    let host6 = Mode::Nat66.host(0);
    let flows = [
        site.datagrams(host4.into(), server4.into()),
        site.datagrams(host6.into(), ipv6::SERVER.into()),
        site.connection(host4.into(), server4.into()),
    ];
    for flow in &flows {
        assert_ne!(flow.inside, flow.outside, "it is translated");
    }
    let directions: Vec<Record> = flows.iter().flat_map(Flow::records).collect();
    let mut by_tshark = Vec::new();
    let told = wait::until("all flows to be told of", wait::BOUND, || {
        by_tshark = site.read_by_tshark();
        Ok(directions.iter().all(|it| sum(&by_tshark, it).0 > 0).then_some(()))
    });
    told.unwrap_or_else(|error| {
        panic!("{error}: {by_tshark:#?} of {flows:?}, {}", site.weir.log("weir-control"))
    });
    let by_nfdump = site.read_by_nfdump();
    let datagram = |header: u64| DATAGRAMS * (header + 8 + LENGTH as u64);
    for (reader, records) in [("tshark", by_tshark), ("nfdump", by_nfdump)] {
        for (at, mut direction) in directions.iter().cloned().enumerate() {
            if reader == "nfdump" && direction.from[0].is_ipv6() {
                (0..2).for_each(|end| direction.to[end].set_ip(direction.from[end].ip()));
            }
            let (octets, packets) = sum(&records, &direction);
            let is_right = match (at / 2, at % 2) {
                (0, _) => (octets, packets) == (datagram(20), DATAGRAMS),
                // Packets of IPv6 are not counted.
                (1, _) => (octets, packets) == (datagram(40), 0),
                // The answer, with headers, and the way there: acknowledgements alone.
                (_, 1) => (20_000..25_000).contains(&octets) && packets >= 20_000 / 1460,
                _ => (60..5_000).contains(&octets) && packets >= 3,
            };
            assert!(is_right, "{reader}: {octets} bytes, {packets} packets of {direction:?}");
        }
    }
    site.weir.check_conservation().unwrap();
}
