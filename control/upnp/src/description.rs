//! What the devices and services can do (UDA §2.3, §2.5).

use crate::device::{DEVICE_VERSION, DEVICES, Device, Service, device_type};
use crate::soap::element;

/// Where the description of the devices is.
pub const ROOT: &str = "/gateway.xml";
/// Where that is which knows version 1 alone, for clients that give up where they read of another.
pub const ROOT_1: &str = "/gateway1.xml";

/// An action: its name, and its arguments with the variables that they are of.
type Action = (&'static str, &'static [Argument], &'static [Argument]);
type Argument = (&'static str, &'static str);
/// A variable: its name and type, and what it may be.
type Variable = (&'static str, &'static str, &'static [&'static str]);

/// The description of the devices, of a version.
pub fn devices(device: &Device, version: u8) -> String {
    format!(
        "<?xml version=\"1.0\"?>\r\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\">\
         <specVersion><major>1</major><minor>1</minor></specVersion>{}</root>\r\n",
        one(device, version, 0)
    )
}

/// A device with its services and those within it.
fn one(device: &Device, version: u8, index: usize) -> String {
    let is_there = |it: &Service| it.device() == index && it.is_of(version);
    let services = Service::ALL.into_iter().filter(is_there);
    let services: String = services.map(|service| listed(service, version)).collect();
    let within = if index + 1 < DEVICES.len() {
        format!("<deviceList>{}</deviceList>", one(device, version, index + 1))
    } else {
        String::new()
    };
    let services = match services.as_str() {
        "" => services,
        _ => format!("<serviceList>{services}</serviceList>"),
    };
    format!(
        "<device><deviceType>{}</deviceType><friendlyName>weir</friendlyName>\
         <manufacturer>weir</manufacturer><modelDescription>Gateway with several \
         uplinks</modelDescription><modelName>weir</modelName><UDN>{}</UDN>\
         {services}{within}</device>",
        device_type(DEVICES[index], version),
        device.names[index],
    )
}

fn listed(service: Service, version: u8) -> String {
    // No variable is evented: there is nothing to subscribe to.
    format!(
        "<service>{}{}{}{}<eventSubURL></eventSubURL></service>",
        element("serviceType", &service.urn(service.version().min(version))),
        element("serviceId", service.id()),
        element("SCPDURL", service.description(version)),
        element("controlURL", service.control()),
    )
}

/// The description of a service, as devices of a version have it.
pub fn service(service: Service, version: u8) -> String {
    let (actions, variables) = match service {
        Service::Interface => (INTERFACE, INTERFACE_VARIABLES),
        Service::Connection => (CONNECTION, CONNECTION_VARIABLES),
        Service::Firewall => (FIREWALL, FIREWALL_VARIABLES),
    };
    let is_later = version < DEVICE_VERSION && service == Service::Connection;
    let actions = actions.iter().filter(|(name, ..)| !(is_later && LATER.contains(name)));
    let variables = variables.iter().filter(|(name, ..)| !(is_later && LATER.contains(name)));
    let actions: String = actions.map(action).collect();
    let variables: String = variables.map(variable).collect();
    format!(
        "<?xml version=\"1.0\"?>\r\n<scpd xmlns=\"urn:schemas-upnp-org:service-1-0\">\
         <specVersion><major>1</major><minor>1</minor></specVersion>\
         <actionList>{actions}</actionList>\
         <serviceStateTable>{variables}</serviceStateTable></scpd>\r\n"
    )
}

fn action((name, given, results): &Action) -> String {
    let arguments = |arguments: &[Argument], direction: &str| -> String {
        let one = |(name, variable): &Argument| {
            format!(
                "<argument>{}<direction>{direction}</direction>{}</argument>",
                element("name", name),
                element("relatedStateVariable", variable)
            )
        };
        arguments.iter().map(one).collect()
    };
    let list = [arguments(given, "in"), arguments(results, "out")].concat();
    let list = match list.as_str() {
        "" => list,
        _ => format!("<argumentList>{list}</argumentList>"),
    };
    format!("<action>{}{list}</action>", element("name", name))
}

fn variable((name, kind, allowed): &Variable) -> String {
    let values: String = allowed.iter().map(|value| element("allowedValue", value)).collect();
    let values = match values.as_str() {
        "" => values,
        _ => format!("<allowedValueList>{values}</allowedValueList>"),
    };
    format!(
        "<stateVariable sendEvents=\"no\">{}{}{values}</stateVariable>",
        element("name", name),
        element("dataType", kind)
    )
}

const INTERFACE: &[Action] = &[(
    "GetCommonLinkProperties",
    &[],
    &[
        ("NewWANAccessType", "WANAccessType"),
        ("NewLayer1UpstreamMaxBitRate", "Layer1UpstreamMaxBitRate"),
        ("NewLayer1DownstreamMaxBitRate", "Layer1DownstreamMaxBitRate"),
        ("NewPhysicalLinkStatus", "PhysicalLinkStatus"),
    ],
)];

const INTERFACE_VARIABLES: &[Variable] = &[
    ("WANAccessType", "string", &["DSL", "POTS", "Cable", "Ethernet"]),
    ("Layer1UpstreamMaxBitRate", "ui4", &[]),
    ("Layer1DownstreamMaxBitRate", "ui4", &[]),
    ("PhysicalLinkStatus", "string", &["Up", "Down"]),
];

