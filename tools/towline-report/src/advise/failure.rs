//! The failures that a goal can name, and which rung of the ladder survives each (SEMANTICS, section 2).

use crate::schema::{Level, Spread};
use crate::units;
use serde::{Serialize, Serializer};

/// A failure that must not lose an acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The primary is stopped in order.
    CleanStop,
    /// SIGKILL of the primary; it starts again.
    PrimaryKill,
    /// Power cut of the primary; its disk comes back, and no other node was promoted meanwhile.
    PrimaryPowerCut,
    /// Power cut of every node; the primary's disk comes back.
    AllPowerCut,
    /// The primary is gone with its disk; a standby is promoted.
    PrimaryDiskLoss,
    /// The same, and SIGKILL of the standbys that counted, at the same moment.
    PrimaryDiskLossStandbysKill,
    /// The same, and a power cut of one of the standbys that counted, at the same moment.
    PrimaryDiskLossStandbyPowerCut,
    /// The same, and a power cut of the standbys that counted, at the same moment.
    PrimaryDiskLossStandbysPowerCut,
    /// The disks of the primary and of one standby that counted.
    PrimaryAndStandbyDiskLoss,
    /// Every disk that held the log.
    AllDiskLoss,
}

/// What survives a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// The weakest level.
    pub(super) level: Level,
    /// How many standbys a remote level must wait for.
    pub(super) standbys: u32,
}

impl Failure {
    /// All of them, the mildest first.
    pub const ALL: [Self; 10] = [
        Self::CleanStop,
        Self::PrimaryKill,
        Self::PrimaryPowerCut,
        Self::AllPowerCut,
        Self::PrimaryDiskLoss,
        Self::PrimaryDiskLossStandbysKill,
        Self::PrimaryDiskLossStandbyPowerCut,
        Self::PrimaryDiskLossStandbysPowerCut,
        Self::PrimaryAndStandbyDiskLoss,
        Self::AllDiskLoss,
    ];

    /// The name on a command line and in tables, as the survival runs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CleanStop => "clean-stop",
            Self::PrimaryKill => "primary-kill",
            Self::PrimaryPowerCut => "primary-power",
            Self::AllPowerCut => "all-power",
            Self::PrimaryDiskLoss => "primary-disk",
            Self::PrimaryDiskLossStandbysKill => "primary-disk+standbys-kill",
            Self::PrimaryDiskLossStandbyPowerCut => "primary-disk+standby-power",
            Self::PrimaryDiskLossStandbysPowerCut => "primary-disk+standbys-power",
            Self::PrimaryAndStandbyDiskLoss => "two-disks",
            Self::AllDiskLoss => "all-disks",
        }
    }

    /// What happens, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::CleanStop => "the primary is stopped in order",
            Self::PrimaryKill => "the primary's process is killed and starts again",
            Self::PrimaryPowerCut => "the primary loses its power, its disk comes back, nobody was promoted",
            Self::AllPowerCut => "every node loses its power, the primary's disk comes back",
            Self::PrimaryDiskLoss => "the primary's disk is gone, a standby is promoted",
            Self::PrimaryDiskLossStandbysKill => {
                "the primary's disk is gone and the standbys that counted are killed, at once"
            }
            Self::PrimaryDiskLossStandbyPowerCut => {
                "the primary's disk is gone and a standby that counted loses its power, at once"
            }
            Self::PrimaryDiskLossStandbysPowerCut => {
                "the primary's disk is gone and the standbys that counted lose their power, at once"
            }
            Self::PrimaryAndStandbyDiskLoss => {
                "the disks of the primary and of one standby that counted are gone"
            }
            Self::AllDiskLoss => "every disk that held the log is gone",
        }
    }

    /// `None`: no level survives it.
    pub(super) fn need(self) -> Option<Need> {
        let (level, standbys) = match self {
            Self::CleanStop => (Level::Off, 0),
            Self::PrimaryKill | Self::PrimaryPowerCut | Self::AllPowerCut => (Level::Local, 0),
            Self::PrimaryDiskLoss | Self::PrimaryDiskLossStandbysKill => (Level::RemoteWrite, 1),
            Self::PrimaryDiskLossStandbyPowerCut | Self::PrimaryDiskLossStandbysPowerCut => (Level::On, 1),
            Self::PrimaryAndStandbyDiskLoss => (Level::RemoteWrite, 2),
            Self::AllDiskLoss => return None,
        };
        Some(Need { level, standbys })
    }

    /// Whether `level`, waiting for so many standbys, keeps every acknowledged record.
    pub(super) fn survived_by(self, level: Level, standbys: u32) -> bool {
        // Where two count, the other one has it in memory.
        let another_has_it = self == Self::PrimaryDiskLossStandbyPowerCut && standbys > 1;
        another_has_it && level >= Level::RemoteWrite
            || self.need().is_some_and(|need| level >= need.level && standbys >= need.standbys)
    }

    /// What is gone after it at a level that waits for so many standbys; `exposure` is what the run saw there.
    pub(super) fn loss(self, level: Level, standbys: u32, exposure: Option<Spread>) -> String {
        if self.survived_by(level, standbys) {
            return "nothing".into();
        }
        let remote = level > Level::Local && standbys > 0;
        match self {
            Self::AllDiskLoss => "everything".into(),
            _ if self.need().is_some_and(|need| need.level <= Level::Local) => {
                "what was not yet flushed".into()
            }
            Self::PrimaryAndStandbyDiskLoss if remote => "what only that standby had".into(),
            Self::PrimaryDiskLossStandbyPowerCut if remote => "what that standby had in memory only".into(),
            Self::PrimaryDiskLossStandbysPowerCut if remote => "what the standbys had in memory only".into(),
            _ => match exposure {
                Some(exposure) => format!(
                    "what no standby had: seen {}, at most {}",
                    units::bytes(exposure.p50 as f64),
                    units::bytes(exposure.max as f64)
                ),
                None => "what no standby had".into(),
            },
        }
    }
}

