//! What is found afterwards, held to what was acknowledged: losses, doubles, moves and changes are told apart.

use towline_check::{AckedRecord, FoundRecord, Kind, lost_span, records_survive};
use towline_core::types::{Lsn, Window};

const START: u64 = 8192;

fn acked() -> Vec<AckedRecord> {
    (0..10)
        .map(|n| AckedRecord {
            lsn: Lsn(START + n * 200),
            key: 1000 + n,
            payload_bytes: 100,
            records_through: n + 1,
            payload_through: (n + 1) * 100,
            accepted_ns: n * 1000,
        })
        .collect()
}

fn found() -> Vec<FoundRecord> {
    acked().iter().map(|record| FoundRecord { lsn: record.lsn, key: record.key }).collect()
}

fn kinds_of(acked: &[AckedRecord], found: &[FoundRecord]) -> Vec<Kind> {
    records_survive(acked, found).into_iter().map(|violation| violation.kind).collect()
}

#[test]
fn records_that_are_all_there_survive_whatever_lies_beside_them() {
    assert_eq!(kinds_of(&acked(), &found()), []);
    // Acknowledged out of order, and one found that nobody acknowledged.
    let mut shuffled = acked();
    shuffled.reverse();
    shuffled.remove(3);
    assert_eq!(kinds_of(&shuffled, &found()), []);
}

#[test]
fn lost_doubled_moved_and_changed_records_are_told_apart() {
    let mut lost = found();
    lost.remove(4);
    assert_eq!(kinds_of(&acked(), &lost), [Kind::Lost]);

    let mut doubled = found();
    doubled.push(FoundRecord { lsn: Lsn(START + 9000), key: 1003 });
    assert_eq!(kinds_of(&acked(), &doubled), [Kind::Doubled]);

    let mut same_place = found();
    same_place.insert(5, FoundRecord { lsn: Lsn(START + 800), key: 5000 });
    assert!(kinds_of(&acked(), &same_place).contains(&Kind::Doubled));

    let mut swapped = found();
    (swapped[2].key, swapped[3].key) = (swapped[3].key, swapped[2].key);
    assert_eq!(kinds_of(&acked(), &swapped), [Kind::OutOfOrder, Kind::OutOfOrder]);

    let mut back = found();
    back.swap(6, 7);
    assert_eq!(kinds_of(&acked(), &back), [Kind::OutOfOrder]);

    let mut changed = found();
    changed[8].key = 1;
    assert_eq!(kinds_of(&acked(), &changed), [Kind::Changed]);
}

#[test]
fn lost_records_lie_within_one_span_of_their_window() {
    let mut found = found();
    found.truncate(7);
    let span = lost_span(&acked(), &found);
    assert_eq!((span.lost, span.records, span.payload_bytes, span.accepted_spread_ns), (3, 3, 300, 2000));
    for (window, is_within) in [
        (Window::Bytes(300), true),
        (Window::Bytes(299), false),
        (Window::Records(3), true),
        (Window::Records(2), false),
        (Window::Micros(2), true),
        (Window::Micros(1), false),
        (Window::Bytes(0), false),
        (Window::Infinite, true),
    ] {
        assert_eq!(span.check(window).is_none(), is_within, "{window}");
    }
    // A hole counts to the last that is gone, with what survived in between.
    found.remove(2);
    assert_eq!(lost_span(&acked(), &found).records, 8);
    assert_eq!(
        lost_span(
            &acked(),
            &acked().iter().map(|r| FoundRecord { lsn: r.lsn, key: r.key }).collect::<Vec<_>>()
        )
        .lost,
        0
    );
}
