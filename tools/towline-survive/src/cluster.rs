//! A primary and two standbys, each a process of its own on a disk of its own that forgets, the standbys behind links
//! that can be cut.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linkem::{Direction, Link, LinkConfig, LinkControl};
use powercut::{Cut, FaultChange, Mount, MountOptions};
use rustix::process::Signal;
use towline::Lsn;
use towline_core::types::limits::RECORD_HEADER_BYTES;
use towline_runtime::ShardStatus;

use crate::context::Context;
use crate::copies::Copy;
use crate::error::{Result, SurviveError};
use crate::process::{Node, NodePlan, Started};
use crate::row::Row;
use crate::work::remove_arenas;

/// The members of a cluster, by their places.
pub(crate) const PRIMARY: usize = 0;
/// The standbys, by their places.
pub(crate) const STANDBYS: [usize; 2] = [1, 2];
/// The members' names.
pub(crate) const NAMES: [&str; 3] = ["p", "a", "b"];

/// Three nodes. Dropping it ends them, unmounts their disks and removes its folder.
pub(crate) struct Cluster<'a> {
    pub(crate) context: &'a Context,
    // In this order: processes and mounts go before the folder.
    pub(crate) members: Vec<Member>,
    /// From the primary to each standby, and to the primary from whoever leads after it.
    links: Vec<Link>,
    _folder: Folder,
}

pub(crate) struct Member {
    pub(crate) node: Option<Node>,
    plan: NodePlan,
    /// `None`: the disk is lost.
    disk: Option<Mount>,
    below: PathBuf,
}

impl<'a> Cluster<'a> {
    /// Starts all three and waits until the primary leads and both standbys follow.
    pub(crate) fn start(context: &'a Context, row: &Row) -> Result<Cluster<'a>> {
        Cluster::start_with(context, row, None)
    }

    /// The same around standbys that run already, elsewhere: the members of their places stay down.
    pub(crate) fn start_around(
        context: &'a Context,
        row: &Row,
        standbys: [SocketAddr; 2],
    ) -> Result<Cluster<'a>> {
        Cluster::start_with(context, row, Some(standbys))
    }

