//! The server with what it grants.

use weir_pcp::Answer;
use weir_pcp::server::Announcement;
use weir_ports::{Asker, IsBound, Mapping, Situation, Store};

#[derive(Default)]
pub struct Server {
    pcp: weir_pcp::Server,
    pub store: Store,
}

impl Server {
    #[allow(dead_code, reason = "only one of the tests goes on from another process")]
    pub fn new(mappings: Vec<Mapping>) -> Self {
        Self { pcp: weir_pcp::Server::default(), store: Store::new(mappings) }
    }

    pub fn mappings(&self) -> &[Mapping] {
        self.store.mappings()
    }

    pub fn follow(&mut self, situation: Situation, now: u64) -> bool {
        self.pcp.follow(&situation, now);
        let Self { pcp, store } = self;
        store.follow(situation, now, |mapping| pcp.lose(mapping, now))
    }

    #[allow(dead_code, reason = "only one of the tests takes mappings back")]
    pub fn remove(&mut self, name: &str, now: u64) -> bool {
        let removed = self.store.remove(name);
        removed.inspect(|mapping| self.pcp.lose(mapping, now)).is_some()
    }

    #[allow(dead_code, reason = "only one of the tests lets time pass")]
    pub fn announce(&mut self, now: u64) -> Vec<Announcement> {
        self.pcp.announce(now)
    }

    pub fn answer(
        &mut self,
        datagram: &[u8],
        asker: Asker<'_>,
        is_bound: IsBound<'_>,
    ) -> Option<Answer> {
        self.pcp.answer(&mut self.store, datagram, asker, is_bound)
    }
}
