//! The primary and its disk go: what its standbys hold is all there is.

use std::time::Duration;

use linkem::Direction;
use towline::Lsn;

use crate::cluster::{PRIMARY, STANDBYS};
use crate::error::Result;
use crate::failure::Failure;
use crate::scene::{OUTAGE, Scene};

impl Scene<'_> {
    /// Makes a failure happen that the primary does not come back from; returns the standby to go on with.
    pub(crate) fn primary_is_lost(&mut self, failure: Failure) -> Result<usize> {
        self.worst_moment(failure)?;
        let all = [PRIMARY, STANDBYS[0], STANDBYS[1]];
        match failure {
            Failure::PrimaryDiskStandbysKill => self.cluster.kill(&all),
            Failure::PrimaryDiskStandbysPower => self.cluster.cut_power(&all, 0.0, 1)?,
            Failure::TwoDisks => self.cluster.lose_disk(&[STANDBYS[0]])?,
            _ => {}
        }
        self.cluster.lose_disk(&[PRIMARY])?;
        self.load.wait_disconnected(self.context)?;
        self.cluster.calm();
        if failure == Failure::TwoDisks {
            return Ok(STANDBYS[1]);
        }
        if failure != Failure::PrimaryDisk {
            for at in STANDBYS {
                self.cluster.restart(at)?;
            }
        }
        // The one whose log reaches farther is the one to go on with.
        let ends: Vec<Lsn> = STANDBYS.iter().map(|at| self.cluster.log_end(*at)).collect::<Result<_>>()?;
        Ok(if ends[1] > ends[0] { STANDBYS[1] } else { STANDBYS[0] })
    }

    /// The standbys are made late, so that there is something that only the primary holds, as far as the level allows.
    fn worst_moment(&mut self, failure: Failure) -> Result<()> {
        match failure {
            // A window would be used up by the slow flushes before the links are cut.
            Failure::PrimaryDiskStandbysPower if self.row.window.is_none() => {
                // Much of what the standbys have in memory is not flushed there, and the last of it not there at all.
                STANDBYS.iter().for_each(|at| self.cluster.slow_flush(*at, SLOW_STANDBY));
                self.context.sleep(SLOW_STANDBY * 3)?;
                self.cluster.each_link(|link| link.cut(Direction::Both));
                self.context.sleep(SLOW_STANDBY / 3)
            }
            Failure::TwoDisks => {
                self.cluster.link(STANDBYS[1]).cut(Direction::Both);
                self.context.sleep(OUTAGE)
            }
            _ => {
                self.cluster.each_link(|link| link.cut(Direction::Both));
                self.load.wait_quiet(self.context, OUTAGE / 2, OUTAGE)
            }
        }
    }
}

const SLOW_STANDBY: Duration = Duration::from_millis(150);
