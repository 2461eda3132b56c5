//! Linux's own translation of prefixes (`SNPT` of ip6tables) as another opinion on weir's arithmetic.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;

use weir_kit::netns::Netns;
use weir_kit::random::Random;
use weir_kit::run::Run;
use weir_kit::wait;
use weir_layout::control::PathPrefix;
use weir_wire::npt::{self, Untranslatable};

/// Prefixes inside and outside: alike, and unlike.
const PAIRS: [[&str; 2]; 7] = [
    ["fd01:203:405::/48", "2001:db8:1::/48"],
    ["fc00:1234::/32", "2001:db8::/32"],
    ["fd01:203:405::/56", "2001:db8:77:ab00::/56"],
    ["fd00:1:2:3::/64", "2001:db8:1:2::/64"],
    ["fc00:1:20::/44", "2001:db8:a000::/48"],
    ["fc00:1234::/63", "2001:db8:1::/56"],
    ["fd00:1:2::/48", "2001:db8:5:6700::/60"],
];
/// Addresses of chance in each, beside those that are special.
const ADDRESSES: usize = 250;
/// So many datagrams have room in a socket.
const AT_A_TIME: usize = 50;
const SENDER: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0xfe, 0, 0, 0, 1);
const RECEIVER: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0xfe, 0, 0, 0, 2);
const PORT: u16 = 7000;

/// A namespace whose kernel translates what it sends, and one that sees what comes of it.
struct Site {
    translator: Netns,
    receiver: UdpSocket,
    /// Dropped last.
    _run: Run,
}

impl Site {
    fn build() -> Self {
        let run = Run::start().unwrap();
        let [translator, outside] = ["translator", "outside"].map(|role| run.tag().netns(role));
        run.ip(&format!(
            "netns add {translator}\nnetns add {outside}\n\
             link add out netns {translator} type veth peer name in netns {outside}\n",
            translator = translator.name(),
            outside = outside.name()
        ))
        .unwrap();
        for (netns, device, address) in [(&translator, "out", SENDER), (&outside, "in", RECEIVER)] {
            netns
                .ip(&format!("link set {device} up\naddr add {address}/64 dev {device} nodad\n"))
                .unwrap();
        }
        translator.ip("route add default dev out\n").unwrap();
        // It sends from addresses that it does not have.
        translator.sysctl(&[("net/ipv6/ip_nonlocal_bind", "1")]).unwrap();
        let receiver = outside.run(|| UdpSocket::bind((RECEIVER, PORT))).unwrap().unwrap();
        receiver.set_read_timeout(Some(wait::BOUND)).unwrap();
        Self { translator, receiver, _run: run }
    }

    /// Has the kernel translate this prefix, and no other.
    fn translate(&self, [inside, outside]: [&str; 2]) {
        for rule in [
            "-F POSTROUTING".to_owned(),
            format!("-A POSTROUTING -s {inside} -j SNPT --src-pfx {inside} --dst-pfx {outside}"),
        ] {
            let mut command = Command::new("ip6tables");
            command.args(["-t", "mangle"]).args(rule.split(' '));
            self.translator.output(&mut command).unwrap();
        }
    }

    /// What the kernel makes of these sources: another one, or nothing, and then it drops the packet.
    fn translated(&self, sources: &[Ipv6Addr]) -> Vec<Option<Ipv6Addr>> {
        let send = |source: Ipv6Addr, payload: &[u8]| {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            match socket.send_to(payload, (RECEIVER, PORT)) {
                // What a rule drops, its sender hears of.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                sent => assert_eq!(sent.unwrap(), payload.len()),
            }
        };
        self.translator
            .run(|| {
                sources.iter().for_each(|source| send(*source, &source.octets()));
                send(SENDER, b"the last one");
            })
            .unwrap();
        let mut translated = vec![None; sources.len()];
        let mut payload = [0; 64];
        loop {
            let (len, from) = self.receiver.recv_from(&mut payload).unwrap();
            let Ok(source) = <[u8; 16]>::try_from(&payload[..len]) else { return translated };
            let at = sources.iter().position(|it| it.octets() == source).unwrap();
            let SocketAddr::V6(from) = from else { panic!("{from}") };
            translated[at] = Some(*from.ip());
        }
    }
}

