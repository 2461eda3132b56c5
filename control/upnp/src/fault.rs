//! Why an action is refused (UDA §3, WANIPConnection:2 §2.5, WANIPv6FirewallControl:1 §2.6).

/// An error of the standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such action.
    InvalidAction,
    /// An argument is missing, or is none.
    InvalidArgs,
    /// It cannot be done now.
    ActionFailed,
    /// An argument is none of those that may be.
    OutOfRange,
    /// The action is none that a device must have.
    NotImplemented,
    /// It is another host's, or a port that hosts may not have.
    NotAuthorized,
    /// There is no room for one more pinhole.
    PinholeSpaceExhausted,
    /// Pinholes are not for this host, or not for this port.
    PinholeNotAllowed,
    /// There is no such pinhole.
    NoSuchPinhole,
    /// What has no ports has no pinhole.
    ProtocolNotSupported,
    /// A pinhole is for one port.
    PinholePortWildcard,
    /// And for one protocol.
    PinholeProtocolWildcard,
    /// There are not so many.
    IndexInvalid,
    /// There is no such mapping.
    NoSuchEntry,
    /// By one port outside.
    ExternalPortWildcard,
    /// Another mapping has the port.
    Conflict,
    /// There are no ports left for it.
    NoPortsAvailable,
    /// The file has the port, a socket of the gateway, or another protocol's mapping.
    OtherMechanism,
    /// There is no mapping between these.
    NotFoundInRange,
    /// It is what it is.
    ReadOnly,
    /// A mapping leads to one port.
    InternalPortWildcard,
    /// The first is beyond the last.
    Inconsistent,
}

impl Fault {
    /// Its number.
    pub const fn code(self) -> u16 {
        match self {
            Self::InvalidAction => 401,
            Self::InvalidArgs => 402,
            Self::ActionFailed => 501,
            Self::OutOfRange => 601,
            Self::NotImplemented => 602,
            Self::NotAuthorized => 606,
            Self::PinholeSpaceExhausted => 701,
            Self::PinholeNotAllowed => 703,
            Self::NoSuchPinhole => 704,
            Self::ProtocolNotSupported => 705,
            Self::PinholePortWildcard => 706,
            Self::PinholeProtocolWildcard => 707,
            Self::IndexInvalid => 713,
            Self::NoSuchEntry => 714,
            Self::ExternalPortWildcard => 716,
            Self::Conflict => 718,
            Self::NoPortsAvailable => 728,
            Self::OtherMechanism => 729,
            Self::NotFoundInRange => 730,
            Self::ReadOnly => 731,
            Self::InternalPortWildcard => 732,
            Self::Inconsistent => 733,
        }
    }

    /// Its words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::InvalidAction => "Invalid Action",
            Self::InvalidArgs => "Invalid Args",
            Self::ActionFailed => "Action Failed",
            Self::OutOfRange => "Argument Value Out of Range",
            Self::NotImplemented => "Optional Action Not Implemented",
            Self::NotAuthorized => "Action not authorized",
            Self::PinholeSpaceExhausted => "PinholeSpaceExhausted",
            Self::PinholeNotAllowed => "InboundPinholeNotAllowed",
            Self::NoSuchPinhole => "NoSuchEntry",
            Self::ProtocolNotSupported => "ProtocolNotSupported",
            Self::PinholePortWildcard => "InternalPortWildcardingNotAllowed",
            Self::PinholeProtocolWildcard => "ProtocolWildcardingNotAllowed",
            Self::IndexInvalid => "SpecifiedArrayIndexInvalid",
            Self::NoSuchEntry => "NoSuchEntryInArray",
            Self::ExternalPortWildcard => "WildCardNotPermittedInExtPort",
            Self::Conflict => "ConflictInMappingEntry",
            Self::NoPortsAvailable => "NoPortMapsAvailable",
            Self::OtherMechanism => "ConflictWithOtherMechanisms",
            Self::NotFoundInRange => "PortMappingNotFound",
            Self::ReadOnly => "ReadOnly",
            Self::InternalPortWildcard => "WildCardNotPermittedInIntPort",
            Self::Inconsistent => "InconsistentParameters",
        }
    }
}
