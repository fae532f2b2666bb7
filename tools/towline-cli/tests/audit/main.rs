//! Real processes under load over links with a round trip, their primary on tape: the checker recomputes safe
//! positions, fill and exposure from tickets, flush completions and reports, and holds every ack to them, and the
//! gate's own gauge, too. Then the same history is falsified, and must be found out.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod load;
#[path = "../support/mod.rs"]
mod support;
mod tape;

use std::collections::HashMap;
use std::time::Duration;

use linkem::{Link, LinkConfig};
use load::Seen;
use support::{Folder, Node, NodePlan};
use towline::client::Client;
use towline_check::{AckEvent, Event, Kind, Verdict, check};
use towline_core::types::{Level, Lsn, Window};

/// A run: what its client saw, and what the primary's tape says.
struct Run {
    seen: Vec<Seen>,
    events: Vec<Event>,
}

/// Appends in a run.
const COUNT: usize = 4_000;
/// Appends on their way at once.
const OUTSTANDING: usize = 96;

fn link(standby: &Node, round_trip: Duration) -> Link {
    Link::start(LinkConfig::new(standby.address()).with_rtt(round_trip)).unwrap()
}

/// Two standbys, one of them farther away, and changes of the rule under load.
fn run() -> Run {
    let folder = Folder::new();
    let near = NodePlan::standby("near", folder.join("near")).start();
    let far = NodePlan::standby("far", folder.join("far")).start();
    let links = [link(&near, Duration::from_millis(4)), link(&far, Duration::from_millis(9))];
    let tape = folder.join("tape");
    let primary = NodePlan::primary(folder.join("p"))
        .flag(format!("--standby=near={}", links[0].local_addr()))
        .flag(format!("--standby=far={}", links[1].local_addr()))
        .flag("--sync-rule=ANY 1 (near, far)")
        .flag(format!("--record-inputs={}", tape.display()))
        .start();
    primary.wait_leading();
    (0..2).for_each(|standby| primary.wait_caught_up(standby));
    let address = primary.address();
    let mut changes = Vec::new();
    let seen = load::run(address, COUNT, OUTSTANDING, |number| {
        let rule = match number {
            1_000 => "FIRST 1 (far, near)",
            2_000 => "ANY 2 (near, far)",
            3_000 => "FIRST 1 (near, far)",
            _ => return,
        };
        changes
            .push(std::thread::spawn(move || Client::connect(address, 0).unwrap().set_rule(rule).unwrap()));
    });
    changes.into_iter().for_each(|change| change.join().unwrap());
    primary.stop();
    // One tape per shard.
    let events = tape::read(&folder.join("tape.0"));
    Run { seen, events }
}

fn acks(events: &[Event]) -> impl Iterator<Item = &AckEvent> {
    events.iter().filter_map(|event| if let Event::Ack(ack) = event { Some(ack) } else { None })
}

fn unit(window: Option<Window>) -> Option<&'static str> {
    match window? {
        Window::Bytes(0) | Window::Records(0) | Window::Micros(0) | Window::Infinite => None,
        Window::Bytes(_) => Some("bytes"),
        Window::Records(_) => Some("records"),
        Window::Micros(_) => Some("time"),
    }
}

#[test]
fn every_ack_of_a_real_run_is_within_its_window_and_the_gauge_is_the_truth() {
    let run = run();
    let verdict = check(&run.events);
    assert!(verdict.is_clean(), "{:#?}", &verdict.violations[..verdict.violations.len().min(5)]);
    the_run_shows_what_it_is_for(&run, &verdict);
    the_client_was_told_what_the_tape_says(&run);
    acks_before_their_wait_are_found(&run);
    later_reports_are_found(&run);
    narrower_windows_are_found(&run, &verdict);
    a_low_gauge_is_found(&run);
}

fn the_run_shows_what_it_is_for(run: &Run, verdict: &Verdict) {
    let summary = &verdict.summary;
    println!("{summary:#?}");
    for wanted in ["bytes", "records", "time"] {
        let of_unit = || acks(&run.events).filter(|ack| unit(ack.window) == Some(wanted));
        let waited = of_unit().filter(|ack| ack.waited_for_window).count();
        let at_once = of_unit().filter(|ack| ack.fill_bytes > 0).count();
        println!("{wanted}: {} acks, {waited} waited, {at_once} with something unsafe", of_unit().count());
        assert!(waited > 20, "{waited} tickets waited for their window in {wanted}");
        // A window in time goes by on a busy machine before the flush does: there few are acknowledged at once.
        assert!(at_once > if wanted == "time" { 0 } else { 20 }, "{at_once} acks in {wanted} had a fill");
    }
    assert!(summary.max_fill_bytes > 0 && summary.max_fill_records > 0 && summary.max_fill_ns > 0);
    assert!(summary.remote_acks > 500 && summary.acks[Level::Local.to_wire() as usize] > 300, "{summary:?}");
    assert!(summary.gauges > 1000, "{} gauges", summary.gauges);
    // Fewer batches than the gate keeps apart: not only never too low, but exact.
    assert_eq!(summary.max_gauge_excess_bytes, 0);
    assert!(summary.max_exposure_bytes[1] > 0);
    let changes = run.events.iter().filter(|event| matches!(event, Event::RuleInForce { .. })).count();
    assert_eq!(changes, 3);
}

