//! Crashes, and who leads with what afterwards: each level is held to its own promise and to no other's; what readers
//! saw and what copies hold is judged with it.

use towline_check::{
    AckEvent, Damage, Event, Kind, Replica, StoredBatch, TicketEvent, check, replicas_agree,
};
use towline_core::replication::Stage;
use towline_core::types::{Level, Lsn, Window};

const START: u64 = 8192;
/// The nodes: the primary and two standbys, of which one counts.
const P: u64 = 100;
const A: u64 = 1;
const B: u64 = 2;

fn end(batch: u64) -> Lsn {
    Lsn(START + batch * 4096)
}

fn opening(events: &mut Vec<Event>) {
    for (peer, name, node) in [(0, "a", A), (1, "b", B)] {
        events.push(Event::Standby { peer, name: name.to_owned(), node });
        events.push(Event::Live { peer, live: true });
    }
    events.push(Event::Rule { version: 1, rule: "ANY 1 (a, b)".to_owned(), record_end: None });
}

/// Ten batches of one record of 100 bytes, each acknowledged at `level` under `window`; standby a holds `held` of
/// them (and everything that is waited for), b none.
fn life(level: Level, window: Option<Window>, held: u64) -> Vec<Event> {
    let mut events = vec![Event::Setup {
        start: Lsn(START),
        records: 0,
        payload_bytes: 0,
        segment_bytes: 0,
        node: P,
        degrade_after_ns: None,
    }];
    opening(&mut events);
    let at = |peer, batch| Event::Report {
        peer,
        written: end(batch),
        flushed: if level == Level::RemoteWrite { end(0) } else { end(batch) },
        applied: end(0),
    };
    events.extend([at(0, 0), at(1, 0)]);
    for number in 1..=10u64 {
        events.push(Event::Tick { now_ns: number * 1000 });
        let (start, accepted_ns) = (end(number - 1), number * 1000);
        events.push(Event::Batch { start, end: end(number), records: 1, payload_bytes: 100, accepted_ns });
        let (lsn, last) = (start.plus(128), start.plus(236));
        if level != Level::Off {
            events.push(Event::Ticket(TicketEvent {
                ticket: number,
                lsn,
                end: last,
                records_through: number,
                payload_through: number * 100,
                payload_bytes: 100,
                level,
                window,
                accepted_ns,
            }));
        }
        events.push(Event::OwnFlushed { lsn: end(number) });
        if number <= held {
            events.push(at(0, number));
            if level == Level::RemoteApply {
                let lsn = end(number);
                events.push(Event::Report { peer: 0, written: lsn, flushed: lsn, applied: lsn });
            }
        }
        if level != Level::Off {
            let fill_bytes = 100 * number.saturating_sub(held);
            let (ticket, rule_version, waited_for_window) = (number, 1, false);
            let end = last;
            events.push(Event::Ack(AckEvent {
                ticket,
                lsn,
                end,
                level,
                window,
                rule_version,
                fill_bytes,
                waited_for_window,
            }));
        }
    }
    events
}

/// Damages, then `leader` leads a log of `batches`.
fn then(mut events: Vec<Event>, damages: &[(u64, Damage)], leader: u64, batches: u64) -> Vec<Event> {
    events.extend(damages.iter().map(|(node, damage)| Event::Damage { node: *node, damage: *damage }));
    events.push(Event::Leads { node: leader, end: end(batches) });
    events
}

fn kinds(events: &[Event]) -> Vec<Kind> {
    check(events).violations.into_iter().map(|violation| violation.kind).collect()
}

use Damage::{DiskLost, Killed, PowerCut, Stopped};

/// What happens, who leads then, and the levels whose acknowledged records must all be there.
type Case<'a> = (&'a [(u64, Damage)], u64, &'a [Level]);

