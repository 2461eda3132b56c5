//! What the command line tells of prefixes that providers delegate.

use anyhow::{Result, anyhow, bail};
use ipnet::{IpNet, Ipv6Net};
use weir_api::{DelegatedPrefix, DelegatedView, Request, time, untold};
use weir_layout::control::PathPrefix;
use weir_publish::{Delegations, Lease, onto_links};
use weir_site::{UplinkConfig, overlap, room};

use super::Daemon;

impl Daemon {
    /// Takes what was told of prefixes while no control process answered.
    pub(super) fn catch_up(&mut self) {
        let requests = untold::take(&self.socket);
        let trouble = |error: &anyhow::Error| {
            format!("what was told of prefixes meanwhile is not known: {error:#}")
        };
        self.untold.say(requests.as_ref().err().map(trouble));
        for request in requests.unwrap_or_default() {
            // Hooks tell of interfaces that are no uplinks too: refused is no fault.
            match self.change_prefixes(&request) {
                Ok(_) => self.write_down(format!("{request} (told while nobody answered)"), None),
                Err(error) => tracing::info!("told while nobody answered: {error:#}"),
            }
        }
    }

    /// Does what is asked of prefixes.
    pub(super) fn change_prefixes(&mut self, request: &Request) -> Result<String> {
        match request {
            Request::SetPrefix { uplink, prefix, valid_s, preferred_s } => {
                self.set_prefix(uplink, *prefix, *valid_s, *preferred_s)
            }
            Request::EndPrefix { uplink, prefix } => self.end_prefix(uplink, prefix),
            Request::KeepPrefixes { uplink, prefixes } => self.keep_prefixes(uplink, prefixes),
            _ => bail!("nothing of a prefix"),
        }
    }

    /// Takes a prefix, or another end of it.
    fn set_prefix(
        &mut self,
        uplink: &str,
        prefix: Ipv6Net,
        valid_s: Option<u32>,
        preferred_s: Option<u32>,
    ) -> Result<String> {
        let of = self.uplink_of(uplink)?;
        let name = of.name.clone();
        let longest = |lifetime: Option<u32>| lifetime.map_or(u64::MAX, Into::into);
        if longest(preferred_s) > longest(valid_s) {
            bail!("{prefix} cannot be preferred for longer than it is valid");
        }
        if valid_s == Some(0) {
            // How a provider says that it is no more.
            return Ok(self.end(&name, |lease| lease.prefix != prefix));
        }
        let (decider, known) = (&self.decider, self.decider.delegations());
        let objection = known.objection(decider.site(), decider.kernel(), of, &prefix);
        if let Some(objection) = objection {
            bail!("{objection}");
        }
        let now = time::monotonic_ms();
        let until = |seconds: Option<u32>| seconds.map(|s| now + u64::from(s) * 1000);
        let (valid_until, preferred_until) = (until(valid_s), until(preferred_s));
        let mut delegations = known.clone();
        delegations.set(&name, Lease { prefix, valid_until, preferred_until });
        self.delegate(delegations);
        let end =
            valid_s.map_or("without end".into(), |s| format!("for {}", time::duration(s.into())));
        let mut said = format!("{name} has {prefix} {end}");
        let (site, kernel) = (self.decider.site(), self.decider.kernel());
        let of = self.uplink_of(&name)?;
        let mut warnings = onto_links::of_uplink(site, kernel, of);
        warnings.extend(room::of_uplink(site, kernel, of));
        for warning in warnings {
            tracing::warn!("{warning}");
            said += &format!("\nwarning: {warning}");
        }
        Ok(said)
    }

    /// Ends a prefix.
    fn end_prefix(&mut self, uplink: &str, prefix: &Ipv6Net) -> Result<String> {
        let name = self.uplink_of(uplink)?.name.clone();
        let known = self.decider.delegations().of(&name);
        if !known.iter().any(|lease| lease.prefix == *prefix) {
            bail!("{name} has no prefix {prefix} that is delegated, see `weir prefix`");
        }
        Ok(self.end(&name, |lease| lease.prefix != *prefix))
    }

    /// Ends all but some.
    fn keep_prefixes(&mut self, uplink: &str, keep: &[Ipv6Net]) -> Result<String> {
        let name = self.uplink_of(uplink)?.name.clone();
        Ok(self.end(&name, |lease| keep.contains(&lease.prefix)))
    }

