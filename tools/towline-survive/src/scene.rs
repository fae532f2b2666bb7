//! One cell, played once: a cluster under load, the failure at its worst moment, and what is left.

use std::time::Duration;

use linkem::Direction;
use powercut::FaultChange;
use towline::Level;

use crate::cluster::{Cluster, PRIMARY, STANDBYS};
use crate::context::Context;
use crate::copies::differences;
use crate::error::Result;
use crate::failure::Failure;
use crate::judge::{Judgement, judge, read_survivor};
use crate::load::{Load, Plan};
use crate::predict::{Promise, predict};
use crate::random::Random;
use crate::row::Row;

/// What one play of a cell gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Played {
    pub(crate) judgement: Judgement,
    /// From when an append was due to its acknowledgement, before anything went wrong, ascending.
    pub(crate) latencies_ns: Vec<u64>,
}

/// Plays a cell once.
pub(crate) fn play(
    context: &Context,
    row: &Row,
    failure: Failure,
    seed: u64,
    rate_per_s: f64,
) -> Result<Played> {
    play_many(context, row, &[failure], seed, rate_per_s)
}

/// Plays one failure after the other on one cluster; only the last may change the leader.
pub(crate) fn play_many(
    context: &Context,
    row: &Row,
    failures: &[Failure],
    seed: u64,
    rate_per_s: f64,
) -> Result<Played> {
    let cluster = Cluster::start(context, row)?;
    let plan = Plan { level: row.level, window: row.window, rate_per_s };
    let load = Load::start(plan, cluster.address(PRIMARY));
    let random = Random::new(seed);
    let mut scene = Scene { context, row, cluster, load, random, anomalies: Vec::new() };
    let mut calm_until_ns = 0;
    let mut leader = PRIMARY;
    for failure in failures {
        scene.work_for_a_while()?;
        if calm_until_ns == 0 {
            calm_until_ns = scene.load.now_ns();
        }
        if row.degrade_after.is_some() {
            // Nobody can confirm, and soon `local` is enough.
            scene.cluster.each_link(|link| link.cut(Direction::Both));
            scene.load.wait_more_acks(context, 50)?;
        }
        leader = scene.strike(*failure)?;
    }
    let survivor = scene.cluster.address(leader);
    let journal = scene.load.finish(context, FINISH)?;
    let ended = scene.cluster.ended();
    let (found, strange) = read_survivor(context, survivor)?;
    let hold = scene.cluster.wait_all_hold(leader);
    hold.map_err(|error| scene.cluster.explain(error))?;
    let (copies, unread) = scene.cluster.stop_and_read(leader)?;
    let on = Row::new("on", Level::On, None);
    let on_is_safe = failures.iter().all(|failure| predict(&on, *failure) == Promise::Zero);
    let mut judgement = judge(&journal, &found, row, on_is_safe);
    judgement.anomalies.extend(strange);
    judgement.anomalies.extend(scene.anomalies);
    judgement.anomalies.extend(ended.into_iter().chain(unread).chain(differences(&copies, &found)));
    let acks =
        journal.appends.iter().filter_map(|append| append.ack().map(|(_, at_ns)| (append.due_ns, at_ns)));
    let calm = acks.filter(|(_, at_ns)| *at_ns <= calm_until_ns);
    let mut latencies_ns: Vec<u64> = calm.map(|(due_ns, at_ns)| at_ns.saturating_sub(due_ns)).collect();
    latencies_ns.sort_unstable();
    Ok(Played { judgement, latencies_ns })
}

pub(crate) struct Scene<'a> {
    pub(crate) context: &'a Context,
    pub(crate) row: &'a Row,
    pub(crate) cluster: Cluster<'a>,
    pub(crate) load: Load,
    pub(crate) random: Random,
    anomalies: Vec<String>,
}

