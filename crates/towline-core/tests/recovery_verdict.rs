//! The verdict over all combinations of its inputs, against properties written from the table alone.

use towline_core::format::BatchError;
use towline_core::log::recovery::{Evidence, Standing, Verdict, Why, judge};
use towline_core::types::{Lsn, Span};

const X: Lsn = Lsn(100 << 12);
const LIMIT: Lsn = Lsn(200 << 12);

const CLEAN: [Standing; 7] = [
    Standing::Zeros,
    Standing::OtherSalt,
    Standing::LowerLsn,
    Standing::NotOwner,
    Standing::OldContent,
    Standing::Prepared,
    Standing::NoSegment,
];
const DAMAGED: [Standing; 4] = [
    Standing::DamagedHeader,
    Standing::DamagedBody(BatchError::NotEmpty),
    Standing::BrokenChain,
    Standing::Misplaced,
];
const NO_CRASH: [Standing; 4] =
    [Standing::BadSegmentHeader, Standing::SequenceGap, Standing::ShortFile, Standing::NewerFormat];

/// Positions around X and the limit, and none.
fn positions() -> [Option<Lsn>; 7] {
    [
        None,
        Some(Lsn(0)),
        Some(Lsn(X.0 - 4096)),
        Some(X),
        Some(Lsn(X.0 + 4096)),
        Some(LIMIT),
        Some(Lsn(LIMIT.0 + 4096)),
    ]
}

fn behind() -> [Option<Span>; 5] {
    let span = |start: u64, end: u64| Some(Span::new(Lsn(start), Lsn(end)));
    [
        None,
        span(X.0 + 4096, X.0 + 8192),
        span(X.0 + 4096, LIMIT.0),
        span(X.0 + 4096, LIMIT.0 + 4096),
        span(LIMIT.0 + 4096, LIMIT.0 + 8192),
    ]
}

fn all() -> Vec<Evidence> {
    let mut all = Vec::new();
    for standing in CLEAN.into_iter().chain(DAMAGED).chain(NO_CRASH) {
        for in_unfinished in [false, true] {
            for valid_behind in behind() {
                for durable_proof in positions() {
                    // Only a batch behind X can prove anything.
                    if valid_behind.is_none() && durable_proof.is_some() {
                        continue;
                    }
                    for reported in positions().into_iter().flatten() {
                        all.extend(positions().map(|peer_holds| Evidence {
                            at: X,
                            standing,
                            in_unfinished,
                            limit_end: LIMIT,
                            valid_behind,
                            durable_proof,
                            reported,
                            peer_holds,
                        }));
                    }
                }
            }
        }
    }
    all
}

fn was_durable(evidence: &Evidence) -> bool {
    evidence.reported > X
        || evidence.peer_holds.is_some_and(|holds| holds > X)
        || (!evidence.in_unfinished && evidence.durable_proof.is_some_and(|proof| proof > X))
}

fn for_all(check: impl Fn(&Evidence, &Verdict)) {
    let all = all();
    assert_eq!(all.len(), 15 * 2 * (1 + 4 * 7) * 6 * 7);
    for evidence in all {
        check(&evidence, &judge(&evidence));
    }
}

#[test]
fn what_was_durable_is_never_cut_and_never_called_fine() {
    for_all(|evidence, verdict| {
        if was_durable(evidence) {
            assert!(matches!(verdict, Verdict::Corrupt { .. }), "{evidence:?}: {verdict:?}");
        }
    });
}

#[test]
fn a_clean_end_has_nothing_valid_behind_and_no_damage() {
    for_all(|evidence, verdict| {
        if *verdict == Verdict::CleanEnd {
            assert!(!was_durable(evidence), "{evidence:?}");
            assert_eq!(evidence.valid_behind, None);
            assert!(CLEAN.contains(&evidence.standing), "{evidence:?}");
        }
    });
}

#[test]
fn a_cut_starts_at_the_hole_and_covers_everything_valid_behind() {
    for_all(|evidence, verdict| {
        if let Some(cut) = verdict.cut() {
            assert_eq!(cut, Span::new(X, LIMIT));
            assert!(!was_durable(evidence));
            assert!(evidence.valid_behind.is_none_or(|behind| behind.end <= cut.end), "{evidence:?}");
            assert!(!NO_CRASH.contains(&evidence.standing), "{evidence:?}");
        }
        match verdict {
            Verdict::TornTail { .. } => {
                assert!(evidence.valid_behind.is_none() && DAMAGED.contains(&evidence.standing));
            }
            Verdict::InFlight { .. } => assert!(evidence.valid_behind.is_some()),
            Verdict::CleanEnd | Verdict::Corrupt { .. } => {}
        }
    });
}

#[test]
fn what_no_crash_leaves_is_refused() {
    for_all(|evidence, verdict| {
        let beyond = evidence.valid_behind.is_some_and(|behind| behind.end > LIMIT);
        if NO_CRASH.contains(&evidence.standing) || beyond {
            assert!(matches!(verdict, Verdict::Corrupt { .. }), "{evidence:?}: {verdict:?}");
        }
    });
}

/// The other direction: what a crash does leave is never refused, or no log would open again.
#[test]
fn what_a_crash_leaves_is_recovered() {
    for_all(|evidence, verdict| {
        let beyond = evidence.valid_behind.is_some_and(|behind| behind.end > LIMIT);
        if !was_durable(evidence) && !NO_CRASH.contains(&evidence.standing) && !beyond {
            assert!(!matches!(verdict, Verdict::Corrupt { .. }), "{evidence:?}: {verdict:?}");
        }
    });
}

#[test]
fn a_refusal_names_a_range_from_the_hole_and_a_reason_that_holds() {
    for_all(|evidence, verdict| {
        let Verdict::Corrupt { span, why } = verdict else { return };
        assert!(span.start == X && !span.is_empty(), "{evidence:?}: {span:?}");
        assert!(
            evidence.valid_behind.is_none_or(|behind| span.end == behind.start),
            "{evidence:?}: {span:?}"
        );
        let holds = match *why {
            Why::LaterBatch { durable, .. } => {
                evidence.durable_proof == Some(durable) && !evidence.in_unfinished
            }
            Why::Peer { holds, .. } => evidence.peer_holds == Some(holds) && holds > X,
            Why::Reported { reported, .. } => evidence.reported == reported && reported > X,
            Why::Wide { valid_to, .. } => valid_to > LIMIT,
            Why::NotACrash { standing } => NO_CRASH.contains(&standing),
        };
        assert!(holds, "{evidence:?}: {why:?}");
        assert!(!why.to_string().is_empty());
    });
}
