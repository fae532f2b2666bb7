//! The verdict at the first bad place X of a log, from evidence alone.
//!
//! ```text
//!   valid batches | X ......... limit end | ................
//!                   ^ what stands here      ^ nothing that a crash leaves reaches beyond
//! ```
//! | | evidence | verdict |
//! | --- | --- | --- |
//! | 1 | X was durable: a later valid batch says so (outside the unfinished span), a peer holds it, or this node had reported past it | corrupt |
//! | 2 | valid batches behind X, none beyond the limit | in flight at the crash: cut |
//! | 3 | nothing, old content, or a segment that was only prepared, and nothing valid behind | clean end |
//! | 4 | a damaged batch, and nothing valid behind | torn tail: cut |
//! | 5 | anything else | corrupt |
//!
//! What stands where a segment should begin is looked at before row 2: a segment's file and header are durable
//! before its first batch is written, so no crash damages them, whatever else was in flight.

use std::fmt;

use crate::bugs::{Bug, bug};
use crate::format::BatchError;
use crate::types::{Lsn, Span};

/// What stands at X, where the next batch should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Zeros.
    Zeros,
    /// A sound batch under another salt: the segment's content before it was recycled.
    OtherSalt,
    /// A sound batch of a lower LSN.
    LowerLsn,
    /// A sound batch of a term that does not own this place: it was truncated.
    NotOwner,
    /// No batch, behind a seal, in a recycled segment whose old batches go on behind X.
    OldContent,
    /// A segment begins here: its header is whole, and no batch was written to it.
    Prepared,
    /// The segment before is full, and no file with a higher number is there.
    NoSegment,
    /// Something that is not a sound batch header.
    DamagedHeader,
    /// A sound header whose body is not.
    DamagedBody(BatchError),
    /// A sound batch that does not follow the one before it: another hash, or other counts.
    BrokenChain,
    /// A sound batch of another log, or of a higher LSN: written to the wrong place.
    Misplaced,
    /// A segment should begin here, and its header is neither of this place nor absent.
    BadSegmentHeader,
    /// A segment is missing here or ahead, though a later one is there.
    SequenceGap,
    /// The segment's file is shorter than a segment.
    ShortFile,
    /// A sound batch of a format that is not known here.
    NewerFormat,
}

impl Standing {
    /// What a log that simply ends here looks like.
    pub fn is_clean(self) -> bool {
        matches!(
            self,
            Standing::Zeros
                | Standing::OtherSalt
                | Standing::LowerLsn
                | Standing::NotOwner
                | Standing::OldContent
                | Standing::Prepared
                | Standing::NoSegment
        )
    }

    /// What a write that was torn by a crash may look like.
    pub fn is_damaged_batch(self) -> bool {
        matches!(
            self,
            Standing::DamagedHeader | Standing::DamagedBody(_) | Standing::BrokenChain | Standing::Misplaced
        )
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Zeros => "zeros",
            Standing::OtherSalt => "a batch from before the segment was recycled",
            Standing::LowerLsn => "a batch of a lower LSN",
            Standing::NotOwner => "a truncated batch of another term",
            Standing::OldContent => "content from before the segment was recycled",
            Standing::Prepared => "a prepared segment",
            Standing::NoSegment => "no further segment",
            Standing::DamagedHeader => "a damaged batch header",
            Standing::DamagedBody(why) => return write!(f, "a damaged batch: {why}"),
            Standing::BrokenChain => "a batch that does not follow the one before it",
            Standing::Misplaced => "a batch that belongs elsewhere",
            Standing::BadSegmentHeader => "a segment whose header is damaged or another's",
            Standing::SequenceGap => "a gap in the sequence of segments",
            Standing::ShortFile => "a segment file that is too short",
            Standing::NewerFormat => "a batch of a newer format",
        })
    }
}

