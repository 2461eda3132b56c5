//! What an endpoint has outside for its next flow: its mapping while that stands, or the port of a
//! service that leads to it.
//!
//! A host that has a port, because it asked for it or the file says so, has it in both directions: by
//! each uplink where the service is published, what its endpoint sends leaves from there (RFC 6887 §11,
//! RFC 4787 REQ-1). Nobody else is given that port, so it need not be of the worker's own, nor of
//! those that flows may have. Flows that have it when the service ends keep it.

use weir_layout::control::{IpAddress, Translate};
use weir_shm::flows::Stored;
use weir_wire::family::Family;
use weir_wire::key::FlowKey;

use super::admit::{Elsewhere, Outside};
use super::context::Context;
use super::sessions::Sessions;
use crate::mappings::{Hashed, Mapping};
use crate::nat::{Endpoint, External, PortSlice};
use crate::steering::{self, Traffic};

impl Context {
    /// The port that an endpoint has by an uplink because a service leads to it.
    pub(super) fn port_of_service<F: Family>(
        &self,
        uplink: u8,
        proto: u8,
        (host, port): (F::Address, u16),
    ) -> Option<u16> {
        if !self.service_ports.may_have(port) {
            return None;
        }
        self.snapshot.half.port_of_service(F::path(uplink), proto, host.to_address(), port)
    }

    /// Is a port one that the worker may give away by an uplink?
    fn is_own_port<F: Family>(&self, uplink: u8, external: &External<F>) -> bool {
        let half = &self.snapshot.half;
        let slice = half
            .path(F::path(uplink))
            .and_then(|path| PortSlice::of(path.nat_lo, path.nat_hi, self.id, self.workers));
        slice.is_some_and(|slice| slice.contains(external.port))
            && !half.is_published(F::path(uplink), external.proto, external.port)
    }
}

impl<F: Stored> Sessions<F> {
    /// What the endpoint that sends a flow has by an uplink because a service leads to it, if no other
    /// has a mapping to that from before.
    pub(super) fn by_service(
        &self,
        cx: &Context,
        uplink: u8,
        key: &FlowKey<F>,
    ) -> Option<Hashed<External<F>>> {
        let inside = (key.src(), u16::from_be_bytes(key.sport()));
        let port = cx.port_of_service::<F>(uplink, key.proto(), inside)?;
        let path = cx.snapshot.half.path(F::path(uplink))?;
        if path.translation() != Translate::Napt {
            return None;
        }
        let address = cx.address_for::<F>(path, &key.src())?;
        let external = self.mappings.external(External { proto: key.proto(), address, port });
        let may = !self.mappings.maps(key.proto()) || self.mappings.may_have(inside, &external);
        may.then_some(external)
    }

    /// What a flow looks like from the port of a service that leads to its endpoint; `None`: who had the
    /// port before has this remote, or another mapping to it, or the endpoint asks itself.
    pub(super) fn out_by_service(
        &self,
        cx: &Context,
        key: &FlowKey<F>,
        uplink: u8,
        external: Hashed<External<F>>,
    ) -> Option<Outside<F>> {
        let still = self.by_service(cx, uplink, key)?.of == external.of;
        if !still || key.reversed() == *key {
            return None;
        }
        Outside::new(&self.table, cx.key, key, external)
    }

    /// May new flows use the endpoint's mapping?
    pub(super) fn is_in_force(
        &self,
        cx: &Context,
        endpoint: &Endpoint<F>,
        mapping: &Mapping<F>,
    ) -> bool {
        steering::usable(&cx.control, F::path(mapping.uplink)) && self.keeps(cx, endpoint, mapping)
    }

    /// May a new flow of the endpoint use its mapping: because all may, or for want of another uplink?
    pub(super) fn may_use(
        &self,
        cx: &Context,
        endpoint: &Endpoint<F>,
        mapping: &Mapping<F>,
        traffic: &Traffic<F>,
    ) -> bool {
        self.is_in_force(cx, endpoint, mapping) || self.is_resort(cx, endpoint, mapping, traffic)
    }

    /// Is what a mapping looks like outside still what its endpoint would have by the uplink?
    pub(super) fn keeps(
        &self,
        cx: &Context,
        endpoint: &Endpoint<F>,
        Mapping { uplink, external }: &Mapping<F>,
    ) -> bool {
        cx.has_address::<F>(*uplink, external.address)
            && cx.snapshot.half.maps(F::path(*uplink), external.proto)
            && match self.port_by_service(cx, *uplink, endpoint) {
                Some(port) => port == external.port,
                None => cx.is_own_port::<F>(*uplink, external),
            }
    }

    /// The port of [`Self::by_service`].
    fn port_by_service(&self, cx: &Context, uplink: u8, endpoint: &Endpoint<F>) -> Option<u16> {
        let Endpoint { proto, address, port, .. } = *endpoint;
        // The remote end says nothing.
        let key = FlowKey::new(address, address, port.to_be_bytes(), [0; 2], proto);
        Some(self.by_service(cx, uplink, &key)?.of.port)
    }

    /// Is it the mapping of an endpoint to the port of a service that leads to it?
    pub(super) fn is_of_service(
        &self,
        cx: &Context,
        endpoint: &Endpoint<F>,
        Mapping { uplink, external }: &Mapping<F>,
    ) -> bool {
        let inside = (endpoint.address, endpoint.port);
        cx.port_of_service::<F>(*uplink, endpoint.proto, inside) == Some(external.port)
    }

    /// Is the mapping of an uplink that is the last resort of the policy?
    fn is_resort(
        &self,
        cx: &Context,
        endpoint: &Endpoint<F>,
        mapping: &Mapping<F>,
        traffic: &Traffic<F>,
    ) -> bool {
        let elsewhere = || cx.elsewhere((mapping.uplink, true), endpoint.policy, traffic);
        steering::spared(&cx.control, F::path(mapping.uplink))
            && self.keeps(cx, endpoint, mapping)
            && matches!(elsewhere(), Elsewhere::Nowhere)
    }

    /// Counts a flow on the mapping of its endpoint to what it has outside; says whether it made that.
    pub(super) fn hold(
        &mut self,
        cx: &Context,
        endpoint: &Hashed<Endpoint<F>>,
        uplink: u8,
        external: &Hashed<External<F>>,
    ) -> bool {
        let mapping = Mapping { uplink, external: external.of };
        match self.is_of_service(cx, &endpoint.of, &mapping) {
            true => self.mappings.hold_service(endpoint, uplink, external),
            false => self.mappings.hold(endpoint, uplink, external),
        }
    }
}