fn prefix(text: &str) -> (Ipv6Addr, u8) {
    let (address, len) = text.split_once('/').unwrap();
    (address.parse().unwrap(), len.parse().unwrap())
}

/// Addresses of the prefix, which goes on in zeros up to a length.
fn sources((network, _): (Ipv6Addr, u8), len: u8, random: &mut Random) -> Vec<Ipv6Addr> {
    let network = u128::from(network);
    let host = u128::MAX >> len;
    let identifier = u128::from(u64::MAX);
    let mut sources = vec![
        // All zeros, all ones, and a word of ones before others.
        network | host & !identifier,
        network | host,
        network | host & 0xffff_1234_5678_9abc,
        network | host & 0xffff_ffff_9abc_def0,
        network | 1,
    ];
    if len <= 48 {
        // Every subnet is as good as another but the last; one of these becomes 0xffff.
        let subnets = (0..=0xffff_u128).step_by(0x111).chain([0xffff]);
        sources.extend(subnets.map(|subnet| network | subnet << 64 | 0x1234));
    }
    let mut chance = || u128::from(random.draw()) << 64 | u128::from(random.draw());
    sources.extend((0..ADDRESSES).map(|_| network | chance() & host));
    sources.sort_unstable();
    sources.dedup();
    sources.into_iter().map(Ipv6Addr::from).collect()
}

#[test]
fn the_kernel_translates_a_thousand_addresses_likewise_but_for_two_faults_of_its_own() {
    let site = Site::build();
    let mut random = Random::new(1);
    let (mut alike, mut subnets, mut identifiers, mut dropped) = (0, 0, 0, 0);
    for pair in PAIRS {
        site.translate(pair);
        let [(inside, inside_len), (outside, outside_len)] = pair.map(prefix);
        let addresses = [inside, outside].map(|address| address.octets());
        let [of_inside, of_outside] = addresses;
        let rule = PathPrefix {
            inside: of_inside,
            outside: of_outside,
            inside_len,
            outside_len,
            adjustment: npt::adjustment(of_inside, of_outside),
            ..PathPrefix::UNUSED
        };
        let len = inside_len.max(outside_len);
        for some in sources((inside, inside_len), len, &mut random).chunks(AT_A_TIME) {
            for (source, linux) in some.iter().zip(site.translated(some)) {
                let weir = npt::outward(&rule, source.octets());
                let ones = source.octets()[8..] == [0xff; 8];
                match (weir, linux) {
                    (Ok(weir), Some(linux)) => {
                        assert_eq!(Ipv6Addr::from(weir), linux, "{source} by {pair:?}");
                        alike += 1;
                    }
                    // It forwards what RFC 6296 has dropped: subnet 0xffff (§3.2), which becomes
                    // the same address as subnet 0, and an identifier of zeros (§3.7).
                    (Err(Untranslatable::Subnet), Some(linux)) => {
                        let [a, b, c, _, d, e, f, g] = source.segments();
                        let other = Ipv6Addr::new(a, b, c, 0, d, e, f, g);
                        let other = npt::outward(&rule, other.octets()).unwrap();
                        assert_eq!(Ipv6Addr::from(other), linux, "{source} by {pair:?}");
                        subnets += 1;
                    }
                    (Err(Untranslatable::Identifier), Some(_)) if !ones => identifiers += 1,
                    (Err(Untranslatable::Identifier), None) if ones => dropped += 1,
                    (weir, linux) => panic!("{source} by {pair:?}: {weir:?}, Linux {linux:?}"),
                }
            }
        }
    }
    assert!(alike >= 1000, "{alike} alike");
    assert!(subnets >= 3 && identifiers >= 4 && dropped >= 4, "{subnets} {identifiers} {dropped}");
}
