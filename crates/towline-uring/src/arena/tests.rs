//! Producers, owner and readers against each other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

const SIZE: usize = 64 * 1024;
const BLOCK: u64 = 4096;
const HEADER: u64 = 128;

#[test]
fn a_batch_goes_from_reservation_to_release() {
    let mut owner = owner(0);
    let appender = owner.appender();
    assert_eq!(appender.reserve(16).err(), Some(ReserveError::Closed));
    owner.open_batch(0, HEADER, u64::MAX).unwrap();
    let mut first = appender.reserve(16).unwrap();
    first.bytes_mut().copy_from_slice(b"0123456789abcdef");
    assert_eq!(first.pos(), HEADER);
    assert_eq!(owner.reserved_end(), Some(HEADER + 16));
    let second = appender.reserve(24).unwrap();
    let closed = owner.close_and_open(u64::MAX).unwrap();
    assert_eq!((closed.start, closed.first, closed.end), (0, HEADER, HEADER + 40));
    assert!(owner.take_sealed().is_none(), "two reservations are not committed");
    assert!(owner.bytes(0..HEADER + 16).is_none(), "unsealed bytes are the producers'");
    assert_eq!(first.commit(), HEADER + 16);
    second.commit();
    assert_eq!(owner.take_sealed(), Some(closed));
    assert_eq!(owner.bytes(HEADER..HEADER + 16).unwrap(), b"0123456789abcdef");
    owner.bytes_mut(closed.end..BLOCK).unwrap().fill(0);
    assert_eq!(appender.reserve(8).unwrap().pos(), BLOCK + HEADER);
    assert!(owner.bytes_mut(BLOCK..BLOCK + HEADER).is_some(), "the open batch's header is the owner's");
    assert!(owner.bytes_mut(BLOCK..BLOCK + HEADER + 8).is_none(), "its records are not");
    assert_eq!(owner.release(u64::MAX), BLOCK, "not beyond the open batch");
    assert!(owner.bytes(0..8).is_none());
}

#[test]
fn a_dropped_reservation_is_a_void_record() {
    let mut owner = owner(0);
    let appender = owner.appender();
    owner.open_batch(0, HEADER, u64::MAX).unwrap();
    let mut reserved = appender.reserve(64).unwrap();
    reserved.bytes_mut().fill(7);
    drop(reserved);
    let batch = owner.close_batch().unwrap();
    assert!(owner.is_sealed());
    let bytes = owner.bytes(batch.first..batch.end).unwrap();
    assert_eq!(bytes[..8], void_header(64));
    assert_eq!(bytes[8..], [0; 56]);
}

#[test]
fn reservations_stop_at_limit_frozen_and_bad_lengths() {
    let mut owner = owner(0);
    let appender = owner.appender();
    owner.open_batch(0, HEADER, BLOCK).unwrap();
    assert_eq!(appender.reserve(BLOCK as usize).err(), Some(ReserveError::Full));
    appender.reserve((BLOCK - HEADER) as usize).unwrap().commit();
    assert_eq!(appender.reserve(8).err(), Some(ReserveError::Full));
    assert_eq!(owner.set_limit(u64::MAX), SIZE as u64, "never past one arena");
    appender.reserve(8).unwrap().commit();
    for len in [0, 7, SIZE + 8] {
        assert_eq!(appender.reserve(len).err(), Some(ReserveError::BadLength));
    }
    owner.freeze();
    assert_eq!(appender.reserve(8).err(), Some(ReserveError::Frozen));
    assert!(matches!(owner.close_and_open(u64::MAX), Err(ArenaError::Frozen)));
    assert!(matches!(owner.thaw(), Err(ArenaError::AlreadyOpen)));
    assert_eq!(owner.close_batch().unwrap().end, BLOCK + 8);
    assert!(owner.take_sealed().is_some());
    owner.thaw().unwrap();
    owner.open_batch(2 * BLOCK, 2 * BLOCK + HEADER, u64::MAX).unwrap();
    appender.reserve(8).unwrap().commit();
    drop(owner);
    assert_eq!(appender.reserve(8).err(), Some(ReserveError::Frozen), "the owner is gone");
}

