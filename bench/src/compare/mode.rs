//! `--mode`: what is special about flows, beside their family.

use std::sync::LazyLock;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use weir_kit::ipv6;

/// What is special about the flows of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What weir does with their addresses, which are of IPv6.
    Ipv6(ipv6::Mode),
    /// They begin outside.
    Inbound,
}

static ALL: LazyLock<Vec<Mode>> = LazyLock::new(|| {
    let of_ipv6 = ipv6::Mode::value_variants().iter().copied().map(Mode::Ipv6);
    of_ipv6.chain([Mode::Inbound]).collect()
});

impl Mode {
    /// As the command line and reports have it.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }
}

impl ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Self] {
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Ipv6(mode) => mode.to_possible_value(),
            Self::Inbound => Some(PossibleValue::new("inbound").help(
                "IPv4: flows begin outside, at a published service, beside as many of \
                           NAT44 that begin inside",
            )),
        }
    }
}
