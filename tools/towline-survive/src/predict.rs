//! What SEMANTICS.md says of each cell, before anything is run.

use serde::{Deserialize, Serialize};
use towline::{Level, Window};

use crate::failure::Failure;
use crate::record::size_of_window;
use crate::row::Row;
use crate::scene::SLOW;

/// What a cell has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Nothing that was acknowledged is lost.
    Zero,
    /// Something is lost, within one span of the window.
    Within(Window),
    /// Something is lost, and all of it was acknowledged within so many microseconds: what no flush had reached yet.
    Latest(u64),
    /// Something is lost: the level does not survive this, and the run has to show it.
    Loses,
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Promise::Zero => f.pad("0"),
            Promise::Within(window) => f.pad(&format!("1 … {window}")),
            Promise::Latest(micros) => f.pad(&format!("1 … last {} ms", micros / 1000)),
            Promise::Loses => f.pad("loses"),
        }
    }
}

/// The promise of a row under a failure.
pub fn predict(row: &Row, failure: Failure) -> Promise {
    use Failure as F;
    match failure {
        // The log of the same primary comes back, or it never went away.
        F::PrimaryKill | F::PrimaryPower | F::AllPower if row.level == Level::Off => {
            Promise::Latest(OFF_LOSES_US)
        }
        F::PrimaryKill | F::PrimaryPower | F::AllPower => Promise::Zero,
        F::StandbyKill | F::StandbyPower | F::StandbysKill | F::StandbysPower => Promise::Zero,
        F::LinkUp | F::LinkDown | F::LinkBoth | F::SlowDisk | F::FullDisk | F::BitFlip => Promise::Zero,
        // What a promoted standby holds is all there is. Of k copies beside the primary's, k - 1 may go too.
        F::TwoDisks if row.is_local() || row.quorum() == 1 => Promise::Loses,
        // The one that is left is `a`: where it comes first it was waited for, however late it was.
        F::TwoDisksAhead if row.is_local() || row.quorum() == 1 && !row.is_first() => Promise::Loses,
        F::PrimaryDiskStandbysPower if row.level == Level::RemoteWrite => Promise::Loses,
        F::PrimaryDiskStandbyPower if row.level == Level::RemoteWrite && row.quorum() == 1 => Promise::Loses,
        F::PrimaryDisk
        | F::PrimaryDiskStandbyPower
        | F::PrimaryDiskStandbysKill
        | F::PrimaryDiskStandbysPower
        | F::TwoDisks
        | F::TwoDisksAhead
        | F::Partition
        | F::PartitionOneWay
        | F::Pause => match row.bound() {
            _ if row.is_local() => Promise::Loses,
            // A window of nothing is none: every acknowledgement waits.
            Some(window) if size_of_window(window) == 0 => Promise::Zero,
            Some(window) => Promise::Within(window),
            None => Promise::Zero,
        },
    }
}

/// `off` loses what came since the flush began before the one in flight: two flushes of [`SLOW`], one at a time. The rest
/// is the machine's, which may let any step wait; a cell's run is twice as long.
const OFF_LOSES_US: u64 = (2 * SLOW.as_micros() + 90_000) as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        Row::all().into_iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn a_stronger_row_never_promises_less() {
        let rank = |promise: Promise| match promise {
            Promise::Loses => 0,
            Promise::Within(_) | Promise::Latest(_) => 1,
            Promise::Zero => 2,
        };
        for failure in Failure::ALL {
            let ladder = ["off", "local", "window-inf", "window-64K", "on", "remote_apply"];
            let ranks: Vec<i32> = ladder.iter().map(|name| rank(predict(&row(name), failure))).collect();
            assert!(ranks.is_sorted(), "{failure}: {ranks:?}");
        }
    }

    #[test]
    fn the_ladder_of_the_table_of_levels() {
        let cases = [
            ("off", Failure::PrimaryKill, Promise::Latest(150_000)),
            ("off", Failure::PrimaryDisk, Promise::Loses),
            ("local", Failure::PrimaryPower, Promise::Zero),
            ("local", Failure::PrimaryDisk, Promise::Loses),
            ("degraded", Failure::PrimaryDisk, Promise::Loses),
            ("remote_write", Failure::PrimaryDiskStandbysKill, Promise::Zero),
            ("remote_write", Failure::PrimaryDiskStandbysPower, Promise::Loses),
            ("remote_write", Failure::PrimaryDiskStandbyPower, Promise::Loses),
            ("remote_write", Failure::PrimaryDisk, Promise::Zero),
            ("on", Failure::PrimaryDiskStandbyPower, Promise::Zero),
            ("on", Failure::PrimaryDiskStandbysPower, Promise::Zero),
            ("on", Failure::TwoDisks, Promise::Loses),
            ("on-any-2", Failure::TwoDisks, Promise::Zero),
            ("on-first-1", Failure::TwoDisks, Promise::Loses),
            ("on-first-1", Failure::TwoDisksAhead, Promise::Zero),
            ("remote_apply", Failure::TwoDisksAhead, Promise::Loses),
            ("window-100records", Failure::PrimaryDisk, Promise::Within(Window::Records(100))),
        ];
        for (name, failure, promise) in cases {
            assert_eq!(predict(&row(name), failure), promise, "{name} {failure}");
        }
    }
}
