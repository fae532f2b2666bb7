//! What a node does at the end of each turn, in the order that the promises need.

use super::meta_keeper::AfterMeta;
use super::{Event, Node, Output, Role};
use crate::bugs::{Bug, bug};
use crate::replication::{GateOutput, Stage};
use crate::types::limits::UNFINISHED_AHEAD_BYTES;
use crate::types::{Lsn, Span};

impl Node {
    pub(super) fn handle_tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.gate.tick(now_ns);
        self.tick_peers();
        self.tick_following();
    }

    pub(super) fn handle_flushed(&mut self, span: Span, epoch: u64) {
        if self.tail.complete(span, epoch) {
            let flushed = self.tail.flushed();
            if self.is_leading() {
                self.gate.own_flushed(flushed);
            }
        }
    }

    /// When the driver should come back even if nothing happens.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        [
            self.gate.next_deadline_ns(),
            self.peers_deadline_ns(),
            self.following_deadline_ns(),
            self.seal_deadline_ns(),
            self.promotion_deadline_ns(),
            self.pause_deadline_ns(),
            self.unmet_deadline_ns(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn settle(&mut self) {
        if self.has_ended() {
            return;
        }
        self.settle_pause();
        self.settle_leading();
        self.settle_permit();
        self.settle_writes();
        self.settle_shipping();
        self.settle_gate();
        self.settle_unmet();
        // Before the reports: they carry the credit.
        self.settle_release();
        self.settle_following();
        self.settle_standbys();
        self.settle_promotion();
        self.settle_restart();
        self.settle_acknowledged();
        // The meta block goes last: one write carries every change of the turn.
        if let Some(meta) = self.meta.next_write() {
            self.out.push_back(Output::WriteMeta { meta });
        }
    }

    /// A standby may write only inside the span that its meta block calls unfinished: recovery then knows what was
    /// in flight here. Renewed when half of it is used, so that writes do not wait for it.
    fn settle_permit(&mut self) {
        if self.is_leading() {
            return;
        }
        let flushed = self.tail.flushed().lsn;
        let wanted = flushed.plus(UNFINISHED_AHEAD_BYTES);
        let renewal_due = self.following.permitted().bytes_since(flushed) < UNFINISHED_AHEAD_BYTES / 2;
        if renewal_due
            && !self.tail.is_flushed()
            && !self.meta.awaits(|after| matches!(after, AfterMeta::Permit { .. }))
        {
            let condemned = self.following.condemned.unwrap_or(Span::new(flushed, wanted));
            let unfinished = Span::new(condemned.start.min(flushed), condemned.end.max(wanted));
            let own_flushed = self.own_flushed();
            self.meta.change(|meta| {
                meta.unfinished = vec![unfinished];
                meta.reported = meta.reported.max(own_flushed);
            });
            self.meta.then(AfterMeta::Permit { upto: wanted });
        }
    }

    fn settle_writes(&mut self) {
        // A leader's batches are placed only in segments that are in place; a standby's may come earlier.
        let permitted = match self.role {
            Role::Leading(_) => Lsn(u64::MAX),
            _ if bug(Bug::WritesOutsideSpan) => Lsn(u64::MAX),
            _ => self.following.permitted(),
        };
        while let Some(span) = self.tail.next_write(permitted.min(self.writable_end())) {
            self.out.push_back(Output::Write { span, epoch: self.tail.epoch() });
            if bug(Bug::AckBeforeFlush) && self.is_leading() {
                self.gate.own_flushed(self.tail.end());
            }
        }
    }

    /// One past the last byte of the unbroken run of segments in place.
    pub(super) fn writable_end(&self) -> Lsn {
        let geometry = self.config.geometry;
        let mut seq = geometry.segment_of(self.tail.flushed().lsn);
        for (next, _) in self.segments.from(self.tail.flushed().lsn) {
            if next != seq {
                break;
            }
            seq += 1;
        }
        geometry.segment_start(seq)
    }

    /// The last byte of the last flushed batch: the log's start never passes its segment, so that a restart finds
    /// the counts and the hash there.
    pub(super) fn last_flushed_byte(&self) -> Lsn {
        Lsn(self.tail.flushed().lsn.0.saturating_sub(1))
    }

    pub(super) fn settle_gate(&mut self) {
        while let Some(output) = self.gate.poll() {
            match output {
                GateOutput::Ack { ticket, outcome } => self.out.push_back(Output::Ack { ticket, outcome }),
                GateOutput::RuleInForce { version } => self.handle_rule_in_force(version),
                // The gate's clock goes on while nobody leads here: that is no news for an operator.
                GateOutput::Degraded { .. } | GateOutput::Healed if !self.is_leading() => {}
                GateOutput::Degraded { released } => self.say(Event::Degraded { released }),
                GateOutput::Healed => self.say(Event::Healed),
            }
        }
    }

    /// What the arena must keep: what is not flushed, what live standbys have still to be sent (up to half of
    /// the arena: one that is farther behind reads from the segments), and what the application has not copied yet.
    fn settle_release(&mut self) {
        let end = self.tail.end().lsn;
        // A follower keeps less: what it keeps its sender cannot ship into.
        let kept = if self.is_leading() { self.config.arena_bytes / 2 } else { self.config.arena_bytes / 4 };
        let most_behind = Lsn(end.0.saturating_sub(kept));
        let wanted = self.ship_floor().unwrap_or(end).min(self.apply_floor().unwrap_or(end));
        let flushed = if bug(Bug::ReleasedUnflushed) { end } else { self.tail.flushed().lsn };
        let floor = flushed.min(wanted.max(most_behind));
        if floor > self.released {
            self.released = floor;
            self.out.push_back(Output::Release { below: floor });
        }
    }

    /// The net of rule 5. It is known here at once, goes into the meta block with whatever else is written there, and by
    /// itself once per heartbeat. No acknowledgement waits for that write: a crash before it loses nothing, it leaves
    /// the net without what was acknowledged in the last heartbeat.
    fn settle_acknowledged(&mut self) {
        if self.is_leading() && self.gate.rule().1.is_some() {
            // Standbys may be ahead: what is not flushed here is acknowledged at no level, and a crash may take it.
            let own = if bug(Bug::AcknowledgedUnflushed) { self.tail.end().lsn } else { self.own_flushed() };
            let acknowledged = self.safe_flushed().min(own);
            self.acknowledged = self.acknowledged.max(acknowledged);
        }
        let is_due = self.now_ns.saturating_sub(self.acknowledged_ns) >= self.config.heartbeat_ns
            && !bug(Bug::AcknowledgedForgotten);
        if self.is_acknowledged_news() && (is_due || self.meta.is_dirty()) {
            self.acknowledged_ns = self.now_ns;
            self.record_acknowledged();
        }
    }

    /// Whether the meta block, as it will be, does not know all of what was acknowledged.
    pub(super) fn is_acknowledged_news(&self) -> bool {
        self.acknowledged > self.meta.get().acknowledged
    }

    pub(super) fn record_acknowledged(&mut self) {
        let acknowledged = self.acknowledged;
        self.meta.change(|meta| meta.acknowledged = acknowledged);
    }

    /// What the rule has made safe at the flushed stage; nothing while it is undefined.
    pub(super) fn safe_flushed(&self) -> Lsn {
        match self.role {
            Role::Leading(_) if self.gate.rule().1.is_some() => {
                self.gate.safe(Stage::Flushed).map_or(Lsn(0), |position| position.lsn)
            }
            Role::Leading(_) => self.tail.flushed().lsn,
            _ => self.following.leader_safe(),
        }
    }
}
