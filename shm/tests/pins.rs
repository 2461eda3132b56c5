//! Pinned regions, on the real BPF file system. Needs root.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use weir_layout::Family;
use weir_layout::control::{BUCKETS, Name, host_class};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, StateOwner};
use weir_shm::adjacencies::NextHops;
use weir_shm::control::{ControlRegion, ControlWriter, empty_half};
use weir_shm::counters::Counters;
use weir_shm::flows::{FlowTable, FlowTable4};
use weir_shm::hosts::{HostPrefixes, Hosts, Hosts4};
use weir_shm::map::{self, Access, Shape};
use weir_shm::status::Status;
use weir_shm::{Error, Pins, Role};
use weir_wire::entry::NewDirection;
use weir_wire::family::{V4, V6};
use weir_wire::key::FlowKey6;

/// A pin directory of the test's own, removed at its end.
struct Scratch(Pins);

impl Scratch {
    fn new(test: &str) -> Self {
        let directory = format!("/sys/fs/bpf/weir-shm-test-{}-{test}", std::process::id());
        Self(Pins::create(PathBuf::from(directory)).expect("these tests need root and bpffs"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.0.remove().unwrap();
    }
}

#[test]
fn what_one_process_publishes_another_maps() {
    let scratch = Scratch::new("publish");
    let region = ControlRegion::open(&scratch.0, Access::Write).unwrap();
    let mut writer = ControlWriter::new(region, NextHops::open(&scratch.0).unwrap());
    let mut half = empty_half();
    half.policies[0].name = Name::new("balanced");
    half.policies[0].member_count = 1;
    writer.publish(&mut half, [&[&[3; BUCKETS]], &[]]);
    let reader = ControlRegion::open(&scratch.0, Access::Read).unwrap();
    let snapshot = reader.snapshot().unwrap();
    assert_eq!(snapshot.half.policies[0].name.as_str(), "balanced");
    assert_eq!(snapshot.table(Family::V4, 0).unwrap()[65_535], 3);
}

#[test]
fn state_outlives_the_process_that_wrote_it() {
    let scratch = Scratch::new("outlive");
    Counters::open(&scratch.0, Access::Write).unwrap().worker(0).add(Counter::UserRx, 7);
    assert_eq!(Counters::open(&scratch.0, Access::Read).unwrap().sum(Counter::UserRx), 7);
}

#[test]
fn a_reader_of_nothing_is_told_what_to_start() {
    let pins = Pins::existing("/sys/fs/bpf/weir-no-such-directory");
    let error = ControlRegion::open(&pins, Access::Read).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }));
    assert!(error.to_string().contains("start weir-control"), "{error}");
}

#[test]
fn a_region_of_another_size_is_refused() {
    let scratch = Scratch::new("size");
    let path = scratch.0.path("STATUS");
    map::create(&path, "STATUS", Shape { value_size: 64, entries: 1 }, |_| ()).unwrap();
    let error = Status::open(&scratch.0, Access::Write).unwrap_err();
    assert!(matches!(error, Error::Layout { .. }));
    assert!(error.to_string().contains("weir detach"), "{error}");
}

#[test]
fn a_region_of_another_version_is_refused() {
    let scratch = Scratch::new("version");
    let size = size_of::<weir_layout::status::StatusPage>() as u32;
    let path = scratch.0.path("STATUS");
    map::create(&path, "STATUS", Shape { value_size: size, entries: 1 }, |_| ()).unwrap();
    assert!(matches!(Status::open(&scratch.0, Access::Write), Err(Error::Layout { .. })));
}

#[test]
fn a_flow_table_keeps_its_size() {
    let scratch = Scratch::new("flows");
    assert_eq!(FlowTable4::open(&scratch.0, 1001).unwrap().capacity(), 1024);
    assert_eq!(FlowTable4::open(&scratch.0, 4096).unwrap().capacity(), 1024);
}

