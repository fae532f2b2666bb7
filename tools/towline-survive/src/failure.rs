//! The columns of the matrix: what goes wrong.

use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// SIGKILL of the primary, which starts again.
    PrimaryKill,
    /// Power cut of the primary, which starts again.
    PrimaryPower,
    /// Power cut of all three at once; all start again.
    AllPower,
    /// The primary and its disk are gone; a standby is promoted.
    PrimaryDisk,
    /// The same, and both standbys are killed at the same moment.
    PrimaryDiskStandbysKill,
    /// The same, and the standby that confirmed loses its power at the same moment, while the other one is late.
    PrimaryDiskStandbyPower,
    /// The same, and both standbys lose their power at the same moment.
    PrimaryDiskStandbysPower,
    /// The disks of the primary and of one standby that counted are gone; the other is promoted.
    TwoDisks,
    /// The disks of the primary and of the standby that is ahead of the other one are gone; that one is promoted.
    TwoDisksAhead,
    /// The primary is cut off, a standby is promoted, and then the link heals.
    Partition,
    /// Nothing that the primary sends arrives, a standby is promoted, and then the link heals.
    PartitionOneWay,
    /// The primary is stopped (SIGSTOP), a standby is promoted, and then the old primary wakes.
    Pause,
    /// A bit flips in a durable batch of the primary: it refuses its log while it is alone, and mends it from a standby.
    BitFlip,
    /// SIGKILL of one standby, which starts again.
    StandbyKill,
    /// Power cut of one standby, which starts again.
    StandbyPower,
    /// SIGKILL of both standbys.
    StandbysKill,
    /// Power cut of both standbys.
    StandbysPower,
    /// Nothing from the primary reaches the standbys, for a while.
    LinkUp,
    /// Nothing from the standbys reaches the primary, for a while.
    LinkDown,
    /// Nothing passes between primary and standbys, for a while.
    LinkBoth,
    /// The disks of the primary and of one standby are slow.
    SlowDisk,
    /// The primary's disk is full for a while.
    FullDisk,
}

impl Failure {
    /// All of them.
    pub const ALL: [Failure; 22] = [
        Failure::PrimaryKill,
        Failure::PrimaryPower,
        Failure::AllPower,
        Failure::PrimaryDisk,
        Failure::PrimaryDiskStandbysKill,
        Failure::PrimaryDiskStandbyPower,
        Failure::PrimaryDiskStandbysPower,
        Failure::TwoDisks,
        Failure::TwoDisksAhead,
        Failure::Partition,
        Failure::PartitionOneWay,
        Failure::Pause,
        Failure::BitFlip,
        Failure::StandbyKill,
        Failure::StandbyPower,
        Failure::StandbysKill,
        Failure::StandbysPower,
        Failure::LinkUp,
        Failure::LinkDown,
        Failure::LinkBoth,
        Failure::SlowDisk,
        Failure::FullDisk,
    ];

    /// Its name on the command line and in tables.
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// What happens, in a sentence.
    pub fn what(self) -> &'static str {
        self.texts().1
    }

    /// Whether somebody else leads afterwards.
    pub fn promotes(self) -> bool {
        use Failure::{Partition, PartitionOneWay, Pause};
        use Failure::{PrimaryDisk, PrimaryDiskStandbyPower, PrimaryDiskStandbysKill};
        use Failure::{PrimaryDiskStandbysPower, TwoDisks, TwoDisksAhead};
        let is_gone = matches!(self, PrimaryDisk | PrimaryDiskStandbyPower | PrimaryDiskStandbysKill)
            || matches!(self, PrimaryDiskStandbysPower | TwoDisks | TwoDisksAhead);
        is_gone || matches!(self, Partition | PartitionOneWay | Pause)
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Failure::PrimaryKill => ("primary-kill", "SIGKILL of the primary, restart"),
            Failure::PrimaryPower => ("primary-power", "power cut of the primary, restart"),
            Failure::AllPower => ("all-power", "power cut of all three, restart"),
            Failure::PrimaryDisk => ("primary-disk", "primary and disk gone, promotion"),
            Failure::PrimaryDiskStandbysKill => {
                ("primary-disk+standbys-kill", "primary and disk gone, SIGKILL of both standbys, promotion")
            }
            Failure::PrimaryDiskStandbyPower => (
                "primary-disk+standby-power",
                "primary and disk gone, power cut of a standby that confirmed, the other late, promotion",
            ),
            Failure::PrimaryDiskStandbysPower => (
                "primary-disk+standbys-power",
                "primary and disk gone, power cut of both standbys, promotion",
            ),
            Failure::TwoDisks => (
                "two-disks",
                "disks of the primary and of a standby that counted gone, promotion of the other",
            ),
            Failure::TwoDisksAhead => (
                "two-disks-ahead",
                "disks of the primary and of the standby that is ahead gone, promotion of the other",
            ),
            Failure::Partition => ("partition", "primary cut off, promotion, link heals"),
            Failure::PartitionOneWay => {
                ("partition-one-way", "what the primary sends is lost, promotion, link heals")
            }
            Failure::Pause => ("pause", "primary stopped, promotion, late wake"),
            Failure::BitFlip => (
                "bit-flip",
                "a bit flips in a durable batch of the primary: refused alone, mended from a standby",
            ),
            Failure::StandbyKill => ("standby-kill", "SIGKILL of a standby, restart"),
            Failure::StandbyPower => ("standby-power", "power cut of a standby, restart"),
            Failure::StandbysKill => ("standbys-kill", "SIGKILL of both standbys, restart"),
            Failure::StandbysPower => ("standbys-power", "power cut of both standbys, restart"),
            Failure::LinkUp => ("link-up", "primary to standbys cut for a while"),
            Failure::LinkDown => ("link-down", "standbys to primary cut for a while"),
            Failure::LinkBoth => ("link-both", "links cut both ways for a while"),
            Failure::SlowDisk => ("slow-disk", "disks of the primary and of a standby slow"),
            Failure::FullDisk => ("full-disk", "primary's disk full for a while"),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
