//! The shapes of damage that a log may be found in, each with the verdict that is due.

mod recovery_support;

use recovery_support::{BLOCK, GEOMETRY, LOG, MemLog, TERM, history, noise};
use towline_core::format::{BatchKind, SegmentHeader};
use towline_core::log::recovery::{Scan, ScanInput, SegmentSource, Standing, Verdict, Why, scan};
use towline_core::types::{LogId, Lsn, NodeId, Span, Term};

const SECTOR: usize = 512;

/// Ten flushed batches, two segments long at most.
fn durable(batches: u32) -> (MemLog, Vec<Span>) {
    let mut log = MemLog::new();
    let spans = (0..batches)
        .map(|n| {
            log.flush();
            log.append(&[&noise(700, n), &noise(5, n + 100)])
        })
        .collect();
    (log, spans)
}

fn corrupt_span(scan: &Scan) -> Span {
    match scan.verdict {
        Verdict::Corrupt { span, .. } => span,
        ref other => panic!("{other:?} for {:?}", scan.evidence),
    }
}

/// Carries the verdict out, and requires that opening again changes nothing more; also from every block at which
/// the zeroing may have been interrupted, once the span is recorded.
fn settles(log: &MemLog) -> MemLog {
    let first = log.scan();
    let Some(cut) = first.verdict.cut() else {
        assert_eq!(first.verdict, Verdict::CleanEnd);
        assert_eq!(log.scan(), first);
        return log.clone();
    };
    assert_eq!(cut.start, GEOMETRY.batch_place(first.recovered.end.lsn));
    let mut recorded = log.clone();
    recorded.meta.unfinished.push(cut);
    for blocks in 0..=cut.len() / BLOCK as u64 {
        let mut interrupted = recorded.clone();
        interrupted.zero(Span::new(cut.start, cut.start.plus(blocks * BLOCK as u64)));
        let again = interrupted.scan();
        assert_eq!(again.recovered.end, first.recovered.end, "interrupted after {blocks} blocks");
        assert!(!matches!(again.verdict, Verdict::Corrupt { .. }), "{:?}", again.verdict);
    }
    recorded.zero(cut);
    let settled = recorded.scan();
    assert_eq!(settled.verdict, Verdict::CleanEnd);
    assert_eq!(settled.recovered.previous_hash, first.recovered.previous_hash);
    assert_eq!(recorded.payloads(), log.payloads());
    recorded
}

#[test]
fn an_empty_log_and_a_whole_one() {
    let empty = MemLog::new();
    let found = empty.scan();
    assert_eq!((found.verdict, found.evidence.standing), (Verdict::CleanEnd, Standing::Prepared));
    assert_eq!(found.recovered.end.lsn, GEOMETRY.first_batch(0));
    assert_eq!(found.recovered.segments, [(0, 0x100)]);

    let (mut log, _) = durable(5);
    log.seal();
    let found = log.scan();
    assert_eq!((found.verdict, found.evidence.standing), (Verdict::CleanEnd, Standing::Zeros));
    assert_eq!(found.recovered.end, log.end);
    assert_eq!(found.recovered.previous_hash, log.previous);
    assert!(found.recovered.sealed);
    assert_eq!((found.batches, found.recovered.end.records), (6, 10));
    assert_eq!(found.recovered.leader_flushed, log.durable);
    assert_eq!(found.recovered.leader_claimed, log.durable, "one node led all of it");
    assert_eq!(log.payloads().len(), 10);

    let nothing = MemLog { files: Default::default(), ..MemLog::new() };
    assert_eq!(nothing.scan().evidence.standing, Standing::NoSegment);
    assert_eq!(nothing.scan().verdict, Verdict::CleanEnd);
}

