//! WANIPConnection:2: port mappings of IPv4. A host sees, changes and ends those that it asked for
//! by UPnP, and no others (WANIPConnection:2 §2.5.14.3, §2.5.16.2, §2.5.18.2).

use std::net::{Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use weir_layout::Family;
use weir_layout::protocol::{TCP, UDP};
use weir_ports::{Denial, Filters, Mapping, Unavailable, Wish};

use crate::call::{Call, Results, owner};
use crate::fault::Fault;
use crate::soap::{LISTING, element};

/// The longest lease, and what is meant by none, seconds (WANIPConnection:2 §2.5.16.2).
const WEEK_S: u32 = 604_800;

pub fn carry_out(call: &mut Call<'_>) -> Results {
    match call.action.name.as_str() {
        "SetConnectionType" => Err(Fault::ReadOnly),
        "GetConnectionTypeInfo" => Ok(vec![
            ("NewConnectionType", "IP_Routed".into()),
            ("NewPossibleConnectionTypes", "IP_Routed".into()),
        ]),
        "RequestConnection" if call.is_connected() => Ok(Vec::new()),
        "RequestConnection" => Err(Fault::ActionFailed),
        "RequestTermination" | "ForceTermination" => Err(Fault::NotAuthorized),
        "GetStatusInfo" => Ok(status(call)),
        "GetNATRSIPStatus" => {
            let nat = call.realm(Family::V4).is_some_and(|realm| realm.shares_addresses);
            Ok(vec![("NewRSIPAvailable", "0".into()), ("NewNATEnabled", u8::from(nat).to_string())])
        }
        "GetExternalIPAddress" => {
            let realm = call.realm(Family::V4);
            let address = realm.and_then(|realm| realm.outside.of(call.asker.from));
            let text = address.map(|address| address.to_string()).unwrap_or_default();
            Ok(vec![("NewExternalIPAddress", text)])
        }
        "GetGenericPortMappingEntry" => generic(call),
        "GetSpecificPortMappingEntry" => specific(call),
        "GetListOfPortMappings" => list(call),
        "AddPortMapping" => add(call, true),
        "AddAnyPortMapping" => add(call, false),
        "DeletePortMapping" => delete(call),
        "DeletePortMappingRange" => delete_range(call),
        "SetAutoDisconnectTime"
        | "SetIdleDisconnectTime"
        | "SetWarnDisconnectDelay"
        | "GetAutoDisconnectTime"
        | "GetIdleDisconnectTime"
        | "GetWarnDisconnectDelay" => Err(Fault::NotImplemented),
        _ => Err(Fault::InvalidAction),
    }
}

fn status(call: &Call<'_>) -> Vec<(&'static str, String)> {
    let connected = call.is_connected();
    let up = if connected { call.asker.now.saturating_sub(call.since) / 1000 } else { 0 };
    vec![
        ("NewConnectionStatus", if connected { "Connected" } else { "Disconnected" }.into()),
        ("NewLastConnectionError", "ERROR_NONE".into()),
        ("NewUptime", up.to_string()),
    ]
}

/// What a mapping is known by (WANIPConnection:2 §2.5.15).
struct Key {
    /// Who may use it; none: everybody.
    remote: Option<Ipv4Addr>,
    port: u16,
    protocol: u8,
}

impl Key {
    fn read(call: &Call<'_>) -> Result<Self, Fault> {
        let remote = match call.action.text("NewRemoteHost").unwrap_or_default() {
            "" | "*" => None,
            text => Some(text.parse().map_err(|_| Fault::InvalidArgs)?),
        };
        let protocol = protocol(call)?;
        Ok(Self { remote, port: call.action.value("NewExternalPort")?, protocol })
    }

    /// Is a mapping at this port, by IPv4?
    fn is_at(&self, mapping: &Mapping) -> bool {
        mapping.family() == Family::V4
            && (mapping.port, mapping.protocol) == (self.port, self.protocol)
    }

    /// Is it that one, whose ever?
    fn is_of(&self, mapping: &Mapping) -> bool {
        self.is_at(mapping) && remote(mapping) == self.remote
    }

    /// The asker's own mapping of this key.
    fn find<'a>(&self, call: &'a Call<'_>) -> Result<&'a Mapping, Fault> {
        let mut of_key = call.store.mappings().iter().filter(|mapping| self.is_of(mapping));
        let found = of_key.clone().find(|mapping| call.is_its(mapping));
        // Version 1 has no word for another's.
        let is_told = of_key.next().is_some() && !call.action.is_of_version_1();
        found.ok_or(if is_told { Fault::NotAuthorized } else { Fault::NoSuchEntry })
    }
}

fn protocol(call: &Call<'_>) -> Result<u8, Fault> {
    match call.action.text("NewProtocol")? {
        text if text.eq_ignore_ascii_case("TCP") => Ok(TCP),
        text if text.eq_ignore_ascii_case("UDP") => Ok(UDP),
        _ => Err(Fault::OutOfRange),
    }
}

/// Who alone may use a mapping.
fn remote(mapping: &Mapping) -> Option<Ipv4Addr> {
    match mapping.filters.first()? {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    }
}

/// Makes or renews a mapping: at that port, or at another where it is not to be had.
fn add(call: &mut Call<'_>, exactly: bool) -> Results {
    let key = Key::read(call)?;
    let inside_port: u16 = call.action.value("NewInternalPort")?;
    // Clients leave out what they mean nothing by.
    let client = match call.action.text("NewInternalClient")? {
        "" => call.asker.from,
        text => call.own_address(text)?,
    };
    let inside = SocketAddr::new(client, inside_port);
    let asked: u32 = call.action.value_or("NewLeaseDuration", 0)?;
    let owner = owner(call.action.text("NewPortMappingDescription").unwrap_or_default());
    if key.port == 0 {
        return Err(Fault::ExternalPortWildcard);
    }
    if inside_port == 0 {
        return Err(Fault::InternalPortWildcard);
    }
    if !call.action.flag("NewEnabled")? {
        // One that leads nowhere would keep a port from others.
        return Err(Fault::ActionFailed);
    }
    // A remote host is of IPv4: for hosts of IPv6 there are pinholes.
    let realm = call.own_realm()?;
    if realm.family != Family::V4 {
        return Err(Fault::NotAuthorized);
    }
    let lease = if asked == 0 { WEEK_S } else { asked.min(WEEK_S) };
    let filter = key.remote.map(|remote| IpNet::from(std::net::IpAddr::V4(remote)));
    let mut wish = Wish {
        inside,
        protocol: key.protocol,
        port: key.port,
        address: None,
        exactly,
        lifetime: lease.min(call.store.situation().limits.max_lifetime),
        owner,
        filters: Filters { clears: true, add: filter.as_slice() },
    };
    let own = call.store.mappings().iter().filter(|mapping| call.is_its(mapping));
    let at_port = own.clone().find(|mapping| key.is_at(mapping));
    match at_port {
        // A port leads to a host for one remote host, or for all (Figure 2-3: vendor specific).
        Some(known) if !key.is_of(known) && exactly => return Err(Fault::Conflict),
        Some(known) if !key.is_of(known) => wish.port = 0,
        Some(_) => {}
        None if exactly => {}
        None => {
            let ends = (inside, key.protocol);
            let same = |it: &&Mapping| it.is_of(inside, key.protocol) && remote(it) == key.remote;
            let available = call.store.check(&realm, ends, key.port, call.is_bound).is_ok();
            let before = own.clone().find(same).filter(|_| !available);
            wish.port = before.map_or(key.port, |mapping| mapping.port);
        }
    }
    let granted = call.grant(&realm, &wish).map_err(|why| refused(call, &key, why))?;
    let reserved = ("NewReservedPort", granted.port.to_string());
    Ok(if exactly { Vec::new() } else { vec![reserved] })
}

fn refused(call: &Call<'_>, key: &Key, why: Denial) -> Fault {
    let by_upnp = |it: &Mapping| key.is_at(it) && it.owner.is_upnp();
    let is_of_port = matches!(why, Denial::Owned(_) | Denial::Port(_) | Denial::Address);
    if is_of_port && call.action.is_of_version_1() {
        // It has one error of ports, after which its clients try another.
        return Fault::Conflict;
    }
    match why {
        Denial::Owned(_) | Denial::Port(Unavailable::Forbidden | Unavailable::NotTheSame) => {
            Fault::NotAuthorized
        }
        Denial::Port(Unavailable::Taken) if call.store.mappings().iter().any(by_upnp) => {
            Fault::Conflict
        }
        Denial::Port(_) | Denial::Address => Fault::OtherMechanism,
        Denial::NoRoom | Denial::Quota | Denial::FilterQuota => Fault::NoPortsAvailable,
        Denial::FilterFamily => Fault::InvalidArgs,
        Denial::NoUplink | Denial::Protocol => Fault::ActionFailed,
    }
}

fn delete(call: &mut Call<'_>) -> Results {
    let id = Key::read(call)?.find(call)?.id;
    call.changes |= call.store.retain(|mapping| mapping.id != id);
    Ok(Vec::new())
}

/// Ports from the first to the last, of a protocol.
struct Range {
    ports: (u16, u16),
    protocol: u8,
}

impl Range {
    /// Who manages all hosts would be told apart by `NewManage`: nobody is.
    fn read(call: &Call<'_>) -> Result<Self, Fault> {
        let ports = (call.action.value("NewStartPort")?, call.action.value("NewEndPort")?);
        let protocol = protocol(call)?;
        call.action.flag("NewManage")?;
        if ports.0 > ports.1 { Err(Fault::Inconsistent) } else { Ok(Self { ports, protocol }) }
    }

    /// The asker's own mappings there.
    fn find<'a>(&self, call: &'a Call<'_>) -> Vec<&'a Mapping> {
        let within = |mapping: &&Mapping| {
            let at = (self.ports.0..=self.ports.1).contains(&mapping.port);
            at && mapping.protocol == self.protocol && is_own(call, mapping)
        };
        call.store.mappings().iter().filter(within).collect()
    }
}

fn is_own(call: &Call<'_>, mapping: &Mapping) -> bool {
    mapping.family() == Family::V4 && call.is_its(mapping)
}

fn delete_range(call: &mut Call<'_>) -> Results {
    let found: Vec<u32> = Range::read(call)?.find(call).iter().map(|mapping| mapping.id).collect();
    if found.is_empty() {
        return Err(Fault::NotFoundInRange);
    }
    call.changes |= call.store.retain(|mapping| !found.contains(&mapping.id));
    Ok(Vec::new())
}

/// The results that tell of a mapping, in the order of GetGenericPortMappingEntry.
fn entry(call: &Call<'_>, mapping: &Mapping) -> [(&'static str, String); 8] {
    let description = match &mapping.owner {
        weir_ports::Owner::Upnp(description) => description.clone(),
        _ => String::new(),
    };
    let protocol = if mapping.protocol == TCP { "TCP" } else { "UDP" };
    [
        ("NewRemoteHost", remote(mapping).map(|it| it.to_string()).unwrap_or_default()),
        ("NewExternalPort", mapping.port.to_string()),
        ("NewProtocol", protocol.into()),
        ("NewInternalPort", mapping.inside.port().to_string()),
        ("NewInternalClient", mapping.inside.ip().to_string()),
        ("NewEnabled", "1".into()),
        ("NewPortMappingDescription", description),
        ("NewLeaseDuration", call.left_s(mapping).to_string()),
    ]
}

