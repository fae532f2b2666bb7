//! The specification of the commit gate as scripts: one claim per script, said in its first line.
//!
//! Batch n spans LSN `8192 + (n−1)·4096` to `8192 + n·4096`; scripts name positions by batch numbers. Regenerate
//! with `UPDATE_GOLDENFILES=1`, then read the difference.

#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Command, Context, Runner};
use towline_core::node::{Ticket, TicketOutcome};
use towline_core::replication::{CommitGate, GateOutput, Stage, SyncRule, Unmet, check_window};
use towline_core::types::{Level, Lsn, NodeId, PeerIndex, Position, StandbyWatermarks, TicketId, Window};

/// A gate with a log of numbered batches.
struct World {
    gate: CommitGate,
    batches: Vec<Position>,
    names: Vec<String>,
    reports: Vec<StandbyWatermarks>,
    now_ns: u64,
    /// Version of the newest rule.
    version: u64,
}

impl World {
    fn new(unmet: Unmet, records: u64, payload_bytes: u64) -> World {
        let start = Position { lsn: Lsn(8192), records, payload_bytes };
        let mut gate = CommitGate::new(NodeId(100), unmet, start);
        gate.tick(0);
        World { gate, batches: vec![start], names: vec![], reports: vec![], now_ns: 0, version: 0 }
    }

    fn peer(&self, name: &str) -> Result<PeerIndex, Box<dyn Error>> {
        let place = self.names.iter().position(|known| known == name);
        Ok(PeerIndex(place.ok_or_else(|| format!("no standby '{name}'"))? as u16))
    }

    fn position(&self, batch: &str) -> Result<Position, Box<dyn Error>> {
        Ok(*self.batches.get(batch.parse::<usize>()?).ok_or("no such batch")?)
    }

    /// A batch with one record.
    fn batch(&mut self, records: u64, payload_bytes: u64) -> (Position, Position) {
        let before = self.batches[self.batches.len() - 1];
        let after = Position {
            lsn: before.lsn.plus(4096),
            records: before.records + records,
            payload_bytes: before.payload_bytes + payload_bytes,
        };
        self.batches.push(after);
        self.gate.batch(before.lsn, after, self.now_ns);
        (before, after)
    }

    fn number(&self, lsn: Lsn) -> u64 {
        (lsn.0 - 8192) / 4096
    }

    fn shown(&self, output: &GateOutput) -> String {
        match output {
            GateOutput::Ack { ticket, outcome: TicketOutcome::Committed(ack) } => {
                let mut line = format!("ticket {} acknowledged: {}", ticket.0, ack.level);
                if let Some(window) = ack.window {
                    let _ = write!(line, ", window {window}");
                }
                let _ = write!(line, ", rule {}, fill {}", ack.rule_version, ack.fill_bytes);
                if ack.waited_for_window {
                    line.push_str(", waited for its window");
                }
                line
            }
            GateOutput::Ack { ticket, outcome: TicketOutcome::Indeterminate(why) } => {
                format!("ticket {} indeterminate: {why}", ticket.0)
            }
            GateOutput::Ack { ticket, outcome: TicketOutcome::Refused(why) } => {
                format!("ticket {} refused: {why}", ticket.0)
            }
            GateOutput::RuleInForce { version } => format!("rule {version} in force"),
            GateOutput::Degraded { released } => format!("degraded, {released} released"),
            GateOutput::Healed => "healed".to_owned(),
        }
    }

    fn status(&self) -> String {
        let status = self.gate.status();
        let mut text = String::new();
        for stage in Stage::ALL {
            let safe = status.safe[stage as usize].map(|at| self.number(at.lsn).to_string());
            let exposure = status.exposure_bytes[stage as usize].map(|bytes| bytes.to_string());
            let or_undefined = |value: Option<String>| value.unwrap_or_else(|| "undefined".to_owned());
            let _ =
                writeln!(text, "{stage}: safe {}, exposure {}", or_undefined(safe), or_undefined(exposure));
        }
        let rule = if status.rule.rule.is_empty() { "none" } else { &status.rule.rule };
        let _ = write!(text, "rule {}: {rule}", status.rule.version);
        if let Some(pending) = &status.pending {
            let _ = write!(text, "; pending {}: {}", pending.version, pending.rule);
        }
        let _ = write!(text, "\nwaiting {}, for their window {}", status.waiting, status.waiting_for_window);
        if status.degraded {
            text.push_str("; degraded");
        }
        text.push('\n');
        text
    }
}

