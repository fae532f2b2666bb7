//! The meta block: what a node must not forget, in four copies.
//!
//! A write goes over the copies one after the other, each flushed, and is done at four. So at most one copy is torn
//! at a crash, the others are all of this write or the one before; and a finished write is never undone by losing
//! two copies. Opening takes the highest sequence that two equal copies have, and the storage rewrites the others
//! before anyone is answered: else a lone newer copy could come to win later.

use super::body::is_zero;
use super::bytes::{Reader, TooLong, Writer};
use crate::types::limits::{MAX_NAME_BYTES, MAX_STANDBYS, META_COPIES, META_COPY_BYTES};
use crate::types::{Meta, NodeId, RegisteredStandby, Term};

/// First bytes of a copy.
pub const META_MAGIC: [u8; 8] = *b"TOWLmeta";
/// Version of the meta block that this code writes.
pub const META_VERSION: u16 = 2;
/// Spans of possibly unfinished writes at most; the node merges neighbours.
pub const MAX_UNFINISHED: usize = 64;

/// Why the meta block cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MetaError {
    /// Every copy is zeros or absent: no meta block was ever finished here.
    #[error("there is no meta block")]
    Blank,
    /// A format that is not known here.
    #[error("meta format {0} is not known here (this program writes {META_VERSION})")]
    Version(u16),
    /// No two copies agree.
    #[error(
        "the meta block is damaged: of {META_COPIES} copies {sound} are sound and no two agree; \
         restore the directory or resynchronise it from a peer"
    )]
    NoQuorum {
        /// Copies that are sound by themselves.
        sound: usize,
    },
    /// Two pairs of copies claim the same sequence number with different content.
    #[error("the meta block contradicts itself at sequence {sequence}: two programs wrote it")]
    Contradiction {
        /// The sequence number.
        sequence: u64,
    },
}

/// Why one copy cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MetaCopyError {
    /// Zeros.
    #[error("never written")]
    Blank,
    /// Torn or rotten.
    #[error("damaged")]
    Damaged,
    /// A sound copy of a format that is not known here.
    #[error("meta format {0} is not known here (this program writes {META_VERSION})")]
    Version(u16),
}

/// Which meta block is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaChoice {
    /// The one in force.
    pub meta: Meta,
    /// Copies that must be rewritten with it before anyone is answered.
    pub rewrite: [bool; META_COPIES as usize],
}