fn generic(call: &Call<'_>) -> Results {
    let index: u16 = call.action.value("NewPortMappingIndex")?;
    let mut own = call.store.mappings().iter().filter(|mapping| is_own(call, mapping));
    let found = own.nth(index.into()).ok_or(Fault::IndexInvalid)?;
    Ok(entry(call, found).into())
}

fn specific(call: &Call<'_>) -> Results {
    let found = Key::read(call)?.find(call)?;
    Ok(entry(call, found)[3..].to_vec())
}

/// A document within a result (WANIPConnection:2 §2.5.21).
fn list(call: &Call<'_>) -> Results {
    let range = Range::read(call)?;
    let most: u16 = call.action.value("NewNumberOfPorts")?;
    let most = if most == 0 { usize::MAX } else { most.into() };
    let mut found = range.find(call);
    found.truncate(most);
    if found.is_empty() {
        return Err(Fault::NotFoundInRange);
    }
    let one = |mapping: &&Mapping| {
        let told = entry(call, mapping);
        let of = |name: &str| told.iter().find(|(it, _)| *it == name).map_or("", |(_, text)| text);
        let names = [
            ("p:NewRemoteHost", "NewRemoteHost"),
            ("p:NewExternalPort", "NewExternalPort"),
            ("p:NewProtocol", "NewProtocol"),
            ("p:NewInternalPort", "NewInternalPort"),
            ("p:NewInternalClient", "NewInternalClient"),
            ("p:NewEnabled", "NewEnabled"),
            ("p:NewDescription", "NewPortMappingDescription"),
            ("p:NewLeaseTime", "NewLeaseDuration"),
        ];
        let parts: String = names.iter().map(|(as_, name)| element(as_, of(name))).collect();
        format!("<p:PortMappingEntry>{parts}</p:PortMappingEntry>")
    };
    let entries: String = found.iter().map(one).collect();
    let listing = format!(
        "<?xml version=\"1.0\"?><p:PortMappingList \
         xmlns:p=\"urn:schemas-upnp-org:gw:WANIPConnection\">{entries}</p:PortMappingList>"
    );
    Ok(vec![(LISTING, listing)])
}