impl Runner for World {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut text = String::new();
        let mut next = |what: &str| args.next_pos().ok_or_else(|| format!("{what} is missing"));
        match command.name.as_str() {
            // gate [degrade_ms=N] [records=N payload=N]: what recovery found before.
            "gate" => {
                let degrade = args.take_key("degrade_ms").map(str::parse::<u64>).transpose()?;
                let unmet = degrade.map_or(Unmet::Stall, |ms| Unmet::DegradeAfter { ns: ms * 1_000_000 });
                let before = args.take_key("payload").unwrap_or("0").parse()?;
                *self = World::new(unmet, args.take_key("records").unwrap_or("0").parse()?, before);
            }
            // standbys a b c: configured, connected, streaming. With `node=`: that node.
            "standbys" => {
                let node = args.take_key("node").map(str::parse::<u64>).transpose()?;
                while let Some(name) = args.next_pos() {
                    let peer = PeerIndex(self.names.len() as u16);
                    self.gate.register(peer, name)?;
                    self.names.push(name.to_owned());
                    self.reports.push(StandbyWatermarks::default());
                    self.gate.identify(peer, NodeId(node.unwrap_or(u64::from(peer.0) + 1)))?;
                    self.gate.set_live(peer, true);
                }
            }
            "rule" => {
                self.version += 1;
                self.gate.install_rule(self.version, SyncRule::parse(next("rule")?)?);
            }
            // change RULE: checks it, puts a rule record into a batch of its own, announces it.
            "change" => {
                let rule = SyncRule::parse(next("rule")?)?;
                self.gate.check_rule(self.version + 1, rule.as_ref())?;
                self.version += 1;
                let end = self.batch(0, 0).1.lsn;
                self.gate.set_rule(self.version, rule, end)?;
            }
            // append TICKET LEVEL BYTES [bytes=N|records=N|micros=N|inf=]: a batch of one record.
            "append" => {
                let id = TicketId(next("ticket")?.parse()?);
                let level: Level = next("level")?.parse()?;
                let payload_bytes = next("bytes")?.parse()?;
                let window = match args.next_key() {
                    Some(("bytes", bytes)) => Some(Window::Bytes(bytes.parse()?)),
                    Some(("records", records)) => Some(Window::Records(records.parse()?)),
                    Some(("micros", micros)) => Some(Window::Micros(micros.parse()?)),
                    Some(("inf", _)) => Some(Window::Infinite),
                    Some((other, _)) => return Err(format!("no unit '{other}'").into()),
                    None => None,
                };
                check_window(level, window, self.gate.rule().1.is_some())?;
                let (before, after) = self.batch(1, payload_bytes);
                self.gate.ticket(Ticket {
                    id,
                    lsn: before.lsn.plus(128),
                    end: before.lsn.plus(128 + 8 + payload_bytes.min(3900)),
                    records_through: after.records,
                    payload_through: after.payload_bytes,
                    payload_bytes,
                    level,
                    window,
                    accepted_ns: self.now_ns,
                });
            }
            // off BYTES: a batch of one record that nobody waits for.
            "off" => {
                self.batch(1, next("bytes")?.parse()?);
            }
            "wait" => {
                let id = TicketId(next("ticket")?.parse()?);
                let level = next("level")?.parse()?;
                let batch: u64 = next("batch")?.parse()?;
                self.gate.wait(id, Lsn(8192 + batch * 4096), level);
            }
            "cancel" => self.gate.cancel(TicketId(next("ticket")?.parse()?)),
            "fail" => self.gate.fail_all(next("reason")?),
            "flushed" => {
                let position = self.position(next("batch")?)?;
                self.gate.own_flushed(position);
            }
            // report NAME [BATCH] [written=N] [flushed=N] [applied=N]: all stages, or those named.
            "report" => {
                let name = next("standby")?;
                let peer = self.peer(name)?;
                let all = args.next_pos().map(|batch| self.position(batch)).transpose()?;
                let mut marks = self.reports[usize::from(peer.0)];
                for (stage, mark) in [
                    ("written", &mut marks.written),
                    ("flushed", &mut marks.flushed),
                    ("applied", &mut marks.applied),
                ] {
                    *mark = all.unwrap_or(*mark);
                    if let Some(batch) = args.take_key(stage) {
                        *mark = self.position(batch)?;
                    }
                }
                self.reports[usize::from(peer.0)] = marks;
                self.gate.report(peer, &marks);
            }
            "gone" => self.gate.set_live(self.peer(next("standby")?)?, false),
            "back" => self.gate.set_live(self.peer(next("standby")?)?, true),
            "exclude" => self.gate.exclude(self.peer(next("standby")?)?),
            "include" => self.gate.include(self.peer(next("standby")?)?),
            "term" => {
                let flushed = self.batches[self.batches.len() - 1];
                self.gate.begin_term(flushed);
            }
            // tick MICROS: that much later.
            "tick" => {
                self.now_ns += next("micros")?.parse::<u64>()? * 1000;
                self.gate.tick(self.now_ns);
            }
            "status" => text = self.status(),
            other => return Err(format!("no command '{other}'").into()),
        }
        args.reject_next()?;
        while let Some(output) = self.gate.poll() {
            let _ = writeln!(text, "{}", self.shown(&output));
        }
        Ok(text)
    }
}

#[test]
fn every_script_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/gate");
    let mut scripts: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 20, "scripts are missing: {}", scripts.len());
    for script in scripts {
        let text = std::fs::read_to_string(&script).unwrap();
        assert!(text.starts_with("# "), "{} does not say its claim", script.display());
        goldenscript::run(&mut World::new(Unmet::Stall, 0, 0), &script).unwrap();
    }
}
