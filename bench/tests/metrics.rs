//! Metrics, had by curl and by Prometheus itself while a gateway forwards; and what becomes of the
//! gateway when clients behave badly.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use weir_api::Request;
use weir_kit::plan::Plan;
use weir_kit::process::Process;
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{process, udp_flows, wait};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const PORT: u16 = 9745;
const OTHER_PORT: u16 = 9746;
const PROMETHEUS: u16 = 9090;
/// Longer than a text is handed out.
const STALE: Duration = Duration::from_millis(200);

struct Site {
    topology: Topology,
    weir: Weir,
    _server: Server,
}

fn configuration(topology: &Topology, metrics: &str) -> String {
    let text = Weir::configuration(topology, &[2, 1]);
    format!(
        "{text}{metrics}\n[[rule]]\nname = \"udp\"\nprotocol = \"udp\"\npolicy = \"balanced\"\n\
         [[rule]]\nname = \"quiet\"\nprotocol = \"tcp\"\ndestination_ports = \"7\"\n\
         action = \"drop\"\n"
    )
}

fn listen(port: u16) -> String {
    format!("[metrics]\nlisten = \"127.0.0.1:{port}\"")
}

impl Site {
    fn start() -> Self {
        let topology = Topology::build(Plan::new(2, 1)).unwrap();
        let server = Server::start(&topology.internet, SERVER).unwrap();
        let weir = Weir::start(&topology, &configuration(&topology, &listen(PORT))).unwrap();
        let site = Self { topology, weir, _server: server };
        site.wait_for(PORT);
        site
    }

    /// What the gateway answers, asked for one of its media types.
    fn scrape(&self, port: u16, accept: &str) -> Option<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail", "--noproxy", "*", "--max-time", "30", "--header"]);
        command.args([format!("Accept: {accept}"), format!("http://127.0.0.1:{port}/metrics")]);
        let text = self.topology.gateway.output(&mut command).ok()?.stdout;
        Some(String::from_utf8(text).unwrap())
    }

    fn wait_for(&self, port: u16) {
        let served = || Ok(self.scrape(port, "*/*").map(|_| ()));
        wait::until("metrics to be served", wait::BOUND, served).unwrap();
    }

    fn samples(&self) -> BTreeMap<String, f64> {
        std::thread::sleep(STALE);
        samples(&self.scrape(PORT, "*/*").unwrap())
    }

    fn json(&self, command: &str) -> Value {
        let output = process::output(&mut self.weir.cli(&["--json", command]).unwrap()).unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn begin_flows(&self, count: usize) -> usize {
        udp_flows::run(&self.topology.hosts, ECHO, count).unwrap().answered
    }

    /// What Prometheus has of a query.
    fn query(&self, query: &str) -> Value {
        let mut command = Command::new("curl");
        command.args(["--silent", "--noproxy", "*", "--max-time", "30", "--get"]);
        command.args(["--data-urlencode", &format!("query={query}")]);
        command.arg(format!("http://127.0.0.1:{PROMETHEUS}/api/v1/query"));
        let output = self.topology.gateway.output(&mut command);
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
        answer["data"]["result"].clone()
    }
}

/// Samples by their name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').expect("a sample"));
    pairs.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

/// A counter of `weir counters` by the name of its metric.
fn series(counter: &str) -> Option<String> {
    let reason = counter.rsplit('.').next().unwrap_or_default();
    let name = match counter {
        "xdp.rx" => "weir_packets_received_total{tier=\"kernel\"}".into(),
        "user.rx" => "weir_packets_received_total{tier=\"user\"}".into(),
        "xdp.forwarded" => "weir_packets_forwarded_total{tier=\"kernel\"}".into(),
        "user.tx" => "weir_packets_forwarded_total{tier=\"user\"}".into(),
        "xdp.to_user" => "weir_packets_to_workers_total".into(),
        "user.originated" => "weir_packets_originated_total".into(),
        "user.handoff.out" => "weir_packets_handed_over_total".into(),
        "user.handoff.in" => return None,
        _ if counter.starts_with("flows.") => {
            format!("weir_flow_events_total{{event=\"{reason}\"}}")
        }
        _ if counter.starts_with("xdp.pass.") => {
            format!("weir_packets_passed_total{{reason=\"{reason}\"}}")
        }
        _ => {
            let tier = if counter.starts_with("xdp.") { "kernel" } else { "user" };
            format!("weir_packets_dropped_total{{tier=\"{tier}\",reason=\"{reason}\"}}")
        }
    };
    Some(name)
}

