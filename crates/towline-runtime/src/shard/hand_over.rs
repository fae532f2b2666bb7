//! Promotion and hand-over as callers ask for them: the node decides, this finds addresses and answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use towline_core::bugs::{Bug, bug};
use towline_core::format::Frame;
use towline_core::node::{Input, PromoteRequest, Promoted};
use towline_core::types::Lsn;

use super::Shard;
use crate::clock::ns_of;
use crate::handle::hand_over::Promotion;
use crate::handle::shared::Reply;
use crate::options::PeerAddress;

/// Who waits for a promotion.
pub(crate) enum PromotionAsker {
    Handle(Arc<Reply<Result<Promoted, String>>>),
    Client { client: u64, request: u64 },
}

/// Who waits for a pause.
pub(crate) enum PauseAsker {
    Handle(Arc<Reply<Result<Lsn, String>>>),
    Client { client: u64, request: u64 },
}

/// Everybody who waits, by the number that the node was given.
#[derive(Default)]
pub(crate) struct HandOvers {
    next: u64,
    promotions: HashMap<u64, PromotionAsker>,
    /// The addresses that undecided promotions named: they become this shard's when the promotion succeeds.
    named: BTreeMap<u64, Vec<PeerAddress>>,
    pauses: HashMap<u64, PauseAsker>,
}

impl HandOvers {
    /// The address that the promotion under way names. The node refuses every other one before it says another word, so
    /// the oldest that is undecided is the one.
    fn named(&self, name: &str) -> Option<String> {
        let (_, named) = self.named.first_key_value()?;
        named.iter().find(|standby| standby.name == name).map(|standby| standby.address.clone())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The shard has ended; its clients' connections end with it.
    pub(crate) fn end(&mut self, why: &str) {
        for (_, asker) in self.promotions.drain() {
            if let PromotionAsker::Handle(reply) = asker {
                reply.put(Err(why.to_owned()));
            }
        }
        for (_, asker) in self.pauses.drain() {
            if let PauseAsker::Handle(reply) = asker {
                reply.put(Err(why.to_owned()));
            }
        }
    }
}

impl Shard {
    pub(super) fn promote(&mut self, promotion: Promotion, asker: PromotionAsker) {
        let request = self.hand_overs.number();
        self.hand_overs.promotions.insert(request, asker);
        if let Some(bad) = promotion.standbys.iter().find(|standby| !standby.address.contains(':')) {
            let why = format!("'{}': '{}' is no host:port", bad.name, bad.address);
            return self.promoted(request, Err(why));
        }
        let names = promotion.standbys.iter().map(|standby| standby.name.clone()).collect();
        self.hand_overs.named.insert(request, promotion.standbys);
        self.core.brain.handle(Input::Promote(PromoteRequest {
            request,
            standbys: names,
            rule: promotion.rule,
            force: promotion.force,
            timeout_ns: ns_of(promotion.timeout),
        }));
    }

    pub(super) fn pause(&mut self, limit: Duration, asker: PauseAsker) {
        let request = self.hand_overs.number();
        self.hand_overs.pauses.insert(request, asker);
        self.core.brain.handle(Input::Pause { request, limit_ns: ns_of(limit) });
    }

    /// `Output::Promoted`.
    pub(super) fn promoted(&mut self, request: u64, result: Result<Promoted, String>) {
        // A refusal leaves everybody as they were, and where they were.
        let named = self.hand_overs.named.remove(&request);
        if let Some(named) = named.filter(|_| result.is_ok() || bug(Bug::AddressesKept)) {
            self.core.addresses = named.into_iter().map(|standby| (standby.name, standby.address)).collect();
        }
        match (self.hand_overs.promotions.remove(&request), result) {
            (Some(PromotionAsker::Handle(reply)), result) => reply.put(result),
            (Some(PromotionAsker::Client { client, request }), Ok(done)) => {
                let Promoted { term, start, adopters, warnings } = done;
                let warnings = warnings.join("\n");
                self.clients.push(client, &Frame::Promoted { request, term, start, adopters, warnings });
            }
            (Some(PromotionAsker::Client { client, request }), Err(why)) => {
                self.clients.done(client, request, why)
            }
            (None, _) => {}
        }
    }

    /// `Output::Paused`.
    pub(super) fn paused(&mut self, request: u64, result: Result<Lsn, String>) {
        match (self.hand_overs.pauses.remove(&request), result) {
            (Some(PauseAsker::Handle(reply)), result) => reply.put(result),
            (Some(PauseAsker::Client { client, request }), Ok(end)) => {
                self.clients.push(client, &Frame::Paused { request, end });
            }
            (Some(PauseAsker::Client { client, request }), Err(why)) => {
                self.clients.done(client, request, why)
            }
            (None, _) => {}
        }
    }

    /// `Output::Standbys`: from here on the node's numbers mean these.
    pub(super) fn standbys_change(&mut self, names: Vec<String>) {
        let address = |name: &String| {
            let known = || self.core.addresses.get(name).cloned();
            self.hand_overs.named(name).or_else(known).unwrap_or_default()
        };
        self.core.peers = names.iter().map(address).collect();
        self.core.events.rename(names);
    }
}
