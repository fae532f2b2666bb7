//! A primary that was restarted (or a standby that is promoted): it takes a new term, asks who may be asked, fetches
//! what it lacks, and leads only when rule 3 (or 2) of SEMANTICS section 4 is met. Until then appends are refused as
//! unavailable, `local` ones too.

use super::meta_keeper::AfterMeta;
use super::receiving::{Offer, SourceKind};
use super::{Event, FreezeReason, Node, Role};
use crate::bugs::{Bug, bug};
use crate::format::{Frame, LogEnd, Welcome};
use crate::replication::single_leader::{Candidacy, next_term};
use crate::types::{Lsn, NodeId, SessionId, Term, TermHistory, TermStart};

/// A restarted primary's way to leadership.
#[derive(Debug)]
pub(super) struct Restart {
    candidacy: Candidacy,
    /// The log end as it was before the new term, or after the tail was fetched.
    pub(super) end: LogEnd,
    phase: Phase,
    /// What the operator was last told.
    told: String,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Phase {
    /// Its own adoption of the term is not durable yet.
    Adopting,
    Asking,
    /// A standby is ahead: its tail comes first.
    Fetching {
        session: SessionId,
        until: Option<Lsn>,
    },
    /// The term's start is on its way to the meta block.
    Starting,
}

impl Restart {
    /// What follows is only the meta block's write.
    pub(super) fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }
}

impl Node {
    /// Takes a term above `seen` and above what it has adopted itself: as a restarted primary, or promoted.
    pub(super) fn begin_candidacy(&mut self, seen: Term) {
        self.end_fetch();
        let end = self.log_end();
        let adopted = self.meta.get().adopted;
        let recorded = self.meta.get().history.last().map_or(adopted, |last| last.term);
        let term = next_term(adopted.max(seen).max(recorded), self.config.node);
        if self.config.alone && !self.config.fresh && self.rules.synchronous() != (0, 0) {
            let why =
                "leading alone: what only standbys hold, and acknowledged, may be cut from them".to_owned();
            self.say(Event::Note { text: why });
        }
        // Its own adoption of another's term counted for that other: k standbys that have not heard of it prove nothing
        // any more, also when its own new term has taken the place of that adoption.
        let led_since = self.meta.get().led.is_some_and(|led| led >= adopted);
        if !led_since && adopted.node != self.config.node && !bug(Bug::ProofAfterAdoption) {
            let nobodys = Term { number: 0, node: self.config.node };
            self.meta.change(|meta| {
                meta.overruled = meta.overruled.max(meta.led.unwrap_or_default());
                meta.led = meta.led.map(|_| nobodys);
            });
        }
        let candidacy = self.new_candidacy(term);
        self.role = Role::Restarting(Restart { candidacy, end, phase: Phase::Adopting, told: String::new() });
        let doing = if self.promotion.is_some() {
            "this standby is being promoted"
        } else {
            "this primary has restarted"
        };
        self.freeze(FreezeReason::Unavailable(format!("{doing} and may not lead yet")));
        // Rule 1 binds the node itself: adopted durably before it says a word in the term.
        self.meta.change(|meta| meta.adopted = term);
        self.meta.then(AfterMeta::AskForTerm { term });
    }

    /// Its own adoption of `term` is durable.
    pub(super) fn ask_for_term(&mut self, term: Term) {
        let Role::Restarting(restart) = &mut self.role else { return };
        if restart.phase != Phase::Adopting || restart.candidacy.term() != term {
            return;
        }
        restart.phase = Phase::Asking;
        self.maybe_start_term();
        self.ask_all();
    }

    /// Asks a standby that has been greeted.
    pub(super) fn ask(&mut self, session: SessionId) {
        if let Role::Restarting(Restart { candidacy, end, phase: Phase::Asking, .. }) = &self.role {
            let frame = Frame::Adopt { term: candidacy.term(), end: *end };
            self.send_frame(session, frame);
        }
    }

