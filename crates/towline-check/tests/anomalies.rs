//! One good history, and one seeded anomaly after the other: each must be flagged as what it is.

use towline_check::{AckEvent, Event, Kind, TicketEvent, check, read_events, write_events};
use towline_core::replication::Stage;
use towline_core::types::{Level, Lsn, Window};

const START: u64 = 8192;

fn batch_end(number: u64) -> Lsn {
    Lsn(START + number * 4096)
}

fn batch(number: u64, records: u64, payload_bytes: u64, accepted_ns: u64) -> Event {
    Event::Batch { start: batch_end(number - 1), end: batch_end(number), records, payload_bytes, accepted_ns }
}

fn ticket(
    id: u64,
    batch: u64,
    place: u64,
    through: (u64, u64),
    level: Level,
    window: Option<Window>,
) -> Event {
    let lsn = batch_end(batch - 1).plus(128 + place * 200);
    Event::Ticket(TicketEvent {
        ticket: id,
        lsn,
        end: lsn.plus(108),
        records_through: through.0,
        payload_through: through.1,
        payload_bytes: 100,
        level,
        window,
        accepted_ns: batch * 1000,
    })
}

fn ack(
    id: u64,
    batch: u64,
    place: u64,
    level: Level,
    window: Option<Window>,
    rule_version: u64,
    fill: u64,
) -> Event {
    let lsn = batch_end(batch - 1).plus(128 + place * 200);
    Event::Ack(AckEvent {
        ticket: id,
        lsn,
        end: lsn.plus(108),
        level,
        window,
        rule_version,
        fill_bytes: fill,
        waited_for_window: false,
    })
}

fn report(peer: u16, batch: u64) -> Event {
    let at = batch_end(batch);
    Event::Report { peer, written: at, flushed: at, applied: at }
}

fn tick(now_ns: u64) -> Event {
    Event::Tick { now_ns }
}

fn flushed(batch: u64) -> Event {
    Event::OwnFlushed { lsn: batch_end(batch) }
}

fn good() -> Vec<Event> {
    let bytes = Some(Window::Bytes(250));
    let (records, micros) = (Some(Window::Records(1)), Some(Window::Micros(5)));
    let infinite = Some(Window::Infinite);
    let rule = |version, text: &str, end| Event::Rule { version, rule: text.to_owned(), record_end: end };
    vec![
        Event::Setup {
            start: Lsn(START),
            records: 0,
            payload_bytes: 0,
            segment_bytes: 0,
            node: 100,
            degrade_after_ns: Some(10_000_000),
        },
        Event::Standby { peer: 0, name: "a".to_owned(), node: 1 },
        Event::Standby { peer: 1, name: "b".to_owned(), node: 2 },
        Event::Live { peer: 0, live: true },
        Event::Live { peer: 1, live: true },
        rule(1, "ANY 1 (a, b)", None),
        tick(1000),
        report(0, 0),
        report(1, 0),
        batch(1, 2, 200, 1000),
        ticket(1, 1, 0, (1, 100), Level::On, None),
        ticket(2, 1, 1, (2, 200), Level::Local, None),
        flushed(1),
        ack(2, 1, 1, Level::Local, None, 1, 200),
        tick(1500),
        report(0, 1),
        ack(1, 1, 0, Level::On, None, 1, 0),
        tick(2000),
        batch(2, 3, 300, 2000),
        ticket(3, 2, 0, (3, 300), Level::On, bytes),
        ticket(4, 2, 1, (4, 400), Level::On, bytes),
        ticket(5, 2, 2, (5, 500), Level::On, bytes),
        flushed(2),
        ack(3, 2, 0, Level::On, bytes, 1, 100),
        ack(4, 2, 1, Level::On, bytes, 1, 200),
        Event::Gauge { stage: Stage::Flushed, exposure_bytes: 200 },
        tick(2500),
        report(1, 2),
        ack(5, 2, 2, Level::On, bytes, 1, 0),
        tick(3000),
        // A record that nobody waits for comes third.
        batch(3, 3, 300, 3000),
        ticket(6, 3, 0, (6, 600), Level::On, records),
        ticket(7, 3, 1, (7, 700), Level::On, micros),
        flushed(3),
        ack(6, 3, 0, Level::On, records, 1, 100),
        tick(8000),
        ack(7, 3, 1, Level::On, micros, 1, 200),
        Event::Gauge { stage: Stage::Flushed, exposure_bytes: 300 },
        tick(9000),
        report(0, 3),
        report(1, 3),
        batch(4, 0, 0, 9000),
        rule(2, "ANY 2 (a, b)", Some(batch_end(4))),
        batch(5, 1, 100, 9000),
        ticket(8, 5, 0, (9, 900), Level::On, None),
        flushed(5),
        report(0, 5),
        report(1, 5),
        Event::RuleInForce { version: 2 },
        ack(8, 5, 0, Level::On, None, 2, 0),
        Event::Live { peer: 1, live: false },
        tick(10_010_000),
        Event::Degraded,
        batch(6, 1, 100, 10_010_000),
        ticket(9, 6, 0, (10, 1000), Level::On, None),
        flushed(6),
        ack(9, 6, 0, Level::Local, infinite, 2, 100),
        Event::Live { peer: 1, live: true },
        report(0, 6),
        report(1, 6),
        Event::Healed,
        Event::Wait { ticket: 10, lsn: batch_end(6), level: Level::Local },
        Event::Ack(AckEvent {
            ticket: 10,
            lsn: batch_end(6),
            end: batch_end(6),
            level: Level::Local,
            window: None,
            rule_version: 2,
            fill_bytes: 0,
            waited_for_window: false,
        }),
        batch(7, 2, 200, 10_010_000),
        ticket(11, 7, 0, (11, 1100), Level::On, None),
        ticket(12, 7, 1, (12, 1200), Level::On, infinite),
        flushed(7),
        Event::Indeterminate { ticket: 11 },
        ack(12, 7, 1, Level::Local, infinite, 2, 200),
    ]
}