#[test]
fn an_idle_hold_is_voided_and_a_writing_one_is_not() {
    let mut owner = owner(0);
    let appender = owner.appender();
    owner.open_batch(0, HEADER, u64::MAX).unwrap();
    let mut writing = appender.hold(16, 100).unwrap();
    let mut idle = appender.hold(16, 100).unwrap();
    let forgotten = appender.hold(16, 100).unwrap();
    std::mem::forget(forgotten);
    idle.fill().unwrap().fill(9);
    {
        let mut guard = writing.fill().unwrap();
        guard.fill(5);
        assert_eq!(owner.void_overdue(149, 50), 0, "none is old enough");
        assert_eq!(owner.void_overdue(150, 50), 2);
    }
    assert!(idle.fill().is_none());
    assert_eq!(idle.commit(), Err(Voided));
    assert_eq!(writing.commit(), Ok(HEADER + 16));
    let batch = owner.close_batch().unwrap();
    assert!(owner.is_sealed());
    let bytes = owner.bytes(batch.first..batch.end).unwrap();
    assert_eq!(bytes[..16], [5; 16]);
    assert_eq!(bytes[16..24], void_header(16));
    assert_eq!(bytes[24..32], [0; 8]);
    // The forgotten one's slot is free again: all of them can be taken.
    owner.take_sealed().unwrap();
    owner.open_batch(BLOCK, BLOCK + HEADER, u64::MAX).unwrap();
    let all: Vec<_> = (0..MAX_HELD).map(|_| appender.hold(8, 0).unwrap()).collect();
    assert_eq!(appender.hold(8, 0).err(), Some(ReserveError::TooManyHeld));
    drop(all);
    owner.close_batch().unwrap();
    assert!(owner.is_sealed(), "dropped holds are voids");
}

#[test]
fn pins_hold_back_release_and_writing() {
    let mut owner = owner(0);
    assert!(owner.pin(1, 0..BLOCK, true).is_some());
    assert!(owner.bytes(0..8).is_none(), "the kernel fills it");
    assert!(owner.pin(2, 0..8, false).is_none());
    owner.unpin(1);
    assert!(owner.pin(3, 0..BLOCK, false).is_some());
    assert!(owner.bytes(0..8).is_some());
    assert!(owner.bytes_mut(0..8).is_none(), "the kernel reads it");
    assert_eq!(owner.release(2 * BLOCK), 0);
    owner.unpin(3);
    assert_eq!(owner.release(2 * BLOCK), 2 * BLOCK);
    assert!(owner.pin(4, 0..BLOCK, false).is_none(), "released");
    assert!(owner.pin(4, 2 * BLOCK..2 * BLOCK + SIZE as u64 + 8, true).is_none(), "past the arena");
}

#[test]
fn rewind_and_reset_take_positions_back() {
    let mut owner = owner(BLOCK);
    let appender = owner.appender();
    owner.open_batch(BLOCK, BLOCK + HEADER, u64::MAX).unwrap();
    appender.reserve(8).unwrap().commit();
    assert!(matches!(owner.rewind(BLOCK), Err(ArenaError::Busy)));
    owner.close_batch().unwrap();
    owner.take_sealed().unwrap();
    owner.publish(2 * BLOCK).unwrap();
    let mut reader = owner.reader().unwrap();
    let mut out = vec![0; BLOCK as usize];
    reader.copy_out(BLOCK..2 * BLOCK, &mut out).unwrap();
    assert!(owner.bytes_mut(BLOCK..BLOCK + 8).is_none(), "published bytes do not change");
    owner.rewind(BLOCK).unwrap();
    assert_eq!(reader.copy_out(BLOCK..BLOCK + 8, &mut out[..8]), Err(Gone));
    assert!(owner.bytes_mut(BLOCK..BLOCK + 8).is_some());
    owner.reset(0).unwrap();
    owner.open_batch(0, HEADER, u64::MAX).unwrap();
    assert_eq!(appender.reserve(8).unwrap().pos(), HEADER);
}