    /// A welcome may say that this node must not lead: a standby remembers what this node claimed to have flushed,
    /// in an earlier term, beyond where its log ended when it came back.
    pub(super) fn may_go_on_after(&mut self, welcome: &Welcome) -> bool {
        let (own, current) = match &self.role {
            Role::Restarting(restart) => (restart.end.flushed, None),
            Role::Leading(leading) => (leading.start, Some(leading.term)),
            _ => return true,
        };
        let claimed = Lsn(welcome.leader_flushed.0.saturating_sub(1));
        // What lies before a pruned history is nobody's that one could tell.
        let is_own = welcome.history.owner(claimed).is_some_and(|term| {
            term.node == self.config.node
                && Some(term) != current
                && !self.was_overruled(term, claimed, &welcome.history)
                && !self.was_cut_to_its_start(term, own, &welcome.history)
        });
        let lost = welcome.leader_flushed > own && !bug(Bug::LeadsAfterLoss);
        if lost && is_own && !self.config.alone {
            // Rule 3 demands it: "if it lost bytes that it had reported flushed, it must not lead". Only the standbys
            // remember what was reported.
            self.halt(&format!(
                "this node had reported {} as flushed, and its log now ends at {own}: it has lost durable data and must not lead; \
                 start it as a standby of a node that has them",
                welcome.leader_flushed
            ));
            return false;
        }
        let Role::Restarting(restart) = &self.role else { return true };
        if welcome.adopted > restart.candidacy.term() {
            self.meet_higher_term(welcome.adopted);
            return false;
        }
        true
    }

    /// Whether another leader's term took the place of what this node claimed in `term`: the byte was cut as it had
    /// to be, and is not lost. The later leader's own entry may be gone with the end of a log that was cut below its
    /// start; then one tells it that the log of the claim (`claims`) never had. What a trim has pruned cannot be told
    /// any more.
    fn was_overruled(&self, term: Term, claimed: Lsn, claims: &TermHistory) -> bool {
        let own = self.config.node;
        let mut entries = self.meta.get().history.entries().iter();
        let is_pruned = entries.clone().next().is_some_and(|first| first.term > term);
        let is_foreign = |entry: &TermStart| {
            let known_from = claims.entries().first().map(|first| first.start);
            known_from.is_some_and(|from| entry.start >= from) && !claims.entries().contains(entry)
        };
        is_pruned
            || entries.any(|entry| {
                entry.term.node != own && entry.start <= claimed && (entry.term > term || is_foreign(entry))
            })
    }

    /// Whether a term that this directory led was cut off for another's, of which nothing is left either: the history
    /// does not know it, and the log reaches its start. A crash takes no term whose start the log reaches, and an older
    /// copy of the directory does not know that it led.
    fn was_cut_to_its_start(&self, term: Term, own: Lsn, claims: &TermHistory) -> bool {
        let is_gone = !self.meta.get().history.entries().iter().any(|entry| entry.term == term);
        let reaches = |entry: &&TermStart| entry.term == term && entry.start <= own;
        term <= self.meta.get().overruled && is_gone && claims.entries().iter().any(|entry| reaches(&entry))
    }

    fn meet_higher_term(&mut self, adopted: Term) {
        if adopted.node == self.config.node {
            // Its own, from a life that this directory does not remember: go above it.
            self.close_peers("asking again in a higher term");
            self.begin_candidacy(adopted);
        } else {
            self.step_down(&format!("term {adopted} of another node is out there"));
        }
    }

    /// `previous`: the term that it had adopted before; `None` of an empty node.
    pub(super) fn adopted_while_restarting(&mut self, node: NodeId, term: Term, previous: Option<Term>) {
        let Role::Restarting(restart) = &mut self.role else { return };
        if restart.candidacy.term() == term {
            match previous {
                Some(previous) => restart.candidacy.adopted_by(node, previous),
                None => restart.candidacy.adopted_by_empty(node),
            }
            self.maybe_start_term();
        }
    }

    /// A standby is ahead, or has seen a higher term.
    pub(super) fn not_adopted_while_restarting(
        &mut self,
        session: SessionId,
        adopted: Term,
        end: LogEnd,
        history: TermHistory,
    ) {
        let Role::Restarting(restart) = &mut self.role else { return };
        if adopted > restart.candidacy.term() {
            self.meet_higher_term(adopted);
            return;
        }
        if restart.phase != Phase::Asking || end <= restart.end {
            return;
        }
        let term = restart.candidacy.term();
        // Its history stands durably before a byte of its terms is written here.
        let log_start = history.entries().first().map_or(Lsn(0), |first| first.start);
        let offer = Offer { term: end.last_term, history, log_start, log_end: end.flushed, set_size: 0 };
        if end.last_term >= term || offer.history.last().is_some_and(|last| last.term >= term) {
            return self.close(session, "it claims log of a term that it has not adopted");
        }
        if let Some(why) = self.untrue(&offer, term) {
            return self.close(session, why);
        }
        let Role::Restarting(restart) = &mut self.role else { return };
        restart.phase = Phase::Fetching { session, until: None };
        self.say(Event::Waiting {
            why: format!("a standby's log is ahead ({}): fetching its tail first", end.flushed),
        });
        self.follow_source(session, SourceKind::Fetch, offer);
    }