#[test]
fn each_level_is_owed_what_it_promises_and_no_more() {
    let all = &Level::ALL[1..];
    let remote = &Level::ALL[2..];
    let flushed = &Level::ALL[3..];
    let cases: [Case<'_>; 13] = [
        (&[(P, Stopped)], P, &Level::ALL),
        (&[(P, Stopped), (P, Killed)], P, &Level::ALL),
        (&[(P, Killed)], P, all),
        (&[(P, PowerCut)], P, all),
        (&[(P, PowerCut), (A, PowerCut), (B, PowerCut)], P, all),
        (&[(P, PowerCut), (A, DiskLost)], P, all),
        (&[], B, remote),
        (&[(P, DiskLost)], A, remote),
        (&[(P, DiskLost)], P, remote),
        (&[(P, DiskLost), (A, Killed)], A, remote),
        (&[(P, DiskLost), (B, DiskLost)], A, remote),
        (&[(P, DiskLost), (A, PowerCut)], A, flushed),
        (&[(P, DiskLost), (A, DiskLost)], B, &[]),
    ];
    for (damages, leader, owed) in cases {
        for level in Level::ALL {
            let history = |batches| then(life(level, None, 10), damages, leader, batches);
            assert_eq!(kinds(&history(10)), [], "{level}, {damages:?}: nothing is gone");
            let verdict = check(&history(7));
            let is_owed = owed.contains(&level);
            assert_eq!(verdict.has(Kind::Lost), is_owed, "{level}, {damages:?}: {:?}", verdict.violations);
            if level != Level::Off {
                assert_eq!(verdict.summary.lost[usize::from(level.to_wire())], 3);
                assert_eq!(verdict.summary.lost_excused, if is_owed { 0 } else { 3 });
            }
        }
    }
}

#[test]
fn a_disk_that_was_lost_before_the_ack_excuses_nothing() {
    let mut events =
        vec![Event::Damage { node: P, damage: DiskLost }, Event::Damage { node: A, damage: DiskLost }];
    events.extend(life(Level::On, None, 10));
    assert!(kinds(&then(events.clone(), &[(P, DiskLost)], B, 5)).contains(&Kind::Lost));
    assert_eq!(kinds(&then(events, &[(P, DiskLost), (A, DiskLost)], B, 5)), []);
}

#[test]
fn what_is_lost_under_a_window_lies_within_one_span_of_it() {
    for window in [Window::Bytes(1000), Window::Records(10), Window::Micros(9)] {
        // The standby has none of the ten: they are the fill.
        let events = life(Level::On, Some(window), 0);
        let verdict = check(&events);
        assert!(verdict.is_clean(), "{window}: {:#?}", verdict.violations);
        let verdict = check(&then(events.clone(), &[(P, DiskLost)], A, 0));
        assert!(verdict.is_clean(), "{window}: {:#?}", verdict.violations);
        assert_eq!((verdict.summary.lost_windowed, verdict.summary.lost_excused), (10, 0));
        assert!(
            kinds(&then(events.clone(), &[(P, PowerCut)], P, 0)).contains(&Kind::Lost),
            "its own disk has them"
        );
        assert_eq!(kinds(&then(events.clone(), &[(P, DiskLost), (A, DiskLost), (B, DiskLost)], A, 0)), []);
        // Two of a narrower window among them, too far apart.
        let narrow = match window {
            Window::Bytes(_) => Window::Bytes(399),
            Window::Records(_) => Window::Records(3),
            _ => Window::Micros(2),
        };
        let mut events = events;
        for event in &mut events {
            match event {
                Event::Ticket(ticket) if [1, 4].contains(&ticket.ticket) => ticket.window = Some(narrow),
                Event::Ack(ack) if [1, 4].contains(&ack.ticket) => ack.window = Some(narrow),
                _ => {}
            }
        }
        let beyond = |damages| {
            let found = kinds(&then(events.clone(), damages, A, 0));
            found.into_iter().filter(|kind| *kind == Kind::LostBeyondWindow).count()
        };
        assert_eq!(beyond(&[(P, DiskLost)]), 1, "{window}");
        assert_eq!(beyond(&[(P, DiskLost), (A, DiskLost), (B, DiskLost)]), 0, "{window}: nobody has it");
    }
}

