//! The three processes: started, killed by SIGKILL, started again where the others look for them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use towline::client::Client;
use towline::{Level, Lsn};
use towline_core::format::RecordKind;
use towline_core::log::recovery::Step;
use towline_runtime::storage::{LogReader, arena_path, records};

use crate::Random;
use crate::support::{Folder, Node, NodePlan, PATIENCE};

/// Who is killed at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Victims {
    pub(crate) primary: bool,
    pub(crate) standbys: [bool; 2],
}

impl Victims {
    pub(crate) fn choose(random: &mut Random) -> Victims {
        let one = random.below(2) == 0;
        match random.below(10) {
            0..=3 => Victims { primary: true, standbys: [false, false] },
            4..=5 => Victims { primary: false, standbys: [one, !one] },
            6 => Victims { primary: false, standbys: [true, true] },
            7 => Victims { primary: true, standbys: [one, !one] },
            _ => Victims { primary: true, standbys: [true, true] },
        }
    }
}

enum Member {
    Up(Node),
    Down(NodePlan),
}

pub(crate) struct Cluster {
    primary: Option<Member>,
    standbys: [Option<Member>; 2],
    // Last: it goes when no process uses it any more.
    folder: Folder,
}

/// A record as it was found.
pub(crate) struct Found {
    pub(crate) lsn: Lsn,
    pub(crate) payload: Vec<u8>,
}

/// What the nodes held in the end.
pub(crate) struct Logs {
    /// The primary's records, from its files.
    pub(crate) records: Vec<Found>,
    /// The same, as `tail` gave them.
    pub(crate) tailed: Vec<Found>,
}

const NAMES: [&str; 2] = ["a", "b"];

impl Cluster {
    pub(crate) fn start() -> Cluster {
        let folder = Folder::new();
        // A loopback address of its own: while a node is down, nobody else can be given its port.
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let number = (std::process::id() << 6).wrapping_add(CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let [_, x, y, z] = number.to_be_bytes();
        let free = SocketAddr::from((Ipv4Addr::new(127, 64 | x >> 2, y, z.clamp(1, 254)), 0));
        // One flush at a time: what is only in a standby's arena is more, and longer there.
        let standby = |name: &str| NodePlan::standby(name, folder.join(name)).flag("--flush-depth=1");
        let standbys = NAMES.map(|name| standby(name).at(free).start());
        let primary = NodePlan::primary(folder.join("p"))
            .at(free)
            .ships_to(&standbys[0])
            .ships_to(&standbys[1])
            .flag("--sync-rule=ANY 1 (a, b)")
            .start();
        primary.wait_leading();
        Cluster {
            primary: Some(Member::Up(primary)),
            standbys: standbys.map(|standby| Some(Member::Up(standby))),
            folder,
        }
    }

    pub(crate) fn primary(&self) -> &Node {
        up(&self.primary)
    }

    fn standby(&self, at: usize) -> &Node {
        up(&self.standbys[at])
    }

    /// All at the same moment, as far as signals go; returns when they are gone.
    pub(crate) fn kill(&mut self, victims: Victims) {
        let [a, b] = &mut self.standbys;
        let chosen =
            [(&mut self.primary, victims.primary), (a, victims.standbys[0]), (b, victims.standbys[1])];
        for (member, _) in chosen.iter().filter(|(_, chosen)| *chosen) {
            up(member).signal(Signal::KILL);
        }
        for (member, _) in chosen.into_iter().filter(|(_, chosen)| *chosen) {
            if let Some(Member::Up(node)) = member.take() {
                *member = Some(Member::Down(node.kill()));
            }
        }
    }

    /// Starts the standbys that are down; with their arenas gone, as after a power cut, when told so.
    pub(crate) fn restart_standbys(&mut self, lose_arenas: bool) {
        for (name, member) in NAMES.into_iter().zip(&mut self.standbys) {
            if lose_arenas && matches!(member, Some(Member::Down(_))) {
                let arena = arena_of(&self.folder.join(name));
                std::fs::remove_file(&arena).expect("a killed standby leaves its arena behind");
            }
            restart(member);
        }
    }

    pub(crate) fn restart_primary(&mut self) {
        restart(&mut self.primary);
    }

    /// Where each standby's log ends, once it has flushed all of it. Only while no primary ships.
    pub(crate) fn standby_ends(&self) -> [Lsn; 2] {
        [0, 1].map(|at| {
            let node = self.standby(at).wait_status("flushed", |node| {
                let marks = &node["watermarks"];
                marks["end"]["lsn"] == marks["flushed"]["lsn"]
            });
            lsn(&node["watermarks"]["flushed"]["lsn"])
        })
    }

    /// What each standby has applied.
    pub(crate) fn standby_applied(&self) -> [Lsn; 2] {
        [0, 1].map(|at| lsn(&self.standby(at).status()["shards"][0]["node"]["watermarks"]["applied"]))
    }

    /// Waits until everybody has everything, reads it over the socket, stops everybody cleanly, reads it from the
    /// files, and compares the logs' bytes.
    pub(crate) fn settle_and_stop(mut self, level: Level) -> Logs {
        let address = self.primary().address();
        let last = Client::connect(address, 0).unwrap().append(&[], level, None).unwrap();
        self.primary().wait_caught_up(0);
        self.primary().wait_caught_up(1);
        let flushed = self.primary().wait_status("flushed", |node| {
            lsn(&node["watermarks"]["flushed"]["lsn"]) >= last.end
                && lsn(&node["watermarks"]["safe"]) >= last.end
        });
        let flushed = lsn(&flushed["watermarks"]["flushed"]["lsn"]);
        let tailed = tail(address, last.lsn);
        let names = ["p", NAMES[0], NAMES[1]];
        let dirs = names.map(|name| self.folder.join(name));
        let arenas = [arena_of(&dirs[1]), arena_of(&dirs[2])];
        for member in [self.primary.take(), self.standbys[0].take(), self.standbys[1].take()] {
            match member {
                Some(Member::Up(node)) => drop(node.stop()),
                _ => panic!("everybody runs at the end"),
            }
        }
        for arena in &arenas {
            assert!(!arena.exists(), "{} is left after a clean stop", arena.display());
        }
        let bytes = stored(&dirs[0], flushed);
        for (name, dir) in NAMES.into_iter().zip(&dirs[1..]) {
            assert_same(name, &bytes, &stored(dir, flushed));
        }
        let mut records = read(&dirs[0]);
        assert_eq!(records.pop().map(|record| record.lsn), Some(last.lsn), "the last record is the last");
        Logs { records, tailed }
    }

    /// What the nodes say of themselves, for a failure.
    pub(crate) fn tell(&self) -> String {
        let members = [&self.primary, &self.standbys[0], &self.standbys[1]];
        let tell = |member: &&Option<Member>| match member {
            Some(Member::Up(node)) => {
                let status = String::from_utf8_lossy(&node.ask("status", &["--json"]).stdout).into_owned();
                format!("--- {}: {status}\n{}\n", node.name(), node.said())
            }
            _ => "--- down\n".to_owned(),
        };
        members.iter().map(tell).collect()
    }
}

fn up(member: &Option<Member>) -> &Node {
    match member {
        Some(Member::Up(node)) => node,
        _ => panic!("is down"),
    }
}

fn restart(member: &mut Option<Member>) {
    if let Some(Member::Down(plan)) = member {
        *member = Some(Member::Up(plan.start()));
    }
}

fn lsn(value: &serde_json::Value) -> Lsn {
    Lsn(value.as_u64().unwrap_or_else(|| panic!("no position: {value}")))
}

fn shard(dir: &Path) -> PathBuf {
    dir.join("shard-0")
}

/// The file of a standby's arena.
fn arena_of(dir: &Path) -> PathBuf {
    let reader = LogReader::open_readonly(&shard(dir), true).unwrap();
    arena_path(Path::new("/dev/shm"), reader.identity().node, 0)
}

/// Everything up to the record at `last`, over the socket; without that one.
fn tail(address: SocketAddr, last: Lsn) -> Vec<Found> {
    let mut tail = Client::connect(address, 0).unwrap().tail(Lsn(0), false).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "the tail ends before {last}");
        let Some(batch) = tail.next_batch_timeout(Duration::from_secs(1)).unwrap() else { continue };
        for record in batch.records() {
            if record.lsn == last {
                return found;
            }
            found.push(Found { lsn: record.lsn, payload: record.payload.to_vec() });
        }
    }
}