#[test]
fn each_family_has_a_flow_table_of_its_own() {
    let scratch = Scratch::new("families");
    let status = Status::open(&scratch.0, Access::Write).unwrap();
    status.set_flows::<V6>(64);
    let table = FlowTable::<V6>::open(&scratch.0, 64).unwrap();
    assert_eq!(status.check_flows::<V6>(&scratch.0, 64).unwrap(), Some(()));
    assert_eq!(status.check_flows::<V4>(&scratch.0, 64).unwrap(), None);
    assert!(status.check_flows::<V6>(&scratch.0, 128).is_err());
    let key = FlowKey6::new([7; 16], [8; 16], [1; 2], [2; 2], 17);
    let state_owner = StateOwner::new(FlowState::Stateless, 0);
    let new = NewDirection { flags: 0, state_owner, uplink: 0, adjacency: 0, mark: 0, now: 0 };
    let index = table.insert(9, &new.words::<V6>(&key, &key)).unwrap();
    assert!(FlowTable4::read_only(&scratch.0).is_err());
    assert_eq!(FlowTable4::open(&scratch.0, 64).unwrap().slot(index).read(), None);
    assert_eq!(FlowTable::<V6>::read_only(&scratch.0).unwrap().find(9, &key), Some(index));
    assert_eq!(scratch.0.remove().unwrap(), ["FLOWS4", "FLOWS6", "STATUS", "TAGS4", "TAGS6"]);
}

#[test]
fn host_prefixes_become_what_is_wanted() {
    let scratch = Scratch::new("hosts");
    let mut hosts = Hosts4::open(&scratch.0).unwrap();
    let first: HostPrefixes =
        [(([10, 0, 0, 0], 8), 2), (([10, 0, 0, 1], 32), 1), (([192, 0, 2, 0], 24), 2)].into();
    hosts.sync(&first).unwrap();
    assert_eq!(hosts.prefixes().unwrap(), first);
    let second: HostPrefixes = [(([10, 0, 0, 0], 8), 3), (([10, 0, 0, 0], 16), 2)].into();
    hosts.sync(&second).unwrap();
    assert_eq!(Hosts4::open(&scratch.0).unwrap().prefixes().unwrap(), second);
}

#[test]
fn each_family_has_host_prefixes_of_its_own() {
    let scratch = Scratch::new("hosts-families");
    let (mut four, mut six) =
        (Hosts4::open(&scratch.0).unwrap(), Hosts::<V6>::open(&scratch.0).unwrap());
    let lan: HostPrefixes<V6> =
        [(([0x20; 16], 128), host_class::LOCAL), (([0xfd; 16], 128), host_class::LAN)].into();
    six.sync(&lan).unwrap();
    four.sync(&routed(0..2)).unwrap();
    assert_eq!(Hosts::<V6>::open(&scratch.0).unwrap().prefixes().unwrap(), lan);
    assert_eq!(Hosts4::open(&scratch.0).unwrap().prefixes().unwrap(), routed(0..2));
    assert_eq!(scratch.0.remove().unwrap(), ["BLOCKS", "HOSTS4", "HOSTS6"]);
}

/// The networks 10.N.0.0/16.
fn routed(numbers: std::ops::Range<u8>) -> HostPrefixes {
    numbers.map(|n| (([10, n, 0, 0], 16), host_class::KERNEL)).collect()
}

#[test]
fn host_prefixes_give_way_to_as_many_others_in_a_map_that_is_full() {
    let scratch = Scratch::new("hosts-full");
    let mut hosts = Hosts4::of_size(&scratch.0, 9).unwrap();
    for wanted in [routed(0..8), routed(8..16), routed(12..20), routed(0..3)] {
        assert_eq!(hosts.sync(&wanted).unwrap(), 0);
        assert_eq!(hosts.prefixes().unwrap(), wanted);
    }
}