const KEY: [Argument; 3] = [
    ("NewRemoteHost", "RemoteHost"),
    ("NewExternalPort", "ExternalPort"),
    ("NewProtocol", "PortMappingProtocol"),
];
const REST: [Argument; 5] = [
    ("NewInternalPort", "InternalPort"),
    ("NewInternalClient", "InternalClient"),
    ("NewEnabled", "PortMappingEnabled"),
    ("NewPortMappingDescription", "PortMappingDescription"),
    ("NewLeaseDuration", "PortMappingLeaseDuration"),
];
const ENTRY: &[Argument] = &[KEY[0], KEY[1], KEY[2], REST[0], REST[1], REST[2], REST[3], REST[4]];
const RANGE: [Argument; 4] = [
    ("NewStartPort", "ExternalPort"),
    ("NewEndPort", "ExternalPort"),
    ("NewProtocol", "PortMappingProtocol"),
    ("NewManage", "A_ARG_TYPE_Manage"),
];

const CONNECTION: &[Action] = &[
    ("SetConnectionType", &[("NewConnectionType", "ConnectionType")], &[]),
    (
        "GetConnectionTypeInfo",
        &[],
        &[
            ("NewConnectionType", "ConnectionType"),
            ("NewPossibleConnectionTypes", "PossibleConnectionTypes"),
        ],
    ),
    ("RequestConnection", &[], &[]),
    ("ForceTermination", &[], &[]),
    (
        "GetStatusInfo",
        &[],
        &[
            ("NewConnectionStatus", "ConnectionStatus"),
            ("NewLastConnectionError", "LastConnectionError"),
            ("NewUptime", "Uptime"),
        ],
    ),
    (
        "GetNATRSIPStatus",
        &[],
        &[("NewRSIPAvailable", "RSIPAvailable"), ("NewNATEnabled", "NATEnabled")],
    ),
    ("GetGenericPortMappingEntry", &[("NewPortMappingIndex", "PortMappingNumberOfEntries")], ENTRY),
    ("GetSpecificPortMappingEntry", &KEY, &REST),
    ("AddPortMapping", ENTRY, &[]),
    ("AddAnyPortMapping", ENTRY, &[("NewReservedPort", "ExternalPort")]),
    ("DeletePortMapping", &KEY, &[]),
    ("DeletePortMappingRange", &RANGE, &[]),
    ("GetExternalIPAddress", &[], &[("NewExternalIPAddress", "ExternalIPAddress")]),
    (
        "GetListOfPortMappings",
        &[
            RANGE[0],
            RANGE[1],
            RANGE[2],
            RANGE[3],
            ("NewNumberOfPorts", "PortMappingNumberOfEntries"),
        ],
        &[("NewPortListing", "A_ARG_TYPE_PortListing")],
    ),
];

/// What WANIPConnection has since version 2.
const LATER: [&str; 5] = [
    "AddAnyPortMapping",
    "DeletePortMappingRange",
    "GetListOfPortMappings",
    "A_ARG_TYPE_Manage",
    "A_ARG_TYPE_PortListing",
];

const CONNECTION_VARIABLES: &[Variable] = &[
    ("ConnectionType", "string", &["Unconfigured", "IP_Routed", "IP_Bridged"]),
    ("PossibleConnectionTypes", "string", &["Unconfigured", "IP_Routed", "IP_Bridged"]),
    ("ConnectionStatus", "string", &["Unconfigured", "Connected", "Disconnected"]),
    ("Uptime", "ui4", &[]),
    ("LastConnectionError", "string", &["ERROR_NONE"]),
    ("RSIPAvailable", "boolean", &[]),
    ("NATEnabled", "boolean", &[]),
    ("ExternalIPAddress", "string", &[]),
    ("PortMappingNumberOfEntries", "ui2", &[]),
    ("PortMappingEnabled", "boolean", &[]),
    ("PortMappingLeaseDuration", "ui4", &[]),
    ("RemoteHost", "string", &[]),
    ("ExternalPort", "ui2", &[]),
    ("InternalPort", "ui2", &[]),
    ("PortMappingProtocol", "string", &["TCP", "UDP"]),
    ("InternalClient", "string", &[]),
    ("PortMappingDescription", "string", &[]),
    ("A_ARG_TYPE_Manage", "boolean", &[]),
    ("A_ARG_TYPE_PortListing", "string", &[]),
];

const PINHOLE: Argument = ("UniqueID", "A_ARG_TYPE_UniqueID");

const FIREWALL: &[Action] = &[
    (
        "GetFirewallStatus",
        &[],
        &[
            ("FirewallEnabled", "FirewallEnabled"),
            ("InboundPinholeAllowed", "InboundPinholeAllowed"),
        ],
    ),
    (
        "AddPinhole",
        &[
            ("RemoteHost", "A_ARG_TYPE_IPv6Address"),
            ("RemotePort", "A_ARG_TYPE_Port"),
            ("InternalClient", "A_ARG_TYPE_IPv6Address"),
            ("InternalPort", "A_ARG_TYPE_Port"),
            ("Protocol", "A_ARG_TYPE_Protocol"),
            ("LeaseTime", "A_ARG_TYPE_LeaseTime"),
        ],
        &[PINHOLE],
    ),
    ("UpdatePinhole", &[PINHOLE, ("NewLeaseTime", "A_ARG_TYPE_LeaseTime")], &[]),
    ("DeletePinhole", &[PINHOLE], &[]),
];

const FIREWALL_VARIABLES: &[Variable] = &[
    ("FirewallEnabled", "boolean", &[]),
    ("InboundPinholeAllowed", "boolean", &[]),
    ("A_ARG_TYPE_IPv6Address", "string", &[]),
    ("A_ARG_TYPE_Port", "ui2", &[]),
    ("A_ARG_TYPE_Protocol", "ui2", &[]),
    ("A_ARG_TYPE_LeaseTime", "ui4", &[]),
    ("A_ARG_TYPE_UniqueID", "ui2", &[]),
];
