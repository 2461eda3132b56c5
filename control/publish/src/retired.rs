//! Addresses of a path that flows keep, and that no new flow gets: deprecated ones (RFC 4862 §5.5.4).
//! Who makes them so, perhaps by a forged advertisement, ends no connection.

use weir_layout::Family;
use weir_layout::control::{Address, ControlHalf, Name, Path};
use weir_view::Kernel;

/// Enters, behind the addresses of the path, those of `had` which the interface still has and which are
/// deprecated.
pub fn keep(path: &mut Path, interface: u32, kernel: &Kernel, had: &[Address]) {
    let deprecated = kernel.deprecated.iter().filter(|(at, _)| *at == interface);
    let deprecated: Vec<_> = deprecated.map(|(_, own)| Address::from(*own)).collect();
    let kept = had.iter().filter(|had| deprecated.contains(had));
    let kept: Vec<_> = kept.filter(|had| !path.addresses().contains(had)).collect();
    let free = path.pool[usize::from(path.pool_len)..].iter_mut().zip(kept);
    path.retired = free.map(|(slot, kept)| *slot = *kept).count() as u8;
}

/// The addresses that flows of an uplink's path have had.
pub fn held(last: &ControlHalf, uplink: Name, family: Family) -> &[Address] {
    let known = last.uplinks.iter().find(|known| known.name == uplink);
    known.map_or(&[], |known| known.path(family).held())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use weir_layout::control::Translate;
    use weir_site::Ipv6Config;
    use weir_view::Link;

    use super::*;
    use crate::fixture::site;
    use crate::{Overrides, derive};

    #[test]
    fn flows_keep_an_address_that_becomes_deprecated_and_no_new_one_gets_it() {
        let mut site = site(&["a"]);
        let translate = Translate::Napt;
        site.uplinks[0].ipv6 = Some(Ipv6Config { translate, ..Ipv6Config::default() });
        let [old, new] = ["2001:2:1::2", "2001:2:a::2"].map(|own| own.parse::<IpAddr>().unwrap());
        let [of_old, of_new] = [old, new].map(Address::from);
        let net = |own| (2, IpNet::new(own, 64).unwrap());
        let mut kernel = Kernel {
            links: vec![Link { index: 2, name: "wan0".into(), ..Link::default() }],
            addresses: vec![net(old)],
            ..Kernel::default()
        };
        let of = |kernel: &Kernel, last: Option<&ControlHalf>| {
            let half = derive(&site, kernel, &Overrides::default(), [&[]; 2], last).half;
            let path = half.uplinks[0].path(Family::V6);
            (path.addresses().to_vec(), path.held().to_vec(), half)
        };
        let (addresses, _, first) = of(&kernel, None);
        assert_eq!(addresses, [of_old]);
        kernel.addresses.push(net(new));
        kernel.unfit.insert((2, old));
        kernel.deprecated.insert((2, old));
        let (addresses, held, second) = of(&kernel, Some(&first));
        assert_eq!((addresses, held), (vec![of_new], vec![of_new, of_old]));
        let (_, held, _) = of(&kernel, Some(&second));
        assert_eq!(held, [of_new, of_old], "for as long as the interface has it");
        assert_eq!(of(&kernel, None).1, [of_new], "no flow has it");
        kernel.addresses.remove(0);
        kernel.unfit.clear();
        kernel.deprecated.clear();
        assert_eq!(of(&kernel, Some(&second)).1, [of_new]);
    }
}