    /// The tail was sent up to `end`.
    pub(super) fn handle_fetch_end(&mut self, session: SessionId, end: Lsn) {
        if let Role::Restarting(Restart { phase: Phase::Fetching { session: from, until }, .. }) =
            &mut self.role
            && *from == session
        {
            *until = Some(end);
        }
    }

    /// The fetched tail counts once it is flushed: then the comparison is made anew.
    pub(super) fn settle_restart(&mut self) {
        self.maybe_start_term();
        let Role::Restarting(Restart { phase: Phase::Fetching { until: Some(until), .. }, .. }) = &self.role
        else {
            return;
        };
        let is_flushed = self.tail.is_flushed() && self.tail.flushed().lsn >= *until;
        let is_received = self.tail.end().lsn >= *until && bug(Bug::FetchedUnflushed);
        if (!is_flushed && !is_received) || self.following.condemned.is_some() {
            return;
        }
        self.following.end_source();
        let end = self.log_end();
        if let Role::Restarting(restart) = &mut self.role {
            restart.end = end;
            restart.phase = Phase::Asking;
        }
        self.ask_all();
    }

    /// The session it fetched from is gone: what came is flushed, and then whoever is there is asked again, because
    /// those who were ahead before may be no more.
    pub(super) fn fetch_session_ended(&mut self, session: SessionId) {
        if let Role::Restarting(Restart { phase: Phase::Fetching { session: from, until }, .. }) =
            &mut self.role
            && *from == session
        {
            *until = Some(Lsn(0));
            self.following.end_source();
        }
    }

    /// What is being fetched is not wanted any more.
    pub(super) fn end_fetch(&mut self) {
        if matches!(self.role, Role::Restarting(Restart { phase: Phase::Fetching { .. }, .. })) {
            self.following.end_source();
        }
    }

    /// The history entry is durable: lead, unless something came between.
    pub(super) fn maybe_lead(&mut self, term: Term) {
        if let Role::Restarting(Restart { phase: Phase::Starting, candidacy, .. }) = &self.role
            && candidacy.term() == term
        {
            let adopters: Vec<NodeId> = candidacy.adopters().collect();
            self.promotion_led(&adopters);
            self.lead();
        }
    }

    fn maybe_start_term(&mut self) {
        if !matches!(self.role, Role::Restarting(_)) {
            return;
        }
        let (standbys, synchronous) = self.electorate();
        let Role::Restarting(restart) = &mut self.role else { return };
        // A rule that came with a fetched tail binds: by the one before, k may be too many and the quorum too small.
        if !bug(Bug::StaleElectorate) {
            restart.candidacy.judge_by(standbys, synchronous);
        }
        // A tail whose fetch broke off is flushed, or cut, before a term starts behind it.
        let is_too_early = matches!(restart.phase, Phase::Fetching { .. }) && bug(Bug::StartBeforeCompare);
        if (restart.phase != Phase::Asking && !is_too_early)
            || !self.tail.is_flushed()
            || self.following.condemned.is_some()
        {
            return;
        }
        if !restart.candidacy.may_lead() && !is_too_early {
            let missing = restart.candidacy.missing();
            if restart.told != missing {
                restart.told.clone_from(&missing);
                self.say(Event::Waiting { why: missing });
            }
            return;
        }
        restart.phase = Phase::Starting;
        let set_size = self.peers.len() as u16;
        let term = restart.candidacy.term();
        let start = self.tail.end().lsn;
        let mut history = self.meta.get().history.clone();
        history.drop_beyond(start);
        match history.push(term, start) {
            Ok(()) => {
                self.meta.change(|meta| {
                    meta.history = history;
                    meta.led = Some(term);
                    meta.set_size = set_size;
                    // Whatever was in flight is flushed, or zeroed.
                    meta.unfinished.clear();
                    meta.reported = meta.reported.max(start);
                });
                // Whoever follows again later records anew before it writes: this write takes back the span of a permit
                // that may still be on its way.
                self.following.starts_at(start);
                if !bug(Bug::StalePermit) {
                    self.meta.forget(|after| matches!(after, AfterMeta::Permit { .. }));
                }
                self.following.void_words_beyond(start, &self.meta.get().history);
                self.meta.then(AfterMeta::Lead { term });
            }
            // A trim makes room: it is taken while this waits, and the start is tried again at the next turn.
            Err(refused) => {
                restart.phase = Phase::Asking;
                let missing = refused.to_string();
                if restart.told != missing {
                    restart.told.clone_from(&missing);
                    self.say(Event::Waiting { why: missing.clone() });
                    self.freeze(FreezeReason::Unavailable(missing));
                }
            }
        }
    }
}
