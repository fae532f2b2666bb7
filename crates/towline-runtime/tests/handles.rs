//! What a handle offers beside plain appends.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use towline_core::format::walk_headers;
use towline_core::types::limits::{MAX_APPEND_BYTES, MAX_RECORD_BYTES};
use towline_core::types::{Level, Lsn};
use towline_runtime::{
    AppendError, AppliedBatch, Apply, ApplyError, HandOverError, Promotion, RunningNode, StartError,
    TailError,
};

#[test]
fn what_is_too_long_or_empty_is_refused_and_the_largest_fits() {
    let folder = folder();
    let dir = folder.path().join("p");
    let node = start(primary(&dir));
    let log = leading(&node);
    let largest = vec![9; MAX_RECORD_BYTES as usize];
    let over = vec![9; MAX_RECORD_BYTES as usize + 1];
    assert!(matches!(log.append(&over, Level::Local, None), Err(AppendError::RecordTooLong { .. })));
    assert!(matches!(
        log.append_atomic(&[&largest, &largest], Level::Local, None),
        Err(AppendError::AppendTooLong { bytes }) if bytes > MAX_APPEND_BYTES
    ));
    assert!(matches!(log.append_atomic(&[], Level::Local, None), Err(AppendError::Empty)));
    for _ in 0..20 {
        log.append(&largest, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    }
    log.append(b"", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    node.stop().unwrap();
    let records = records(&dir);
    assert_eq!(records.len(), 21);
    assert!(records[..20].iter().all(|(_, payload)| *payload == largest));
}

#[test]
fn an_atomic_append_is_one_run_of_records() {
    let folder = folder();
    let dir = folder.path().join("p");
    let node = start(primary(&dir));
    let log = leading(&node);
    let parts: [&[u8]; 3] = [b"one", b"", b"three"];
    let committed = log.append_atomic(&parts, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    node.stop().unwrap();
    let records = records(&dir);
    assert_eq!(records.iter().map(|(_, payload)| payload.as_slice()).collect::<Vec<_>>(), parts);
    assert_eq!(records[0].0, committed.lsn);
    assert!(records[2].0 < committed.end);
}

#[test]
fn a_reservation_is_built_in_place_dropped_or_voided() {
    let folder = folder();
    let dir = folder.path().join("p");
    let mut options = primary(&dir);
    options.hold_limit = Duration::from_millis(50);
    let node = start(options);
    let log = leading(&node);

    let mut built = log.reserve(5, Level::Local, None).unwrap();
    built.fill().unwrap().copy_from_slice(b"built");
    let lsn = built.lsn();
    assert_eq!(built.commit().unwrap().wait_timeout(LIMIT).unwrap().lsn, lsn);

    drop(log.reserve(100, Level::Local, None).unwrap());
    let after_drop = log.append(b"after the drop", Level::Local, None).unwrap();
    after_drop.wait_timeout(LIMIT).unwrap();

    // Held past the limit: the batch goes on without it.
    let mut held = log.reserve(8, Level::Local, None).unwrap();
    let behind = log.append(b"behind", Level::Local, None).unwrap();
    behind.wait_timeout(LIMIT).unwrap();
    assert!(held.fill().is_none());
    assert!(matches!(held.commit(), Err(AppendError::Voided)));
    log.append(b"last", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();

    node.stop().unwrap();
    let payloads: Vec<Vec<u8>> = records(&dir).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, [&b"built"[..], b"after the drop", b"behind", b"last"]);
}

#[test]
fn a_held_reservation_fills_the_arena_and_try_append_says_full() {
    let folder = folder();
    let mut options = primary(&folder.path().join("p"));
    options.hold_limit = Duration::from_secs(3600);
    let node = start(options);
    let log = leading(&node);
    let held = log.reserve(8, Level::Off, None).unwrap();
    let payload = vec![1; 100_000];
    let refused = (0..200).find_map(|_| log.try_append(&payload, Level::Off, None).err());
    assert!(matches!(refused, Some(AppendError::Full(_))), "{refused:?}");
    let waiting = {
        let log = log.clone();
        std::thread::spawn(move || {
            log.append(&payload, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap()
        })
    };
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    drop(held);
    waiting.join().unwrap();
    node.stop().unwrap();
}

#[test]
fn a_log_at_its_retention_limit_refuses_until_it_is_trimmed() {
    let folder = folder();
    let mut options = primary(&folder.path().join("p"));
    (options.retention_bytes, options.hold_bytes) = (32 << 20, 32 << 20);
    let node = start(options);
    let log = leading(&node);
    let payload = vec![1; 500_000];
    let deadline = Instant::now() + LIMIT;
    let mut end = Lsn(0);
    let refused = loop {
        assert!(Instant::now() < deadline);
        match log.try_append(&payload, Level::Local, None) {
            Ok(ticket) => end = ticket.wait_timeout(LIMIT).unwrap().end,
            Err(AppendError::Full(why)) if why.contains("retention") => break why,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    };
    assert!(refused.contains("trim"), "{refused}");
    log.trim(end).unwrap();
    let again = log.append(&payload, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    until("the log starts later", || log.snapshot().log_start > Lsn(8 << 20));
    assert!(matches!(log.tail(Lsn(8192), true), Err(TailError::Trimmed { .. })));
    assert!(again.end > end);
    node.stop().unwrap();
}

#[test]
fn a_tail_reads_old_records_from_segments_and_new_ones_as_they_come() {
    let folder = folder();
    let node = start(primary(&folder.path().join("p")));
    let log = leading(&node);
    let mut wanted = Vec::new();
    let mut append = |number: u32| {
        let payload = vec![number as u8; 20_000];
        let committed = log.append(&payload, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
        wanted.push(committed);
        committed
    };
    (0..600).for_each(|number| {
        append(number);
    });
    let mut tail = log.tail(Lsn(0), true).unwrap();
    let mut found = Vec::new();
    let mut read = |tail: &mut towline_runtime::Tail, count: usize| {
        while found.len() < count {
            let batch = tail.next().unwrap().unwrap();
            let records = walk_headers(&batch.bytes).map(Result::unwrap);
            found.extend(records.map(|record| batch.start.plus(u64::from(record.offset))));
        }
        found.clone()
    };
    assert_eq!(read(&mut tail, 600), wanted.iter().map(|c| c.lsn).collect::<Vec<_>>());
    let last = wanted[599];
    assert!(matches!(tail.next_within(Duration::from_millis(20)), Some(Ok(None))));
    let new = log.append(b"new", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    assert_eq!(read(&mut tail, 601)[600], new.lsn);
    // From the end of a record, wherever in its batch that is.
    let mut behind = log.tail(last.end, true).unwrap();
    assert_eq!(behind.next().unwrap().unwrap().start, new.lsn);
    node.stop().unwrap();
    assert!(tail.next().is_none(), "the node has ended");
}

#[test]
fn shards_are_logs_of_their_own() {
    let folder = folder();
    let dir = folder.path().join("p");
    let mut options = primary(&dir);
    options.shards = 3;
    let node = start(options);
    for shard in 0..3u16 {
        let log = node.handle(shard).unwrap();
        assert!(log.wait_leading(LIMIT));
        for number in 0..10u16 {
            let payload = [shard as u8, number as u8];
            log.append(&payload, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
        }
    }
    assert!(node.handle(3).is_none());
    assert_eq!(node.status().shards.len(), 3);
    node.stop().unwrap();
    for shard in 0..3u16 {
        let records = records_of(&dir, shard);
        assert_eq!(records.len(), 10);
        assert!(records.iter().all(|(_, payload)| payload[0] == shard as u8));
    }
}

/// Counts records, and remembers the last.
struct Counter {
    count: Arc<AtomicU64>,
    last: Arc<Mutex<Vec<u8>>>,
}

impl Apply for Counter {
    fn apply(&mut self, batch: &AppliedBatch<'_>) -> Result<(), ApplyError> {
        for (_, payload) in batch.iter() {
            *self.last.lock().unwrap() = payload.to_vec();
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn reset(&mut self, _from: Lsn) {
        self.count.store(0, Ordering::SeqCst);
    }
}

#[test]
fn under_remote_apply_a_read_on_the_standby_sees_the_write() {
    let folder = folder();
    let (count, last) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (in_app, last_in_app) = (Arc::clone(&count), Arc::clone(&last));
    let app = move |_: u16| {
        Box::new(Counter { count: Arc::clone(&in_app), last: Arc::clone(&last_in_app) }) as Box<dyn Apply>
    };
    let standby = RunningNode::start(standby(&folder.path().join("a"), "a"), Some(Box::new(app))).unwrap();
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &standby)];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    let node = start(options);
    let log = leading(&node);
    for number in 0..100u64 {
        let ticket = log.append(&number.to_le_bytes(), Level::RemoteApply, None).unwrap();
        let committed =
            ticket.wait_timeout(LIMIT).unwrap_or_else(|error| panic!("{error}: {:?}", standby.status()));
        assert_eq!(committed.level, Level::RemoteApply);
        assert_eq!(count.load(Ordering::SeqCst), number + 1);
        assert_eq!(*last.lock().unwrap(), number.to_le_bytes());
        assert!(standby.handle(0).unwrap().wait_applied(committed.end, LIMIT));
    }
    node.stop().unwrap();
    standby.stop().unwrap();
}

#[test]
fn a_rule_changes_at_run_time_and_a_bad_one_is_refused() {
    let folder = folder();
    let standby = start(standby(&folder.path().join("a"), "a"));
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &standby)];
    let node = start(options);
    let log = leading(&node);
    let before = log.append(b"x", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    assert_eq!(before.level, Level::Local);
    assert!(log.set_rule("ANY 3 (a)").unwrap_err().to_string().contains("sync rule"));
    assert!(log.set_rule("nonsense (").is_err());
    let version = log.set_rule("ANY 1 (a)").unwrap();
    let after = log.append(b"y", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    assert_eq!((after.level, after.rule_version), (Level::On, version));
    node.stop().unwrap();
    standby.stop().unwrap();
}

#[test]
fn a_recorded_run_replays_to_the_same_outputs() {
    let folder = folder();
    let standby = start(standby(&folder.path().join("a"), "a"));
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &standby)];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    options.record_inputs = Some(folder.path().join("tape"));
    let node = start(options);
    let log = leading(&node);
    for number in 0..300u32 {
        let level = Level::ALL[number as usize % 4];
        log.append(&vec![1; number as usize * 300], level, None).unwrap().wait_timeout(LIMIT).unwrap();
    }
    node.stop().unwrap();
    standby.stop().unwrap();
    let replay = towline_runtime::replay(&folder.path().join("tape.0")).unwrap();
    assert!(replay.inputs > 1000 && replay.outputs > 1000, "{replay:?}");
    // A tape with another input gives another run: the comparison does compare.
    let tape = std::fs::read_to_string(folder.path().join("tape.0")).unwrap();
    let other = tape.replacen("\"records\":1,", "\"records\":2,", 1);
    assert_ne!(tape, other);
    std::fs::write(folder.path().join("other"), other).unwrap();
    assert!(towline_runtime::replay(&folder.path().join("other")).is_err());
}

#[test]
fn the_longest_times_mean_for_ever() {
    let folder = folder();
    let node = start(primary(&folder.path().join("p")));
    let log = leading(&node);
    assert!(log.wait_leading(Duration::MAX));
    let committed = log.append(b"x", Level::Local, None).unwrap().wait_timeout(Duration::MAX).unwrap();
    let mut tail = log.tail(Lsn(0), true).unwrap();
    assert_eq!(tail.next_within(Duration::MAX).unwrap().unwrap().unwrap().start, committed.lsn);
    assert!(log.pause(Duration::MAX).unwrap() >= committed.end);
    log.resume().unwrap();
    let promotion = Promotion { standbys: Vec::new(), rule: None, force: false, timeout: Duration::MAX };
    assert!(matches!(log.promote(promotion), Err(HandOverError::Refused(_))), "it leads already");
    node.stop().unwrap();
    let mut options = primary(&folder.path().join("q"));
    options.heartbeat = Duration::MAX;
    assert!(matches!(RunningNode::start(options, None), Err(StartError::Options(_))));
    let mut options = primary(&folder.path().join("q"));
    options.segment_bytes = 1 << 63;
    assert!(RunningNode::start(options, None).is_err());
}