#[test]
fn a_log_goes_on_where_its_leader_says_and_nowhere_else() {
    let crashed = || then(life(Level::Local, None, 0), &[(P, PowerCut)], A, 8);
    let append = |events: &mut Vec<Event>, from: u64, id: u64| {
        opening(events);
        let start = end(from);
        events.push(Event::Tick { now_ns: 50_000 });
        events.push(Event::Batch {
            start,
            end: end(from + 1),
            records: 1,
            payload_bytes: 100,
            accepted_ns: 40_000,
        });
        events.push(Event::Ticket(TicketEvent {
            ticket: id,
            lsn: start.plus(128),
            end: start.plus(236),
            records_through: from + 1,
            payload_through: (from + 1) * 100,
            payload_bytes: 100,
            level: Level::Local,
            window: None,
            accepted_ns: 40_000,
        }));
        events.push(Event::OwnFlushed { lsn: end(from + 1) });
        events.push(Event::Ack(AckEvent {
            ticket: id,
            lsn: start.plus(128),
            end: start.plus(236),
            level: Level::Local,
            window: None,
            rule_version: 1,
            fill_bytes: (from + 1) * 100,
            waited_for_window: false,
        }));
    };
    let mut good = crashed();
    append(&mut good, 8, 77);
    assert_eq!(kinds(&good), [], "what was lost is forgotten, its place is used again");
    // And what was acknowledged in the second life is owed by whom it was acknowledged.
    assert_eq!(kinds(&then(good.clone(), &[(A, Killed)], A, 9)), []);
    assert!(kinds(&then(good.clone(), &[(A, Killed)], A, 8)).contains(&Kind::Lost));
    let mut gap = crashed();
    append(&mut gap, 9, 77);
    assert!(kinds(&gap).contains(&Kind::Gap));
    let mut old = crashed();
    append(&mut old, 7, 77);
    assert!(kinds(&old).contains(&Kind::Overlap));
    let mut elsewhere = life(Level::Local, None, 0);
    elsewhere.push(Event::Leads { node: P, end: Lsn(START + 100) });
    assert!(kinds(&elsewhere).contains(&Kind::LeaderElsewhere));
    let mut longer = life(Level::Local, None, 0);
    longer.push(Event::Leads { node: P, end: end(11) });
    assert!(kinds(&longer).contains(&Kind::LeaderElsewhere));
    // A ticket that waited when its leader died has no ack to come.
    let mut late = life(Level::On, None, 10);
    let ack = late.pop().expect("the last is an ack");
    late.push(Event::Leads { node: P, end: end(10) });
    late.push(ack);
    assert!(kinds(&late).contains(&Kind::EndedTwice));
}

#[test]
fn a_reader_sees_nothing_that_its_mode_withholds() {
    let mut events = life(Level::Local, None, 4);
    events.push(Event::Applied { node: A, lsn: end(10) });
    assert_eq!(kinds(&events), [], "the primary has flushed it");
    events.insert(0, Event::AppliesSafe);
    assert_eq!(kinds(&events), [Kind::AppliedUnsafe], "the rule has made four safe");
    let mut early = life(Level::Local, None, 4);
    let flushed = early.iter().position(|event| matches!(event, Event::OwnFlushed { lsn } if *lsn == end(3)));
    early.insert(flushed.expect("it is flushed"), Event::Applied { node: A, lsn: end(3) });
    assert_eq!(kinds(&early), [Kind::AppliedUnflushed]);
    let mut reported = life(Level::Local, None, 4);
    let at = reported.iter().position(|event| matches!(event, Event::OwnFlushed { lsn } if *lsn == end(3)));
    let lsn = end(3);
    reported.insert(
        at.expect("it is flushed"),
        Event::Report { peer: 1, written: lsn, flushed: lsn, applied: lsn },
    );
    assert_eq!(kinds(&reported), [Kind::AppliedUnflushed], "a report says so, too");
}