/// Shape 1: every subset of the sectors of a torn batch, over zeros and over old content.
#[test]
fn a_torn_tail_of_any_sectors() {
    let (mut base, _) = durable(2);
    base.flush();
    let before = base.clone();
    let (span, bytes) = base.build(BatchKind::Data, &recovery_support::body(&[&noise(3900, 9)]));
    assert_eq!(bytes.len(), BLOCK);
    for old_content in [false, true] {
        for subset in 0u32..1 << 8 {
            let mut log = before.clone();
            let mut block = if old_content { noise(BLOCK, 77) } else { vec![0; BLOCK] };
            for sector in (0..8).filter(|sector| subset >> sector & 1 == 1) {
                block[sector * SECTOR..][..SECTOR].copy_from_slice(&bytes[sector * SECTOR..][..SECTOR]);
            }
            log.put(span.start, &block);
            let found = log.scan();
            if subset == 0xFF {
                assert_eq!((found.verdict, found.batches), (Verdict::CleanEnd, 3));
                continue;
            }
            assert_eq!(found.batches, 2, "a torn batch is never delivered");
            let zeros = subset == 0 && !old_content;
            let cut = Span::new(span.start, span.start.plus(GEOMETRY.in_flight_bytes));
            let want = if zeros { Verdict::CleanEnd } else { Verdict::TornTail { cut } };
            assert_eq!(found.verdict, want, "sectors {subset:08b}");
            if subset % 37 == 0 {
                settles(&log);
            }
        }
    }
}

/// Shape 1, a batch of several blocks: the header is there, the end of the body is not, or the other way round.
#[test]
fn a_torn_batch_of_several_blocks() {
    let (mut base, _) = durable(2);
    let (span, bytes) = base.build(BatchKind::Data, &recovery_support::body(&[&noise(20_000, 9)]));
    for lost in 0..bytes.len() / SECTOR {
        let mut log = base.clone();
        let mut torn = bytes.clone();
        torn[lost * SECTOR..][..SECTOR].fill(0);
        log.put(span.start, &torn);
        let found = log.scan();
        // The last sectors hold only padding; losing those loses nothing.
        if torn == bytes {
            assert_eq!(found.batches, 3);
            continue;
        }
        assert_eq!(found.batches, 2, "sector {lost}");
        assert!(matches!(found.verdict, Verdict::TornTail { .. }), "sector {lost}: {:?}", found.verdict);
    }
    settles(&base);
}

/// Shape 2: rot anywhere in what a later batch calls durable names the damaged range, and nothing is cut.
#[test]
fn rot_in_the_middle() {
    let (mut log, spans) = durable(6);
    log.seal();
    for (index, span) in spans.iter().enumerate() {
        for at in [0, 40, 127, 128, 500, 900] {
            let mut rotten = log.clone();
            rotten.flip(span.start.plus(at), 3);
            let found = rotten.scan();
            assert_eq!(corrupt_span(&found), *span, "byte {at} of batch {index}");
            assert_eq!(found.batches as usize, index);
            assert_eq!(found.verdict.cut(), None);
        }
    }
}

/// Shape 2 over many blocks: damage wider than the in-flight limit, before anything called durable.
#[test]
fn damage_wider_than_the_in_flight_limit() {
    let mut log = MemLog::new();
    let first = log.append(&[&noise(100, 1)]);
    (0..12).for_each(|n| {
        log.append(&[&noise(3000, n)]);
    });
    log.flip(first.start.plus(200), 0);
    let found = log.scan();
    assert!(matches!(found.verdict, Verdict::Corrupt { why: Why::Wide { .. }, .. }), "{:?}", found.verdict);
    assert_eq!(corrupt_span(&found), first);
    assert_eq!(found.ahead.found, 12);
}

/// Shape 3: a recycled segment keeps its old batches; they are never delivered, and no cut is due.
#[test]
fn recycled_old_content() {
    let (mut old, _) = durable(12);
    old.seal();
    let content = old.files[&0].clone();
    let mut log = MemLog::new();
    log.append(&[b"one"]);
    log.roll();
    log.prepare_over(1, 0x999, content.clone());
    let found = log.scan();
    assert_eq!((found.verdict, found.evidence.standing), (Verdict::CleanEnd, Standing::OtherSalt));
    for n in 0..10 {
        log.flush();
        log.append(&[&noise(100, n)]);
        let found = log.scan();
        assert_eq!((found.verdict, found.evidence.standing), (Verdict::CleanEnd, Standing::OtherSalt));
        assert_eq!(found.recovered.end, log.end);
    }
    // Recycled under its own salt by mistake: the lower LSN tells.
    let mut log = MemLog::new();
    log.append(&[b"one"]);
    log.roll();
    log.prepare_over(1, 0x100, content);
    assert_eq!(log.scan().evidence.standing, Standing::LowerLsn);
    settles(&log);
}

