//! What a world is made of: drawn from its seed, so that a swarm visits many kinds.

use std::ops::Range;

use towline_core::replication::Unmet;
use towline_core::types::Geometry;

use crate::rng::Rng;

/// One kind of world.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Nodes that may lead, or be counted: a fixed set of n + 1.
    pub nodes: usize,
    /// The sync rule wanted; empty: none.
    pub rule: String,
    /// Standbys are promoted and disks lost.
    pub failover: bool,
    /// Leaders go at the worst moment, one after the other, while standbys lag.
    pub stormy: bool,
    /// The last node hangs on a standby and never counts.
    pub relay: bool,
    /// Log geometry.
    pub geometry: Geometry,
    /// Arena bytes.
    pub arena_bytes: u64,
    /// When the rule cannot be met.
    pub unmet: Unmet,
    /// Payload bytes of a record.
    pub record_bytes: Range<u64>,
    /// Standbys apply.
    pub applies: bool,
    /// Only what is safe.
    pub apply_safe: bool,
    /// The arena outlives a killed process.
    pub outlives: bool,
    /// Retention past the last trim.
    pub retention_bytes: u64,
    /// How far standbys hold a trim back.
    pub hold_bytes: u64,
    /// Flushes in flight.
    pub flush_depth: usize,
    /// One-way delay of a message.
    pub delay_ns: Range<u64>,
    /// Chance that a message has to be sent again, which holds up all behind it.
    pub packet_loss: f64,
    /// Chance that the application goes on by a batch.
    pub apply_pace: f64,
    /// Chance that a write in flight completes within a turn.
    pub disk_pace: f64,
    /// Chance that a turn has a fault.
    pub fault_chance: f64,
    /// Chance that a sector in flight is lost at a power cut.
    pub sector_loss: f64,
    /// Old segments that are kept to make new ones from.
    pub spare_segments: usize,
    /// Chance that a segment is made, recycled or cut within a turn.
    pub keeper_pace: f64,
    /// Appends before the faults end.
    pub appends: u64,
}

impl Setup {
    /// The kind of world that `seed` has.
    pub fn of(rng: &mut Rng) -> Setup {
        let failover = rng.chance(0.7);
        let stormy = failover && rng.chance(0.4);
        let nodes = if stormy { rng.pick(&[3, 3, 4, 4, 5]) } else { rng.pick(&[2, 3, 3, 3, 4, 4, 5]) };
        let n = nodes - 1;
        // Of all rules k = 1 asks for the largest quorum, and leaves the most standbys behind.
        let k = if stormy && rng.chance(0.5) { 1 } else { 1 + rng.index(n) };
        let ruled = failover || rng.chance(0.9);
        let method = rng.pick(&["ANY", "FIRST"]);
        let rule = if ruled { format!("{method} {k} (*)") } else { String::new() };
        let big = rng.chance(0.1);
        let segment_bytes = if big { 8 << 20 } else { rng.pick(&[128 << 10, 256 << 10, 1 << 20]) };
        let fast = rng.within(10_000..100_000);
        let delays = [fast..2 * fast, 20_000..500_000, 100_000..1_500_000];
        let applies = rng.chance(0.5);
        Setup {
            nodes,
            rule,
            failover,
            stormy,
            relay: !failover && rng.chance(0.3),
            geometry: Geometry { segment_bytes, in_flight_bytes: 4 << 20 },
            arena_bytes: if big { 4 << 20 } else { rng.pick(&[4 << 20, 1 << 20]) },
            unmet: if rng.chance(0.25) {
                Unmet::DegradeAfter { ns: rng.within(1_000_000..10_000_000) }
            } else {
                Unmet::Stall
            },
            record_bytes: if big { 8..200_000 } else { rng.pick(&[8..64, 8..400, 8..4_000]) },
            applies,
            apply_safe: applies && rng.chance(0.5),
            outlives: rng.chance(0.7),
            retention_bytes: if rng.chance(0.3) { 8 * segment_bytes } else { 1 << 30 },
            hold_bytes: if rng.chance(0.1) { 2 * segment_bytes } else { 1 << 30 },
            flush_depth: rng.pick(&[1, 2, 4, 8]),
            delay_ns: rng.pick(&delays),
            packet_loss: rng.pick(&[0.0, 0.0, 0.02, 0.1, 0.3]),
            apply_pace: rng.pick(&[0.1, 0.3, 0.8]),
            disk_pace: rng.pick(&[0.9, 0.5, 0.2]),
            fault_chance: rng.pick(&[0.01, 0.02, 0.04]),
            sector_loss: rng.pick(&[0.1, 0.5, 0.8, 1.0]),
            spare_segments: rng.pick(&[0, 1, 1, 2]),
            keeper_pace: rng.pick(&[0.9, 0.5, 0.2, 0.05]),
            appends: 500 + rng.below(200),
        }
    }

    /// A rule over the nodes other than `own`, of another kind.
    pub fn other_rule(&self, rng: &mut Rng) -> String {
        let n = self.nodes - 1;
        let method = rng.pick(&["ANY", "FIRST"]);
        format!("{method} {} (*)", 1 + rng.index(n))
    }
}
