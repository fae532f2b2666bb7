//! Promotion of a standby: rule 2 of SEMANTICS section 4.
//!
//! ```text
//!   probe → flush → take the term → ask → (as a restarted primary) fix its start, lead
//! ```
//! Up to the flush nothing has changed for anybody: a promotion that is refused while it probes leaves a healthy
//! primary alone, and this node follows it all the while. From the term on the machinery is that of `restart`.

use super::shipping::{Link, Peer};
use super::{FreezeReason, Node, Output, PromoteRequest, Promoted, Role, note};
use crate::bugs::{Bug, bug};
use crate::format::LogEnd;
use crate::replication::single_leader::{Candidacy, quorum};
use crate::replication::{CommitGate, SyncRule};
use crate::types::limits::{MAX_NAME_BYTES, MAX_STANDBYS};
use crate::types::{Lsn, NodeId, PeerIndex, RegisteredStandby, Term};

/// A promotion on its way.
#[derive(Debug)]
pub(super) struct Promotion {
    request: PromoteRequest,
    stage: Stage,
    /// It led the last term of this log, and does not count.
    superseded: NodeId,
    heard: Vec<Heard>,
    /// The peers before, and whether they were relayed to: they come back when this fails.
    former: (Vec<String>, bool),
    /// Until then everybody is given the time to answer.
    grace_ns: u64,
    deadline_ns: u64,
    adopters: Vec<String>,
}

/// What a candidate knew before it led.
pub(super) struct Asked {
    /// Its log end, as it was before the new term.
    own: Option<LogEnd>,
    /// How many standbys had to stand behind the term, by the rules that may have acknowledged.
    needed: usize,
    /// How many each acknowledgement had waited for, at least.
    synchronous: usize,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stage {
    Probing,
    Flushing,
    /// The term is taken.
    Standing,
}

/// What a peer said of itself.
#[derive(Debug)]
struct Heard {
    index: usize,
    adopted: Term,
    end: LogEnd,
}

impl Promotion {
    pub(super) fn is_forced(&self) -> bool {
        self.request.force
    }
}

impl Node {
    pub(super) fn handle_promote(&mut self, mut request: PromoteRequest) {
        if let Err(why) = self.check_promotion(&mut request) {
            self.out.push_back(Output::Promoted { request: request.request, result: Err(why) });
            return;
        }
        let former = (self.peers.iter().map(|peer| peer.name.clone()).collect(), self.relays);
        let (now, timeout_ns) = (self.now_ns, request.timeout_ns);
        self.relays = false;
        self.change_standbys(request.standbys.clone());
        self.promotion = Some(Promotion {
            stage: Stage::Probing,
            superseded: self.log_reach().last_term.node,
            heard: Vec::new(),
            former,
            grace_ns: now.saturating_add((GRACE_HEARTBEATS * self.config.heartbeat_ns).min(timeout_ns / 2)),
            deadline_ns: now.saturating_add(timeout_ns),
            adopters: Vec::new(),
            request,
        });
    }

    /// What can be refused at once. Writes the rule in its normal form.
    fn check_promotion(&self, request: &mut PromoteRequest) -> Result<(), String> {
        match &self.role {
            Role::Ended { why } => return Err(format!("this node has ended: {why}")),
            Role::Leading(leading) => {
                return Err(format!("this node leads already, in term {}", leading.term));
            }
            _ if self.promotion.is_some() => return Err("a promotion of this node is under way".to_owned()),
            Role::Restarting(_) => {
                return Err("this node was started as a primary and is on its way to lead".to_owned());
            }
            Role::Standby if self.stopping => return Err("this node is stopping".to_owned()),
            Role::Standby => {}
        }
        if self.config.log.is_unset() || self.tail.previous_hash() == 0 {
            return Err("this node holds no log yet: promote one that does".to_owned());
        }
        if self.following.condemned.is_some() || self.following.truncating {
            return Err(
                "this node's log is being cut to where it follows another: try again when that is done"
                    .to_owned(),
            );
        }
        let names: Vec<&str> = request.standbys.iter().map(String::as_str).collect();
        self.check_names(&names)?;
        if let Some(rule) = &request.rule {
            let parsed = SyncRule::parse(rule).map_err(|refused| format!("sync rule '{rule}': {refused}"))?;
            if let Some(parsed) = &parsed {
                parsed.check_against(&names).map_err(|refused| format!("sync rule '{rule}': {refused}"))?;
            }
            request.rule = Some(parsed.as_ref().map(ToString::to_string).unwrap_or_default());
        }
        if request.force { Ok(()) } else { self.check_quorum(names.len()) }
    }