fn place_of(history: &[Event], is_it: impl Fn(&Event) -> bool) -> usize {
    history.iter().position(is_it).expect("the good history has it")
}

fn change_ack(id: u64, change: impl Fn(&mut AckEvent)) -> impl Fn(&mut Vec<Event>) {
    move |history| {
        let at = place_of(history, |event| matches!(event, Event::Ack(ack) if ack.ticket == id));
        let Event::Ack(ack) = &mut history[at] else { unreachable!("found as an ack") };
        change(ack);
    }
}

fn change_ticket(id: u64, change: impl Fn(&mut TicketEvent)) -> impl Fn(&mut Vec<Event>) {
    move |history| {
        let at = place_of(history, |event| matches!(event, Event::Ticket(ticket) if ticket.ticket == id));
        let Event::Ticket(ticket) = &mut history[at] else { unreachable!("found as a ticket") };
        change(ticket);
    }
}

/// Moves the ack of a ticket to just before another event.
fn ack_before(id: u64, is_it: impl Fn(&Event) -> bool) -> impl Fn(&mut Vec<Event>) {
    move |history| {
        let at = place_of(history, |event| matches!(event, Event::Ack(ack) if ack.ticket == id));
        let ack = history.remove(at);
        let to = place_of(history, &is_it);
        history.insert(to, ack);
    }
}

fn insert_before(is_it: impl Fn(&Event) -> bool, new: Event) -> impl Fn(&mut Vec<Event>) {
    move |history| {
        let at = place_of(history, &is_it);
        history.insert(at, new.clone());
    }
}

fn remove(is_it: impl Fn(&Event) -> bool) -> impl Fn(&mut Vec<Event>) {
    move |history| {
        let at = place_of(history, &is_it);
        history.remove(at);
    }
}

fn replace(is_it: impl Fn(&Event) -> bool, new: Event) -> impl Fn(&mut Vec<Event>) {
    move |history| {
        let at = place_of(history, &is_it);
        history[at] = new.clone();
    }
}

fn is_batch(number: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Batch { end, .. } if *end == batch_end(number))
}

fn is_flush(number: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::OwnFlushed { lsn } if *lsn == batch_end(number))
}

fn is_report(of: u16, number: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Report { peer, written, .. } if *peer == of && *written == batch_end(number))
}