/// Runs promtool with this on its standard input; what it says.
fn promtool(arguments: &[&str], input: &str) -> Result<String, String> {
    use std::process::Stdio;
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    if output.status.success() && !said.contains("no help text") { Ok(said) } else { Err(said) }
}

#[test]
fn what_is_scraped_under_traffic_is_clean_and_what_the_commands_say() {
    let site = Site::start();
    let done = AtomicBool::new(false);
    let (answered, scraped) = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scraped = 0;
            while !done.load(Ordering::Relaxed) {
                for format in ["*/*", "application/openmetrics-text"] {
                    assert!(site.scrape(PORT, format).unwrap().contains("weir_path_up{"));
                    scraped += 1;
                }
            }
            scraped
        });
        let answered = site.begin_flows(2000);
        done.store(true, Ordering::Relaxed);
        (answered, scraper.join().unwrap())
    });
    assert!(answered == 2000 && scraped >= 2, "{answered} answered, {scraped} scraped");
    site.weir.check_conservation().unwrap();

    // Frames that the gateway itself is for come on: each figure lies between two readings.
    let before = site.json("counters");
    let now = site.samples();
    let after = site.json("counters");
    let packets = |of: &Value| of["counters"]["packets"].as_object().unwrap().clone();
    let (before, after) = (packets(&before), packets(&after));
    for (counter, least) in before {
        let Some(series) = series(&counter) else { continue };
        let [least, most] = [&least, &after[&counter]].map(|of| of.as_u64().unwrap() as f64);
        let figure = now.get(&series).unwrap_or_else(|| panic!("{series} is missing"));
        assert!((least..=most).contains(figure), "{series}: {figure} of {least} to {most}");
    }
    let uplinks = site.json("uplinks");
    for uplink in uplinks["uplinks"].as_array().unwrap() {
        let labels = format!("{{uplink={},family=\"ipv4\"}}", uplink["name"]);
        let of = |metric: &str| now[&format!("{metric}{labels}")];
        assert_eq!(of("weir_path_up"), 1.0, "{labels}");
        assert_eq!(of("weir_path_flows_created_total"), uplink["new_flows"].as_f64().unwrap());
        assert!(of("weir_path_transmit_packets_total") >= of("weir_path_flows_created_total"));
        let share = format!(
            "weir_policy_member_share_ratio{{policy=\"balanced\",uplink={},family=\"ipv4\"}}",
            uplink["name"]
        );
        let percent = uplink["share"].as_f64().unwrap();
        assert!((now[&share] * 100.0 - percent).abs() < 0.1, "{share}: {percent} %");
    }
    let hits = now["weir_rule_hits_total{rule=\"udp\"}"];
    assert!(hits >= 2000.0, "{hits} hits");
    assert_eq!(now["weir_rule_hits_total{rule=\"quiet\"}"], 0.0);
    assert_eq!(now["weir_process_up{process=\"dataplane\"}"], 1.0);
    assert_eq!(now["weir_config_last_reload_successful"], 1.0);
    let probes = now.keys().filter(|name| name.starts_with("weir_probe_up{")).count();
    assert!(probes >= 2, "the next hops are probed: {probes}");

    let text = site.scrape(PORT, "*/*").unwrap();
    assert_eq!(promtool(&["check", "metrics"], &text).as_deref(), Ok(""));
    let open = site.scrape(PORT, "application/openmetrics-text").unwrap();
    assert!(open.ends_with("# EOF\n") && open.contains("# UNIT weir_path_transmit_bytes bytes\n"));
    let alerts = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus-alerts.yml");
    promtool(&["check", "rules", alerts], "").unwrap();
}