    fn check_names(&self, names: &[&str]) -> Result<(), String> {
        if names.len() > MAX_STANDBYS {
            return Err(format!("{} standbys are named, at most {MAX_STANDBYS} can be", names.len()));
        }
        for (at, name) in names.iter().enumerate() {
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                return Err(format!("'{name}' is no name of 1 to {MAX_NAME_BYTES} bytes"));
            }
            if *name == self.config.name {
                return Err(format!("'{name}' is the node to be promoted: name the others"));
            }
            if names[..at].contains(name) {
                return Err(format!("standby '{name}' is named twice"));
            }
        }
        Ok(())
    }

    /// Whether the quorum of rule 2 could be had at all.
    fn check_quorum(&self, listed: usize) -> Result<(), String> {
        let (fewest, most) = self.rules.synchronous();
        if most == 0 {
            return Err(
                "the log has no sync rule, so what was acknowledged may be on its primary only: to lead \
                        all the same, force it"
                    .to_owned(),
            );
        }
        let told = usize::from(self.meta.get().set_size);
        if told == 0 {
            return Err(
                "this node has never followed the log's leader directly, up to where its log ended, and counts for \
                 no acknowledgement: promote one that has"
                    .to_owned(),
            );
        }
        if listed > told {
            return Err(format!(
                "{listed} other nodes are named, and the log's leader ships to {told} standbys: a promotion adds no \
                 node; name the others of the set, the former primary among them"
            ));
        }
        let needed = quorum(told, fewest);
        if listed + 1 < needed {
            return Err(format!(
                "{needed} of the {told} standbys must adopt the new term, and only {listed} others are named: name them all"
            ));
        }
        Ok(())
    }

    /// Where the log ends once everything received is flushed.
    pub(super) fn log_reach(&self) -> LogEnd {
        let end = self.tail.end().lsn;
        LogEnd { last_term: self.meta.get().history.last_term(end), flushed: end }
    }

    /// A stream would make the log longer than what the others are asked about.
    pub(super) fn flushes_for_promotion(&self) -> bool {
        self.promotion.as_ref().is_some_and(|promotion| promotion.stage != Stage::Probing)
    }

    pub(super) fn promotion_deadline_ns(&self) -> Option<u64> {
        let promotion = self.promotion.as_ref()?;
        let grace = (promotion.stage == Stage::Probing && self.now_ns < promotion.grace_ns)
            .then_some(promotion.grace_ns);
        Some(grace.unwrap_or(promotion.deadline_ns).min(promotion.deadline_ns))
    }

    /// A peer's welcome, or its refusal to adopt, says how far its log reaches.
    pub(super) fn heard_of_peer(&mut self, index: usize, adopted: Term, end: LogEnd) {
        let Some(promotion) = &mut self.promotion else { return };
        promotion.heard.retain(|heard| heard.index != index);
        promotion.heard.push(Heard { index, adopted, end });
    }

    pub(super) fn settle_promotion(&mut self) {
        let Some(promotion) = &self.promotion else { return };
        match promotion.stage {
            Stage::Probing => self.settle_probe(),
            Stage::Flushing if self.tail.is_flushed() => self.stand(),
            Stage::Flushing => self.end_when_late("its own log could not be flushed"),
            Stage::Standing if self.may_still_be_refused() => self.settle_standing(),
            Stage::Standing => {}
        }
    }

    /// Everybody has the time to answer: one that is ahead should be the one to lead.
    fn settle_probe(&mut self) {
        let Some(promotion) = &self.promotion else { return };
        let force = promotion.request.force;
        if !force && let Some(why) = self.better_candidate() {
            return self.refuse_promotion(&why);
        }
        let resolved = |(index, peer): (usize, &Peer)| {
            peer.attempts > 0 || promotion.heard.iter().any(|heard| heard.index == index)
        };
        let all = self.next_standbys.is_none() && self.peers.iter().enumerate().all(resolved);
        let is_time = all || self.now_ns >= promotion.grace_ns;
        if is_time && (force || self.voters() + 1 >= self.promotion_quorum()) {
            // From here on nothing more is received: this is the end that the others are asked about.
            if let Some(source) = self.following.source.take() {
                self.following.reported = None;
                self.close(source.session, "this node is being promoted");
            }
            if let Some(promotion) = &mut self.promotion {
                promotion.stage = Stage::Flushing;
            }
            return self.settle_promotion();
        }
        self.end_when_late("no more answered");
    }

