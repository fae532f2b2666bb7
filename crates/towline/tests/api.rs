//! The public handle, used as an embedder does.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_core::Stream;
use towline::client::{Client, ClientOptions};
use towline::{AppendError, Level, Log, LogBuilder, Lsn, TailError, Window};

fn small() -> LogBuilder {
    Log::builder().segment_bytes(8 << 20).arena_bytes(4 << 20).retention_bytes(32 << 20).options(|options| {
        options.calibrate = false;
    })
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn payloads(log: &towline::Shard, count: usize) -> Vec<String> {
    let records = log.tail(Lsn(0)).unwrap().take(count);
    records.map(|record| String::from_utf8(record.unwrap().payload.to_vec()).unwrap()).collect()
}

#[test]
fn what_was_acknowledged_is_there_after_a_reopen() {
    let dir = folder();
    let log = small().open(dir.path().join("log")).unwrap();
    log.append(b"a", Level::Local, None).unwrap().wait().unwrap();
    log.append_atomic(&[b"b", b"c"], Level::Off, None).unwrap().wait().unwrap();
    let mut reservation = log.reserve(1, Level::Local, None).unwrap();
    reservation.fill().unwrap().copy_from_slice(b"d");
    reservation.commit().unwrap().wait().unwrap();
    drop(log.reserve(100, Level::Local, None).unwrap());
    log.append(b"e", Level::Off, None).unwrap().wait().unwrap();
    assert!(log.metrics().contains("# TYPE"), "{}", log.metrics());
    log.close().unwrap();
    let log = small().open(dir.path().join("log")).unwrap();
    assert_eq!(payloads(&log, 5), ["a", "b", "c", "d", "e"], "the abandoned reservation is seen by nobody");
    let again = Log::open(dir.path().join("log")).unwrap_err().to_string();
    assert!(again.contains("in use"), "{again}");
    log.close().unwrap();
}

#[test]
fn a_log_that_nobody_trims_answers_full_and_goes_on_after_a_trim() {
    let dir = folder();
    let log = small().open(dir.path().join("log")).unwrap();
    assert!(log.wait_leading(Duration::from_secs(10)));
    let record = vec![7; 1 << 20];
    let mut appended = 0;
    let full = loop {
        match log.try_append(&record, Level::Local, None) {
            Ok(ticket) => drop(ticket.wait_timeout(Duration::from_secs(20)).unwrap()),
            Err(AppendError::Full(why)) if why.contains("retention") => break why,
            Err(AppendError::Full(_)) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
        appended += 1;
        assert!(appended < 1_000_000, "the retention never bit");
    };
    assert!(!full.is_empty());
    log.trim(log.snapshot().flushed.lsn).unwrap();
    log.append(b"after", Level::Local, None).unwrap().wait_timeout(Duration::from_secs(20)).unwrap();
    let Err(TailError::Trimmed { log_start }) = log.tail(Lsn(8192)).map(|_| ()) else {
        panic!("still readable?")
    };
    assert!(log_start > Lsn(8192));
    log.close().unwrap();
}

#[test]
fn keys_go_to_their_shard_and_each_shard_is_a_log() {
    let dir = folder();
    let log = small().shards(3).open(dir.path().join("log")).unwrap();
    let keys: Vec<String> = (0..30).map(|key| format!("key {key}")).collect();
    for key in &keys {
        log.shard_for(key.as_bytes()).append(key.as_bytes(), Level::Local, None).unwrap().wait().unwrap();
    }
    for shard in log.shards() {
        let own: Vec<&String> =
            keys.iter().filter(|key| log.shard_for(key.as_bytes()).number() == shard.number()).collect();
        assert!(!own.is_empty());
        assert_eq!(payloads(shard, own.len()).iter().collect::<Vec<_>>(), own);
    }
    log.close().unwrap();
}

#[test]
fn windows_are_refused_where_they_mean_nothing() {
    let dir = folder();
    let log = small().open(dir.path().join("log")).unwrap();
    for (level, window) in
        [(Level::Local, Window::Bytes(1)), (Level::On, Window::Bytes(1)), (Level::Off, Window::Infinite)]
    {
        assert!(
            matches!(log.append(b"x", level, Some(window)), Err(AppendError::Window(_))),
            "{level} {window}"
        );
    }
    assert!(matches!(
        log.append(&vec![0; (1 << 20) + 1], Level::Off, None),
        Err(AppendError::RecordTooLong { .. })
    ));
    assert!(matches!(log.append_atomic(&[], Level::Off, None), Err(AppendError::Empty)));
    assert!(log.set_rule("ANY 1 (nobody)").is_err());
    assert_eq!(log.snapshot().end.records, 0);
    log.close().unwrap();
}

#[test]
fn a_standby_has_no_tail_of_a_shard_that_is_not_there() {
    let dir = folder();
    let listen = "127.0.0.1:0".parse().unwrap();
    let standby = towline::Standby::builder().name("a").listen(listen).open(dir.path().join("a")).unwrap();
    assert_eq!(standby.tail(1, Lsn(0)).map(|_| ()).unwrap_err(), TailError::NoShard(1));
    standby.close().unwrap();
}

#[test]
fn tickets_and_tails_work_in_a_task() {
    let dir = folder();
    let log = small().open(dir.path().join("log")).unwrap();
    let committed = block_on(async {
        let ticket = log.append_async(b"task", Level::Local, None).await.unwrap();
        ticket.await.unwrap()
    });
    let mut tail = pin!(log.tail(Lsn(0)).unwrap());
    let record = block_on(std::future::poll_fn(|context| tail.as_mut().poll_next(context))).unwrap().unwrap();
    assert_eq!((record.lsn, &record.payload[..]), (committed.lsn, &b"task"[..]));
    assert_eq!(record.end, committed.end);
    log.close().unwrap();
}

/// The smallest runtime there is.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future: Pin<&mut _> = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park_timeout(Duration::from_secs(20));
    }
}

#[test]
fn a_client_with_the_longest_times_waits_and_does_not_overflow() {
    let dir = folder();
    let log = small().listen("127.0.0.1:0".parse().unwrap()).open(dir.path().join("log")).unwrap();
    assert!(log.wait_leading(Duration::from_secs(20)));
    let options = ClientOptions { connect_timeout: Duration::MAX, ..ClientOptions::default() };
    let mut client = Client::connect_with(log.listen_address().unwrap(), 0, options).unwrap();
    let request = client.submit(&[b"x"], Level::Local, None).unwrap();
    assert_eq!(client.recv_timeout(Duration::MAX).unwrap().request, request);
    client.pause(Duration::MAX).unwrap();
    client.resume().unwrap();
    let mut tail = client.tail(Lsn(0), false).unwrap();
    let batch = tail.next_batch_timeout(Duration::MAX).unwrap().unwrap();
    assert_eq!(batch.records().count(), 1);
    log.close().unwrap();
}
