//! The benchmarks with live frames, small: what they say is about frames that were counted.

use std::time::Duration;

use weir_bench::compare::mode::Mode as Of;
use weir_bench::compare::site::{Kind, shortest};
use weir_bench::compare::{self, Entrant, Measured, System};
use weir_bench::ip_version::IpVersion;
use weir_bench::{adopt, failover, flood, latency, new_flows, update};
use weir_kit::ipv6::Mode;
use weir_layout::Family;

#[test]
fn latency_is_that_of_frames_that_arrived() {
    let systems = vec![System::None, System::WeirKernel];
    let lines =
        latency::measure(&latency::Options { systems, flows: 64, rounds: 1, seconds: 0.05 })
            .unwrap();
    assert_eq!(lines.len(), 2 * latency::LOADS.len());
    for line in &lines {
        assert!(line.throughput_mpps > 0.0 && line.p50_ns > 0.0, "{line:?}");
        assert!(line.p50_ns <= line.p99_ns && line.p99_ns <= line.p999_ns, "{line:?}");
    }
}

#[test]
fn flows_of_ipv6_take_the_kernel_tier_beside_the_kernel_itself() {
    for mode in Mode::ALL.into_iter().chain([Mode::Stateless, Mode::StatelessSource]) {
        let systems = vec![
            System::LinuxRoute,
            System::LinuxNat,
            System::LinuxNpt,
            System::XdpRedirect,
            System::XdpLimit,
            System::WeirKernel,
            System::WeirNat44,
        ];
        let options = compare::Options {
            flows: vec![64],
            sizes: Vec::new(),
            family: IpVersion::V6,
            mode: Some(Of::Ipv6(mode)),
            rounds: 1,
            seconds: 0.05,
            systems,
        };
        let reports = compare::measure(&options).unwrap();
        assert!(reports[0].absent.is_empty(), "{:?}", reports[0].absent);
        assert_eq!(reports[0].measured.len(), 8);
        let weir = reports[0].of(System::WeirKernel).unwrap();
        assert!(weir.mpps[0] > 0.0 && weir.in_kernel[0] > 0.9, "{mode:?}: {weir:?}");
        let json = reports[0].json();
        for key in ["xdp_redirect", "xdp_limit", "linux", "linux_nat", "linux_npt", "nat44"] {
            assert!(json[format!("ratio_kernel_vs_{key}")].as_f64().unwrap() > 0.0, "{json}");
        }
    }
}

/// Why a round of few flows has no figure.
fn refused(entrant: &mut Entrant, system: System) -> String {
    let (size, run) = (shortest(Family::V4), Duration::from_millis(50));
    let round = entrant.round(size, run, &mut Measured::new(system));
    format!("{:#}", round.unwrap_err())
}

#[test]
fn there_is_no_figure_where_flows_begin_while_they_are_measured() {
    for kind in [Kind::V4, Kind::Inbound] {
        for system in [System::WeirUser, System::WeirKernel] {
            let mut prepared = system.prepare(kind, 64).unwrap();
            // Half of them are for another address now, which they have not asked yet.
            prepared.site.pair_flows();
            let mut entrant = Entrant::new(system, prepared).unwrap();
            let error = refused(&mut entrant, system);
            assert!(error.contains("began anew") && !error.contains("and 0 flows"), "{error}");
            if system == System::WeirKernel {
                // They are there by now, but nobody has answered: the user tier has them.
                let error = refused(&mut entrant, system);
                assert!(error.contains("and 0 flows began anew"), "{error}");
            }
        }
    }
}

/// A second of a flood, as fast as the machine can.
fn flooded(from: flood::Origin) {
    let options = flood::Options {
        from,
        seconds: 1.0,
        interval_ns: 1000,
        rounds: 1,
        protocols: vec![flood::Protocol::Udp, flood::Protocol::Syn],
    };
    let lines = flood::measure(&options).unwrap();
    assert_eq!(lines.len(), 4);
    for line in &lines {
        let round = line.rounds[0];
        assert!(round.offered > 10_000.0 && round.tried >= 4, "{line:?}");
        assert!((0.0..1.0).contains(&round.lost), "{line:?}");
        if line.system == System::WeirKernel {
            assert!(round.opened > 0.9, "{line:?}");
        }
    }
}

#[test]
fn others_open_connections_beside_a_host_that_floods() {
    flooded(flood::Origin::Lan);
}

#[test]
fn others_open_connections_while_a_published_service_is_flooded() {
    flooded(flood::Origin::Outside);
}

#[test]
fn a_comparison_of_ipv4_has_neither_modes_nor_systems_of_ipv6() {
    let options = |mode, systems| compare::Options {
        flows: vec![64],
        sizes: Vec::new(),
        family: IpVersion::V4,
        mode,
        rounds: 1,
        seconds: 0.05,
        systems,
    };
    for (options, told) in [
        (options(Some(Of::Ipv6(Mode::Npt66)), Vec::new()), "--mode npt66 is of IPv6"),
        (options(None, vec![System::WeirNat44]), "weir_nat44 has no part in this"),
        (options(Some(Of::Inbound), vec![System::LinuxRoute]), "linux_route has no part in this"),
    ] {
        let error = compare::measure(&options).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }
}

#[test]
fn flows_that_were_made_are_counted() {
    for family in [IpVersion::V4, IpVersion::V6] {
        let options = new_flows::Options { flows: 2000, rounds: 1, family };
        let [linux, weir] = new_flows::measure(&options).unwrap().map(|line| line.rounds[0]);
        assert!(linux.made > 0 && linux.made <= 2000 && weir.made > 0 && weir.made <= 2000);
        assert_eq!(linux.loss, 1.0 - linux.made as f64 / 2000.0);
    }
}

#[test]
fn changes_are_obeyed_after_they_are_asked_for() {
    let lines =
        update::measure(&update::Options { flows: 80_000, rounds: 1, busy: false }).unwrap();
    for line in &lines {
        let trial = &line.trials[0];
        // Whoever listens is told of a carrier in turn, and may be told after the word is there.
        assert!(trial.published_us > 0.0 || !line.asked, "{line:?}");
        assert!(trial.published_us <= trial.first_us, "{line:?}");
    }
}

#[test]
fn a_killed_dataplane_is_replaced_and_adopts_every_flow() {
    let rounds = adopt::measure(&adopt::Options { flows: 500, rounds: 1 }).unwrap();
    assert!(rounds[0].adopted >= 500 && rounds[0].sent > 0);
    assert!(rounds[0].adopt_ms <= rounds[0].new_flow_ms);
}

#[test]
fn flows_leave_an_uplink_that_fails_and_none_of_them_breaks() {
    for family in [IpVersion::V4, IpVersion::V6] {
        let options = failover::Options { flows: 120_000, family, rounds: 1 };
        let lines = failover::measure(&options).unwrap();
        assert_eq!(lines.len(), 8);
        for line in &lines {
            assert!(line.detect_ms[0] > 0.0 || line.fault == failover::Fault::Cut, "{line:?}");
            assert!(line.fault_to_packet_ms[0] > 0.0, "{line:?}");
            let may_break =
                line.protocol == "tcp" && line.translation == failover::Translation::Translated;
            assert_eq!(line.flows_broken[0] > 0.0, may_break, "{line:?}");
        }
    }
}