    /// The log is flushed and compared as it is: a new term above everything heard of.
    fn stand(&mut self) {
        let Some(promotion) = &mut self.promotion else { return };
        promotion.stage = Stage::Standing;
        let seen = promotion.heard.iter().map(|heard| heard.adopted).max().unwrap_or_default();
        self.config.rule = promotion.request.rule.clone();
        self.begin_candidacy(seen);
    }

    fn settle_standing(&mut self) {
        let possible = self.peers.iter().enumerate().filter(|(index, _)| self.may_vote(*index)).count();
        if possible + 1 < self.promotion_quorum() {
            let why = self.better_candidate().unwrap_or_else(|| self.too_few("the others cannot count"));
            return self.refuse_promotion(&why);
        }
        self.end_when_late("no more adopted the new term");
    }

    fn end_when_late(&mut self, what: &str) {
        if self.promotion.as_ref().is_some_and(|promotion| self.now_ns >= promotion.deadline_ns) {
            let why = self.too_few(what);
            self.refuse_promotion(&why);
        }
    }

    /// n: as many as the leader shipped to, by whoever has heard of more of them.
    fn promotion_set(&self) -> usize {
        let told = self.peers.iter().map(|peer| usize::from(peer.set_size)).max().unwrap_or(0);
        told.max(self.known_set())
    }

    /// n as far as this node knows by itself. A list that was made shorter, or whose names were exchanged, must not make
    /// the quorum smaller than what may have acknowledged without it: who shipped from here before, and is not listed
    /// any more, is one of the set until this node leads again.
    fn known_set(&self) -> usize {
        let is_listed = |node: &RegisteredStandby| {
            self.peers.iter().any(|peer| peer.name == node.name || peer.node == Some(node.node))
        };
        let meta = self.meta.get();
        let unlisted = meta.standbys.iter().filter(|standby| !is_listed(standby)).count();
        let unlisted = if self.promotion.is_some() || bug(Bug::SwappedListUnnoticed) { 0 } else { unlisted };
        (self.peers.len() + unlisted).max(usize::from(meta.set_size))
    }

    fn promotion_quorum(&self) -> usize {
        match &self.promotion {
            Some(promotion) if !promotion.request.force => {
                quorum(self.promotion_set(), self.rules.synchronous().0)
            }
            _ => 1,
        }
    }

    /// The candidacy that this node's present try to lead is.
    pub(super) fn new_candidacy(&self, term: Term) -> Candidacy {
        let led = self.meta.get().led;
        let (standbys, synchronous) = self.electorate();
        match &self.promotion {
            // One that led the last term itself restarts, whatever it was started as.
            Some(promotion) if promotion.request.force || promotion.superseded != self.config.node => {
                Candidacy::promotion(term, promotion.superseded, standbys, synchronous)
            }
            _ => Candidacy::new(term, led, standbys, synchronous),
        }
    }

    /// n, and the smallest and largest k of the rules that may have acknowledged: as far as this node and those that it
    /// has heard know by now.
    pub(super) fn electorate(&self) -> (usize, (usize, usize)) {
        match &self.promotion {
            Some(promotion) if promotion.request.force => (self.promotion_set(), (0, 0)),
            Some(_) => (self.promotion_set(), self.rules.synchronous()),
            None if self.config.fresh || self.config.alone => (self.peers.len(), (0, 0)),
            None => (self.promotion_set(), self.rules_of_restart()),
        }
    }

    /// A log without a rule, whose last term another node led, may end before the first one: then it can have been any.
    fn rules_of_restart(&self) -> (usize, usize) {
        match self.rules.synchronous() {
            (0, 0) if self.log_reach().last_term.node != self.config.node && !bug(Bug::NoRuleAsksNobody) => {
                (1, self.promotion_set())
            }
            known => known,
        }
    }

    fn is_superseded(&self, index: usize) -> bool {
        let node = self.peers.get(index).and_then(|peer| peer.node);
        self.promotion.as_ref().is_some_and(|promotion| node == Some(promotion.superseded))
    }