/// Shape 3 where the log ends in the middle of an old batch: behind a seal that is a clean end; without one it may
/// be a torn write over old content, and is said.
#[test]
fn the_middle_of_an_old_batch() {
    let mut old = MemLog::new();
    (0..2).for_each(|n| {
        old.append(&[&noise(20_000, n)]);
    });
    let content = old.files[&0].clone();
    let mut log = MemLog::new();
    log.roll();
    log.prepare_over(1, 0x999, content);
    log.append(&[b"one"]);
    let found = log.scan();
    assert_eq!(found.evidence.standing, Standing::DamagedHeader);
    assert!(matches!(found.verdict, Verdict::TornTail { .. }));
    settles(&log);
    log.seal();
    let found = log.scan();
    assert_eq!((found.verdict, found.evidence.standing), (Verdict::CleanEnd, Standing::OldContent));
    // A batch behind the seal whose magic has rotted is no old content.
    let torn = log.append(&[b"two"]);
    log.flip(torn.start.plus(3), 1);
    assert_eq!(log.scan().evidence.standing, Standing::DamagedHeader);
}

/// Shape 4: the segment is full, and the crash came before or after the next one was there.
#[test]
fn a_roll_and_what_follows() {
    let (mut log, _) = durable(4);
    log.flush();
    let roll = log.roll();
    let found = log.scan();
    assert_eq!((found.verdict, found.evidence.standing), (Verdict::CleanEnd, Standing::NoSegment));
    assert_eq!(found.recovered.end.lsn, GEOMETRY.segment_end(0));
    assert_eq!(found.recovered.rolls, [roll.end]);

    log.prepare(1, 0x200);
    let found = log.scan();
    assert_eq!((found.verdict, found.evidence.standing), (Verdict::CleanEnd, Standing::Prepared));
    assert_eq!(found.recovered.segments, [(0, 0x100), (1, 0x200)]);

    // Its first batch in flight: torn, then lost with a later one there.
    let ended = log.clone();
    let (first, bytes) = log.build(BatchKind::Data, &recovery_support::body(&[&noise(900, 1)]));
    log.put(first.start, &bytes[..SECTOR]);
    assert!(matches!(log.scan().verdict, Verdict::TornTail { .. }));
    settles(&log);
    log.put(first.start, &vec![0; bytes.len()]);
    let later = log.append(&[b"later"]);
    let found = log.scan();
    assert!(matches!(found.verdict, Verdict::InFlight { .. }));
    assert_eq!(found.ahead.listed[0].stored, later);
    settles(&log);

    // The roll itself in flight, the next segment prepared, and a batch in it already written: a hole.
    let mut log = ended;
    log.append(&[b"first of the next"]);
    log.zero(Span::new(roll.start, roll.end));
    let found = log.scan();
    assert_eq!(found.recovered.end.lsn, roll.start);
    // More lies between the roll and the next segment's first batch than may have been in flight.
    assert!(matches!(found.verdict, Verdict::Corrupt { why: Why::Wide { .. }, .. }));
}

#[test]
fn a_roll_in_flight_with_the_next_segment_close_by() {
    let mut log = MemLog::new();
    while GEOMETRY.segment_end(0).0 - log.place().0 > 3 * BLOCK as u64 {
        log.append(&[&noise(3000, 1)]);
    }
    log.flush();
    let roll = log.roll();
    log.prepare(1, 0x200);
    let first = log.append(&[b"first of the next"]);
    log.zero(roll);
    let found = log.scan();
    assert!(matches!(found.verdict, Verdict::InFlight { .. }), "{:?}", found.verdict);
    assert!(found.verdict.cut().is_some_and(|cut| cut.end >= first.end));
    let settled = settles(&log);
    assert_eq!(settled.scan().recovered.segments, [(0, 0x100), (1, 0x200)]);
}