/// Everything the verdict depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// X: where the first batch that is not valid should start.
    pub at: Lsn,
    /// What stands there.
    pub standing: Standing,
    /// X lies inside a span that this node recorded as possibly unfinished.
    pub in_unfinished: bool,
    /// One past the last byte that may have been in flight at a crash: X plus the in-flight limit, or the end of the
    /// unfinished span.
    pub limit_end: Lsn,
    /// First and last valid batch behind X: start of the first, end of the last stored byte.
    pub valid_behind: Option<Span>,
    /// The highest `durable_before` of the valid batches behind X.
    pub durable_proof: Option<Lsn>,
    /// This node had reported its log flushed up to here.
    pub reported: Lsn,
    /// A peer holds the log, equal to this one as far as it goes, up to here.
    pub peer_holds: Option<Lsn>,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The log ends at X.
    CleanEnd,
    /// A damaged batch at X and nothing behind it: a torn tail, or rot in an unsealed one. Ask the peers; alone:
    /// keep a copy, record the span, zero it, flush, and say so.
    TornTail {
        /// What to cut and zero.
        cut: Span,
    },
    /// Valid batches behind a hole: writes that were in flight at the crash, or rot among the last unsealed ones.
    /// As a torn tail.
    InFlight {
        /// What to cut and zero.
        cut: Span,
    },
    /// Durable data is damaged. Refuse to open, name the range; with peers: repair, and until then do not lead.
    Corrupt {
        /// The bytes that are damaged, as far as is known.
        span: Span,
        /// How that is known.
        why: Why,
    },
}

impl Verdict {
    /// What is to be cut, if anything.
    pub fn cut(&self) -> Option<Span> {
        match self {
            Verdict::TornTail { cut } | Verdict::InFlight { cut } => Some(*cut),
            Verdict::CleanEnd | Verdict::Corrupt { .. } => None,
        }
    }
}

/// How it is known that this is no crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// A later batch says that it was durable.
    LaterBatch {
        /// What it says was durable.
        durable: Lsn,
        /// What stands at X.
        standing: Standing,
    },
    /// A peer holds it.
    Peer {
        /// Up to here.
        holds: Lsn,
        /// What stands at X.
        standing: Standing,
    },
    /// This node had reported it as flushed.
    Reported {
        /// Up to here.
        reported: Lsn,
        /// What stands at X.
        standing: Standing,
    },
    /// Valid batches lie farther behind than anything may have been in flight.
    Wide {
        /// The farthest ends here.
        valid_to: Lsn,
        /// What stands at X.
        standing: Standing,
    },
    /// What stands at X is nothing that a crash leaves.
    NotACrash {
        /// What stands at X.
        standing: Standing,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::LaterBatch { durable, standing } => {
                write!(f, "{standing}, but a later batch says that the log was durable up to {durable}")
            }
            Why::Peer { holds, standing } => {
                write!(f, "{standing}, but a peer holds the log up to {holds}")
            }
            Why::Reported { reported, standing } => {
                write!(f, "{standing}, but this node had reported the log flushed up to {reported}")
            }
            Why::Wide { valid_to, standing } => {
                write!(
                    f,
                    "{standing}, but valid batches follow up to {}, beyond the in-flight limit",
                    valid_to.0
                )
            }
            Why::NotACrash { standing } => write!(f, "{standing}: no crash leaves that"),
        }
    }
}

/// The verdict. A function of nothing else.
pub fn judge(evidence: &Evidence) -> Verdict {
    let Evidence { at, standing, .. } = *evidence;
    let corrupt = |to: Option<Lsn>, why| Verdict::Corrupt { span: damaged(evidence, to), why };

    // Row 1. The leader's word proves durability on the leader alone: inside the unfinished span it proves nothing.
    let proof = evidence.durable_proof.filter(|_| !evidence.in_unfinished && !bug(Bug::CutAtRot));
    if let Some(durable) = proof.filter(|durable| *durable > at) {
        return corrupt(Some(durable), Why::LaterBatch { durable, standing });
    }
    if let Some(holds) = evidence.peer_holds.filter(|holds| *holds > at) {
        return corrupt(Some(holds), Why::Peer { holds, standing });
    }
    if evidence.reported > at {
        let reported = evidence.reported;
        return corrupt(Some(reported), Why::Reported { reported, standing });
    }
    // Row 5, as far as it concerns the segments themselves.
    if !standing.is_clean() && !standing.is_damaged_batch() {
        return corrupt(None, Why::NotACrash { standing });
    }
    let cut = Span::new(at, evidence.limit_end);
    match evidence.valid_behind {
        Some(behind) if behind.end > evidence.limit_end => {
            corrupt(None, Why::Wide { valid_to: behind.end, standing })
        }
        Some(_) => Verdict::InFlight { cut },
        None if standing.is_clean() => Verdict::CleanEnd,
        None => Verdict::TornTail { cut },
    }
}

/// From X to the next valid batch; where there is none, to the end of what was durable, or of what may be damaged.
fn damaged(evidence: &Evidence, durable: Option<Lsn>) -> Span {
    let next_valid = evidence.valid_behind.map(|behind| behind.start);
    let end = next_valid.or(durable).unwrap_or(evidence.limit_end);
    Span::new(evidence.at, end)
}