    /// Whether the peer's word may count, as far as is known.
    fn may_vote(&self, index: usize) -> bool {
        let Some(promotion) = &self.promotion else { return false };
        let Some(heard) = promotion.heard.iter().find(|heard| heard.index == index) else { return true };
        !self.is_superseded(index) && self.peers[index].set_size > 0 && heard.end <= self.log_reach()
    }

    /// Peers that have answered and can be asked.
    fn voters(&self) -> usize {
        let is_known = |index: usize| matches!(self.peers[index].link, Link::Known(_));
        self.promotion.as_ref().map_or(0, |promotion| {
            promotion.heard.iter().filter(|heard| is_known(heard.index) && self.may_vote(heard.index)).count()
        })
    }

    /// Somebody whose log is ahead, and what to do about it.
    fn better_candidate(&self) -> Option<String> {
        let promotion = self.promotion.as_ref()?;
        let own = self.log_reach();
        let ahead = promotion.heard.iter().filter(|heard| heard.end > own);
        let ahead = ahead.max_by_key(|heard| heard.end)?;
        let name = &self.peers[ahead.index].name;
        let position = format!(
            "its log ends at {} in term {}, this one's at {} in term {}",
            ahead.end.flushed, ahead.end.last_term, own.flushed, own.last_term
        );
        Some(if self.is_superseded(ahead.index) {
            format!(
                "the primary '{name}' is alive and ahead ({position}): a switchover hands over without a loss; to \
                 promote without it, stop it first"
            )
        } else {
            format!("standby '{name}' is ahead ({position}): promote '{name}' instead")
        })
    }

    fn too_few(&self, what: &str) -> String {
        let Some(promotion) = &self.promotion else { return what.to_owned() };
        let counts = |index: usize| promotion.heard.iter().any(|heard| heard.index == index);
        let silent: Vec<&str> = self
            .peers
            .iter()
            .enumerate()
            .filter(|(index, _)| !counts(*index))
            .map(|(_, peer)| peer.name.as_str())
            .collect();
        let silent = if silent.is_empty() { "nobody".to_owned() } else { silent.join(", ") };
        format!(
            "{} of {} standbys (this one included) are needed, {what} in {} ms; not heard of: {silent}. Start them and \
             try again, or force it and risk what only they hold",
            self.promotion_quorum(),
            self.promotion_set(),
            promotion.request.timeout_ns / 1_000_000,
        )
    }

    /// Refused: this node is a standby as before, of its former peers too.
    fn refuse_promotion(&mut self, why: &str) {
        let taken = matches!(self.role, Role::Restarting(_));
        let mut why = why.to_owned();
        if taken {
            let term = self.meta.get().adopted;
            why.push_str(&format!(
                ". Term {term} has been taken: a primary of an older one steps down when it hears of it"
            ));
            self.role = Role::Standby;
            self.freeze(FreezeReason::Unavailable("this node is a standby".to_owned()));
        }
        self.fail_promotion(&why);
    }

    /// Whatever ended it, the caller hears of it.
    pub(super) fn fail_promotion(&mut self, why: &str) {
        let Some(promotion) = self.promotion.take() else { return };
        let (names, relays) = promotion.former;
        self.relays = relays;
        self.change_standbys(names);
        let request = promotion.request.request;
        self.out.push_back(Output::Promoted { request, result: Err(why.to_owned()) });
    }

    /// The term's start is durable: what the candidacy gathered is told with it.
    pub(super) fn promotion_led(&mut self, adopters: &[NodeId]) {
        let peers = self.peers.iter().filter(|peer| peer.node.is_some_and(|node| adopters.contains(&node)));
        let names: Vec<String> = peers.map(|peer| peer.name.clone()).collect();
        if let Some(promotion) = &mut self.promotion {
            promotion.adopters = names;
        }
    }

    /// It leads.
    pub(super) fn end_promotion(&mut self, term: Term, start: Lsn, asked: &Asked) {
        let warnings = self.promotion_warnings(start, asked);
        let Some(promotion) = self.promotion.take() else { return };
        let result = Ok(Promoted { term, start, adopters: promotion.adopters, warnings });
        self.out.push_back(Output::Promoted { request: promotion.request.request, result });
    }

