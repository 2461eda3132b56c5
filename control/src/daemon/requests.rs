//! What the command line asks.

use anyhow::{Context, Result, anyhow, bail};
use weir_api::{Message, Override, Query, Request, Response, time};
use weir_kernel::watch::Watcher;
use weir_layout::Family;
use weir_layout::control::{Member, PathId, Uplink, path_state};
use weir_publish::{Hand, beside};

use super::Daemon;
use super::audit::{author, tell_refused};
use crate::by_hand;
use crate::serve::Caller;

impl Daemon {
    pub(super) async fn answer(
        &mut self,
        message: &Message,
        caller: &Caller,
        watcher: &mut Watcher,
    ) -> Response {
        self.executor.words.acknowledge(message);
        let request = match message {
            Message::Ask(query) => return self.tell(query),
            Message::Do(request) => request,
        };
        self.catch_up();
        let before = self.decider.overrides().clone();
        let listed = self.overridden();
        match self.apply(request, caller, watcher).await {
            Ok(message) => {
                // Before what follows of it.
                self.write_down(request.to_string(), Some(author(request, caller)));
                let epoch = self.enforce(watcher).await;
                self.ledger.note(&listed, &self.overridden(), caller);
                Response::Ok { epoch, message }
            }
            Err(error) => {
                tell_refused(request, caller, &error);
                if *request != Request::Reload {
                    *self.decider.overrides_mut() = before;
                }
                Response::Error { message: format!("{error:#}") }
            }
        }
    }

    fn tell(&self, query: &Query) -> Response {
        match query {
            Query::Health => Response::Health { uplinks: self.view() },
            Query::History { since } => {
                let history = self.decider.history();
                Response::History { entries: history.since(*since).cloned().collect() }
            }
            Query::Overrides => {
                Response::Overrides { overrides: self.ledger.tell(self.overridden()) }
            }
            Query::Advertised => Response::Advertised { lans: self.executor.advertisers.view() },
            Query::Delegated => Response::Delegated { uplinks: self.delegated() },
            Query::Mapped => Response::Mapped { mappings: self.port_mapper.view() },
            Query::Configuration => Response::Configuration { configuration: self.source.view() },
        }
    }

    /// What is set by hand, without when and by whom.
    fn overridden(&self) -> Vec<Override> {
        by_hand::list(self.decider.site(), self.decider.overrides())
    }

    async fn apply(
        &mut self,
        request: &Request,
        caller: &Caller,
        watcher: &mut Watcher,
    ) -> Result<String> {
        match request {
            Request::Up { uplink } => {
                let index = self.uplink(uplink)?;
                self.decider.overrides_mut().hands.remove(&index);
                Ok(format!("{uplink} is up as far as it depends on you"))
            }
            Request::Down { uplink } => {
                let index = self.uplink(uplink)?;
                self.decider.overrides_mut().hands.insert(index, Hand::Down);
                Ok(format!("{uplink} is down by hand"))
            }
            Request::Drain { uplink, deadline_s } => self.drain(uplink, *deadline_s),
            Request::Use { uplink, force } => self.confine(uplink, *force, caller),
            Request::SetPrefix { .. }
            | Request::EndPrefix { .. }
            | Request::KeepPrefixes { .. } => self.change_prefixes(request),
            Request::Unmap { name } => match self.port_mapper.remove(name).await? {
                true => Ok(format!("{name} is mapped no more, unless its host asks again")),
                false => bail!("no host has a port called \"{name}\", see `weir publish`"),
            },
            Request::Home { policy } => {
                let policy = policy.as_deref().map(|policy| self.policy(policy)).transpose()?;
                self.decider.ask_home(policy);
                Ok("flows that are away come home".into())
            }
            Request::Reload => {
                let warnings = self.reload(watcher).await?;
                let lines = warnings.iter().map(|warning| format!("\nwarning: {warning}"));
                Ok(format!("configuration reloaded{}", lines.collect::<String>()))
            }
            Request::Reset { uplink } => self.reset(uplink.as_deref()),
            Request::ResetWeight { uplink, policy } => self.reset_weight(uplink, policy.as_deref()),
            Request::Weight { uplink, weight, policy } => {
                let index = self.uplink(uplink)?;
                let given = u16::try_from(*weight).ok().filter(|w| *w <= Member::MAX_WEIGHT);
                let weight = given.ok_or_else(|| {
                    anyhow!("weight {weight} is out of range: use 0 to {}", Member::MAX_WEIGHT)
                })?;
                self.weigh(index, weight, policy.as_deref())
            }
        }
    }