impl Scene<'_> {
    /// Ordinary work before anything goes wrong.
    fn work_for_a_while(&mut self) -> Result<()> {
        self.load.wait_more_acks(self.context, 300)?;
        let more = Duration::from_millis(self.random.below(40));
        self.context.sleep(more)
    }

    /// Makes the failure happen, and whole again what it leaves; returns who leads in the end.
    fn strike(&mut self, failure: Failure) -> Result<usize> {
        match failure {
            Failure::PrimaryKill => {
                self.slow(&[PRIMARY])?;
                self.cluster.kill(&[PRIMARY]);
                self.primary_comes_back(&[])
            }
            Failure::PrimaryPower => {
                self.slow(&[PRIMARY])?;
                self.cut_power(&[PRIMARY])?;
                self.primary_comes_back(&[])
            }
            Failure::AllPower => {
                let all = [PRIMARY, STANDBYS[0], STANDBYS[1]];
                self.slow(&all)?;
                self.cut_power(&all)?;
                self.primary_comes_back(&STANDBYS)
            }
            Failure::StandbyKill => self.standbys_go(1, false),
            Failure::StandbyPower => self.standbys_go(1, true),
            Failure::StandbysKill => self.standbys_go(2, false),
            Failure::StandbysPower => self.standbys_go(2, true),
            Failure::LinkUp => self.link_is_cut(Direction::Up),
            Failure::LinkDown => self.link_is_cut(Direction::Down),
            Failure::LinkBoth => self.link_is_cut(Direction::Both),
            Failure::SlowDisk => {
                self.slow(&[PRIMARY, STANDBYS[0]])?;
                self.context.sleep(OUTAGE)?;
                self.cluster.calm();
                self.goes_on(PRIMARY)
            }
            Failure::FullDisk => self.disk_is_full(),
            Failure::BitFlip => self.bit_flips(),
            Failure::PrimaryDisk
            | Failure::PrimaryDiskStandbysKill
            | Failure::PrimaryDiskStandbyPower
            | Failure::PrimaryDiskStandbysPower
            | Failure::TwoDisks
            | Failure::TwoDisksAhead
            | Failure::Partition
            | Failure::PartitionOneWay
            | Failure::Pause => self.leader_changes(failure),
        }
    }

    /// Flushes become slow, so that the moment finds a lot that is accepted or written and not flushed.
    fn slow(&mut self, who: &[usize]) -> Result<()> {
        who.iter().for_each(|at| self.cluster.slow_flush(*at, SLOW));
        self.context.sleep(SLOW * 4)
    }

    /// Half of the cuts keep a random half of what was not flushed, as a disk may.
    fn cut_power(&mut self, who: &[usize]) -> Result<()> {
        let keep = if self.random.below(2) == 0 { 0.0 } else { 0.5 };
        let seed = self.random.next();
        self.cluster.cut_power(who, keep, seed)
    }

    /// The primary starts again on its disk, after those of its standbys that are down.
    fn primary_comes_back(&mut self, standbys: &[usize]) -> Result<usize> {
        self.load.wait_disconnected(self.context)?;
        self.cluster.calm();
        self.cluster.each_link(|link| link.heal());
        for at in standbys {
            self.cluster.restart(*at)?;
        }
        self.cluster.restart(PRIMARY)?;
        self.cluster.wait_leading(PRIMARY)?;
        self.goes_on(PRIMARY)
    }

    fn standbys_go(&mut self, count: usize, power: bool) -> Result<usize> {
        let first = self.random.below(2) as usize;
        let who = if count == 2 { STANDBYS.to_vec() } else { vec![STANDBYS[first]] };
        self.slow(&who)?;
        if power {
            self.cut_power(&who)?;
        } else {
            self.cluster.kill(&who);
        }
        if STANDBYS.len() - count < self.row.quorum() {
            self.too_few_confirm()?;
        } else {
            self.context.sleep(OUTAGE)?;
        }
        self.cluster.calm();
        for at in &who {
            self.cluster.restart(*at)?;
        }
        self.goes_on(PRIMARY)
    }

    fn link_is_cut(&mut self, direction: Direction) -> Result<usize> {
        self.cluster.each_link(|link| link.cut(direction));
        self.too_few_confirm()?;
        self.goes_on(PRIMARY)
    }

    /// While too few standbys can confirm, nothing that waits for them may be acknowledged. What was sent before may have
    /// been confirmed before, and its acknowledgement be late; too few can have confirmed what was sent since.
    fn too_few_confirm(&mut self) -> Result<()> {
        let since_ns = self.load.now_ns();
        self.context.sleep(OUTAGE)?;
        let more = self.load.acks_of_sent_after(since_ns);
        if more > 0
            && self.row.level.is_remote()
            && self.row.window.is_none()
            && self.row.degrade_after.is_none()
        {
            self.anomalies.push(format!("{more} acknowledgements while too few standbys could confirm"));
        }
        Ok(())
    }

    /// The primary has no room for its next segment, and says so. With room again its appends go on, by themselves.
    fn disk_is_full(&mut self) -> Result<usize> {
        self.load.send_large(true);
        self.cluster.trouble(PRIMARY, &FaultChange { space_bytes: Some(Some(0)), ..FaultChange::default() });
        let full = self.cluster.wait_status(PRIMARY, "says that its disk is full", |status| {
            status.node.full.as_ref().is_some_and(|why| why.contains("could not be prepared"))
        });
        full.map_err(|error| self.cluster.explain(error))?;
        self.context.sleep(OUTAGE)?;
        self.cluster.calm();
        self.load.send_large(false);
        self.goes_on(PRIMARY)
    }

    /// A bit of an early record flips while the primary is down. Alone it must not open that log; with its standbys
    /// it mends it.
    fn bit_flips(&mut self) -> Result<usize> {
        let place = self.load.place_of_ack(100).unwrap_or_default();
        self.cluster.stop(PRIMARY)?;
        self.load.wait_disconnected(self.context)?;
        self.cluster.flip_bit(PRIMARY, place)?;
        // No answer at all would make it wait: refused is refused.
        self.cluster.each_link(|link| link.heal());
        self.cluster.each_link(|link| link.sever());
        if let Some(instead) = self.cluster.restart_refused(PRIMARY)? {
            self.anomalies.push(format!("a bit had flipped at {place}, and {instead}"));
        }
        self.cluster.kill(&[PRIMARY]);
        self.primary_comes_back(&[])
    }

    /// Whole again, the cluster serves as before, and whoever lives follows.
    pub(crate) fn goes_on(&mut self, leader: usize) -> Result<usize> {
        self.cluster.each_link(|link| {
            link.set_delay(Direction::Both, Duration::ZERO);
            link.heal();
        });
        let more = self.load.wait_more_acks(self.context, 20);
        more.map_err(|error| self.cluster.explain(error))?;
        let ended = self.cluster.ended();
        self.anomalies.extend(ended);
        let living = self.cluster.living_beside(leader);
        let follow = self.cluster.wait_following(leader, &living);
        follow.map_err(|error| self.cluster.explain(error))?;
        if self.row.degrade_after.is_some() {
            // What fell to `local` heals by itself.
            let healed = self.load.wait_acks_at(self.context, self.row.level, 50);
            healed.map_err(|error| self.cluster.explain(error))?;
        }
        Ok(leader)
    }
}

/// Appends a second that a cluster is offered.
pub(crate) const RATE_PER_S: f64 = 2000.0;
/// The same where something large has to be filled, or much is to be acknowledged.
pub(crate) const HIGH_RATE_PER_S: f64 = 6000.0;
pub(crate) const SLOW: Duration = Duration::from_millis(30);
/// How long a trouble lasts.
pub(crate) const OUTAGE: Duration = Duration::from_millis(120);
const FINISH: Duration = Duration::from_secs(5);