    /// What the candidate knew before it led: the rule it brings would hide what was needed.
    pub(super) fn asked(&self) -> Asked {
        let own = match &self.role {
            Role::Restarting(restart) => Some(restart.end),
            _ => None,
        };
        let synchronous = self.rules.synchronous().0;
        Asked { own, needed: quorum(self.promotion_set(), synchronous), synchronous }
    }

    fn promotion_warnings(&self, start: Lsn, asked: &Asked) -> Vec<String> {
        let Some(promotion) = &self.promotion else { return Vec::new() };
        let mut warnings = Vec::new();
        let needed = asked.needed;
        if promotion.request.force && promotion.adopters.len() + 1 < needed {
            warnings.push(format!(
                "forced: {} of {needed} standbys stand behind this term; what was acknowledged at a remote level may be \
                 missing if it reached only others, and the former primary may go on until it hears of the term",
                promotion.adopters.len() + 1
            ));
        }
        // Who has not heard of the smaller rule would count by the larger one, and find its quorum too early.
        let names = self.peers.iter().map(|peer| peer.name.as_str());
        let unheard: Vec<&str> =
            names.filter(|name| !promotion.adopters.iter().any(|adopter| adopter == name)).collect();
        let synchronous = self.rules.synchronous().0;
        if promotion.request.force && synchronous < asked.synchronous && !unheard.is_empty() {
            warnings.push(format!(
                "the sync rule now waits for {synchronous} standbys where it waited for {}, and {} have not heard of it: \
                 do not promote any of them before it has followed this node, for its promotion would need too few and \
                 not warn of it",
                asked.synchronous,
                unheard.join(", ")
            ));
        }
        // Ahead by its last term, too, whatever its length: what only it has is not in this log.
        let is_ahead = |end: LogEnd| end.flushed > start || asked.own.is_some_and(|own| end > own);
        for heard in promotion.heard.iter().filter(|heard| is_ahead(heard.end)) {
            warnings.push(format!(
                "'{}' has log up to {}, and this term starts at {start}: what only it has is cut from it when it \
                 follows, and a copy kept there; a former primary that knows it to be acknowledged halts instead",
                self.peers[heard.index].name, heard.end.flushed
            ));
        }
        let superseded = promotion.heard.iter().any(|heard| self.is_superseded(heard.index));
        if !superseded && promotion.superseded != self.config.node {
            warnings.push(format!(
                "the former primary was not heard of: what it acknowledged at off or local, or degraded, and had not \
                 shipped before {start} is not here"
            ));
        }
        let names: Vec<&str> = self.peers.iter().map(|peer| peer.name.as_str()).collect();
        if let (_, Some(rule)) = self.gate.rule()
            && let Err(refused) = rule.check_against(&names)
        {
            warnings.push(format!(
                "the sync rule '{rule}' does not fit these standbys ({refused}): change it, or appends at remote levels may wait for ever"
            ));
        }
        warnings
    }

    /// Once the term's start is on its way to the meta block the promotion succeeds, or its log ends.
    fn may_still_be_refused(&self) -> bool {
        matches!(&self.role, Role::Restarting(restart) if !restart.is_starting())
    }

    /// The list of standbys becomes `names` when nobody of the present one is connected any more: a late word of a
    /// former peer must not be taken for another's.
    fn change_standbys(&mut self, names: Vec<String>) {
        self.close_peers("the standbys change");
        self.next_standbys = Some(names);
    }

    pub(super) fn settle_standbys(&mut self) {
        let all_down = self.peers.iter().all(|peer| matches!(peer.link, Link::Down { .. }));
        let Some(names) = self.next_standbys.take_if(|_| all_down) else { return };
        self.gate.fail_all("the standbys change");
        self.settle_gate();
        let mut gate = CommitGate::new(self.config.node, self.config.unmet, self.tail.flushed());
        gate.tick(self.now_ns);
        self.peers.clear();
        for (index, name) in names.iter().enumerate() {
            let index = PeerIndex(index as u16);
            match gate.register(index, name) {
                Ok(()) => self.peers.push(Peer::new(index, name.clone())),
                Err(refused) => self.out.push_back(note(refused.to_string())),
            }
        }
        self.rules.install(&mut gate);
        self.gate = gate;
        self.out.push_back(Output::Standbys { names });
    }
}

/// How long everybody is given to answer before those who have are enough.
const GRACE_HEARTBEATS: u64 = 2;