    fn start_with(
        context: &'a Context,
        row: &Row,
        elsewhere: Option<[SocketAddr; 2]>,
    ) -> Result<Cluster<'a>> {
        let (number, folder) = context.folder()?;
        let folder = Folder(folder);
        // A loopback address of its own: while a node is down, nobody else can be given its port.
        let place = (std::process::id() << 8).wrapping_add(number);
        let [_, x, y, z] = place.to_be_bytes();
        let free = SocketAddr::from((Ipv4Addr::new(127, 64 | x >> 2, y, z.clamp(1, 254)), 0));
        let mut cluster = Cluster { context, members: Vec::new(), links: Vec::new(), _folder: folder };
        let mut standby_flags = Vec::new();
        for (number, name) in STANDBYS.map(|at| NAMES[at]).into_iter().enumerate() {
            let mut member = cluster.member("standby", name, free)?;
            match elsewhere {
                Some(addresses) => member.plan.listen = addresses[number],
                None => member.start(context)?,
            }
            let mut link = LinkConfig::new(member.plan.listen);
            link.spin = Duration::ZERO;
            let link = Link::start(link)?;
            standby_flags.push(format!("--standby={name}={}", link.local_addr()));
            cluster.links.push(link);
            cluster.members.push(member);
        }
        let mut primary = cluster.member("primary", NAMES[PRIMARY], free)?;
        primary.plan.flags.push(format!("--segment-bytes={SEGMENT_BYTES}"));
        primary.plan.flags.extend(standby_flags);
        primary.plan.flags.push(format!("--sync-rule={}", row.rule));
        primary
            .plan
            .flags
            .extend(row.degrade_after.map(|after| format!("--degrade-after={}ms", after.as_millis())));
        primary.start(context)?;
        // For whoever leads after it.
        let mut link = LinkConfig::new(primary.plan.listen);
        link.spin = Duration::ZERO;
        cluster.links.push(Link::start(link)?);
        cluster.members.insert(PRIMARY, primary);
        cluster.wait_following(PRIMARY, &STANDBYS)?;
        Ok(cluster)
    }

    fn member(&self, role: &'static str, name: &'static str, listen: SocketAddr) -> Result<Member> {
        let folder = &self._folder.0;
        let (mountpoint, below) = (folder.join(format!("{name}-disk")), folder.join(format!("{name}-below")));
        for path in [&mountpoint, &below] {
            fs::create_dir(path).map_err(SurviveError::file(path, "cannot be made"))?;
        }
        let disk = Mount::start(&mountpoint, &below, &MountOptions::default())?;
        let plan = NodePlan::new(role, name, &mountpoint.join(NODE), listen);
        Ok(Member { node: None, plan, disk: Some(disk), below })
    }

    /// Where a member serves, also while it is down.
    pub(crate) fn address(&self, at: usize) -> SocketAddr {
        self.members[at].plan.listen
    }

    /// Where another standby finds a member when it leads.
    pub(crate) fn address_for_standbys(&self, at: usize) -> SocketAddr {
        if at == PRIMARY { self.links[2].local_addr() } else { self.address(at) }
    }

    /// The primary's link to a standby.
    pub(crate) fn link(&self, standby: usize) -> LinkControl {
        self.links[standby - 1].control()
    }

    /// All ways to and from the primary.
    pub(crate) fn each_link(&self, order: impl Fn(&LinkControl)) {
        self.links.iter().for_each(|link| order(&link.control()));
    }

    /// Nothing that the primary sends arrives; what is sent to it does.
    pub(crate) fn silence_primary(&self) {
        for (at, link) in self.links.iter().enumerate() {
            // It connects to its standbys; whoever leads after it connects to it.
            let from_primary = if at < STANDBYS.len() { Direction::Up } else { Direction::Down };
            link.control().cut(from_primary);
        }
    }

    /// Makes each flush of a member's disk so slow.
    pub(crate) fn slow_flush(&self, at: usize, delay: Duration) {
        let delay_fsync_us = Some(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
        self.trouble(at, &FaultChange { delay_fsync_us, ..FaultChange::default() });
    }

    /// Changes the troubles of a member's disk.
    pub(crate) fn trouble(&self, at: usize, change: &FaultChange) {
        if let Some(disk) = &self.members[at].disk {
            disk.change_faults(change);
        }
    }

    /// Takes all troubles of all disks back.
    pub(crate) fn calm(&self) {
        let calm = FaultChange { clear: true, ..FaultChange::default() };
        (0..self.members.len()).for_each(|at| self.trouble(at, &calm));
    }

    pub(crate) fn signal(&self, at: usize, signal: Signal) {
        if let Some(node) = &self.members[at].node {
            node.signal(signal);
        }
    }

    /// SIGKILL, all at the same moment as far as signals go.
    pub(crate) fn kill(&mut self, who: &[usize]) {
        who.iter().for_each(|at| self.signal(*at, Signal::KILL));
        for at in who {
            if let Some(node) = self.members[*at].node.take() {
                node.kill();
            }
        }
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self, at: usize) -> Result<()> {
        self.signal(at, Signal::TERM);
        let member = &mut self.members[at];
        self.context.wait(&format!("the end of '{}'", NAMES[at]), PATIENCE, || {
            Ok(member.node.as_mut().is_none_or(|node| node.ended().is_some()).then_some(()))
        })?;
        member.node = None;
        Ok(())
    }

    /// Cuts the power of some at the same moment: their processes stand still, what was not flushed is dropped (a
    /// part of it by chance where `keep` is above 0), and what was in shared memory is gone.
    pub(crate) fn cut_power(&mut self, who: &[usize], keep: f64, seed: u64) -> Result<()> {
        who.iter().for_each(|at| self.signal(*at, Signal::STOP));
        for at in who {
            if let Some(disk) = &self.members[*at].disk {
                let cut = Cut { keep, seed: Some(seed ^ *at as u64) };
                disk.cut(cut).map_err(|error| {
                    SurviveError::Late(format!("the power of '{}' cannot be cut: {error}", NAMES[*at]))
                })?;
            }
        }
        self.kill(who);
        for at in who {
            let member = &self.members[*at];
            remove_arenas(&member.below.join(NODE));
            if let Some(disk) = &member.disk {
                disk.restore();
            }
        }
        Ok(())
    }

    /// Kills some and loses their disks for good.
    pub(crate) fn lose_disk(&mut self, who: &[usize]) -> Result<()> {
        self.kill(who);
        for at in who {
            let member = &mut self.members[*at];
            remove_arenas(&member.below.join(NODE));
            drop(member.disk.take());
            fs::remove_dir_all(&member.below)
                .map_err(SurviveError::file(&member.below, "cannot be removed"))?;
        }
        Ok(())
    }

    /// Starts a member that is down, where the others look for it.
    pub(crate) fn restart(&mut self, at: usize) -> Result<()> {
        self.members[at].start(self.context)
    }

    /// Starts a member that has to refuse its disk as damaged; returns what it did instead.
    pub(crate) fn restart_refused(&mut self, at: usize) -> Result<Option<String>> {
        let member = &mut self.members[at];
        match Node::try_start(self.context, &member.plan)? {
            Started::Ready(node) => {
                member.node = Some(node);
                Ok(Some("the log was opened".to_owned()))
            }
            Started::Refused { status, .. } if status.code() == Some(DAMAGED) => Ok(None),
            Started::Refused { status, said } => {
                Ok(Some(format!("the start ended with {status}, not as damaged ({DAMAGED}){said}")))
            }
        }
    }

    /// Stops all, the leader last, and reads from their disks what is durable there; with what could not be read.
    pub(crate) fn stop_and_read(&mut self, leader: usize) -> Result<(Vec<Copy>, Vec<String>)> {
        let mut order = self.living_beside(leader);
        order.push(leader);
        order.iter().try_for_each(|at| self.stop(*at))?;
        let read = |at: &usize| Copy::read(NAMES[*at], &self.members[*at].below.join(NODE).join("shard-0"));
        let (mut copies, mut wrong) = (Vec::new(), Vec::new());
        for copy in order.iter().map(read) {
            match copy {
                Ok(copy) => copies.push(copy),
                Err(why) => wrong.push(why),
            }
        }
        Ok((copies, wrong))
    }

    pub(crate) fn status(&self, at: usize) -> Result<ShardStatus> {
        match &self.members[at].node {
            Some(node) => node.status(),
            None => Err(SurviveError::Late(format!("'{}' is down and was asked for its status", NAMES[at]))),
        }
    }

    /// Flips a bit of the record at `place` on a member's disk, below all caches. Only while it is down.
    pub(crate) fn flip_bit(&mut self, at: usize, place: Lsn) -> Result<()> {
        let (segment, offset) = (place.0 / SEGMENT_BYTES, place.0 % SEGMENT_BYTES);
        let path = self.members[at].below.join(NODE).join(format!("shard-0/segments/{segment:016x}.seg"));
        let flip = || {
            let file = fs::File::options().read(true).write(true).open(&path)?;
            // Past the record's header, in its number.
            let (mut byte, offset) = ([0], offset + RECORD_HEADER_BYTES);
            file.read_exact_at(&mut byte, offset)?;
            byte[0] ^= 0x10;
            file.write_all_at(&byte, offset)
        };
        flip().map_err(SurviveError::file(&path, "cannot be changed"))
    }

    /// Where a member's log ends.
    pub(crate) fn log_end(&self, at: usize) -> Result<Lsn> {
        Ok(self.status(at)?.node.watermarks.end.lsn)
    }
}

impl Member {
    fn start(&mut self, context: &Context) -> Result<()> {
        let node = Node::start(context, &self.plan)?;
        self.plan.listen = node.address();
        self.node = Some(node);
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.node.take());
        remove_arenas(&self.below.join(NODE));
    }
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all::<&Path>(&self.0);
    }
}

const SEGMENT_BYTES: u64 = 8 << 20;
/// The node's directory on its disk.
const NODE: &str = "node";
/// The exit code of a node that found its log damaged.
const DAMAGED: i32 = 3;
/// Nothing a healthy node does takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
