//! The primary goes, or is thought to be gone: a standby is promoted, and leads.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use linkem::Direction;
use rustix::process::Signal;
use towline::{Level, Lsn};
use towline_core::node::RoleStatus;

use crate::cluster::{Cluster, NAMES, PRIMARY, STANDBYS};
use crate::error::{Result, SurviveError};
use crate::failure::Failure;
use crate::predict::{Promise, predict};
use crate::row::Row;
use crate::scene::{OUTAGE, Scene};

impl Scene<'_> {
    /// Makes a failure happen that the primary does not come back from as one; returns who leads then.
    pub(crate) fn leader_changes(&mut self, failure: Failure) -> Result<usize> {
        // Where nothing may be lost, half of them come while confirmations are on their way.
        let is_amid = failure.may_come_amid(self.row) && self.random.below(2) == 0;
        if !is_amid {
            self.worst_moment(failure)?;
        } else if failure == Failure::Partition {
            self.cluster.each_link(|link| link.cut(Direction::Both));
        } else if failure == Failure::PartitionOneWay {
            self.cluster.silence_primary();
        }
        match failure {
            Failure::PrimaryDiskStandbysKill => {
                self.cluster.kill(&[PRIMARY, STANDBYS[0], STANDBYS[1]]);
                self.cluster.lose_disk(&[PRIMARY])?;
            }
            Failure::PrimaryDiskStandbyPower => {
                self.cluster.cut_power(&[PRIMARY, STANDBYS[0]], 0.0, 1)?;
                self.cluster.lose_disk(&[PRIMARY])?;
            }
            Failure::PrimaryDiskStandbysPower => {
                self.cluster.cut_power(&[PRIMARY, STANDBYS[0], STANDBYS[1]], 0.0, 1)?;
                self.cluster.lose_disk(&[PRIMARY])?;
            }
            Failure::TwoDisks => self.cluster.lose_disk(&[PRIMARY, STANDBYS[0]])?,
            Failure::TwoDisksAhead => {
                // What is on its way to it does not arrive after all.
                self.cluster.link(STANDBYS[0]).cut(Direction::Both);
                self.cluster.lose_disk(&[PRIMARY, STANDBYS[1]])?;
            }
            Failure::Partition | Failure::PartitionOneWay => {}
            Failure::Pause => self.cluster.signal(PRIMARY, Signal::STOP),
            _ => self.cluster.lose_disk(&[PRIMARY])?,
        }
        let comes_back = matches!(failure, Failure::Partition | Failure::PartitionOneWay | Failure::Pause);
        if !comes_back {
            self.load.wait_disconnected(self.context)?;
        }
        self.cluster.calm();
        let down = match failure {
            Failure::PrimaryDiskStandbysKill | Failure::PrimaryDiskStandbysPower => STANDBYS.as_slice(),
            Failure::PrimaryDiskStandbyPower => &STANDBYS[..1],
            _ => &[],
        };
        for at in down {
            self.cluster.restart(*at)?;
        }
        let leader = match failure {
            Failure::TwoDisks => self.promote_the_last(STANDBYS[1], STANDBYS[0])?,
            Failure::TwoDisksAhead => self.promote_the_last(STANDBYS[0], STANDBYS[1])?,
            Failure::PrimaryDisk if self.any_one_will_do() => self.promote_the_worse()?,
            _ => self.promote_the_best()?,
        };
        if comes_back {
            self.old_primary_returns()?;
        }
        self.load.follow(self.cluster.address(leader));
        let others = match failure {
            Failure::TwoDisks | Failure::TwoDisksAhead => 0,
            _ if comes_back => 2,
            _ => 1,
        };
        // With too few to confirm what it holds can still be read.
        if !self.row.level.is_remote() || self.row.quorum() <= others {
            self.goes_on(leader)?;
        }
        Ok(leader)
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
            Failure::PrimaryDiskStandbyPower if self.row.window.is_none() => {
                // What one of them confirmed from memory is not flushed there, and has not reached the other.
                self.cluster.slow_flush(STANDBYS[0], SLOW_STANDBY);
                self.cluster.link(STANDBYS[1]).set_delay(Direction::Both, LATE * 2);
                self.context.sleep(SLOW_STANDBY * 3)?;
                self.cluster.each_link(|link| link.cut(Direction::Both));
                Ok(())
            }
            Failure::TwoDisks => {
                self.cluster.link(STANDBYS[1]).cut(Direction::Both);
                self.context.sleep(OUTAGE)
            }
            Failure::TwoDisksAhead => {
                self.cluster.link(STANDBYS[0]).set_delay(Direction::Both, LATE);
                self.context.sleep(LATE * 5)
            }
            Failure::PrimaryDisk if self.any_one_will_do() => {
                // One of them goes on receiving what nobody is told of.
                self.cluster.link(STANDBYS[1]).cut(Direction::Both);
                self.context.sleep(OUTAGE)?;
                self.cluster.link(STANDBYS[0]).cut(Direction::Both);
                Ok(())
            }
            Failure::PartitionOneWay => {
                self.cluster.silence_primary();
                self.load.wait_quiet(self.context, OUTAGE / 2, self.used_up())
            }
            _ => {
                self.cluster.each_link(|link| link.cut(Direction::Both));
                self.load.wait_quiet(self.context, OUTAGE / 2, self.used_up())
            }
        }
    }

    /// How long its standbys are late at most: until the window is used up, where there is one.
    fn used_up(&self) -> Duration {
        if self.row.bound().is_some() { USED_UP } else { OUTAGE }
    }

    /// Promotes the standby whose log reaches farther; both are there.
    fn promote_the_best(&mut self) -> Result<usize> {
        let ends: Vec<Lsn> = STANDBYS.iter().map(|at| self.cluster.log_end(*at)).collect::<Result<_>>()?;
        let (best, other) = if ends[1] > ends[0] { (2, 1) } else { (1, 2) };
        promote(&self.cluster, best, &[other, PRIMARY], &self.next_rule(other), false)?;
        self.cluster.wait_following(best, &[other])?;
        Ok(best)
    }

    /// Whether each standby has all that was acknowledged.
    fn any_one_will_do(&self) -> bool {
        self.row.quorum() == STANDBYS.len()
    }

    /// Promotes the standby whose log is shorter, while the other is down; that one then gives up what it has more.
    fn promote_the_worse(&mut self) -> Result<usize> {
        let ends: Vec<Lsn> = STANDBYS.iter().map(|at| self.cluster.log_end(*at)).collect::<Result<_>>()?;
        let (worse, better) = if ends[1] > ends[0] { (1, 2) } else { (2, 1) };
        self.cluster.kill(&[better]);
        promote(&self.cluster, worse, &[better, PRIMARY], &self.next_rule(better), false)?;
        self.cluster.wait_leading(worse)?;
        self.cluster.restart(better)?;
        self.cluster.wait_following(worse, &[better])?;
        Ok(worse)
    }

    /// Promotes the only node that is left; without a quorum that has to be forced.
    fn promote_the_last(&mut self, last: usize, gone: usize) -> Result<usize> {
        let is_forced = self.row.quorum() == 1;
        promote(&self.cluster, last, &[gone, PRIMARY], &self.next_rule(gone), is_forced)?;
        self.cluster.wait_leading(last)?;
        Ok(last)
    }

    /// The rule of the next leadership: as many standbys as before. For fewer the old rule would have to agree, and one
    /// of its standbys leads now.
    fn next_rule(&self, other: usize) -> String {
        let kind = if self.row.is_first() { "FIRST" } else { "ANY" };
        format!("{kind} {} ({}, {})", self.row.quorum(), NAMES[other], NAMES[PRIMARY])
    }

    /// The old primary wakes or is reached again; it may acknowledge to itself until it hears of the new term, and
    /// then follows.
    fn old_primary_returns(&mut self) -> Result<()> {
        if self.row.is_strict() {
            // It wakes among whole links: what it was told before it slept, and what it tells, arrives at once.
            self.cluster.each_link(|link| link.heal());
        }
        self.cluster.signal(PRIMARY, Signal::CONT);
        if self.row.level <= Level::Local {
            self.context.sleep(OUTAGE / 4)?;
        }
        self.cluster.each_link(|link| link.heal());
        self.cluster.wait_status(PRIMARY, "follows the new leader", |status| {
            status.node.role == RoleStatus::Standby && status.node.follows
        })
    }
}

