//! Sets of prefixes from files: what rules make of them, and what becomes of it when files change.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use weir_kit::ipv6::{self, Mode};
use weir_kit::plan::Plan;
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{process, wait};
use weir_layout::Family;

/// The file, beside the configuration.
const FILE: &str = "there.txt";
/// Where the connection goes that is denied later.
const PORT: u16 = 2000;
/// New flows that are watched.
const FLOWS: u64 = 8;

/// A site of two uplinks. What goes to the set `there` takes the second, all else the first.
struct Site {
    topology: Topology,
    weir: Weir,
    family: Family,
    host: IpAddr,
    server: IpAddr,
    /// The set's file.
    file: PathBuf,
}

/// What is beside uplinks in the configuration: policies, a set, and what becomes of what goes there.
fn with_set(configuration: &str, verdict: &str) -> String {
    let policy = |(name, uplink): (&str, &str)| {
        format!("[[policy]]\nname = \"{name}\"\nmembers = [{{ uplink = \"{uplink}\" }}]\n")
    };
    let policies = [("first", UPLINKS[0]), ("second", UPLINKS[1])].map(policy).concat();
    let configuration =
        configuration.replacen("[gateway]\n", "[gateway]\ndefault_policy = \"first\"\n", 1);
    format!(
        "{configuration}\n{policies}[[set]]\nname = \"there\"\nfile = \"{FILE}\"\n\
         [[rule]]\nname = \"sets\"\ndestination = \"@there\"\n{verdict}\n"
    )
}

impl Site {
    /// With this in the set's file.
    fn start(family: Family, content: impl Fn(IpAddr) -> String) -> (Self, String) {
        let (topology, weir, text, host, server): (_, _, _, IpAddr, IpAddr) = match family {
            Family::V4 => {
                let topology = Topology::build(Plan::new(2, 1)).unwrap();
                let text = Weir::configuration(&topology, &[1, 1]);
                let weir = Weir::start(&topology, &text).unwrap();
                let (host, server) = (topology.hosts[0].address, topology.servers[0]);
                (topology, weir, text, host.into(), server.into())
            }
            Family::V6 => {
                let mode = Mode::Npt66;
                let (topology, weir) = mode.start(Plan::new(2, 1), &[1, 1], "").unwrap();
                let text = mode.configuration(&topology, &[1, 1]);
                (topology, weir, text, mode.host(0).into(), ipv6::SERVER.into())
            }
        };
        let file = topology.run.file_directory().unwrap().join(FILE);
        let site = Self { topology, weir, family, host, server, file };
        site.write(&content(server));
        site.weir.reload(&with_set(&text, "policy = \"second\"")).unwrap();
        (site, text)
    }

    fn write(&self, content: &str) {
        std::fs::write(&self.file, content).unwrap();
    }

    /// Has weir read its file again, which has not changed; what it says.
    fn reload(&self) -> Result<String, String> {
        let output = self.weir.cli(&["reload"]).unwrap().output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// What a datagram's sender hears of the server.
    fn ask(&self) -> std::io::Result<usize> {
        let asked = self.topology.hosts[0].netns.run(|| {
            let socket = UdpSocket::bind((self.host, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            socket.connect((self.server, ECHO_PORT)).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 16])
        });
        asked.unwrap()
    }

    /// By uplink, how many of some new flows took it.
    fn taken(&self) -> [u64; 2] {
        let begun = || {
            let paths = self.weir.paths(self.family).unwrap();
            [paths[0].flows_created, paths[1].flows_created]
        };
        let before = begun();
        (0..FLOWS).for_each(|_| _ = self.ask());
        let now = begun();
        [now[0] - before[0], now[1] - before[1]]
    }

    /// Waits until new flows take this uplink alone: the dataplane hears of a state with its next batch.
    fn wait_for(&self, uplink: usize) {
        wait::until("new flows to take another uplink", wait::BOUND, || {
            let taken = self.taken();
            Ok((taken[uplink] >= FLOWS && taken[1 - uplink] == 0).then_some(()))
        })
        .unwrap();
    }

    /// Those that hold the server.
    fn sets_of_server(&self) -> Vec<String> {
        let server = self.server.to_string();
        let mut command = self.weir.cli(&["sets", &server, "--json"]).unwrap();
        let output = process::output(&mut command).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let sets = value["sets"].as_array().unwrap();
        sets.iter().map(|set| set["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// A file of a thousand prefixes of each family, and the server.
fn many(server: IpAddr) -> String {
    let others = (0..1000u32).map(|n| {
        let [.., high, low] = n.to_be_bytes();
        format!("10.9{}.{low}.0/24\n2001:db8:{n:x}::/48\r\n", high)
    });
    format!("# Others\n{}\n{server} # The server\n", others.collect::<String>())
}

fn flows_go_by_what_is_in_the_file(family: Family) {
    let (mut site, text) = Site::start(family, many);
    let _server = Server::start(&site.topology.internet, site.server).unwrap();
    site.wait_for(1);
    assert_eq!(site.sets_of_server(), ["there"]);
    // A wrong file changes nothing, nor does a restart with it.
    site.write("nonsense\n");
    let refused = site.reload().unwrap_err();
    assert!(refused.contains("there.txt:1:1: \"nonsense\" is no prefix"), "{refused}");
    assert_eq!(site.taken(), [0, FLOWS]);
    site.weir.kill_control();
    site.weir.start_control().unwrap();
    assert_eq!(site.sets_of_server(), ["there"]);
    site.wait_for(1);
    // Other content, and the same configuration.
    site.write("192.0.2.0/24\n2001:db8::/32\n");
    site.reload().unwrap();
    site.wait_for(0);
    assert_eq!(site.sets_of_server(), [""; 0]);
    // What is in the set is denied from now on: nothing yet.
    site.weir.reload(&with_set(&text, "action = \"drop\"")).unwrap();
    site.wait_for(0);
    let [mut near, mut far] = connection(&site);
    site.write(&many(site.server));
    site.reload().unwrap();
    for end in [&mut near, &mut far] {
        assert_eq!(end.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(site.ask().unwrap_err().kind(), ErrorKind::WouldBlock);
    site.write("");
    let said = site.reload().unwrap();
    assert!(said.contains("set there has no prefix"), "{said}");
    site.wait_for(0);
    site.weir.check_conservation().unwrap();
}

/// A connection through the gateway that has said something, and both its ends.
fn connection(site: &Site) -> [TcpStream; 2] {
    let to = SocketAddr::new(site.server, PORT);
    let listener = site.topology.internet.run(|| TcpListener::bind(to).unwrap()).unwrap();
    let connect = || TcpStream::connect_timeout(&to, wait::BOUND).unwrap();
    let mut near = site.topology.hosts[0].netns.run(connect).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(wait::BOUND)).unwrap();
    }
    near.write_all(b"question").unwrap();
    far.read_exact(&mut [0; 8]).unwrap();
    far.write_all(b"answered").unwrap();
    near.read_exact(&mut [0; 8]).unwrap();
    [near, far]
}

#[test]
fn flows_go_by_what_is_in_the_file_of_a_set_and_a_wrong_one_changes_nothing() {
    flows_go_by_what_is_in_the_file(Family::V4);
}

#[test]
fn flows_go_by_what_is_in_the_file_of_a_set_and_a_wrong_one_changes_nothing_in_ipv6() {
    flows_go_by_what_is_in_the_file(Family::V6);
}
