//! Router advertisements that another program sends: what weir decides, in its words, by the hook
//! that weir ships. Linux hosts obey it, and rdisc6 reads the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use weir_kit::ipv6::{self, Mode};
use weir_kit::plan::Plan;
use weir_kit::process::Process;
use weir_kit::slaac::Standing::{Deprecated, Preferred};
use weir_kit::slaac::{self, Standing};
use weir_kit::topology::{Host, Topology};
use weir_kit::wait;
use weir_kit::weir::Weir;
use weir_layout::Family;

const PROVIDERS: usize = 2;

/// A site by source whose hosts have no address of IPv6 but what they make themselves, of what radvd
/// tells them.
struct Site {
    topology: Topology,
    weir: Weir,
    directory: PathBuf,
    radvd: Process,
}

const RA: &str = "ra = { sender = \"others\", dns = [\"2001:2:0:ff::53\"], \
                  search = [\"example.net\"], mtu = 1480, routes = [\"2001:2:0:300::/56\"] }";

fn site() -> Site {
    // A router whose port is cut would forget its addresses with it.
    let plan = Plan { lines: vec![0], ..Plan::new(PROVIDERS, 1) };
    let topology = Topology::build(plan).unwrap();
    Mode::Source.lay(&topology).unwrap();
    let host = &topology.hosts[0];
    let gateway = ipv6::by(0, ipv6::LAN_GATEWAY);
    let mut lines = format!("route del default via {gateway}\n");
    for provider in 0..PROVIDERS {
        lines += &format!("addr del {}/64 dev eth0\n", ipv6::by(provider, ipv6::host(0)));
    }
    host.netns.ip(&lines).unwrap();

    let directory = topology.run.file_directory().unwrap();
    let hooks = directory.join("hooks");
    let lan = format!("{}{RA}\n", Mode::Source.lan_line(PROVIDERS));
    let path = |uplink| Mode::Source.path(uplink);
    let file = Weir::configuration_with(&topology, &[1; PROVIDERS], &lan, path)
        .replace("[gateway]\n", &format!("[gateway]\nhooks = \"{}\"\n", hooks.display()));
    let mut weir = Weir::prepare(&topology, &file).unwrap();
    install(&weir, &directory, &hooks);
    weir.start_control().unwrap();
    weir.start_dataplane().unwrap();
    weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
    let conf = directory.join("radvd.conf");
    // A hook that runs while radvd starts may find no process to tell, or one that does not listen yet.
    wait::until("the hook to have said that both providers are preferred", wait::BOUND, || {
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
        let (text, ended) = (read("radvd.conf"), read("ended").lines().count());
        let done = ended > 0 && ended == read("events").lines().filter(|it| is_of_lan(it)).count();
        let both = text.contains(&part(1)) && !text.contains("AdvPreferredLifetime 0;");
        Ok((done && both).then_some(()))
    })
    .unwrap();
    let mut radvd = Command::new("radvd");
    radvd.args(["--nodaemon", "--logmethod", "stderr", "--config"]).arg(&conf);
    radvd.arg("--pidfile").arg(directory.join("radvd.pid"));
    let radvd = topology.gateway.spawn(&mut radvd).unwrap();
    Site { topology, weir, directory, radvd }
}