#[test]
fn prometheus_takes_what_it_scrapes_and_sees_an_uplink_go_down() {
    let site = Site::start();
    let directory = site.topology.run.file_directory().unwrap();
    let file = directory.join("prometheus.yml");
    let alerts = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus-alerts.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{alerts}\"]\n\
         scrape_configs:\n- job_name: weir\n  static_configs:\n  - {{ targets: [\"127.0.0.1:{PORT}\"] }}\n"
    );
    std::fs::write(&file, text).unwrap();
    let log = std::fs::File::create(directory.join("prometheus.log")).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", directory.join("tsdb").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"));
    command.stdout(log.try_clone().unwrap()).stderr(log);
    let _prometheus: Process = site.topology.gateway.spawn(&mut command).unwrap();
    let value = |query: &str| {
        let found = site.query(query);
        let value = found[0]["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
        (found.as_array().map_or(0, Vec::len), value)
    };
    let wait_for = |what: &str, query: &str, wanted: f64| {
        let is = || Ok((value(query).1 == Some(wanted)).then_some(()));
        wait::until(what, wait::BOUND, is).unwrap();
    };
    wait_for("a scrape that succeeded", "up", 1.0);
    assert_eq!(value("weir_path_up").0, 2);
    let types = value("count(scrape_samples_scraped > 100)");
    assert_eq!(types.1, Some(1.0));
    site.weir.request(&Request::Down { uplink: UPLINKS[0].into() }).unwrap();
    let down = format!("weir_path_up{{uplink=\"{}\"}}", UPLINKS[0]);
    wait_for("the uplink to be down", &down, 0.0);
    let why = format!("weir_path_condition{{uplink=\"{}\",condition=\"by hand\"}}", UPLINKS[0]);
    wait_for("why it is", &why, 1.0);
    let rest = "weir_policy_member_share_ratio{uplink=\"cable\"}";
    wait_for("the other uplink to take all", rest, 1.0);
    wait_for("the alert", "ALERTS{alertname=\"WeirUplinkDown\"}", 1.0);
}

#[test]
fn clients_that_flood_or_say_nothing_cost_the_gateway_nothing_and_others_their_turn() {
    let site = Site::start();
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, PORT));
    // More than there is room for, which say nothing.
    let silent: Vec<TcpStream> =
        site.topology.gateway.run(|| (0..24).map(|_| connect().unwrap()).collect()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let flood = || {
                    while !done.load(Ordering::Relaxed) {
                        let Ok(mut stream) = connect() else { continue };
                        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
                        let _ = stream.read(&mut [0; 512]);
                    }
                };
                site.topology.gateway.run(flood).unwrap();
            });
        }
        // What is asked of the control process is done, and new flows obey.
        site.weir.weight(UPLINKS[0], 0).unwrap();
        let before = site.weir.uplinks().unwrap()[0].flows_created;
        assert_eq!(site.begin_flows(500), 500);
        assert_eq!(site.weir.uplinks().unwrap()[0].flows_created, before);
        site.weir.weight(UPLINKS[0], 2).unwrap();
        done.store(true, Ordering::Relaxed);
    });
    drop(silent);
    site.wait_for(PORT);
    assert!(site.samples().contains_key("weir_published_epoch"));
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_reload_changes_where_metrics_are_and_a_port_that_is_taken_harms_nothing() {
    let site = Site::start();
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, OTHER_PORT)).unwrap();
    let holder = site.topology.gateway.run(bind).unwrap();
    let both = format!("[metrics]\nlisten = [\"127.0.0.1:{PORT}\", \"127.0.0.1:{OTHER_PORT}\"]");
    site.weir.reload(&configuration(&site.topology, &both)).unwrap();
    let complained = || {
        let log = site.weir.log("weir-control");
        Ok(log.contains("metrics are not served at 127.0.0.1:9746").then_some(()))
    };
    wait::until("a complaint about the port", wait::BOUND, complained).unwrap();
    site.wait_for(PORT);
    assert_eq!(site.begin_flows(50), 50);
    drop(holder);
    site.wait_for(OTHER_PORT);
    site.weir.reload(&configuration(&site.topology, "")).unwrap();
    let gone = || Ok(site.scrape(OTHER_PORT, "*/*").is_none().then_some(()));
    wait::until("metrics to be served no more", wait::BOUND, gone).unwrap();
    assert!(site.scrape(PORT, "*/*").is_none());
    let refused = site.weir.reload(&configuration(&site.topology, "[metrics]\nlisten = \"9745\""));
    assert!(format!("{:#}", refused.unwrap_err()).contains("no address with a port"));
    site.weir.reload(&configuration(&site.topology, &listen(PORT))).unwrap();
    site.wait_for(PORT);
}
