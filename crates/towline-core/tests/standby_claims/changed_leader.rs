//! Another leads now: what is cut, what is offered, what is taken.

use super::*;

#[test]
fn a_cut_below_what_might_be_applied_resets_the_application_whatever_it_has_said() {
    let (one, two) = (START.plus(4096), START.plus(8192));
    let own = history(&[(term(1, 100), START)]);
    let mut standby = Standby::new(one, own.clone(), |config, _| config.applies = true);
    standby.hello(100);
    let stream =
        |term, history, log_end| Frame::Stream { term, history, log_start: START, log_end, set_size: 2 };
    standby.frame(stream(term(1, 100), own, two));
    let header = BatchHeader {
        kind: BatchKind::Data,
        log: LOG,
        term: term(1, 100),
        start: one,
        end: two,
        body_bytes: 0,
        records: 0,
        payload_bytes: 0,
        records_before: 0,
        payload_before: 0,
        durable_before: Lsn(0),
        previous_hash: 77,
        body_crc: 0,
    };
    let outputs = standby.feed(Input::Received { session: UPSTREAM, header, hash: 5, rules: Vec::new() });
    let write = outputs.iter().find_map(|output| match output {
        Output::Write { span, epoch } => Some((*span, *epoch)),
        _ => None,
    });
    let (span, epoch) = write.unwrap();
    standby.feed(Input::Flushed { span, epoch });
    assert_eq!(standby.told(two, START), Some(two));
    // Its thread is on the way; node 2 went on in another way behind the first batch.
    standby.feed(Input::Disconnected { session: UPSTREAM, error: "gone".into(), jitter: 0 });
    standby.hello(2);
    let end = LogEnd { last_term: term(2, 2), flushed: two };
    standby.frame(Frame::Adopt { term: term(3, 2), end });
    let other = history(&[(term(1, 100), START), (term(2, 2), one), (term(3, 2), two)]);
    let outputs = standby.frame(stream(term(3, 2), other, two));
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Truncate { to, .. } if *to == one)),
        "{outputs:?}"
    );
    let end = Position { lsn: one, ..Position::default() };
    let outputs = standby.feed(Input::Truncated { end, previous_hash: 77 });
    let is_reset = |output: &Output| matches!(output, Output::ResetApply { from } if *from == one);
    assert!(outputs.iter().any(is_reset), "{outputs:?}");
}

#[test]
fn who_stepped_down_offers_its_log_to_nobody_whose_dial_was_under_way() {
    let own = history(&[(term(1, 1), START)]);
    let mut former = restarted(own.clone(), |_| {});
    // It dials both; node 7 is promoted meanwhile, and its log is not behind.
    former.hello(7);
    let end = LogEnd { last_term: term(1, 1), flushed: START.plus(4096) };
    let outputs = former.frame(Frame::Adopt { term: term(5, 7), end });
    let adopted = |output: &Output| matches!(output, Output::Frame { frame: Frame::Adopted { .. }, .. });
    assert!(outputs.iter().any(adopted), "{outputs:?}");
    // The other standby follows node 7 already, with batches of term 5.
    let (peer, session) = (PeerIndex(1), SessionId(9));
    former.feed(Input::Connected { peer, session, nonce: 0 });
    let welcome = Welcome {
        version: 1,
        log: LOG,
        node: NodeId(8),
        name: "s2".into(),
        incarnation: 0,
        adopted: term(5, 7),
        end: LogEnd { last_term: term(5, 7), flushed: START.plus(8192) },
        log_start: START,
        history: history(&[(term(1, 1), START), (term(5, 7), START.plus(4096))]),
        leader_flushed: Lsn(0),
        applies: false,
        applies_safe: false,
        set_size: 2,
    };
    let outputs = former.feed(Input::Frame { session, frame: Frame::Welcome(welcome) });
    assert!(outputs.iter().any(|output| matches!(output, Output::Close { session: SessionId(9), .. })));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Frame { .. })), "{outputs:?}");
}

#[test]
fn a_stream_of_a_term_that_its_history_does_not_have_is_refused() {
    let own = history(&[(term(1, 100), START)]);
    let mut standby = Standby::new(START.plus(4096), own.clone(), |_, _| {});
    standby.hello(2);
    let end = LogEnd { last_term: term(1, 100), flushed: START.plus(4096) };
    standby.frame(Frame::Adopt { term: term(2, 2), end });
    let log_end = START.plus(4096);
    let stream =
        |history| Frame::Stream { term: term(2, 2), history, log_start: START, log_end, set_size: 2 };
    assert_eq!(refusal(&standby.frame(stream(own))), Some(RefusalCode::Protocol));
}