/// The hook that weir ships, for a radvd that systemd knows nothing of. It notes what it is told.
fn install(weir: &Weir, directory: &Path, hooks: &Path) {
    fs::create_dir(hooks).unwrap();
    weir.put_on_path(directory).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hooks/radvd");
    let (shipped, directory) = (shipped.display(), directory.display());
    let reload = format!(
        "#!/bin/sh\ncd {directory}\n[ ! -e radvd.pid ] || kill -HUP \"$(cat radvd.pid)\"\n"
    );
    let hook = format!(
        "#!/bin/sh\necho \"$WEIR_EVENT $WEIR_INTERFACE\" >> {directory}/events\n\
         export PATH={directory}:$PATH RADVD_CONF={directory}/radvd.conf\n\
         export RADVD_RELOAD={directory}/reload\nsh {shipped} || exit\n\
         [ \"$WEIR_EVENT\" != ra ] || echo >> {directory}/ended\n"
    );
    for (path, text) in
        [(format!("{directory}/reload"), reload), (format!("{}/50-radvd", hooks.display()), hook)]
    {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Is it the word of a hook about what the LAN is told?
fn is_of_lan(event: &str) -> bool {
    event == "ra lan0"
}

/// The LAN's part of a provider's prefix.
fn part(provider: usize) -> String {
    ipv6::delegated(provider).replace("/56", "/64")
}

impl Site {
    fn wait_for(&self, host: &Host, wanted: [Standing; PROVIDERS]) {
        let found = wait::until("a host to obey", wait::BOUND, || {
            let has = [slaac::standing(host, &part(0))?, slaac::standing(host, &part(1))?];
            Ok((has == wanted).then_some(()))
        });
        if let Err(error) = found {
            let file = fs::read_to_string(self.directory.join("radvd.conf"));
            panic!("{error:#}: {file:?}\n{}", self.weir.log("weir-control"));
        }
    }

    /// Waits until hooks were told of another change of the LAN's advertisements, and of no more.
    fn wait_for_events(&self, wanted: usize) {
        let told = || Ok((self.events() >= wanted).then_some(()));
        wait::until("hooks to be told", wait::BOUND, told).unwrap();
        assert_eq!(self.events(), wanted);
    }

    /// How often hooks were told of the LAN's advertisements.
    fn events(&self) -> usize {
        let events = fs::read_to_string(self.directory.join("events")).unwrap_or_default();
        events.lines().filter(|line| is_of_lan(line)).count()
    }
}

#[test]
fn radvd_sends_what_weir_decides_and_a_lost_providers_prefix_is_deprecated_until_it_is_back() {
    let site = site();
    let host = &site.topology.hosts[0];
    site.wait_for(host, [Preferred, Preferred]);
    let told = slaac::ask(host).unwrap();
    for line in [
        "Hop limit : 64",
        "Router lifetime : 2700",
        "MTU : 1480 bytes (valid)",
        "Valid time : 5400",
        "Route : 2001:2:0:300::/56",
        "Route lifetime : 5400",
        "Recursive DNS server : 2001:2:0:ff::53",
        "DNS server lifetime : 5400",
        "DNS search list : example.net",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let view = site.weir.advertised().unwrap().remove(0);
    assert!(view.by_others && view.trouble.is_none(), "{view:?}");
    let status = site.weir.cli(&["status"]).unwrap().output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.lines().any(|it| it.contains("lan0") && it.contains("others")), "{status}");

    let before = site.events();
    let at = Instant::now();
    site.topology.providers[0].set_carrier(false).unwrap();
    site.wait_for(host, [Deprecated, Preferred]);
    println!("deprecated after {:?}", at.elapsed());
    site.wait_for_events(before + 1);
    assert!(slaac::ask(host).unwrap().contains("Router lifetime : 2700"), "another is left");
    site.topology.providers[0].set_carrier(true).unwrap();
    site.wait_for(host, [Preferred, Preferred]);
    site.wait_for_events(before + 2);
    drop(site.radvd);
    assert!(slaac::ask(host).is_err(), "weir itself answers nobody");
    site.weir.check_conservation().unwrap();
}

#[test]
fn bird_and_radvd_take_the_words_that_are_theirs() {
    let site = site();
    site.topology.providers[1].set_carrier(false).unwrap();
    site.wait_for(&site.topology.hosts[0], [Preferred, Deprecated]);
    for (format, check) in
        [("bird", &["bird", "-p", "-c"][..]), ("radvd", &["radvd", "--configtest", "--config"])]
    {
        let words = site.weir.cli(&["ra", "lan0", "--format", format]).unwrap().output().unwrap();
        let text = String::from_utf8(words.stdout).unwrap();
        for word in [part(0), part(1), "2001:2:0:300::/56".into(), "example.net".into()] {
            assert!(text.contains(&word), "{word}: {text}");
        }
        let file = site.directory.join(format);
        fs::write(&file, &text).unwrap();
        let output = Command::new(check[0]).args(&check[1..]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}: {text}");
        fs::write(&file, text.replace("prefix ", "nonsense ")).unwrap();
        let output = Command::new(check[0]).args(&check[1..]).arg(&file).output().unwrap();
        assert!(!output.status.success(), "it reads what it is given");
    }
}