#[test]
fn a_star_ranks_standbys_by_their_place_however_late_they_come() {
    let mut events = life(Level::On, None, 10);
    for event in &mut events {
        if let Event::Rule { rule, .. } = event {
            *rule = "FIRST 1 (*)".to_owned();
        }
    }
    let standby = |event: &Event| matches!(event, Event::Standby { peer: 0, .. });
    let first = events.iter().position(standby).expect("a is there");
    events[first..first + 4].rotate_left(2);
    assert!(!standby(&events[first]));
    assert_eq!(kinds(&events), [], "a, which has everything, comes first");
}

#[test]
fn what_the_first_standby_lacked_for_a_moment_is_not_safe_again_before_it_streams() {
    let mut events = life(Level::Local, None, 10);
    for event in &mut events {
        if let Event::Rule { rule, .. } = event {
            *rule = "FIRST 1 (*)".to_owned();
        }
    }
    let gauge = Event::Gauge { stage: Stage::Written, exposure_bytes: 0 };
    events.extend([Event::Live { peer: 0, live: false }, gauge.clone()]);
    assert_eq!(kinds(&events), [], "a disconnect takes nothing back");
    let (written, flushed, applied) = (end(4), end(4), end(4));
    events.extend([Event::Fell { peer: 0, written, flushed, applied }, gauge]);
    assert_eq!(kinds(&events), [Kind::ExposureUnderstated]);
}

fn replica(name: &str, from: u64, to: u64) -> Replica {
    let batch = |n: u64| StoredBatch { start: end(n), end: end(n + 1), hash: n * 31 };
    Replica { name: name.to_owned(), batches: (from..to).map(batch).collect() }
}

fn kinds_of(replicas: &[Replica]) -> Vec<Kind> {
    replicas_agree(replicas, 0).into_iter().map(|violation| violation.kind).collect()
}

#[test]
fn copies_are_prefixes_of_each_other() {
    let good = [
        replica("p", 3, 20),
        replica("a", 0, 20),
        replica("b", 0, 12),
        replica("new", 0, 0),
        replica("c", 1, 9),
    ];
    assert_eq!(kinds_of(&good), []);
    for copy in [0, 1, 2, 4] {
        let mut changed = good.to_vec();
        changed[copy].batches[5].hash += 1;
        let found = kinds_of(&changed);
        assert!(!found.is_empty() && found.iter().all(|kind| *kind == Kind::Diverged), "{copy}: {found:?}");
        let mut missing = good.to_vec();
        missing[copy].batches.remove(5);
        assert_eq!(kinds_of(&missing)[0], Kind::Gap, "batch 5 of copy {copy}");
        let mut twice = good.to_vec();
        let batch = twice[copy].batches[5];
        twice[copy].batches.insert(5, batch);
        assert_eq!(kinds_of(&twice)[0], Kind::Overlap, "batch 5 of copy {copy}");
    }
    // A fork whose batches begin elsewhere.
    let mut forked = good.to_vec();
    let batches = &mut forked[2].batches;
    batches[9] = StoredBatch { start: batches[9].start, end: batches[9].start.plus(8192), hash: 9 * 31 };
    batches.truncate(10);
    assert_eq!(kinds_of(&forked), [Kind::Diverged]);
    // Behind a segment's end its header is skipped, and only there.
    let mut batches = replica("p", 0, 4).batches;
    batches
        .iter_mut()
        .skip(2)
        .for_each(|batch| (batch.start, batch.end) = (batch.start.plus(8192), batch.end.plus(8192)));
    let segmented = [Replica { name: "p".to_owned(), batches }];
    assert_eq!(replicas_agree(&segmented, 16_384), []);
    assert_eq!(replicas_agree(&segmented, 0)[0].kind, Kind::Gap);
}
