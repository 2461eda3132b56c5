//! Rules and routes for the gateway's own traffic, in network namespaces. Needs root.

mod ipv6;
mod marked;
mod others;
mod sockets;

use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use weir_kernel::own;
use weir_kernel::watch::Watcher;
use weir_layout::Family;
use weir_layout::control::path_state;
use weir_publish::Overrides;
use weir_site::Site;

const SITE: &str = r#"
[[lan]]
interface = "lan0"
[[uplink]]
name = "fiber"
interface = "wan0"
weight = 5
[[uplink]]
name = "lte"
interface = "wan1"
next_hop = "192.0.2.129"
"#;

/// A gateway on a LAN and two providers; `main` has a default route by the first.
fn in_gateway<F: Future>(body: impl FnOnce(Site) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root: run as root");
            for (name, address) in
                [("lan0", "10.77.0.1/24"), ("wan0", "192.0.2.2/25"), ("wan1", "192.0.2.130/25")]
            {
                ip(&format!("link add {name} type veth peer name far-{name}"));
                ip(&format!("addr add {address} dev {name}"));
                ip(&format!("link set {name} up"));
                ip(&format!("link set far-{name} up"));
            }
            ip("route add default via 192.0.2.1");
            let site = weir_site::parse("test", SITE).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body(site));
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The device that a packet to a server on the Internet leaves by.
fn way(selector: &str) -> String {
    let text = ip(&format!("route get 198.51.100.1{selector}"));
    text.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned()
}

async fn install(site: &Site, usable: [bool; 2]) {
    install_by(site, usable.map(|usable| if usable { path_state::USABLE } else { 0 })).await;
}

async fn install_by(site: &Site, states: [u32; 2]) {
    install_with(site, &Overrides::default(), states).await;
}

async fn install_with(site: &Site, overrides: &Overrides, states: [u32; 2]) {
    install_for(site, overrides, [&states, &[]]).await;
}

async fn install_for(site: &Site, overrides: &Overrides, states: [&[u32]; Family::COUNT]) {
    let mut watcher = Watcher::new().unwrap();
    watcher.follow_ipv6(site.has_ipv6());
    let mut kernel = watcher.read().await.unwrap();
    let half = weir_publish::derive(site, &kernel, overrides, [&[]; 2], None).half;
    let wanted = weir_publish::own::wanted(site, &kernel, &half, states);
    own::install(&wanted, Arc::make_mut(&mut kernel.own), watcher.handle()).await.unwrap();
    assert_eq!(*kernel.own, wanted);
    assert_eq!(*watcher.read().await.unwrap().own, wanted);
}