/// The log of acks that the client kept is the one that was judged, and its own clock agrees with the order.
fn the_client_was_told_what_the_tape_says(run: &Run) {
    let by_lsn: HashMap<Lsn, &AckEvent> = acks(&run.events).map(|ack| (ack.lsn, ack)).collect();
    assert_eq!(by_lsn.len(), run.seen.len());
    for seen in &run.seen {
        let (told, ack) = (&seen.ack, by_lsn[&seen.ack.lsn]);
        assert_eq!((told.lsn, told.end, told.level, told.window), (ack.lsn, ack.end, ack.level, ack.window));
        assert_eq!((told.rule_version, told.fill_bytes), (ack.rule_version, ack.fill_bytes));
        assert_eq!(told.waited_for_window, ack.waited_for_window);
        let unbounded = seen.window == Some(Window::Infinite);
        assert_eq!(told.level, if unbounded { Level::Local } else { seen.level });
        assert_eq!(told.window, seen.window);
    }
    let mut by_answer: Vec<&Seen> = run.seen.iter().collect();
    by_answer.sort_by_key(|seen| seen.answered);
    let mut by_call: Vec<&Seen> = run.seen.iter().collect();
    by_call.sort_by_key(|seen| seen.called);
    let (mut answered, mut highest) = (by_answer.into_iter().peekable(), Lsn(0));
    for seen in by_call {
        while let Some(earlier) = answered.next_if(|earlier| earlier.answered < seen.called) {
            highest = highest.max(earlier.ack.lsn);
        }
        assert!(seen.ack.lsn > highest, "called after {highest} was acknowledged, and lies before it");
    }
}

/// A ticket that waited had too much unsafe when it was flushed: acknowledged there, it is over its window.
fn acks_before_their_wait_are_found(run: &Run) {
    let waited: Vec<usize> = (0..run.events.len())
        .filter(|at| matches!(&run.events[*at], Event::Ack(ack) if ack.waited_for_window && unit(ack.window).is_some()))
        .collect();
    let step = (waited.len() / 24).max(1);
    for at in waited.into_iter().step_by(step) {
        let mut events = run.events.clone();
        let Event::Ack(ack) = events.remove(at) else { unreachable!("picked as an ack") };
        let is_flush = |event: &Event| matches!(event, Event::OwnFlushed { lsn } if *lsn >= ack.end);
        let flush = events.iter().position(is_flush).unwrap();
        events.insert(flush + 1, Event::Ack(ack));
        let verdict = check(&events);
        let is_it = |kind: Kind| verdict.violations.iter().any(|v| v.kind == kind && v.at == flush + 1);
        assert!(is_it(Kind::FillOverWindow), "{ack:?}: {:#?}", verdict.violations.first());
    }
}

/// Had each report said what the one before it did, many acks were too early.
fn later_reports_are_found(run: &Run) {
    let mut events = run.events.clone();
    let mut last: HashMap<u16, Event> = HashMap::new();
    for event in &mut events {
        if let Event::Report { peer, .. } = event {
            let peer = *peer;
            let new = event.clone();
            if let Some(before) = last.insert(peer, new) {
                *event = before;
            }
        }
    }
    let verdict = check(&events);
    assert!(
        verdict.has(Kind::FillOverWindow) && verdict.has(Kind::NotSafe),
        "{:#?}",
        verdict.violations.first()
    );
}

/// The largest fill of each unit is that of some ack: with a window below it, that ack is over.
fn narrower_windows_are_found(run: &Run, verdict: &Verdict) {
    let summary = &verdict.summary;
    let narrowed = [
        Window::Bytes(summary.max_fill_bytes - 1),
        Window::Records(summary.max_fill_records - 1),
        Window::Micros((summary.max_fill_ns - 1) / 1000),
    ];
    for narrow in narrowed {
        let mut events = run.events.clone();
        let change = |window: &mut Option<Window>| {
            if unit(*window).is_some() && unit(*window) == unit(Some(narrow)) {
                *window = Some(narrow);
            }
        };
        for event in &mut events {
            match event {
                Event::Ticket(ticket) => change(&mut ticket.window),
                Event::Ack(ack) => change(&mut ack.window),
                _ => {}
            }
        }
        let verdict = check(&events);
        assert!(verdict.has(Kind::FillOverWindow), "{narrow}: {:#?}", verdict.violations.first());
    }
}

fn a_low_gauge_is_found(run: &Run) {
    let mut events = run.events.clone();
    let gauges = events.iter_mut().filter_map(|event| match event {
        Event::Gauge { exposure_bytes, .. } if *exposure_bytes > 0 => Some(exposure_bytes),
        _ => None,
    });
    let changed = gauges.map(|bytes| *bytes -= 1).count();
    let verdict = check(&events);
    let found = verdict.violations.iter().filter(|v| v.kind == Kind::ExposureUnderstated).count();
    assert!(changed > 100 && found == changed, "{found} of {changed}");
}