impl std::str::FromStr for Failure {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        let short = failure_name(name);
        Self::ALL
            .into_iter()
            .find(|failure| failure.as_str() == short)
            .ok_or_else(|| format!("no failure is called '{name}'; there are {}", names()))
    }
}

/// The name that survival runs and tables use for a failure; any other word is returned as it is.
pub fn failure_name(asked: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == asked).map_or(asked, |(_, name)| name)
}

/// Longer names of failures, and the ones that survival runs and tables use.
pub const ALIASES: [(&str, &str); 9] = [
    ("primary-power-cut", "primary-power"),
    ("all-power-cut", "all-power"),
    ("primary-disk-loss", "primary-disk"),
    ("primary-disk-loss+standby-kill", "primary-disk+standbys-kill"),
    ("primary-disk-loss+standbys-kill", "primary-disk+standbys-kill"),
    ("primary-disk-loss+standby-power-cut", "primary-disk+standby-power"),
    ("primary-disk-loss+standbys-power-cut", "primary-disk+standbys-power"),
    ("primary-and-standby-disk-loss", "two-disks"),
    ("all-disk-loss", "all-disks"),
];

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How many standbys a rule waits for: the number after `ANY` or `FIRST`; 1 for a bare list, 0 for no rule.
pub(super) fn standbys_of_rule(rule: &str) -> u32 {
    let mut words = rule.split_whitespace();
    match words.next().map(str::to_ascii_uppercase).as_deref() {
        None => 0,
        Some("ANY" | "FIRST") => words.next().and_then(|word| word.parse().ok()).unwrap_or(1),
        Some(first) => first.parse().unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_of_the_semantics() {
        let weakest = |failure: Failure, standbys| {
            Level::ALL.into_iter().find(|level| failure.survived_by(*level, standbys))
        };
        assert_eq!(weakest(Failure::CleanStop, 1), Some(Level::Off));
        assert_eq!(weakest(Failure::PrimaryKill, 1), Some(Level::Local));
        assert_eq!(weakest(Failure::AllPowerCut, 0), Some(Level::Local));
        assert_eq!(weakest(Failure::PrimaryDiskLoss, 1), Some(Level::RemoteWrite));
        assert_eq!(weakest(Failure::PrimaryDiskLoss, 0), None, "without a rule nobody is waited for");
        assert_eq!(weakest(Failure::PrimaryDiskLossStandbysPowerCut, 1), Some(Level::On));
        assert_eq!(weakest(Failure::PrimaryDiskLossStandbyPowerCut, 1), Some(Level::On));
        assert_eq!(weakest(Failure::PrimaryDiskLossStandbyPowerCut, 2), Some(Level::RemoteWrite));
        assert_eq!(weakest(Failure::PrimaryAndStandbyDiskLoss, 1), None);
        assert_eq!(weakest(Failure::PrimaryAndStandbyDiskLoss, 2), Some(Level::RemoteWrite));
        assert_eq!(weakest(Failure::AllDiskLoss, 9), None);
        for failure in Failure::ALL {
            assert_eq!(failure.as_str().parse(), Ok(failure));
            assert!(ALIASES.iter().all(|(alias, _)| *alias != failure.as_str()), "no alias hides a name");
        }
        for (alias, name) in ALIASES {
            assert_eq!(alias.parse(), name.parse::<Failure>(), "{alias}");
            assert!(name.parse::<Failure>().is_ok(), "{alias}");
        }
    }

    #[test]
    fn what_is_lost_is_told_from_what_was_seen() {
        let seen = Some(Spread { p50: 2048, p99: 4096, max: 8192 });
        let loss = Failure::PrimaryDiskLoss.loss(Level::Local, 1, seen);
        assert!(loss.contains("2\u{a0}KiB") && loss.contains("8\u{a0}KiB"), "{loss}");
        assert_eq!(Failure::PrimaryDiskLoss.loss(Level::On, 1, seen), "nothing");
        assert_eq!(Failure::PrimaryKill.loss(Level::Off, 1, seen), "what was not yet flushed");
        assert_eq!(Failure::AllDiskLoss.loss(Level::RemoteApply, 2, seen), "everything");
    }

    #[test]
    fn rules_say_how_many_they_wait_for() {
        let rules = [
            ("", 0),
            ("ANY 2 (a, b, c)", 2),
            ("FIRST 1 (a)", 1),
            ("any 1 (*)", 1),
            ("*", 1),
            ("2 (a, b)", 2),
        ];
        for (rule, count) in rules {
            assert_eq!(standbys_of_rule(rule), count, "{rule}");
        }
    }
}
