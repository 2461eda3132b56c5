//! An action that is carried out.

use std::net::IpAddr;

use weir_layout::Family;
use weir_ports::{Asker, Denial, Granted, IsBound, Mapping, Outside, Owner, Realm, Store, Wish};

use crate::device::Service;
use crate::fault::Fault;
use crate::soap::Action;
use crate::{connection, firewall, interface};

/// The longest that a client says of what a mapping is for, characters.
const DESCRIPTION: usize = 64;

/// What it is carried out with.
pub struct Call<'a> {
    /// What is asked for.
    pub action: &'a Action,
    /// What hosts have.
    pub store: &'a mut Store,
    /// Who asks, and when.
    pub asker: Asker<'a>,
    /// Which ports sockets of the gateway have.
    pub is_bound: IsBound<'a>,
    /// Since when the address outside is what it is, milliseconds.
    pub since: u64,
    /// Mappings are others than before.
    pub changes: bool,
}

/// What comes of it.
pub type Results = Result<Vec<(&'static str, String)>, Fault>;

impl Call<'_> {
    /// Carries it out.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn carry_out(&mut self, service: Service) -> Results {
        match service {
            Service::Interface => interface::carry_out(self),
            Service::Connection => connection::carry_out(self),
            Service::Firewall => firewall::carry_out(self),
        }
    }

    /// What the gateway has for hosts of the LAN, in a family.
    pub(crate) fn realm(&self, family: Family) -> Option<&Realm> {
        self.store.situation().realm(self.asker.lan, family)
    }

    /// Does the LAN reach the Internet by IPv4?
    pub(crate) fn is_connected(&self) -> bool {
        self.realm(Family::V4).is_some_and(|realm| realm.outside != Outside::Nowhere)
    }

    /// Is a mapping the asker's, by UPnP?
    pub(crate) fn is_its(&self, mapping: &Mapping) -> bool {
        mapping.owner.is_upnp() && mapping.inside.ip() == self.asker.from
    }

    /// An address that is to be the asker's own.
    pub(crate) fn own_address(&self, text: &str) -> Result<IpAddr, Fault> {
        let address: IpAddr = text.parse().map_err(|_| Fault::InvalidArgs)?;
        if address == self.asker.from { Ok(address) } else { Err(Fault::NotAuthorized) }
    }

    /// What the gateway has for the asker, by the address that it asks from.
    pub(crate) fn own_realm(&self) -> Result<Realm, Fault> {
        self.store.realm(self.asker).cloned().ok_or(Fault::NotAuthorized)
    }

    /// Grants the asker a port, or does not; what changed by either is told with the answer.
    pub(crate) fn grant(&mut self, realm: &Realm, wish: &Wish<'_>) -> Result<Granted, Denial> {
        let granted = self.store.grant(realm, wish, self.asker.now, self.is_bound);
        self.changes |= match &granted {
            Ok(granted) => granted.changes,
            Err(denied) => denied.changes,
        };
        granted.map_err(|denied| denied.why)
    }

    /// The time that a mapping has left, seconds.
    pub(crate) const fn left_s(&self, mapping: &Mapping) -> u64 {
        mapping.until.saturating_sub(self.asker.now) / 1000
    }
}

/// Whose a mapping is that is described so.
pub fn owner(description: &str) -> Owner {
    let plain = description.chars().filter(|character| !character.is_control());
    Owner::Upnp(plain.take(DESCRIPTION).collect())
}