/// The bytes of one copy: [`META_COPY_BYTES`].
///
/// # Errors
/// When a list or name is over its limit.
pub fn encode_meta(meta: &Meta) -> Result<Vec<u8>, TooLong> {
    let mut bytes = Vec::with_capacity(META_COPY_BYTES as usize);
    let mut out = Writer(&mut bytes);
    out.bytes(&META_MAGIC);
    out.u16(META_VERSION);
    out.u16(0);
    out.u32(0); // the CRC's place
    out.u64(meta.sequence);
    out.u64(meta.incarnation);
    out.term(meta.adopted);
    out.u8(u8::from(meta.led.is_some()));
    out.term(meta.led.unwrap_or_default());
    out.term(meta.overruled);
    out.lsn(meta.log_start);
    out.lsn(meta.reported);
    out.lsn(meta.acknowledged);
    out.history(&meta.history)?;
    out.count("the unfinished spans", meta.unfinished.len(), MAX_UNFINISHED)?;
    meta.unfinished.iter().for_each(|span| out.span(*span));
    out.count("the registered standbys", meta.standbys.len(), MAX_STANDBYS)?;
    for standby in &meta.standbys {
        out.u64(standby.node.0);
        out.name(&standby.name)?;
        out.lsn(standby.flushed);
        out.term(standby.term);
    }
    out.u16(meta.set_size);
    let len = bytes.len();
    if len > META_COPY_BYTES as usize {
        return Err(TooLong { what: "the meta block", len, limit: META_COPY_BYTES as usize });
    }
    bytes.resize(META_COPY_BYTES as usize, 0);
    let crc = crc_fast::crc32_iscsi(&bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Reads one copy of [`META_COPY_BYTES`].
///
/// # Errors
/// When it is blank, damaged, or of another format.
pub fn decode_meta(copy: &[u8]) -> Result<Meta, MetaCopyError> {
    if is_zero(copy) {
        return Err(MetaCopyError::Blank);
    }
    if copy.len() != META_COPY_BYTES as usize || !copy.starts_with(&META_MAGIC) {
        return Err(MetaCopyError::Damaged);
    }
    let mut crc = [0; 4];
    crc.copy_from_slice(&copy[CRC_AT..CRC_AT + 4]);
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&copy[..CRC_AT]);
    digest.update(&[0; 4]);
    digest.update(&copy[CRC_AT + 4..]);
    if digest.finalize() as u32 != u32::from_le_bytes(crc) {
        return Err(MetaCopyError::Damaged);
    }
    let version = u16::from_le_bytes([copy[8], copy[9]]);
    if version != META_VERSION {
        return Err(MetaCopyError::Version(version));
    }
    let mut reader = Reader(&copy[CRC_AT + 4..]);
    read_fields(&mut reader).filter(|_| is_zero(reader.0)).ok_or(MetaCopyError::Damaged)
}

/// Reads the whole meta block, the copies back to back; missing bytes are damaged copies.
///
/// # Errors
/// `Blank` only when every byte is zero or missing, so that rot never passes for a new directory.
pub fn read_meta(block: &[u8]) -> Result<MetaChoice, MetaError> {
    if is_zero(block) {
        return Err(MetaError::Blank);
    }
    let mut copies: [Option<Meta>; META_COPIES as usize] = Default::default();
    for (copy, bytes) in copies.iter_mut().zip(block.chunks(META_COPY_BYTES as usize)) {
        match decode_meta(bytes) {
            Ok(meta) => *copy = Some(meta),
            Err(MetaCopyError::Version(version)) => return Err(MetaError::Version(version)),
            Err(MetaCopyError::Blank | MetaCopyError::Damaged) => {}
        }
    }
    choose_meta(&copies)
}

/// Takes the highest sequence number that two equal copies have. `None` stands for a copy that is not sound.
///
/// # Errors
/// [`MetaError`], never `Blank`.
pub fn choose_meta(copies: &[Option<Meta>; META_COPIES as usize]) -> Result<MetaChoice, MetaError> {
    let sound = copies.iter().flatten().count();
    let has_twin = |meta: &&Meta| copies.iter().flatten().filter(|other| other == meta).count() >= 2;
    let best = copies.iter().flatten().filter(has_twin).max_by_key(|meta| meta.sequence);
    let best = best.ok_or(MetaError::NoQuorum { sound })?;
    let rival = copies
        .iter()
        .flatten()
        .filter(has_twin)
        .find(|other| other.sequence == best.sequence && *other != best);
    if rival.is_some() {
        return Err(MetaError::Contradiction { sequence: best.sequence });
    }
    let rewrite = std::array::from_fn(|at| copies[at].as_ref() != Some(best));
    Ok(MetaChoice { meta: best.clone(), rewrite })
}

fn read_fields(reader: &mut Reader<'_>) -> Option<Meta> {
    let sequence = reader.u64()?;
    let incarnation = reader.u64()?;
    let adopted = reader.term()?;
    let has_led = reader.bool()?;
    let led = reader.term()?;
    let overruled = reader.term()?;
    let mut meta = Meta {
        sequence,
        incarnation,
        adopted,
        led: has_led.then_some(led),
        overruled,
        log_start: reader.lsn()?,
        reported: reader.lsn()?,
        acknowledged: reader.lsn()?,
        history: reader.history()?,
        ..Meta::default()
    };
    if !has_led && led != Term::default() {
        return None;
    }
    for _ in 0..reader.count(MAX_UNFINISHED)? {
        meta.unfinished.push(reader.span()?);
    }
    for _ in 0..reader.count(MAX_STANDBYS)? {
        meta.standbys.push(RegisteredStandby {
            node: NodeId(reader.u64()?),
            name: reader.text(MAX_NAME_BYTES)?,
            flushed: reader.lsn()?,
            term: reader.term()?,
        });
    }
    meta.set_size = reader.u16()?;
    Some(meta)
}

const CRC_AT: usize = 12;
const _: () = assert!(
    176 + crate::types::limits::MAX_TERM_HISTORY * 24
        + MAX_UNFINISHED * 16
        + MAX_STANDBYS * (34 + MAX_NAME_BYTES)
        <= META_COPY_BYTES as usize
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::limits::{MAX_TERM_HISTORY, META_COPIES};
    use crate::types::{Lsn, Span, TermHistory, TermStart};
    use proptest::prelude::*;

    fn meta(sequence: u64) -> Meta {
        let log_start = Lsn(sequence * 4096);
        Meta { sequence, incarnation: sequence / 2, log_start, set_size: 3, ..Meta::default() }
    }

    /// As large as every limit allows.
    fn largest() -> Meta {
        let entries: Vec<TermStart> = (1..=MAX_TERM_HISTORY as u64)
            .map(|n| TermStart { term: Term { number: n, node: NodeId(n) }, start: Lsn(n) })
            .collect();
        Meta {
            sequence: u64::MAX,
            led: Some(Term { number: 3, node: NodeId(4) }),
            history: TermHistory::from_entries(&entries).expect("rising entries"),
            unfinished: (0..MAX_UNFINISHED as u64).map(|n| Span::new(Lsn(n), Lsn(n + 9))).collect(),
            standbys: (0..MAX_STANDBYS as u64)
                .map(|n| RegisteredStandby {
                    node: NodeId(n),
                    name: "x".repeat(MAX_NAME_BYTES),
                    flushed: Lsn(n),
                    term: Term { number: n, node: NodeId(9) },
                })
                .collect(),
            ..meta(1)
        }
    }

    #[test]
    fn the_largest_round_trips_and_one_more_is_refused() {
        let largest = largest();
        let bytes = encode_meta(&largest).expect("within the limits");
        assert_eq!(bytes.len() as u64, META_COPY_BYTES);
        assert_eq!(decode_meta(&bytes), Ok(largest.clone()));
        let mut over = largest.clone();
        over.unfinished.push(Span::default());
        assert!(encode_meta(&over).is_err());
        let mut over = largest;
        over.standbys[0].name.push('x');
        assert!(encode_meta(&over).is_err());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = encode_meta(&meta(5)).expect("small");
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_meta(&bytes), Err(MetaCopyError::Damaged), "bit {bit}");
        }
    }

    /// Every copy old, new or garbage, all 81 of them: what was finished is found, what cannot be known is refused.
    #[test]
    fn every_combination_of_copies() {
        let (old, new) = (meta(7), meta(8));
        for code in 0..3usize.pow(META_COPIES as u32) {
            let digit = |at: usize| code / 3usize.pow(at as u32) % 3;
            let copies: [Option<Meta>; 4] =
                std::array::from_fn(|at| [Some(old.clone()), Some(new.clone()), None][digit(at)].clone());
            let count = |want: usize| (0..4).filter(|at| digit(*at) == want).count();
            match choose_meta(&copies) {
                Ok(choice) => {
                    let expected = if count(1) >= 2 { &new } else { &old };
                    assert_eq!(&choice.meta, expected, "{code}");
                    assert!(count(0).max(count(1)) >= 2);
                    let healed = std::array::from_fn(|at| {
                        if choice.rewrite[at] { Some(choice.meta.clone()) } else { copies[at].clone() }
                    });
                    assert_eq!(healed, [const { None::<Meta> }; 4].map(|_| Some(choice.meta.clone())));
                }
                Err(error) => {
                    assert!(count(0) < 2 && count(1) < 2, "{code}");
                    assert_eq!(error, MetaError::NoQuorum { sound: count(0) + count(1) });
                }
            }
        }
    }

    /// A crash at every byte of a write over an older meta block leaves the old or the new one, and opening again
    /// after the repair is the same; a finished write survives the loss of any two copies.
    #[test]
    fn a_crash_at_any_point_of_a_write() {
        let (old, new) = (encode_meta(&meta(7)).expect("small"), encode_meta(&meta(8)).expect("small"));
        let copy = META_COPY_BYTES as usize;
        for cut in (0..=4 * copy).step_by(97).chain([copy, 2 * copy, 3 * copy, 4 * copy]) {
            let mut block = old.repeat(4);
            block[..cut].copy_from_slice(&new.repeat(4)[..cut]);
            let choice = read_meta(&block).expect("one copy at most is torn");
            // The second copy decides; it may be whole before its last zeros are written.
            let expected = if cut >= 2 * copy {
                vec![8]
            } else if cut > copy {
                vec![7, 8]
            } else {
                vec![7]
            };
            assert!(expected.contains(&choice.meta.sequence), "cut at {cut}");
            assert_eq!(choice.meta, meta(choice.meta.sequence));
        }
        for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            let mut block = new.repeat(4);
            block[a * copy..(a + 1) * copy].fill(0x5A);
            block[b * copy..(b + 1) * copy].fill(0);
            assert_eq!(read_meta(&block).map(|choice| choice.meta), Ok(meta(8)));
        }
    }

    #[test]
    fn rot_is_never_a_new_directory() {
        assert_eq!(read_meta(&[]), Err(MetaError::Blank));
        assert_eq!(read_meta(&[0; 4 * META_COPY_BYTES as usize]), Err(MetaError::Blank));
        assert_eq!(read_meta(&[1; 4 * META_COPY_BYTES as usize]), Err(MetaError::NoQuorum { sound: 0 }));
        let one = encode_meta(&meta(1)).expect("small");
        assert_eq!(read_meta(&one), Err(MetaError::NoQuorum { sound: 1 }));
        let two_and_two = [Some(meta(1)), Some(meta(1)), Some(Meta { incarnation: 9, ..meta(1) }), None];
        let mut copies = two_and_two.clone();
        copies[3] = copies[2].clone();
        assert_eq!(choose_meta(&copies), Err(MetaError::Contradiction { sequence: 1 }));
        assert_eq!(choose_meta(&two_and_two).map(|choice| choice.rewrite), Ok([false, false, true, true]));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..META_COPY_BYTES as usize), sum: bool) {
            let mut copy = bytes;
            copy.resize(META_COPY_BYTES as usize, 0);
            if sum {
                // A sound CRC over garbage fields: the reader itself is tested.
                copy[..8].copy_from_slice(&META_MAGIC);
                copy[8..16].fill(0);
                copy[8] = META_VERSION as u8;
                let crc = crc_fast::crc32_iscsi(&copy);
                copy[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok(meta) = decode_meta(&copy) {
                prop_assert_eq!(encode_meta(&meta).map(|again| again == copy), Ok(true));
            }
        }
    }
}
