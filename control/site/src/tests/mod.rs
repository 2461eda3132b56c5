mod file;
mod filter;
mod health;
mod ipv6;
mod machine;
mod publish;
mod sets;
mod warnings;

use weir_view::{Kernel, Link};

use super::*;

const GOOD: &str = r#"
[gateway]
nat_ports = "16384-65535"

[[lan]]
interface = "lan0"
prefixes = ["10.77.0.0/16"]

[[uplink]]
name = "fiber"
interface = "wan0"
weight = 5

[[uplink]]
name = "lte"
interface = "wan1"
translate = "none"

[[policy]]
name = "balanced"
selection = "flow"

[[policy]]
name = "fiber-first"
members = [{ uplink = "fiber" }, { uplink = "lte", tier = 2, weight = 7 }]

[[rule]]
in_interface = "lan0"
protocol = "udp"
destination_ports = "5060-5061"
policy = "fiber-first"
"#;

fn problems(text: &str) -> Vec<String> {
    parse("weir.toml", text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// The one problem that a change of the good file makes.
fn broken(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    let found = problems(&GOOD.replacen(from, to, 1));
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

fn kernel() -> Kernel {
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        mac: [2; 6],
        mtu: 1500,
        up: true,
        running: true,
        queues: 1,
        xdp_transmit: true,
        ..Link::default()
    };
    Kernel {
        links: vec![link(1, "lan0"), link(2, "wan0"), link(3, "wan1")],
        addresses: vec![
            (1, "10.77.0.1/16".parse().unwrap()),
            (2, "100.64.0.2/24".parse().unwrap()),
            (3, "100.65.0.2/24".parse().unwrap()),
        ],
        local_ports: (1024, 16_383),
        ..Kernel::default()
    }
}