#[test]
fn the_good_history_is_clean_and_says_what_was_looked_at() {
    let verdict = check(&good());
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
    let summary = verdict.summary;
    assert_eq!(summary.batches, 7);
    assert_eq!(summary.acks, [0, 4, 0, 7, 0]);
    assert_eq!((summary.windowed_acks, summary.degraded_acks), (5, 1));
    assert_eq!((summary.indeterminate, summary.open), (1, 0));
    assert_eq!((summary.max_fill_bytes, summary.max_fill_records, summary.max_fill_ns), (200, 1, 5000));
    assert_eq!(summary.max_exposure_bytes, [300, 300, 300]);
}

#[test]
fn a_rule_that_was_due_is_in_force_although_a_standby_was_replaced_before_anybody_said_so() {
    let mut history = good();
    let at = place_of(&history, |event| matches!(event, Event::RuleInForce { .. }));
    history.truncate(at + 1);
    history.insert(at, Event::Standby { peer: 1, name: "b".to_owned(), node: 3 });
    let verdict = check(&history);
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
}

#[test]
fn a_history_survives_being_written_and_read() {
    let mut text = Vec::new();
    write_events(&mut text, &good()).unwrap();
    assert_eq!(read_events(text.as_slice()).unwrap(), good());
    let cut = &text[..text.len() - 4];
    assert!(read_events(cut).unwrap_err().to_string().starts_with("line 69 is no event"), "{}", good().len());
}