    fn drain(&mut self, uplink: &str, deadline_s: Option<u64>) -> Result<String> {
        let index = self.uplink(uplink)?;
        let hands = &mut self.decider.overrides_mut().hands;
        if let Some(Hand::Down | Hand::Drained(_)) = hands.get(&index) {
            bail!("{uplink} is down by hand and has no flows: `weir up {uplink}` first");
        }
        let (until, end) = match deadline_s {
            Some(seconds) => (
                time::boot_s().saturating_add(seconds),
                format!("until {}", time::of_day(time::now_s().saturating_add(seconds))),
            ),
            None => (Uplink::NO_DEADLINE, "until `weir up` or `weir down`".into()),
        };
        hands.insert(index, Hand::Draining(until));
        Ok(format!("{uplink} drains {end}"))
    }

    /// Has what the caller's process sends leave by the uplink alone.
    fn confine(&mut self, uplink: &str, force: bool, caller: &Caller) -> Result<String> {
        let index = self.uplink(uplink)?;
        let region = self.executor.writer.region();
        let word = |family| region.path_state(PathId::new(index, family));
        let usable = Family::ALL.iter().any(|f| word(*f) & path_state::USABLE != 0);
        if !self.decider.site().own_traffic {
            bail!("this takes weir's routes: remove own_traffic = false from the file");
        }
        if !usable && !force {
            bail!("{uplink} is down, see `weir uplinks`; --force tries nevertheless");
        }
        let caller = caller.pid.context("the process that asks is not to be seen from here")?;
        self.confined.enter(caller, index)?;
        Ok(format!("process {caller} uses {uplink}"))
    }

    /// Undoes what was set by hand, of an uplink or of all.
    fn reset(&mut self, uplink: Option<&str>) -> Result<String> {
        let only = uplink.map(|uplink| self.uplink(uplink)).transpose()?;
        let stays = |index: u8| only.is_some_and(|only| only != index);
        let overrides = self.decider.overrides_mut();
        overrides.hands.retain(|index, _| stays(*index));
        overrides.weights.retain(|index, _| stays(*index));
        overrides.member_weights.retain(|(_, index), _| stays(*index));
        if let Some(uplink) = uplink {
            // Weights of others may have made up for its own.
            self.refuse_weightless(uplink)?;
        }
        Ok(format!("{} is as in the file", uplink.unwrap_or("every uplink")))
    }

    fn reset_weight(&mut self, uplink: &str, policy: Option<&str>) -> Result<String> {
        let index = self.uplink(uplink)?;
        let policy = policy.map(|policy| self.policy(policy)).transpose()?;
        let overrides = self.decider.overrides_mut();
        let was = match policy {
            None => overrides.weights.remove(&index),
            Some(at) => overrides.member_weights.remove(&(at as u8, index)),
        };
        if was.is_none() {
            bail!("the weight of {uplink} is not set by hand there, see `weir overrides`");
        }
        self.refuse_weightless(uplink)?;
        Ok(format!("weight of {uplink} is the file's again"))
    }

    fn weigh(&mut self, index: u8, weight: u16, policy: Option<&str>) -> Result<String> {
        let name = self.decider.site().uplinks[usize::from(index)].name.clone();
        match policy {
            None => {
                self.decider.overrides_mut().weights.insert(index, weight);
            }
            Some(policy) => {
                let at = self.policy(policy)?;
                if !self.decider.site().policies[at].members.iter().any(|m| m.uplink == index) {
                    bail!("{name} is no member of policy {policy}");
                }
                self.decider.overrides_mut().member_weights.insert((at as u8, index), weight);
            }
        }
        self.refuse_weightless(&name)?;
        Ok(format!("weight of {name} is {weight}"))
    }

    fn refuse_weightless(&self, uplink: &str) -> Result<()> {
        let half = self.decider.derive(self.decider.overrides()).half;
        match beside::weightless(&half, self.decider.site().policies.len()) {
            None => Ok(()),
            Some(policy) => bail!(
                "with that, the weights of policy {policy} add up to zero: use `weir down {uplink}` to take it out"
            ),
        }
    }

    fn policy(&self, name: &str) -> Result<usize> {
        let names: Vec<_> = self.decider.site().policies.iter().map(|p| p.name.as_str()).collect();
        let at = names.iter().position(|n| *n == name);
        at.ok_or_else(|| anyhow!("there is no policy \"{name}\"; known: {}", names.join(", ")))
    }

    fn uplink(&self, name: &str) -> Result<u8> {
        let names: Vec<_> = self.decider.site().uplinks.iter().map(|u| u.name.as_str()).collect();
        let at = names.iter().position(|n| *n == name);
        at.map(|at| at as u8)
            .ok_or_else(|| anyhow!("there is no uplink \"{name}\"; known: {}", names.join(", ")))
    }
}