#[test]
fn a_file_keeps_its_bytes_and_refuses_another_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("arena");
    let config = |size| ArenaConfig { size, backing: Backing::File(path.clone()), ..config(0) };
    let mut first = ArenaOwner::new(config(SIZE)).unwrap();
    first.bytes_mut(0..5).unwrap().copy_from_slice(b"stays");
    assert!(matches!(ArenaOwner::new(config(SIZE)), Err(ArenaError::Locked { .. })), "one owner at a time");
    drop(first);
    assert_eq!(ArenaOwner::new(config(SIZE)).unwrap().bytes(0..5).unwrap(), b"stays");
    let refused = ArenaOwner::new(config(2 * SIZE)).err().unwrap();
    assert!(matches!(refused, ArenaError::FileSize { found: 65536, expected: 131_072, .. }), "{refused}");
}

/// Several producers, one owner, one reader, many rounds through a small arena: every record arrives
/// once, whole, and what the reader copies is what the owner saw.
#[test]
fn records_survive_many_rounds_under_concurrency() {
    const PRODUCERS: u64 = 3;
    const EACH: u64 = 20_000;
    let mut owner = owner(0);
    owner.open_batch(0, HEADER, u64::MAX).unwrap();
    let reader_done = AtomicBool::new(false);
    let copies = AtomicU64::new(0);
    let mut seen = vec![0u64; PRODUCERS as usize];
    let mut voids = 0;
    thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let appender = owner.appender();
            scope.spawn(move || {
                for n in 0..EACH {
                    let len = record_len(n);
                    loop {
                        match appender.reserve(len) {
                            Ok(mut reserved) if n % 97 == 5 => {
                                reserved.bytes_mut().fill(0xee);
                                break drop(reserved);
                            }
                            Ok(mut reserved) => {
                                write_record(reserved.bytes_mut(), producer, n);
                                reserved.commit();
                                break;
                            }
                            Err(ReserveError::Full | ReserveError::Closed) => thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
        let mut reader = owner.reader().unwrap();
        let (reader_done, copies) = (&reader_done, &copies);
        scope.spawn(move || {
            let mut out = Vec::new();
            while !reader_done.load(Ordering::Acquire) {
                let span = reader.readable();
                out.resize((span.end - span.start) as usize, 0);
                if !span.is_empty() && reader.copy_out(span.clone(), &mut out).is_ok() {
                    assert_eq!(u64::from_le_bytes(out[..8].try_into().unwrap()), span.start, "batch header");
                    copies.fetch_add(1, Ordering::Relaxed);
                }
                thread::yield_now();
            }
        });
        let mut starts = VecDeque::new();
        while seen.iter().sum::<u64>() + voids < PRODUCERS * EACH {
            match owner.close_and_open(u64::MAX) {
                Ok(_) | Err(ArenaError::Unsealed) => {}
                Err(ArenaError::NoRoom) => drop(owner.close_batch()),
                Err(ArenaError::NotOpen) => {}
                Err(error) => panic!("{error}"),
            }
            if let Some(batch) = owner.take_sealed() {
                let end = batch.end.next_multiple_of(BLOCK);
                owner
                    .bytes_mut(batch.start..batch.start + 8)
                    .unwrap()
                    .copy_from_slice(&batch.start.to_le_bytes());
                owner.bytes_mut(batch.end..end.min(owner.floor() + owner.size())).unwrap().fill(0);
                voids += check_records(owner.bytes(batch.first..batch.end).unwrap(), &mut seen);
                owner.publish(end).unwrap();
                starts.push_back(batch.start);
                // However busy the machine is: before anything is released the reader has had a turn.
                let deadline = Instant::now() + Duration::from_secs(10);
                while copies.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {
                    thread::yield_now();
                }
                if owner.open_extent().is_none() {
                    // The next batch may need the room that this release gives.
                    starts.clear();
                    while owner.release(end) < end {
                        thread::yield_now();
                    }
                    owner.open_batch(end, end + HEADER, u64::MAX).unwrap();
                }
            }
            // Keep some behind, so that the reader finds something.
            while starts.len() > 3 {
                starts.pop_front();
            }
            owner.release(starts.front().copied().unwrap_or(0));
            let limit = owner.floor() + owner.size();
            owner.set_limit(limit);
            thread::yield_now();
        }
        reader_done.store(true, Ordering::Release);
    });
    assert!(copies.load(Ordering::Relaxed) > 0, "the reader copied something");
    assert!(owner.floor() > 10 * SIZE as u64, "the arena went round");
}

/// Holders write, drop, forget and commit while the owner voids everything idle: each span ends as the
/// holder's record or as a void, never as a mixture, and no batch stays unsealed.
#[test]
fn holds_and_voids_race_without_mixing() {
    const EACH: u64 = 5_000;
    let mut owner = owner(0);
    owner.open_batch(0, HEADER, u64::MAX).unwrap();
    let (done, committed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut seen, mut voids) = (vec![0u64; 2], 0);
    thread::scope(|scope| {
        for producer in 0..2 {
            let (appender, done, committed) = (owner.appender(), &done, &committed);
            scope.spawn(move || {
                for n in 0..EACH {
                    let mut held = loop {
                        match appender.hold(record_len(n), n) {
                            Ok(held) => break held,
                            Err(_) => thread::yield_now(),
                        }
                    };
                    if n % 5 == 0 {
                        thread::yield_now();
                    }
                    if let Some(mut guard) = held.fill() {
                        write_record(&mut guard, producer, n);
                    }
                    match n % 11 {
                        0 => std::mem::forget(held),
                        1 => drop(held),
                        _ => {
                            committed.fetch_add(u64::from(held.commit().is_ok()), Ordering::Relaxed);
                        }
                    }
                }
                done.fetch_add(1, Ordering::Release);
            });
        }
        loop {
            let finished = done.load(Ordering::Acquire) == 2;
            owner.void_overdue(u64::MAX, 0);
            match owner.close_batch() {
                Ok(_) | Err(ArenaError::Unsealed | ArenaError::NotOpen) => {}
                Err(error) => panic!("{error}"),
            }
            if let Some(batch) = owner.take_sealed() {
                voids += check_records(owner.bytes(batch.first..batch.end).unwrap(), &mut seen);
                if finished {
                    break;
                }
                let end = batch.end.next_multiple_of(BLOCK);
                assert_eq!(owner.release(end), end);
                owner.open_batch(end, end + HEADER, u64::MAX).unwrap();
            }
            thread::yield_now();
        }
    });
    assert_eq!(seen.iter().sum::<u64>(), committed.load(Ordering::Relaxed));
    assert_eq!(seen.iter().sum::<u64>() + voids, 2 * EACH);
    assert!(voids > EACH / 11, "some were voided");
}

fn check_records(mut bytes: &[u8], seen: &mut [u64]) -> u64 {
    let mut voids = 0;
    while !bytes.is_empty() {
        let head = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let (len, producer, n) = ((head & 0xffff) as usize, (head >> 16) & 0xff, head >> 24);
        let (record, rest) = bytes.split_at(len);
        if producer == 0xff {
            assert!(record[8..].iter().all(|byte| *byte == 0), "a void is zero");
            voids += 1;
        } else {
            assert!(record[8..].iter().all(|byte| *byte == (n * 31 + producer) as u8), "record {n} is whole");
            assert_eq!(len, record_len(n));
            seen[producer as usize] += 1;
        }
        bytes = rest;
    }
    voids
}

fn write_record(bytes: &mut [u8], producer: u64, n: u64) {
    let head = bytes.len() as u64 | (producer << 16) | (n << 24);
    bytes[..8].copy_from_slice(&head.to_le_bytes());
    bytes[8..].fill((n * 31 + producer) as u8);
}

fn record_len(n: u64) -> usize {
    8 * (1 + (n * 7 % 61) as usize)
}

fn void_header(len: usize) -> [u8; 8] {
    (len as u64 | (0xff << 16)).to_le_bytes()
}

fn config(start: u64) -> ArenaConfig {
    ArenaConfig {
        size: SIZE,
        backing: Backing::Anonymous,
        block: BLOCK,
        header_len: HEADER,
        void_header,
        start,
    }
}

fn owner(start: u64) -> ArenaOwner {
    ArenaOwner::new(config(start)).unwrap()
}