/// Shape 5: one damaged copy of a segment header is repaired from the other; two are corruption, not a clean end.
#[test]
fn damaged_segment_headers() {
    let (mut log, _) = durable(4);
    log.flush();
    log.roll();
    log.prepare(1, 0x200);
    log.append(&[b"in the second"]);
    log.seal();
    let whole = log.scan();
    for seq in [0, 1] {
        for copy in [0, 1] {
            let mut hurt = log.clone();
            hurt.files.get_mut(&seq).expect("there")[copy * BLOCK + 20] ^= 4;
            let found = hurt.scan();
            assert_eq!(found.header_repairs, [(seq, [copy == 0, copy == 1])]);
            assert_eq!(found.recovered, whole.recovered);
        }
        let mut lost = log.clone();
        lost.files.get_mut(&seq).expect("there")[..2 * BLOCK].fill(0);
        let found = lost.scan();
        assert_eq!(found.evidence.standing, Standing::BadSegmentHeader);
        assert_eq!(corrupt_span(&found).start, GEOMETRY.first_batch(seq));
    }
    // Another log's file, another place's file, a contradiction between the copies.
    let other_log = SegmentHeader { log: LogId([1; 16]), seq: 1, salt: 0x200, incarnation: 1 };
    let other_place = SegmentHeader { log: LOG, seq: 7, salt: 0x200, incarnation: 1 };
    let other_salt = SegmentHeader { log: LOG, seq: 1, salt: 0x201, incarnation: 1 };
    for (header, copies) in [(other_log, 2), (other_place, 2), (other_salt, 1)] {
        let mut wrong = log.clone();
        let file = wrong.files.get_mut(&1).expect("there");
        (0..copies).for_each(|copy| file[copy * BLOCK..][..BLOCK].copy_from_slice(&header.encode()));
        assert_eq!(wrong.scan().evidence.standing, Standing::BadSegmentHeader);
        corrupt_span(&wrong.scan());
    }
}

/// A prepared segment ahead whose header is damaged holds nothing: it is made anew. One with batches in it tells.
#[test]
fn a_damaged_header_of_a_segment_ahead() {
    let (mut log, _) = durable(4);
    log.seal();
    log.prepare(1, 0x200);
    log.files.get_mut(&1).expect("there")[..2 * BLOCK].fill(9);
    let found = log.scan();
    assert_eq!((found.verdict, found.unusable), (Verdict::CleanEnd, vec![1]));
    assert_eq!(found.recovered.segments, [(0, 0x100)]);

    // The proof lies in that segment alone: the roll was built before the last batch was flushed.
    let (mut log, spans) = durable(4);
    log.roll();
    log.prepare(1, 0x200);
    log.flush();
    log.append(&[b"durable"]);
    log.files.get_mut(&1).expect("there")[..2 * BLOCK].fill(9);
    log.flip(spans[3].start, 1);
    let found = log.scan();
    assert_eq!(found.evidence.at, spans[3].start);
    assert!(
        matches!(found.verdict, Verdict::Corrupt { why: Why::LaterBatch { .. }, .. }),
        "{:?}",
        found.verdict
    );
}

#[test]
fn gaps_and_short_files() {
    let mut log = MemLog::new();
    for seq in 0..3 {
        log.flush();
        log.append(&[b"x"]);
        log.roll();
        log.prepare(seq + 1, 0x200 + seq as u32);
    }
    log.seal();
    for missing in 0..3 {
        let mut gap = log.clone();
        gap.files.remove(&missing);
        let found = gap.scan();
        assert_eq!(found.evidence.standing, Standing::SequenceGap, "segment {missing}");
        corrupt_span(&found);
    }
    // A gap among segments that are only prepared is no crash either.
    let mut ahead = MemLog::new();
    ahead.append(&[b"x"]);
    ahead.prepare(2, 0x300);
    assert_eq!(ahead.scan().evidence.standing, Standing::SequenceGap);
    corrupt_span(&ahead.scan());
    let mut short = log.clone();
    short.files.get_mut(&1).expect("there").truncate(60_001);
    assert_eq!(short.scan().evidence.standing, Standing::ShortFile);
    corrupt_span(&short.scan());
    let mut stub = log;
    stub.files.get_mut(&3).expect("there").truncate(100);
    assert_eq!(stub.scan().evidence.standing, Standing::ShortFile);
}

/// Shape 6: a write that went to the wrong place, was lost, or is an older one.
#[test]
fn misdirected_lost_and_stale_writes() {
    let (mut log, spans) = durable(6);
    log.seal();
    // Misdirected: batch 4 lies over batch 2. Both places are named by what is there.
    let mut wrong = log.clone();
    let bytes = wrong.bytes(spans[4]).to_vec();
    wrong.put(spans[2].start, &bytes);
    let found = wrong.scan();
    assert_eq!((corrupt_span(&found), found.evidence.standing), (spans[2], Standing::Misplaced));
    // Lost: zeros in the middle.
    let mut lost = log.clone();
    lost.zero(spans[2]);
    assert_eq!(corrupt_span(&lost.scan()), spans[2]);
    // Another log's batch.
    let mut other = log.clone();
    let mut foreign = MemLog::new();
    foreign.append(&[b"x"]);
    let mut bytes = foreign.bytes(Span::new(GEOMETRY.first_batch(0), spans[1].start)).to_vec();
    bytes[16] ^= 1;
    other.put(spans[2].start, &bytes);
    assert_eq!(corrupt_span(&other.scan()), spans[2]);
}

