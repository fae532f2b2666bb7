//! What a world is made of: its kind follows from its seed.

use towline_core::replication::Unmet;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    pub standbys: usize,
    pub rule: Option<&'static str>,
    pub arena_bytes: u64,
    pub unmet: Unmet,
    pub record_bytes: std::ops::Range<usize>,
    pub applies: bool,
    pub apply_safe: bool,
    /// The first standby relays to a standby of its own.
    pub relay: bool,
    pub outlives: bool,
    pub retention_bytes: u64,
    pub hold_bytes: u64,
}

impl Setup {
    pub fn new(standbys: usize, rule: Option<&'static str>) -> Setup {
        Setup {
            standbys,
            rule,
            arena_bytes: 64 << 20,
            unmet: Unmet::Stall,
            record_bytes: 8..400,
            applies: false,
            apply_safe: false,
            relay: false,
            outlives: true,
            retention_bytes: 1 << 30,
            hold_bytes: 1 << 30,
        }
    }
}

/// The kinds of worlds.
pub fn setup(seed: u64) -> Setup {
    match seed % 8 {
        0 => Setup::new(1, Some("ANY 1 (s1)")),
        1 => Setup { hold_bytes: 16 << 20, ..Setup::new(2, Some("ANY 1 (s1, s2)")) },
        2 => Setup::new(2, Some("FIRST 1 (s1, s2)")),
        3 => Setup { applies: true, apply_safe: true, ..Setup::new(3, Some("ANY 2 (s1, s2, s3)")) },
        4 => Setup {
            record_bytes: 50_000..900_000,
            arena_bytes: 4 << 20,
            retention_bytes: 40 << 20,
            ..Setup::new(2, Some("ANY 1 (s1, s2)"))
        },
        5 => Setup { applies: true, relay: true, ..Setup::new(2, Some("FIRST 1 (*)")) },
        6 => Setup {
            unmet: Unmet::DegradeAfter { ns: 5_000_000 },
            relay: true,
            ..Setup::new(2, Some("ANY 2 (s1, s2)"))
        },
        _ => Setup { outlives: false, ..Setup::new(3, Some("FIRST 2 (s1, s2, s3)")) },
    }
}
