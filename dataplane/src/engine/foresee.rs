//! What a new flow will need, asked for while others of its batch are still on their way.
//!
//! A flow is made of half a dozen places in memory that have nothing to do with each other: both
//! directions' tags and slots, the endpoint's mapping, the external port's. One after the other
//! they would be as many cache misses; foreseen, those of a batch are one. What is foreseen is only
//! asked for: whether it comes to pass is decided when it is the packet's turn.

use super::*;

impl Engine {
    /// Asks for the endpoint's mapping of a packet that may begin a flow.
    pub(super) fn foresee_mapping(&self, work: &mut Work) {
        let p = &work.parsed;
        if p.kind != Kind::Flow || self.is_uplink(work.port) {
            return;
        }
        let traffic = traffic_of(p, work.port);
        let policy = steering::policy(&self.snapshot.half, &traffic);
        let endpoint = Endpoint { proto: p.proto, policy, address: p.src, port: traffic.sport };
        if p.proto != tcp::PROTOCOL {
            self.mappings.prefetch(&endpoint);
        }
        work.new = Some(New { endpoint, answers: None });
    }

    /// Asks for where the answers' entry will be looked for, and for the external port.
    pub(super) fn foresee_answers(&self, work: &mut Work, now: u32) {
        let Some(New { endpoint, .. }) = work.new else { return };
        let (p, key) = (&work.parsed, key_of(&work.parsed));
        let mapped = match p.proto {
            tcp::PROTOCOL => None,
            _ => self.mappings.get(&endpoint),
        };
        let outside = match mapped {
            Some(mapping) => translated(&key, &mapping.external),
            None => {
                let traffic = traffic_of(p, work.port);
                let Some(uplink) = self.choose(endpoint.policy, &traffic, now) else { return };
                let Some(up) = self.snapshot.half.uplinks.get(usize::from(uplink)) else { return };
                match self.address_for(up, &key) {
                    Some(address) => {
                        let external = External { proto: p.proto, address, port: endpoint.port };
                        if p.proto != tcp::PROTOCOL {
                            self.mappings.prefetch_external(&external);
                        }
                        translated(&key, &external)
                    }
                    None => key,
                }
            }
        };
        let hash = flow4(self.key, &reversed(&outside));
        self.table.prefetch_tags(hash);
        self.table.prefetch_spills(hash);
        work.new = Some(New { endpoint, answers: Some(hash) });
    }

    /// Asks for the slots that the entries will take.
    pub(super) fn foresee_slots(&self, work: &Work) {
        if let Some(New { answers: Some(answers), .. }) = work.new {
            self.table.prefetch_free(work.hash);
            self.table.prefetch_free(answers);
        }
    }
}