type Seed = (&'static str, Kind, Box<dyn Fn(&mut Vec<Event>)>);

fn seeds() -> Vec<Seed> {
    let any_tick = |event: &Event| matches!(event, Event::Tick { now_ns: 2500 });
    let in_force = |event: &Event| matches!(event, Event::RuleInForce { .. });
    let degraded = |event: &Event| matches!(event, Event::Degraded);
    let healed = |event: &Event| matches!(event, Event::Healed);
    let late = |event: &Event| matches!(event, Event::Tick { now_ns: 8000 });
    let off_at = |number: u64, start: u64, end: u64| Event::Batch {
        start: Lsn(start),
        end: Lsn(end),
        records: 2,
        payload_bytes: 200,
        accepted_ns: number * 1000,
    };
    let bad_report = |written: u64, flushed: u64| Event::Report {
        peer: 0,
        written: Lsn(written),
        flushed: Lsn(flushed),
        applied: Lsn(START),
    };
    vec![
        ("time goes back", Kind::ClockBackwards, Box::new(insert_before(any_tick, tick(5)))),
        (
            "a hole in the log",
            Kind::Gap,
            Box::new(replace(is_batch(7), off_at(7, START + 7 * 4096, START + 8 * 4096))),
        ),
        (
            "an LSN given twice",
            Kind::Overlap,
            Box::new(replace(is_batch(7), off_at(7, START + 5 * 4096, START + 7 * 4096))),
        ),
        (
            "a ticket in another batch",
            Kind::OutsideBatch,
            Box::new(change_ticket(5, |t| t.end = t.end.plus(8192))),
        ),
        (
            "two tickets share bytes",
            Kind::TicketsOverlap,
            Box::new(change_ticket(4, |t| t.lsn = Lsn(t.lsn.0 - 150))),
        ),
        ("payload counted twice", Kind::WrongCounts, Box::new(change_ticket(4, |t| t.payload_through = 350))),
        ("records not counted", Kind::WrongCounts, Box::new(change_ticket(4, |t| t.records_through = 3))),
        (
            "more payload than the batch has",
            Kind::WrongCounts,
            Box::new(change_ticket(5, |t| t.payload_through = 501)),
        ),
        ("a number used twice", Kind::TicketReused, Box::new(change_ticket(4, |t| t.ticket = 3))),
        (
            "a window at local",
            Kind::WindowNotAllowed,
            Box::new(change_ticket(2, |t| t.window = Some(Window::Bytes(9)))),
        ),
        (
            "a later append lies before",
            Kind::RealTimeOrder,
            Box::new(change_ticket(8, |t| {
                t.accepted_ns = 9_500;
                t.lsn = Lsn(START + 128);
            })),
        ),
        ("own flush falls", Kind::OwnFlushedFell, Box::new(replace(is_flush(3), flushed(1)))),
        ("flushed more than there is", Kind::FlushedBeyondLog, Box::new(replace(is_flush(2), flushed(3)))),
        ("a report past the log", Kind::ReportBeyondLog, Box::new(replace(is_report(0, 1), report(0, 2)))),
        (
            "flushed before written",
            Kind::ReportUnordered,
            Box::new(replace(is_report(0, 1), bad_report(START, START + 4096))),
        ),
        (
            "a report within a batch",
            Kind::ReportNoBatchEnd,
            Box::new(replace(is_report(0, 1), bad_report(START + 4000, START))),
        ),
        (
            "a standby loses what it flushed",
            Kind::StandbyLostData,
            Box::new(replace(is_report(0, 5), report(0, 2))),
        ),
        (
            "rule versions fall",
            Kind::RuleOutOfOrder,
            Box::new(insert_before(
                in_force,
                Event::Rule { version: 1, rule: String::new(), record_end: Some(batch_end(5)) },
            )),
        ),
        (
            "a rule that is none",
            Kind::RuleUnreadable,
            Box::new(insert_before(
                is_batch(4),
                Event::Rule { version: 2, rule: "ANY (".to_owned(), record_end: Some(batch_end(3)) },
            )),
        ),
        ("a rule before its record is safe", Kind::RuleTooEarly, Box::new(remove(is_report(1, 5)))),
        (
            "a rule that was not asked for",
            Kind::RuleTooEarly,
            Box::new(insert_before(is_batch(2), Event::RuleInForce { version: 9 })),
        ),
        ("an ack from nowhere", Kind::UnknownTicket, Box::new(change_ack(5, |a| a.ticket = 77))),
        (
            "two acks",
            Kind::EndedTwice,
            Box::new(insert_before(any_tick, ack(3, 2, 0, Level::On, None, 1, 0))),
        ),
        (
            "an ack after indeterminate",
            Kind::EndedTwice,
            Box::new(|history: &mut Vec<Event>| {
                history.push(ack(11, 7, 0, Level::On, None, 2, 0));
            }),
        ),
        ("an ack for another place", Kind::AckElsewhere, Box::new(change_ack(1, |a| a.lsn = a.lsn.plus(8)))),
        (
            "a wait ends before the log is there",
            Kind::NotSealed,
            Box::new(|history: &mut Vec<Event>| {
                for event in history.iter_mut() {
                    match event {
                        Event::Wait { lsn, .. } => *lsn = batch_end(9),
                        Event::Ack(ack) if ack.ticket == 10 => {
                            (ack.lsn, ack.end) = (batch_end(9), batch_end(9))
                        }
                        _ => {}
                    }
                }
            }),
        ),
        ("local before the own flush", Kind::NotFlushed, Box::new(ack_before(2, is_flush(1)))),
        ("on before the own flush", Kind::NotFlushed, Box::new(remove(is_flush(1)))),
        ("on before the standby", Kind::NotSafe, Box::new(ack_before(1, is_report(0, 1)))),
        (
            "on while the standby has only written",
            Kind::NotSafe,
            Box::new(replace(is_report(0, 1), bad_report(START + 4096, START))),
        ),
        (
            "on by an excluded standby",
            Kind::NotSafe,
            Box::new(insert_before(is_report(0, 1), Event::Excluded { peer: 0 })),
        ),
        (
            "on by the primary itself",
            Kind::NotSafe,
            Box::new(|history: &mut Vec<Event>| {
                history[1] = Event::Standby { peer: 0, name: "a".to_owned(), node: 100 };
            }),
        ),
        (
            "one node counted twice",
            Kind::NotSafe,
            Box::new(|history: &mut Vec<Event>| {
                history[1] = Event::Standby { peer: 0, name: "a".to_owned(), node: 7 };
                history[2] = Event::Standby { peer: 1, name: "b".to_owned(), node: 7 };
            }),
        ),
        (
            "only the new rule asked",
            Kind::NotSafe,
            Box::new(|history: &mut Vec<Event>| {
                // The change is to b alone; b has it, a does not.
                for event in history.iter_mut() {
                    match event {
                        Event::Rule { version: 1, rule, .. } => *rule = "ANY 1 (a)".to_owned(),
                        Event::Rule { version: 2, rule, .. } => *rule = "ANY 1 (b)".to_owned(),
                        _ => {}
                    }
                }
                remove(is_report(0, 5))(history);
            }),
        ),
        ("bytes over the window", Kind::FillOverWindow, Box::new(ack_before(5, any_tick))),
        (
            "records over the window",
            Kind::FillOverWindow,
            Box::new(|history: &mut Vec<Event>| {
                change_ticket(7, |t| t.window = Some(Window::Records(1)))(history);
                change_ack(7, |a| a.window = Some(Window::Records(1)))(history);
            }),
        ),
        ("time over the window", Kind::FillOverWindow, Box::new(replace(late, tick(8001)))),
        (
            "a window of 0 that let one go",
            Kind::FillOverWindow,
            Box::new(|history: &mut Vec<Event>| {
                change_ticket(3, |t| t.window = Some(Window::Bytes(0)))(history);
                change_ack(3, |a| a.window = Some(Window::Bytes(0)))(history);
            }),
        ),
        (
            "a window while nobody has reported in the term",
            Kind::FillOverWindow,
            Box::new(insert_before(is_flush(2), Event::TermStarted)),
        ),
        ("a fill made small", Kind::FillUnderstated, Box::new(change_ack(4, |a| a.fill_bytes = 199))),
        (
            "weaker without need",
            Kind::WeakerThanAsked,
            Box::new(change_ack(1, |a| {
                a.level = Level::Local;
                a.window = Some(Window::Infinite);
            })),
        ),
        ("stronger than asked", Kind::StrongerThanAsked, Box::new(change_ack(2, |a| a.level = Level::On))),
        ("on under window ∞", Kind::StrongerThanAsked, Box::new(change_ack(12, |a| a.level = Level::On))),
        (
            "another window",
            Kind::OtherWindow,
            Box::new(change_ack(3, |a| a.window = Some(Window::Bytes(100)))),
        ),
        ("degraded in silence", Kind::Silent, Box::new(change_ack(9, |a| a.window = None))),
        ("an old rule version", Kind::WrongRuleVersion, Box::new(change_ack(8, |a| a.rule_version = 1))),
        (
            "degraded too early",
            Kind::DegradedWithoutNeed,
            Box::new(replace(|event| matches!(event, Event::Tick { now_ns: 10_010_000 }), tick(10_000_000))),
        ),
        (
            "degraded with all there",
            Kind::DegradedWithoutNeed,
            Box::new(remove(|event| matches!(event, Event::Live { live: false, .. }))),
        ),
        (
            "degraded where stalling was asked for",
            Kind::DegradedWithoutNeed,
            Box::new(|history: &mut Vec<Event>| {
                let Event::Setup { degrade_after_ns, .. } = &mut history[0] else { unreachable!("first") };
                *degrade_after_ns = None;
            }),
        ),
        ("weaker without saying so once", Kind::WeakerThanAsked, Box::new(remove(degraded))),
        ("healed before caught up", Kind::HealedTooEarly, Box::new(remove(is_report(1, 6)))),
        (
            "healed while gone",
            Kind::HealedTooEarly,
            Box::new(move |history: &mut Vec<Event>| {
                // A turn before: within one, a standby may go while the gate's word is on its way.
                let at = place_of(history, healed);
                let gone = [Event::Live { peer: 0, live: false }, Event::Tick { now_ns: 10_020_000 }];
                history.splice(at..at, gone);
            }),
        ),
        (
            "exposure made small",
            Kind::ExposureUnderstated,
            Box::new(replace(
                |event| matches!(event, Event::Gauge { exposure_bytes: 300, .. }),
                Event::Gauge { stage: Stage::Flushed, exposure_bytes: 200 },
            )),
        ),
    ]
}

#[test]
fn every_seeded_anomaly_is_flagged_as_what_it_is() {
    let mut kinds = std::collections::BTreeSet::new();
    assert!(seeds().len() >= 50, "only {} histories", seeds().len());
    for (name, kind, seed) in seeds() {
        let mut history = good();
        seed(&mut history);
        let verdict = check(&history);
        assert!(verdict.has(kind), "{name}: {kind:?} was not seen, only {:#?}", verdict.violations);
        kinds.insert(kind);
    }
    assert!(kinds.len() >= 30, "only {} kinds are tried", kinds.len());
}