impl Failure {
    /// Whether it may come amid the work: where every acknowledgement waits and none may be lost, no moment has to be made
    /// at which something would be.
    fn may_come_amid(self, row: &Row) -> bool {
        let is_any = matches!(
            self,
            Failure::PrimaryDisk
                | Failure::PrimaryDiskStandbysKill
                | Failure::PrimaryDiskStandbysPower
                | Failure::Partition
                | Failure::PartitionOneWay
                | Failure::Pause
        );
        // Where each has everything, the worse one has to be made worse.
        let makes_worse = self == Failure::PrimaryDisk && row.quorum() == STANDBYS.len();
        is_any && !makes_worse && row.is_strict() && predict(row, self) == Promise::Zero
    }
}

/// Asks by `towline promote`, as a person would.
fn promote(cluster: &Cluster<'_>, at: usize, others: &[usize], rule: &str, force: bool) -> Result<()> {
    let standbys: Vec<String> = others
        .iter()
        .map(|other| format!("{}={}", NAMES[*other], cluster.address_for_standbys(*other)))
        .collect();
    let program = &cluster.context.program;
    let mut command = Command::new(program);
    command.arg("promote").arg(cluster.address(at).to_string());
    command.arg(format!("--standbys={}", standbys.join(",")));
    command.arg(format!("--sync-rule={rule}")).arg("--timeout=5s");
    if force {
        command.arg("--force");
    }
    command.process_group(0);
    let output = command.output().map_err(SurviveError::file(program, "cannot be started"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(SurviveError::Late(format!("'{}' could not be promoted: {said}", NAMES[at])))
}

/// A load that needs longer to use up its window leaves a part of it.
const USED_UP: Duration = Duration::from_secs(3);
/// How far a standby is behind the other one, one way.
const LATE: Duration = Duration::from_millis(60);
const SLOW_STANDBY: Duration = Duration::from_millis(150);