#[test]
fn without_room_for_all_the_gateway_and_its_lans_come_first() {
    let scratch = Scratch::new("hosts-room");
    let mut hosts = Hosts4::of_size(&scratch.0, 5).unwrap();
    hosts.sync(&routed(0..4)).unwrap();
    let mut wanted = routed(100..130);
    let first: HostPrefixes = [
        (([192, 0, 2, 1], 32), host_class::LOCAL),
        (([192, 168, 0, 0], 24), host_class::LAN),
        (([172, 16, 0, 0], 12), host_class::KERNEL),
    ]
    .into();
    wanted.extend(&first);
    assert_eq!((hosts.room(), hosts.sync(&wanted).unwrap()), (4, 29));
    let present = hosts.prefixes().unwrap();
    assert_eq!(present.len(), 4);
    assert!(first.iter().all(|(prefix, class)| present.get(prefix) == Some(class)), "{present:?}");
    // What there is room for by and by takes its place.
    assert_eq!(hosts.sync(&routed(0..4)).unwrap(), 0);
}

#[test]
fn a_map_of_host_prefixes_keeps_its_size() {
    let scratch = Scratch::new("hosts-size");
    Hosts4::of_size(&scratch.0, 9).unwrap();
    assert_eq!(Hosts4::open(&scratch.0).unwrap().room(), 8);
}

#[test]
fn a_role_has_one_process_at_a_time() {
    let scratch = Scratch::new("claim");
    let pins = &scratch.0;
    assert!(!pins.is_claimed(Role::Control).unwrap());
    let claim = pins.claim(Role::Control).unwrap();
    assert!(pins.is_claimed(Role::Control).unwrap());
    let error = pins.claim(Role::Control).unwrap_err();
    assert!(error.to_string().contains("weir-control already runs on"), "{error}");
    pins.claim(Role::Dataplane).unwrap();
    drop(claim);
    assert!(!pins.is_claimed(Role::Control).unwrap());
    pins.claim(Role::Control).unwrap();
}

#[test]
fn a_role_that_is_given_up_in_a_moment_is_waited_for() {
    let scratch = Scratch::new("claim-left");
    let claim = scratch.0.claim(Role::Control).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(claim);
        });
        scratch.0.claim(Role::Control).unwrap();
    });
}

#[test]
fn pins_are_for_their_owner_alone() {
    let scratch = Scratch::new("mode");
    let directory = scratch.0.directory();
    let mode = || std::fs::metadata(directory).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700);
    std::fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
    Pins::create(directory).unwrap();
    assert_eq!(mode(), 0o700);
}

#[test]
fn a_directory_of_another_user_holds_no_pins() {
    let scratch = Scratch::new("owner");
    std::os::unix::fs::chown(scratch.0.directory(), Some(65_534), None).unwrap();
    let error = Pins::create(scratch.0.directory()).unwrap_err();
    std::os::unix::fs::chown(scratch.0.directory(), Some(0), None).unwrap();
    assert!(error.to_string().contains("another user's"), "{error}");
}

#[test]
fn what_an_earlier_build_pinned_is_removed() {
    let scratch = Scratch::new("earlier");
    let earlier = scratch.0.path("NEIGHBOURS");
    map::create(&earlier, "NEIGHBOURS", Shape { value_size: 8, entries: 1 }, |_| ()).unwrap();
    assert_eq!(scratch.0.remove().unwrap(), ["NEIGHBOURS"]);
}

#[test]
fn what_is_not_weirs_is_not_removed() {
    let scratch = Scratch::new("others");
    let theirs = scratch.0.path("theirs");
    map::create(&theirs, "theirs", Shape { value_size: 8, entries: 1 }, |_| ()).unwrap();
    ControlRegion::open(&scratch.0, Access::Write).unwrap();
    scratch.0.claim(Role::Control).unwrap();
    assert_eq!(scratch.0.remove().unwrap(), ["BUCKETS", "CONTROL", "SETS"]);
    let left: Vec<_> = std::fs::read_dir(scratch.0.directory()).unwrap().flatten().collect();
    std::fs::remove_file(&theirs).unwrap();
    assert_eq!(left.iter().map(|entry| entry.path()).collect::<Vec<_>>(), [theirs]);
}