/// Shape 6 with terms: what a truncated term left is never believed, even in the very place of the log's end.
#[test]
fn stale_batches_of_a_truncated_term() {
    let (mut log, _) = durable(2);
    let fork = log.end.lsn;
    let shared = log.clone();
    log.append(&[b"of the old term"]);
    log.append(&[b"of the old term, too"]);
    let newer = Term { number: 2, node: NodeId(9) };
    log.meta.history = history(&[(TERM, 0), (newer, fork.0)]);
    let found = log.scan();
    assert_eq!((found.verdict, found.evidence.standing), (Verdict::CleanEnd, Standing::NotOwner));
    assert_eq!(found.recovered.end.lsn, fork);

    // The new term has written its first batch over the old one's; the second old one still stands behind.
    let mut rewritten = MemLog { term: newer, end: shared.end, previous: shared.previous, ..log };
    rewritten.append(&[b"of the new term"]);
    let found = rewritten.scan();
    assert_eq!((found.verdict, found.batches), (Verdict::CleanEnd, 3));
    assert_eq!(rewritten.payloads().last().map(Vec::as_slice), Some(&b"of the new term"[..]));
}

/// A batch that is sound by itself, but follows another one than stands before it.
#[test]
fn a_broken_chain() {
    let (mut log, spans) = durable(3);
    let mut other = MemLog { previous: 77, ..log.clone() };
    other.end = log.end;
    let (span, bytes) = other.build(BatchKind::Data, &recovery_support::body(&[b"x"]));
    log.put(span.start, &bytes);
    let found = log.scan();
    assert_eq!(found.evidence.standing, Standing::BrokenChain);
    assert_eq!(found.evidence.at, spans[2].end);
    settles(&log);
    let mut counts = log.clone();
    counts.end.records += 1;
    let (span, bytes) = counts.build(BatchKind::Data, &recovery_support::body(&[b"x"]));
    log.put(span.start, &bytes);
    assert_eq!(log.scan().evidence.standing, Standing::BrokenChain);
}

/// Shape 7: valid batches behind a hole, in flight at the crash; and the same bytes when they were durable.
#[test]
fn a_hole_with_valid_batches_behind() {
    let (mut log, _) = durable(3);
    log.flush();
    let hole = log.append(&[b"lost"]);
    let after = [log.append(&[b"landed"]), log.append(&[b"landed, too"])];
    log.zero(hole);
    let found = log.scan();
    assert_eq!(found.verdict, Verdict::InFlight { cut: Span::new(hole.start, hole.start.plus(32 << 10)) });
    assert_eq!(found.ahead.found, 2);
    assert_eq!(log.payloads().len(), 6, "nothing behind the hole is delivered");
    settles(&log);

    // A later batch says that the hole was durable.
    let mut durable_hole = log.clone();
    durable_hole.flush();
    let proof = durable_hole.append(&[b"knows"]);
    let found = durable_hole.scan();
    assert_eq!(corrupt_span(&found), hole.merge(after[0]));
    assert!(
        matches!(found.verdict, Verdict::Corrupt { why: Why::LaterBatch { durable, .. }, .. } if durable == proof.start)
    );

    // The same on a standby, inside its unfinished span: the leader's word proves nothing here.
    durable_hole.meta.unfinished.push(Span::new(hole.start, hole.start.plus(64 << 10)));
    let found = durable_hole.scan();
    assert_eq!(found.verdict, Verdict::InFlight { cut: Span::new(hole.start, hole.start.plus(64 << 10)) });
    settles(&durable_hole);

    // Unless this node had reported past it.
    durable_hole.meta.reported = hole.end;
    assert!(matches!(durable_hole.scan().verdict, Verdict::Corrupt { why: Why::Reported { .. }, .. }));
}

trait Merge {
    fn merge(self, next: Span) -> Span;
}

impl Merge for Span {
    /// From here to where the next begins.
    fn merge(self, next: Span) -> Span {
        Span::new(self.start, next.start)
    }
}

