//! The table that keeps the kernel from forwarding on its own: when it is there, and what it leaves
//! alone.

use std::process::Command;
use std::time::Duration;

use crate::gateway::{Gateway, on_its_own, run};

/// The gateway's table, without counters; empty when there is none.
fn table(gateway: &Gateway) -> String {
    let name = gateway.pins().directory().file_name().unwrap().to_owned();
    let list = ["--stateless", "list", "table", "ip"];
    let output = Command::new("nft").args(list).arg(name).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The same with the numbers that a table made anew gets anew.
fn table_with_numbers(gateway: &Gateway) -> String {
    let name = gateway.pins().directory().file_name().unwrap().to_owned();
    let list = ["--stateless", "--handle", "list", "table", "ip"];
    let output = Command::new("nft").args(list).arg(name).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The table once it lets pass what uplinks lead to, which follows the first view of the kernel.
fn whole_table(gateway: &Gateway) -> String {
    let is_whole = |table: &String| table.contains("chain near");
    gateway.wait("the guard's last chain", |gateway| Some(table(gateway)).filter(is_whole))
}

#[test]
fn the_guard_stands_before_anything_is_refused() {
    on_its_own(|| {
        let mut gateway = Gateway::start("guard-first", "");
        whole_table(&gateway);
        gateway.kill_control();
        run("nft flush ruleset");
        // What this machine cannot have, and no file that was better: weir-control ends with an
        // error.
        let wrong = "[gateway]\ngroup = \"nobody-has-this-group\"\n";
        gateway.edit(|text| text.replace("[gateway]\n", wrong));
        std::fs::remove_dir_all(gateway.path("state")).unwrap();
        let mut control = gateway.control_command();
        let refused = control.output().unwrap();
        assert!(!refused.status.success(), "{refused:?}");
        let table = table(&gateway);
        let held = "iifname \"lan0\" oifname { \"wan0\", \"wan1\" } goto to_uplink";
        assert!(table.contains(held) && table.matches("counter drop").count() == 3, "{table}");
    });
}

#[test]
fn a_second_control_process_leaves_the_table_of_the_first_alone() {
    on_its_own(|| {
        let gateway = Gateway::start("guard-second", "");
        whole_table(&gateway);
        let before = table_with_numbers(&gateway);
        assert!(!gateway.control_command().output().unwrap().status.success());
        assert_eq!(table_with_numbers(&gateway), before);
    });
}

#[test]
fn a_table_of_sixty_uplinks_is_made_once() {
    on_its_own(|| {
        let gateway = Gateway::start("guard-large", "");
        gateway.edit(|text| {
            let uplink =
                |n| format!("\n[[uplink]]\nname = \"more{n}\"\ninterface = \"more-wan{n}\"\n");
            text.to_owned() + &(0..60).map(uplink).collect::<String>()
        });
        gateway.reload();
        let large = gateway.wait("guard of all uplinks", |gateway| {
            Some(table_with_numbers(gateway)).filter(|table| table.contains("more-wan59"))
        });
        // What is believed to have been changed is made again after two seconds.
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(table_with_numbers(&gateway), large);
    });
}

#[test]
fn a_guard_that_somebody_removed_is_put_back_beside_what_others_have_there() {
    on_its_own(|| {
        let gateway = Gateway::start("guard-flushed", "");
        let before = whole_table(&gateway);
        // Until then it is only being made, and what is gone is made again without a word.
        gateway.wait("guard in place, with what is near", |gateway| {
            (gateway.log().matches("is in place").count() == 2).then_some(())
        });
        run("nft flush ruleset");
        run("nft add table inet operator");
        run("nft add chain inet operator forward { type filter hook forward priority 0 ; }");
        let put_back = |times: usize| {
            gateway.wait("guard as before, and a word of it in the log", |gateway| {
                let told = gateway.log().matches("was changed or removed: put back").count();
                (told == times && table(gateway) == before).then_some(())
            });
        };
        put_back(1);
        gateway.wait("guard in place again", |gateway| {
            (gateway.log().matches("is in place").count() == 3).then_some(())
        });
        let name = gateway.pins().directory().file_name().unwrap().to_str().unwrap().to_owned();
        run(&format!("nft flush chain ip {name} from_uplink"));
        put_back(2);
        let others = Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
        assert!(String::from_utf8(others).unwrap().contains("table inet operator"));
    });
}

#[test]
fn a_guard_that_goes_in_the_moment_it_is_made_is_put_back_and_each_time_is_said() {
    const TIMES: usize = 10;
    on_its_own(|| {
        let gateway = Gateway::start("guard-moment", "");
        let before = whole_table(&gateway);
        for _ in 0..TIMES {
            run("nft flush ruleset");
            gateway.wait("guard as before", |gateway| (table(gateway) == before).then_some(()));
        }
        let said =
            |gateway: &Gateway| gateway.log().matches("was changed or removed: put back").count();
        gateway.wait("word of the last time", |gateway| (said(gateway) >= TIMES).then_some(()));
        assert_eq!(said(&gateway), TIMES, "{}", gateway.log());
    });
}

#[test]
fn hosts_that_the_guard_counts_are_no_change_of_it() {
    on_its_own(|| {
        let gateway = Gateway::start("guard-hosts", "");
        let before = whole_table(&gateway);
        let name = name(&gateway);
        run(&format!("nft add element ip {name} near_hosts {{ 10.0.0.5 ct count over 9 }}"));
        run("nft add table inet operator");
        // Longer than a burst of changes is gathered.
        std::thread::sleep(std::time::Duration::from_secs(1));
        run(&format!("nft flush chain ip {name} from_uplink"));
        gateway.wait("guard as before", |gateway| (table(gateway) == before).then_some(()));
        let said =
            |gateway: &Gateway| gateway.log().matches("was changed or removed: put back").count();
        gateway.wait("word of it", |gateway| (said(gateway) > 0).then_some(()));
        assert_eq!(said(&gateway), 1, "{}", gateway.log());
    });
}

#[test]
fn the_guard_follows_the_file_outlives_weir_control_and_goes_by_detach() {
    on_its_own(|| {
        let mut gateway = Gateway::start("guard-life", "");
        let before = whole_table(&gateway);
        let changed = "[gateway]\non_dataplane_loss = \"kernel\"\n";
        gateway.edit(|text| text.replace("[gateway]\n", changed));
        gateway.reload();
        let after = gateway
            .wait("changed guard", |gateway| Some(table(gateway)).filter(|now| *now != before));
        // What passes the kernel while the dataplane is away is let go: one rule less that drops.
        let drops = |table: &str| table.matches("counter drop").count();
        assert_eq!(drops(&after) + 1, drops(&before), "{before}{after}");
        gateway.kill_control();
        assert_eq!(table(&gateway), after);
        gateway.done(&["detach"]);
        assert_eq!(table(&gateway), "");
        gateway.done(&["detach"]);
    });
}

/// The table of IPv6 of the gateway's name; empty when there is none.
fn table6(gateway: &Gateway) -> String {
    let output = Command::new("nft").args(["list", "table", "ip6", &name(gateway)]).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn name(gateway: &Gateway) -> String {
    gateway.pins().directory().file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_table_of_ipv6_that_is_somebody_elses_stays() {
    on_its_own(|| {
        let mut gateway = Gateway::start("guard-others6", "");
        gateway.stop_control();
        run(&format!("nft add table ip6 {}", name(&gateway)));
        run(&format!("nft add chain ip6 {} from_uplink", name(&gateway)));
        let before = table6(&gateway);
        gateway.start_control();
        whole_table(&gateway);
        assert_eq!(table6(&gateway), before);
        gateway.stop_control();
        gateway.done(&["detach"]);
        assert_eq!(table(&gateway), "");
        assert_eq!(table6(&gateway), before);
    });
}

#[test]
fn a_table_of_ipv6_that_the_file_no_longer_asks_for_goes_and_the_log_says_so() {
    on_its_own(|| {
        let mut gateway = Gateway::start("guard-old6", "");
        gateway.stop_control();
        let path = gateway.path("old6.nft");
        let name = name(&gateway);
        let text = format!("table ip6 {name} {{\n\tcomment \"kept by weir-control\"\n}}\n");
        std::fs::write(&path, text).unwrap();
        run(&format!("nft -f {}", path.display()));
        gateway.start_control();
        whole_table(&gateway);
        assert_eq!(table6(&gateway), "");
        assert!(gateway.log().contains(&format!("nftables table ip6 {name} is removed")));
    });
}

#[test]
fn a_start_with_a_file_that_is_refused_keeps_the_table_of_ipv6_of_the_last_good_one() {
    on_its_own(|| {
        let mut gateway = Gateway::start("guard-refused6", "");
        let path = gateway.path("weir.toml");
        let file = std::fs::read_to_string(&path).unwrap();
        let interface = "interface = \"wan0\"";
        let ipv6 = "ipv6 = { translate = \"none\", next_hop = \"fe80::1\" }";
        std::fs::write(&path, file.replace(interface, &format!("{interface}\n{ipv6}"))).unwrap();
        gateway.reload();
        let made = |gateway: &Gateway| (!table6(gateway).is_empty()).then_some(());
        gateway.wait("table of IPv6", made);
        gateway.stop_control();
        // Without IPv6, and in another order.
        let turned = file.replace("\"fiber\"", "\"\"").replace("\"lte\"", "\"fiber\"");
        std::fs::write(&path, turned.replace("\"\"", "\"lte\"")).unwrap();
        gateway.start_control();
        whole_table(&gateway);
        let log = gateway.log();
        assert!(log.contains("going on with the last good configuration"), "{log}");
        assert!(!log.contains("is removed") && !table6(&gateway).is_empty(), "{log}");
    });
}
