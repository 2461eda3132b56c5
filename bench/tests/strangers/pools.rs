//! Strangers who ask for an address of a pool that the gateway does not hold.

use weir_kit::capture::Capture;
use weir_kit::plan::{self, Plan, Port};
use weir_kit::topology::TOWARDS_GATEWAY;
use weir_kit::weir::Weir;
use weir_kit::{clients, server};

use crate::{SERVER, site};

#[test]
fn an_address_of_a_pool_that_the_gateway_does_not_hold_is_not_routed_back() {
    let (topology, _server, configuration) = site(Plan::new(2, 1));
    let pooled = plan::uplink_address(0, 9);
    let configuration = configuration.replacen(
        "weight = 1\n",
        &format!("weight = 1\naddresses = [\"{pooled}\"]\n"),
        1,
    );
    let weir = Weir::start(&topology, &configuration).unwrap();
    let stranger = &topology.providers[0].netns;
    let mac = Port::GatewayWan(0).mac();
    stranger.ip(&format!("neigh replace {pooled} lladdr {mac} dev {TOWARDS_GATEWAY}\n")).unwrap();
    let capture = Capture::start(stranger, TOWARDS_GATEWAY).unwrap();
    assert_eq!(clients::ping(stranger, pooled, 3).unwrap().received, 0);
    let tally = capture.stop().unwrap();
    assert_eq!(tally.sources_to(pooled).values().sum::<u64>(), 3, "each crosses the link once");
    weir.check_conservation().unwrap();
    let url = server::content_url(SERVER, 10_000);
    assert_eq!(clients::curl(&topology.hosts[0].netns, &url).unwrap().bytes, 10_000);
}
