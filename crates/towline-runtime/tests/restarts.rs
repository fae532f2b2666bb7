//! A primary that comes back: with less than its standby has, with another log than its standby has, and too often.
//!
//! What a crash leaves is made here by erasing batches from the end of a closed directory: batches that had been shipped
//! and whose own write had not reached the disk. Real kills are tested with the program.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::*;
use towline_core::format::{BatchHeader, BatchKind};
use towline_core::log::recovery::Step;
use towline_core::types::limits::MAX_TERM_HISTORY;
use towline_core::types::{Level, Lsn, Span};
use towline_runtime::storage::LogReader;
use towline_runtime::{AppendError, PeerAddress, RunningNode};

/// A pair that wrote a log and was stopped, and what either holds now.
struct Crashed {
    folder: tempfile::TempDir,
    /// What the standby has and the primary lost.
    tail: Span,
    /// Payloads up to the tail, and in it.
    before: Vec<Vec<u8>>,
    in_tail: Vec<Vec<u8>>,
}

impl Crashed {
    /// The primary's last batches were in flight to its own disk, and had reached the standby's.
    fn with_tail_on_the_standby(rule: &str, standbys: &[&str]) -> Crashed {
        let folder = folder();
        let dir = |name: &str| folder.path().join(name);
        let a = start(standby(&dir("a"), "a"));
        let mut options = primary(&dir("p"));
        options.standbys = peers(&a, standbys);
        options.sync_rule = Some(rule.to_owned());
        let node = start(options);
        let log = leading(&node);
        for number in 0..40u8 {
            log.append(&[number; 3_000], Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
        }
        // A burst fills several flushes at once.
        let burst: Vec<_> =
            (40..90u8).map(|number| log.append(&[number; 40_000], Level::On, None).unwrap()).collect();
        for ticket in burst {
            ticket.wait_timeout(LIMIT).unwrap();
        }
        node.stop().unwrap();
        a.stop().unwrap();

        let (p, a) = (dir("p"), dir("a"));
        assert_identical(&p, &a, Lsn(1 << 20));
        let headers = headers(&a);
        let tail = longest_flight(&headers);
        erase(&p, Span::new(tail.start, headers.last().unwrap().stored().end));
        erase(&a, Span::new(tail.end, headers.last().unwrap().stored().end));
        let split = |lsn: Lsn| records(&a).into_iter().partition::<Vec<_>, _>(|(at, _)| *at < lsn);
        let (before, in_tail) = split(tail.start);
        assert!(!in_tail.is_empty() && records(&p) == before);
        let payloads = |records: Vec<(Lsn, Vec<u8>)>| records.into_iter().map(|(_, bytes)| bytes).collect();
        let (before, in_tail) = (payloads(before), payloads(in_tail));
        Crashed { folder, tail, before, in_tail }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn payloads(&self, name: &str) -> Vec<Vec<u8>> {
        records(&self.dir(name)).into_iter().map(|(_, payload)| payload).collect()
    }
}

/// `a` where it listens; of the others nobody is there.
fn peers(a: &RunningNode, names: &[&str]) -> Vec<PeerAddress> {
    let nobody = |name: &str| PeerAddress { name: name.to_owned(), address: "127.0.0.1:1".to_owned() };
    names.iter().map(|name| if *name == "a" { peer("a", a) } else { nobody(name) }).collect()
}

#[test]
fn a_restarted_primary_fetches_the_tail_that_it_lacks_before_it_leads() {
    // With two standbys and k = 1 it needs another node's word, and only `a` is there.
    let crashed = Crashed::with_tail_on_the_standby("ANY 1 (a, b)", &["a", "b"]);
    let said = Said::default();
    let a = start(standby(&crashed.dir("a"), "a"));
    let mut options = primary(&crashed.dir("p"));
    options.standbys = peers(&a, &["a", "b"]);
    said.listen(&mut options);
    let node = start(options);
    let log = leading(&node);
    assert!(said.has("fetching its tail first"), "{said:?}");
    assert!(log.snapshot().flushed.lsn >= crashed.tail.end);
    let after = log.append(b"after", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    node.stop().unwrap();
    a.stop().unwrap();
    assert_identical(&crashed.dir("p"), &crashed.dir("a"), after.end);
    let wanted = [crashed.before.clone(), crashed.in_tail.clone(), vec![b"after".to_vec()]].concat();
    assert!(crashed.payloads("p") == wanted, "nothing is lost, doubled or out of order");
    assert!(!crashed.dir("a").join("shard-0/cut").read_dir().is_ok_and(|mut cuts| cuts.next().is_some()));
}

#[test]
fn a_standby_with_a_diverged_tail_is_cut_to_the_fork_and_keeps_a_copy() {
    // With one standby of one (k = n) it needs nobody's word: it leads on what it has, and `a` has more.
    let crashed = Crashed::with_tail_on_the_standby("ANY 1 (a)", &["a"]);
    let tail_bytes = stored(&crashed.dir("a"))
        .into_iter()
        .filter(|(span, _)| span.start >= crashed.tail.start)
        .flat_map(|(_, bytes)| bytes)
        .collect::<Vec<u8>>();
    let (said, said_by_a) = (Said::default(), Said::default());
    // It leads and writes before `a` is back: two contents for one place.
    let mut options = primary(&crashed.dir("p"));
    options.standbys = vec![PeerAddress { name: "a".to_owned(), address: free_address() }];
    said.listen(&mut options);
    let address = options.standbys[0].address.clone();
    let node = start(options);
    let log = leading(&node);
    log.append(&[0xEE; 9_000], Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    let mut options = standby(&crashed.dir("a"), "a");
    options.listen = Some(address.parse().unwrap());
    said_by_a.listen(&mut options);
    let a = start(options);
    let after = log.append(b"after", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    node.stop().unwrap();
    a.stop().unwrap();

    assert!(said_by_a.has("CUT the log"), "{said_by_a:?}");
    assert_identical(&crashed.dir("p"), &crashed.dir("a"), after.end);
    let wanted = [crashed.before.clone(), vec![vec![0xEE; 9_000], b"after".to_vec()]].concat();
    assert!(crashed.payloads("a") == wanted);
    let mut cuts = crashed.dir("a").join("shard-0/cut").read_dir().unwrap();
    let copy = std::fs::read(cuts.next().unwrap().unwrap().path()).unwrap();
    assert!(cuts.next().is_none(), "one cut, one copy");
    assert!(copy == tail_bytes, "{} bytes kept of {}", copy.len(), tail_bytes.len());
}

#[test]
fn restarts_fill_the_term_history_and_the_operator_hears_of_it_in_time() {
    let folder = folder();
    let dir = folder.path().join("p");
    for restart in 1..=MAX_TERM_HISTORY {
        let said = Said::default();
        let mut options = primary(&dir);
        said.listen(&mut options);
        let node = start(options);
        let log = leading(&node);
        log.append(&[restart as u8], Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
        node.stop().unwrap();
        let left = format!("after {} more restarts", MAX_TERM_HISTORY - restart);
        assert_eq!(said.has("trim the log"), restart >= 48, "start {restart}: {said:?}");
        assert_eq!(said.has(&left), restart >= 48, "start {restart}: {said:?}");
    }
    let node = start(primary(&dir));
    let log = node.handle(0).unwrap();
    let mut refused = None;
    until("it refuses", || {
        refused = log.try_append(b"x", Level::Local, None).err();
        matches!(&refused, Some(AppendError::Unavailable(why)) if why.contains("full"))
    });
    let refused = refused.unwrap().to_string();
    assert!(refused.contains("term history is full") && refused.contains("trim the log"), "{refused}");
    // And a trim is all that it takes: the terms lie in more than one segment.
    log.trim(log.snapshot().flushed.lsn).unwrap();
    assert!(log.wait_leading(LIMIT), "{:?}", node.status());
    log.append(&[0], Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    assert!(log.snapshot().log_start > Lsn(8 << 20));
    node.stop().unwrap();
    let node = start(primary(&dir));
    leading(&node).append(&[1], Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    node.stop().unwrap();
}

/// The longest run of data batches none of which says that an earlier one of them was durable: as long as it was in
/// flight, the primary could lose it.
fn longest_flight(headers: &[BatchHeader]) -> Span {
    let mut longest = Span::default();
    for (at, first) in headers.iter().enumerate() {
        let flight = headers[at..]
            .iter()
            .take_while(|header| header.kind == BatchKind::Data && header.durable_before <= first.start);
        let end = flight.last().map_or(first.start, |last| last.stored().end);
        if end.bytes_since(first.start) > longest.len() {
            longest = Span::new(first.start, end);
        }
    }
    assert!(!longest.is_empty());
    longest
}

fn headers(dir: &Path) -> Vec<BatchHeader> {
    let reader = LogReader::open_readonly(&shard_dir(dir, 0), false).unwrap();
    let mut walk = reader.walk();
    let mut headers = Vec::new();
    while let Step::Batch(batch) = walk.step().unwrap() {
        headers.push(batch.header);
    }
    headers
}

/// Zeros in place of batches that never reached the disk. The logs here lie in one segment.
fn erase(dir: &Path, span: Span) {
    let reader = LogReader::open_readonly(&shard_dir(dir, 0), false).unwrap();
    let geometry = reader.geometry();
    assert_eq!(geometry.segment_of(span.start), 0);
    assert!(span.end <= geometry.segment_end(0));
    let file = std::fs::File::options().write(true).open(reader.layout().segment(0)).unwrap();
    file.write_all_at(&vec![0; span.len() as usize], geometry.offset_of(span.start)).unwrap();
    file.sync_all().unwrap();
}

/// Where nobody listens yet.
fn free_address() -> String {
    std::net::TcpListener::bind(any_port()).unwrap().local_addr().unwrap().to_string()
}
