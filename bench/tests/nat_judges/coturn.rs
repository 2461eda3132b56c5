//! What coturn's `turnutils_natdiscovery` (RFC 5780) says of mapping and filtering.

use std::process::{Command, Stdio};

use weir_kit::listeners;
use weir_kit::process::Process;

use super::{Load, PORTS, Site, servers};

/// coturn, at both addresses.
fn serve(site: &Site) -> Process {
    let mut command = Command::new("turnserver");
    command.args(["-n", "-z", "-S", "--no-tls", "--no-dtls", "--no-cli", "-l", "stdout"]);
    command.args(["-p", "3478", "--alt-listening-port=3479", "-b", "/dev/null"]);
    command.args(["--pidfile", "/dev/null"]);
    for server in servers() {
        command.args(["-L", &server.to_string()]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let internet = &site.topology.internet;
    let server = internet.spawn(&mut command).unwrap();
    PORTS.iter().for_each(|port| listeners::wait_for_udp(internet, *port).unwrap());
    server
}

/// What is found out from a port that another host uses already: `-m` mapping, `-f` filtering.
fn verdict(site: &Site, what: &str, port: u16) -> String {
    site.collide(port);
    let host = &site.topology.hosts[0];
    let mut judge = Command::new("turnutils_natdiscovery");
    judge.args([what, "-L", &host.address.to_string(), "-l", &port.to_string()]);
    judge.arg(servers()[0].to_string());
    let output = host.netns.run(|| judge.output()).unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdict = said.lines().find(|line| line.contains("NAT with"));
    verdict.unwrap_or_else(|| panic!("no verdict: {said}")).trim().to_owned()
}

#[test]
fn the_mapping_is_independent_of_the_destination_over_two_uplinks_and_after_the_loss_of_one() {
    let site = Site::with("");
    let _server = serve(&site);
    const INDEPENDENT: &str = "NAT with Endpoint Independent Mapping!";
    for port in 40_000..40_004 {
        assert_eq!(verdict(&site, "-m", port), INDEPENDENT);
    }
    site.cut_the_first();
    for port in 40_000..40_004 {
        assert_eq!(verdict(&site, "-m", port), INDEPENDENT);
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn the_filtering_is_what_the_file_says() {
    for (filtering, expected) in [
        ("", "NAT with Address and Port Dependent Filtering!"),
        ("filtering = \"address\"", "NAT with Address Dependent Filtering!"),
        ("filtering = \"endpoint\"", "NAT with Endpoint Independent Filtering!"),
    ] {
        let site = Site::with(filtering);
        let _server = serve(&site);
        for port in [40_000, 40_001] {
            assert_eq!(verdict(&site, "-f", port), expected);
        }
        site.cut_the_first();
        assert_eq!(verdict(&site, "-f", 40_002), expected);
        site.weir.check_conservation().unwrap();
    }
}

#[test]
fn the_verdicts_are_the_same_while_flows_begin_all_the_time_and_an_uplink_is_lost() {
    let site = Site::with("filtering = \"address\"");
    let _server = serve(&site);
    let load = Load::start(&site);
    // Of a port that was judged once, each server has been asked.
    let verdicts = |port| [verdict(&site, "-m", port), verdict(&site, "-f", port + 1)];
    const VERDICTS: [&str; 2] =
        ["NAT with Endpoint Independent Mapping!", "NAT with Address Dependent Filtering!"];
    assert_eq!(verdicts(40_000), VERDICTS);
    site.cut_the_first();
    assert_eq!(verdicts(40_002), VERDICTS);
    load.stop(&site);
    site.weir.check_conservation().unwrap();
}