    /// Ends those of an uplink that are not to be kept; what there is to say.
    fn end(&mut self, name: &str, keep: impl Fn(&Lease) -> bool) -> String {
        let mut delegations = self.decider.delegations().clone();
        let ended = delegations.retain(name, keep);
        if ended.is_empty() {
            return format!("{name} has no others");
        }
        self.delegate(delegations);
        let ended: Vec<_> = ended.iter().map(ToString::to_string).collect();
        format!("{name} has {} no more", ended.join(", "))
    }

    fn delegate(&mut self, delegations: Delegations) {
        let now = time::monotonic_ms();
        self.delegated.keep(&delegations, now, time::now_s());
        self.decider.delegate(delegations, now);
    }

    /// Ends the prefixes whose time is over at `now`, and says so.
    pub(super) fn expire_prefixes(&mut self, now: u64) {
        let ended = self.decider.expire_prefixes(now);
        if ended.is_empty() {
            return;
        }
        for (uplink, prefix) in ended {
            tracing::warn!(
                "uplink {uplink}: {prefix} was not renewed and has ended: is the client of DHCPv6 \
                 alive, and does its hook run `weir prefix {uplink} set`?"
            );
        }
        self.delegated.keep(self.decider.delegations(), now, time::now_s());
    }

    /// Ends those that another file has no room for, or gives itself; why. Kept unseen, they would
    /// come back with a third one, while the provider may have changed them.
    pub(super) fn end_clashing_prefixes(&mut self) -> Vec<String> {
        let (site, kernel) = (self.decider.site().clone(), self.decider.kernel().clone());
        let mut delegations = self.decider.delegations().clone();
        let mut told = Vec::new();
        for uplink in &site.uplinks {
            for lease in self.decider.delegations().of(&uplink.name) {
                let objection = delegations.objection(&site, &kernel, uplink, &lease.prefix);
                if let Some(why) = objection {
                    delegations.retain(&uplink.name, |other| other.prefix != lease.prefix);
                    told.push(format!("uplink {} loses a prefix: {why}", uplink.name));
                }
            }
        }
        let known = delegations.clone();
        for (uplink, lease) in known.all() {
            if !site.uplinks.iter().any(|of| of.name == uplink) {
                delegations.retain(uplink, |other| other.prefix != lease.prefix);
                told.push(format!("{} ends: the file has no uplink {uplink}", lease.prefix));
            }
        }
        if !told.is_empty() {
            self.delegate(delegations);
        }
        told
    }

    /// What providers delegate, in the order of the file.
    pub(super) fn delegated(&self) -> Vec<DelegatedView> {
        let now = time::monotonic_ms();
        let site = self.decider.site();
        let (prefixes, lans) = (site.path_prefixes(), site.lan_prefixes(self.decider.kernel()));
        let left = |until: Option<u64>| until.map(|until| until.saturating_sub(now) / 1000);
        let view = |uplink: &UplinkConfig| {
            let index = site.index_of(uplink);
            let used = |prefix: Ipv6Net| {
                let is_it = |of: &PathPrefix| {
                    (of.uplink, of.outside_len) == (index, prefix.prefix_len())
                        && of.outside == prefix.network().octets()
                };
                // Where nothing is translated to it, it is used by who has addresses of it.
                let has_hosts = || lans.iter().any(|net| overlap(net, &IpNet::V6(prefix)));
                prefixes.iter().any(|of| is_it(of) && (of.is_pair() || has_hosts()))
            };
            let prefix = |lease: &Lease| DelegatedPrefix {
                prefix: lease.prefix,
                valid_s: left(lease.valid_until),
                preferred_s: left(lease.preferred_until),
                used: used(lease.prefix),
            };
            let leases = self.decider.delegations().of(&uplink.name).iter();
            let (name, interface) = (uplink.name.clone(), uplink.interface.clone());
            DelegatedView { uplink: name, interface, prefixes: leases.map(prefix).collect() }
        };
        site.uplinks.iter().filter(|uplink| uplink.is_delegated()).map(view).collect()
    }

    /// The uplink of this name, or by this interface: hooks know no other.
    fn uplink_of(&self, name: &str) -> Result<&UplinkConfig> {
        let uplinks = &self.decider.site().uplinks;
        let named = uplinks.iter().find(|uplink| uplink.name == name);
        let found = named.or_else(|| uplinks.iter().find(|uplink| uplink.interface == name));
        found.ok_or_else(|| {
            let known: Vec<_> = uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
            anyhow!("there is no uplink \"{name}\", and none by it; known: {}", known.join(", "))
        })
    }
}