/// The data records of a stopped node.
fn read(dir: &Path) -> Vec<Found> {
    let reader = LogReader::open_readonly(&shard(dir), false).unwrap();
    let mut walk = reader.walk();
    let mut found = Vec::new();
    while let Step::Batch(batch) = walk.step().unwrap() {
        let data = records(&batch).filter(|record| record.kind == RecordKind::Data);
        found.extend(data.map(|record| Found { lsn: record.lsn, payload: record.payload.to_vec() }));
    }
    found
}

/// The bytes of a stopped node's log from its start to `end`, by segment.
fn stored(dir: &Path, end: Lsn) -> Vec<(Lsn, Vec<u8>)> {
    let reader = LogReader::open_readonly(&shard(dir), false).unwrap();
    let (geometry, start) = (reader.geometry(), reader.meta().log_start);
    let sequences = geometry.segment_of(start)..=geometry.segment_of(Lsn(end.0 - 1));
    sequences
        .map(|seq| {
            let path = shard(dir).join("segments").join(format!("{seq:016x}.seg"));
            let mut bytes = std::fs::read(path).unwrap();
            let first = geometry.segment_start(seq);
            bytes.truncate(usize::try_from(end.0 - first.0).unwrap_or(usize::MAX).min(bytes.len()));
            let skip = start.0.saturating_sub(first.0) as usize;
            (first.max(start), bytes.split_off(skip))
        })
        .collect()
}

fn assert_same(name: &str, primary: &[(Lsn, Vec<u8>)], standby: &[(Lsn, Vec<u8>)]) {
    assert_eq!(primary.len(), standby.len(), "segments of '{name}'");
    for ((at, left), (there, right)) in primary.iter().zip(standby) {
        assert_eq!((at, left.len()), (there, right.len()), "'{name}'");
        let differs = left.iter().zip(right).position(|(left, right)| left != right);
        assert_eq!(
            differs.map(|offset| Lsn(at.0 + offset as u64)),
            None,
            "'{name}' differs from the primary"
        );
    }
}
