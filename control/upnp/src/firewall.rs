//! WANIPv6FirewallControl:1: pinholes of IPv6, for hosts that have addresses of their own outside.
//! A pinhole is a mapping whose ports are the same, known to its host by sixteen bits of its
//! number.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use weir_layout::Family;
use weir_layout::protocol::{TCP, UDP};
use weir_ports::{Denial, Filters, Mapping, Outside, Unavailable, Wish};

use crate::call::{Call, Results, owner};
use crate::fault::Fault;

/// The longest lease, seconds.
const DAY_S: u32 = 86_400;
/// All protocols.
const ANY_PROTOCOL: u16 = 65_535;

pub fn carry_out(call: &mut Call<'_>) -> Results {
    match call.action.name.as_str() {
        "GetFirewallStatus" => {
            let realm = call.realm(Family::V6);
            let allowed =
                realm.is_some_and(|it| !it.shares_addresses && it.outside != Outside::Nowhere);
            Ok(vec![
                ("FirewallEnabled", "1".into()),
                ("InboundPinholeAllowed", u8::from(allowed).to_string()),
            ])
        }
        "AddPinhole" => add(call),
        "UpdatePinhole" => update(call),
        "DeletePinhole" => {
            let id = find(call)?.id;
            call.changes |= call.store.retain(|mapping| mapping.id != id);
            Ok(Vec::new())
        }
        "GetOutboundPinholeTimeout" | "GetPinholePackets" | "CheckPinholeWorking" => {
            Err(Fault::NotImplemented)
        }
        _ => Err(Fault::InvalidAction),
    }
}

fn lease(call: &Call<'_>, name: &str) -> Result<u32, Fault> {
    let asked: u32 = call.action.value(name)?;
    let is_one = (1..=DAY_S).contains(&asked);
    let most = call.store.situation().limits.max_lifetime;
    if is_one { Ok(asked.min(most)) } else { Err(Fault::InvalidArgs) }
}

fn add(call: &mut Call<'_>) -> Results {
    let remote: Option<Ipv6Addr> = match call.action.text("RemoteHost")? {
        "" => None,
        text => Some(text.parse().map_err(|_| Fault::InvalidArgs)?),
    };
    let remote_port: u16 = call.action.value("RemotePort")?;
    let address = call.own_address(call.action.text("InternalClient")?)?;
    let port: u16 = call.action.value("InternalPort")?;
    let protocol = match call.action.value("Protocol")? {
        6 => TCP,
        17 => UDP,
        ANY_PROTOCOL => return Err(Fault::PinholeProtocolWildcard),
        _ => return Err(Fault::ProtocolNotSupported),
    };
    let lifetime = lease(call, "LeaseTime")?;
    if port == 0 {
        return Err(Fault::PinholePortWildcard);
    }
    if remote_port != 0 {
        // It would be open to all ports of the remote host: more than is asked for.
        return Err(Fault::ActionFailed);
    }
    let realm = call.own_realm()?;
    if realm.shares_addresses || realm.family != Family::V6 {
        return Err(Fault::PinholeNotAllowed);
    }
    let filter = remote.map(|remote| IpNet::from(IpAddr::V6(remote)));
    let inside = SocketAddr::new(address, port);
    let known = call.store.mappings().iter().find(|it| it.is_of(inside, protocol));
    if known.is_some_and(|known| call.is_its(known) && known.filters != filter.as_slice()) {
        // A port has one pinhole: for one remote host, or for all.
        return Err(Fault::PinholeSpaceExhausted);
    }
    let wish = Wish {
        inside,
        protocol,
        port,
        address: None,
        exactly: true,
        lifetime,
        owner: owner(""),
        filters: Filters { clears: true, add: filter.as_slice() },
    };
    let granted = call.grant(&realm, &wish).map_err(|why| match why {
        Denial::Owned(_) | Denial::Port(Unavailable::Forbidden) => Fault::NotAuthorized,
        Denial::Port(_) | Denial::Address => Fault::PinholeNotAllowed,
        Denial::NoRoom | Denial::Quota | Denial::FilterQuota => Fault::PinholeSpaceExhausted,
        Denial::FilterFamily => Fault::InvalidArgs,
        Denial::NoUplink | Denial::Protocol => Fault::ActionFailed,
    })?;
    Ok(vec![("UniqueID", (granted.id as u16).to_string())])
}

/// The asker's pinhole of this number.
fn find<'a>(call: &'a Call<'_>) -> Result<&'a Mapping, Fault> {
    let id: u16 = call.action.value("UniqueID")?;
    let is_one =
        |it: &&Mapping| it.owner.is_upnp() && it.family() == Family::V6 && it.id as u16 == id;
    let mut of_id = call.store.mappings().iter().filter(is_one);
    let found = of_id.clone().find(|mapping| call.is_its(mapping));
    let others = of_id.next().map_or(Fault::NoSuchPinhole, |_| Fault::NotAuthorized);
    found.ok_or(others)
}

fn update(call: &mut Call<'_>) -> Results {
    let lifetime = lease(call, "NewLeaseTime")?;
    let known = find(call)?.clone();
    let realm = call.own_realm()?;
    let wish = Wish {
        inside: known.inside,
        protocol: known.protocol,
        port: known.port,
        address: None,
        exactly: true,
        lifetime,
        owner: known.owner,
        filters: Filters { clears: true, add: &known.filters },
    };
    call.grant(&realm, &wish).map_err(|_| Fault::ActionFailed)?;
    Ok(Vec::new())
}