#[test]
fn what_was_reported_or_a_peer_holds_is_never_cut() {
    let (mut log, spans) = durable(3);
    log.meta.reported = spans[2].end;
    assert_eq!(log.scan().verdict, Verdict::CleanEnd);
    log.zero(spans[2]);
    let found = log.scan();
    assert_eq!(corrupt_span(&found), spans[2]);
    log.meta.reported = Lsn(0);
    assert_eq!(log.scan().verdict, Verdict::CleanEnd, "without the report nobody can know");
    let input = ScanInput { log: LOG, geometry: GEOMETRY, meta: &log.meta, peer_holds: Some(spans[2].end) };
    let found = scan(&log, input).expect("memory can be read");
    assert!(matches!(found.verdict, Verdict::Corrupt { why: Why::Peer { .. }, .. }));
}

#[test]
fn a_trimmed_log_starts_at_its_first_segment() {
    let mut log = MemLog::new();
    log.rules(&[(1, "ANY 1 (a, b)")]);
    for seq in 0..3 {
        log.append(&[&noise(50, seq as u32)]);
        log.flush();
        log.roll();
        log.prepare(seq + 1, 0x200 + seq as u32);
        log.rules(&[(1, "ANY 1 (a, b)"), (2, "ANY 2 (a, b)")]);
    }
    log.seal();
    let whole = log.scan();
    assert_eq!(whole.recovered.rule, Some((1, "ANY 1 (a, b)".to_owned())));
    assert_eq!(whole.recovered.pending_rule, Some((2, "ANY 2 (a, b)".to_owned())));
    log.meta.log_start = GEOMETRY.first_batch(2);
    let with_spares = log.scan();
    log.files.retain(|seq, _| *seq >= 2);
    let trimmed = log.scan();
    assert_eq!(trimmed, with_spares);
    assert_eq!(trimmed.recovered.end, whole.recovered.end);
    assert_eq!(trimmed.recovered.previous_hash, whole.recovered.previous_hash);
    assert_eq!(trimmed.recovered.rule, whole.recovered.rule);
    assert_eq!(trimmed.recovered.rolls, whole.recovered.rolls[2..]);
    assert_eq!(trimmed.recovered.segments, [(2, 0x201), (3, 0x202)]);
}

#[test]
fn rules_come_into_force_one_after_the_other() {
    let mut log = MemLog::new();
    log.append(&[b"x"]);
    assert_eq!(log.scan().recovered.rule, None);
    // The first one: before it nothing was promised, so after a crash nothing may be acknowledged without it.
    log.rules(&[(1, "ANY 1 (a)")]);
    assert_eq!(log.scan().recovered.rule, Some((1, "ANY 1 (a)".to_owned())));
    assert_eq!(log.scan().recovered.pending_rule, None);
    log.rules(&[(2, "ANY 1 (b)")]);
    assert_eq!(log.scan().recovered.rule, Some((1, "ANY 1 (a)".to_owned())));
    assert_eq!(log.scan().recovered.pending_rule, Some((2, "ANY 1 (b)".to_owned())));
    log.rules(&[(3, "ANY 2 (a, b)")]);
    assert_eq!(log.scan().recovered.rule, Some((2, "ANY 1 (b)".to_owned())));
    log.roll();
    log.prepare(1, 2);
    log.rules(&[(3, "ANY 2 (a, b)")]);
    assert_eq!(log.scan().recovered.rule, Some((3, "ANY 2 (a, b)".to_owned())));
    assert_eq!(log.scan().recovered.pending_rule, None);
}

/// A source that fails is an error, never damage.
#[test]
fn a_read_error_is_no_verdict() {
    struct Failing(MemLog);
    impl SegmentSource for Failing {
        fn segments(
            &self,
        ) -> Result<Vec<towline_core::log::recovery::SegmentFile>, towline_core::log::recovery::SourceError>
        {
            self.0.segments()
        }
        fn read(
            &self,
            seq: u64,
            offset: u64,
            buf: &mut [u8],
        ) -> Result<(), towline_core::log::recovery::SourceError> {
            if offset > 0 { Err("broken disk".into()) } else { self.0.read(seq, offset, buf) }
        }
    }
    let failing = Failing(durable(3).0);
    let input = ScanInput { log: LOG, geometry: GEOMETRY, meta: &failing.0.meta, peer_holds: None };
    let error = scan(&failing, input).expect_err("the source fails").to_string();
    assert_eq!(error, "segment 0 cannot be read at byte 8192: broken disk");
}
