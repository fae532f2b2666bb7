//! What arrives on one connection: log bytes straight into the arena at their own place, control frames moved out.
//!
//! ```text
//!   arena   ... complete batches | place ..have.. | room ...     | credit
//!   stage   frames, while there is no room in the arena or no `Receive` yet
//! ```
//! Nothing is believed before its CRC was checked: a batch's header first, then its length, then its body.

use towline_core::format::{BatchHeader, Decoded, Frame, Lead, WireError, decode_frame, verify_body};
use towline_core::types::limits::BATCH_HEADER_BYTES;
use towline_core::types::{Geometry, LogId, Lsn};
use towline_uring::{ArenaOwner, BufPool, PoolBuf, Ring, RingError, RingFd};

use crate::shard::files::Files;
use crate::shard::tag::Tag;

/// The incoming side of one connection.
pub(crate) struct Incoming {
    stage: Option<PoolBuf>,
    staged: usize,
    receiving: Option<Receiving>,
    in_flight: Option<InFlight>,
    /// This node goes on by itself from here: no more log bytes.
    ending: bool,
    /// The node hears this session no more.
    abandoned: bool,
    /// What comes here is frames, save for a fetch: the receive stays armed, one submission for many of them.
    stays_armed: bool,
    /// The armed receive is being cancelled, because log bytes are to come.
    disarming: bool,
    /// Log bytes stand in the staging buffer or in `behind_roll`: there is credit for them, and no room in the arena yet.
    held: bool,
    /// What came behind a roll, on its way to the next segment.
    behind_roll: Vec<u8>,
    /// Salts that this session has announced, newest last.
    salts: Vec<(u64, u32)>,
    pub(crate) received_bytes: u64,
}

struct Receiving {
    /// Where the next batch begins.
    place: Lsn,
    /// Bytes of it that are there.
    have: u64,
    /// One past the last byte there is room for.
    credit: Lsn,
    /// Its header, once it has been checked.
    header: Option<(BatchHeader, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Stage,
    Arena,
    Armed,
}

/// Something that arrived.
pub(crate) enum Arrival {
    Frame(Frame),
    Batch { header: BatchHeader, hash: u64, rules: Vec<(u64, String)> },
}

/// What the parser needs of the shard.
pub(crate) struct Place<'a> {
    pub(crate) files: &'a Files,
    pub(crate) log: LogId,
    pub(crate) geometry: Geometry,
}

impl Incoming {
    pub(crate) fn new(stays_armed: bool) -> Incoming {
        Incoming {
            stage: None,
            staged: 0,
            receiving: None,
            in_flight: None,
            ending: false,
            abandoned: false,
            stays_armed,
            disarming: false,
            held: false,
            behind_roll: Vec::new(),
            salts: Vec::new(),
            received_bytes: 0,
        }
    }

    /// `Output::Receive`. False while the arena's place is still in use: ask again.
    pub(crate) fn receive(&mut self, arena: &mut ArenaOwner, at: Lsn, credit: Lsn) -> bool {
        if let Some(receiving) = &mut self.receiving
            && receiving.place >= at
        {
            receiving.credit = receiving.credit.max(credit);
            return true;
        }
        if arena.published() > at.0 || at.0 < arena.floor() || at.0 >= arena.floor() + arena.size() {
            let in_reach = at.0 >= arena.floor() && at.0 <= arena.floor() + arena.size();
            let moved = if in_reach { arena.rewind(at.0) } else { arena.reset(at.0) };
            if moved.is_err() {
                return false;
            }
        }
        self.ending = false;
        self.receiving = Some(Receiving { place: at, have: 0, credit, header: None });
        true
    }

    /// This node leads now: the arena's place behind the log is its own producers'. True when an operation in
    /// flight has to be cancelled for that.
    pub(crate) fn stop_receiving(&mut self) -> bool {
        self.ending = self.receiving.is_some();
        if self.in_flight == Some(InFlight::Arena) {
            return true;
        }
        self.finish_ending();
        false
    }

    /// The node hears this session no more. A batch that still came whole would be in nobody's log, and in the way of
    /// what comes to its place: nothing is looked at from here on. True when an operation in flight has to be
    /// cancelled for that.
    pub(crate) fn abandon(&mut self) -> bool {
        self.abandoned = true;
        self.ending = false;
        self.held = false;
        self.receiving = None;
        self.behind_roll = Vec::new();
        self.staged = 0;
        self.in_flight == Some(InFlight::Arena)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Starts the next receive, where its bytes belong.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn drive(
        &mut self,
        ring: &mut Ring,
        pool: &BufPool,
        fd: RingFd,
        id: u64,
    ) -> Result<(), String> {
        if self.in_flight == Some(InFlight::Armed) && self.receiving.is_some() && !self.disarming {
            self.disarming = true;
            ring.cancel(Tag::RecvArmed(id).pack()).map_err(|error| error.to_string())?;
        }
        if self.in_flight.is_some() || self.held {
            return Ok(());
        }
        if let Some(receiving) = &self.receiving
            && self.staged == 0
            && !self.ending
        {
            let from = receiving.place.plus(receiving.have);
            let arena = ring.arena();
            let to = receiving.credit.0.min(arena.floor() + arena.size()).min(from.0 + RECV_BYTES);
            if to > from.0 {
                match ring.recv_into_arena(fd, from.0..to, false, Tag::RecvArena(id).pack()) {
                    Ok(()) => {
                        self.in_flight = Some(InFlight::Arena);
                        return Ok(());
                    }
                    // The session before has not let go of the place yet, or the ring is full: next turn.
                    Err(RingError::Range { .. } | RingError::TooManyInFlight) => return Ok(()),
                    Err(error) => return Err(error.to_string()),
                }
            }
            if receiving.have > 0 || from < receiving.credit {
                // In the middle of a batch nothing but its rest can come, and where there is credit more of the log:
                // it waits for credit, or for room in an arena of which somebody still holds what the node has
                // given back.
                return Ok(());
            }
        }
        if self.stays_armed && self.receiving.is_none() && ring.has_multishot() {
            match ring.recv_multishot(fd, Tag::RecvArmed(id).pack()) {
                Ok(()) => self.in_flight = Some(InFlight::Armed),
                Err(RingError::TooManyInFlight) => {}
                Err(error) => return Err(error.to_string()),
            }
            return Ok(());
        }
        let Some(buf) = self.stage.take().or_else(|| pool.get()) else { return Ok(()) };
        let to = self.stage_limit(&buf);
        match ring.recv_buf(fd, buf, self.staged..to, Tag::RecvStage(id).pack()) {
            Ok(()) => {
                self.in_flight = Some(InFlight::Stage);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// How far the staging buffer may be filled: a frame that has begun is completed exactly, so that the bytes
    /// behind it can go where they belong.
    fn stage_limit(&self, buf: &PoolBuf) -> usize {
        if self.receiving.is_none() {
            return buf.len();
        }
        match decode_frame(&buf[..self.staged]) {
            Err(WireError::NeedMore(need)) => need.clamp(self.staged + 1, buf.len()),
            _ => buf.len(),
        }
    }

    /// Bytes came into the staging buffer.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn staged(
        &mut self,
        buf: Option<PoolBuf>,
        count: usize,
        arena: &mut ArenaOwner,
        place: &Place<'_>,
        arrived: &mut Vec<Arrival>,
    ) -> Result<(), String> {
        self.in_flight = None;
        self.stage = buf;
        self.received_bytes += count as u64;
        if self.abandoned {
            return Ok(());
        }
        self.staged += count;
        self.parse_stage(arena, place, arrived)
    }

    /// Bytes came into the arena.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn landed(
        &mut self,
        count: usize,
        arena: &mut ArenaOwner,
        pool: &BufPool,
        place: &Place<'_>,
        arrived: &mut Vec<Arrival>,
    ) -> Result<(), String> {
        self.in_flight = None;
        self.received_bytes += count as u64;
        if self.abandoned {
            return Ok(());
        }
        if let Some(receiving) = &mut self.receiving {
            receiving.have += count as u64;
        }
        self.parse_arena(arena, pool, place, arrived)?;
        self.finish_ending();
        Ok(())
    }

    /// Bytes came to the armed receive.
    ///
    /// # Errors
    /// What ends the connection.
    #[expect(clippy::too_many_arguments, reason = "a completion's parts, and the shard's")]
    pub(crate) fn came(
        &mut self,
        buf: Option<PoolBuf>,
        count: usize,
        more: bool,
        arena: &mut ArenaOwner,
        pool: &BufPool,
        place: &Place<'_>,
        arrived: &mut Vec<Arrival>,
    ) -> Result<(), String> {
        if !more {
            self.in_flight = None;
            self.disarming = false;
        }
        self.received_bytes += count as u64;
        if self.abandoned {
            return Ok(());
        }
        let Some(buf) = buf else { return Err("the ring lost what it received".to_owned()) };
        let mut rest = &buf[..count];
        while !rest.is_empty() {
            if self.held {
                return Err("log bytes came faster than the arena has room".to_owned());
            }
            if let Some(receiving) = &mut self.receiving
                && receiving.have > 0
            {
                // Log bytes that began in an earlier piece go on.
                let from = receiving.place.plus(receiving.have);
                let to = from.plus(rest.len() as u64);
                if to > receiving.credit {
                    return Err("log bytes came beyond the credit".to_owned());
                }
                let Some(into) = arena.bytes_mut(from.0..to.0) else {
                    return Err("the place of log bytes is in use".to_owned());
                };
                into.copy_from_slice(rest);
                receiving.have += rest.len() as u64;
                return self.parse_arena(arena, pool, place, arrived);
            }
            let Some(mut stage) = self.stage.take().or_else(|| pool.get()) else {
                return Err("no buffer is free for a frame".to_owned());
            };
            let room = rest.len().min(stage.len() - self.staged);
            stage[self.staged..self.staged + room].copy_from_slice(&rest[..room]);
            self.stage = Some(stage);
            self.staged += room;
            rest = &rest[room..];
            self.parse_stage(arena, place, arrived)?;
            if room == 0 {
                return Err("a frame is longer than its limit".to_owned());
            }
        }
        Ok(())
    }

    /// Log bytes wait for room in the arena.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// There may be room now for what was held.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn resume(
        &mut self,
        arena: &mut ArenaOwner,
        pool: &BufPool,
        place: &Place<'_>,
        arrived: &mut Vec<Arrival>,
    ) -> Result<(), String> {
        self.held = false;
        if self.behind_roll.is_empty() {
            return self.parse_stage(arena, place, arrived);
        }
        self.put_behind_roll(arena)?;
        self.parse_arena(arena, pool, place, arrived)
    }

    /// The operation in flight has ended without bytes.
    pub(crate) fn ended(&mut self) {
        self.in_flight = None;
        self.disarming = false;
        self.finish_ending();
    }

    /// Whether the end of the operation in flight was asked for here.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending || self.disarming || self.abandoned
    }

    fn finish_ending(&mut self) {
        if self.ending {
            self.receiving = None;
            self.ending = false;
            self.held = false;
            self.behind_roll.clear();
        }
    }

    fn parse_stage(
        &mut self,
        arena: &mut ArenaOwner,
        place: &Place<'_>,
        arrived: &mut Vec<Arrival>,
    ) -> Result<(), String> {
        let Some(stage) = &mut self.stage else { return Ok(()) };
        loop {
            let bytes = &stage[..self.staged];
            match Lead::of(bytes) {
                Lead::NeedMore => return Ok(()),
                Lead::Frame => match decode_frame(bytes) {
                    Ok(decoded) => {
                        let consumed = decoded.consumed;
                        stage.copy_within(consumed..self.staged, 0);
                        self.staged -= consumed;
                        push_frame(&mut self.salts, decoded, arrived)?;
                    }
                    Err(WireError::NeedMore(need)) if need <= stage.len() => return Ok(()),
                    Err(error) => return Err(error.to_string()),
                },
                Lead::Batch => {
                    let Some(receiving) = &mut self.receiving else {
                        return Err("log bytes came before they were asked for".to_owned());
                    };
                    let to = receiving.place.plus(self.staged as u64);
                    if to > receiving.credit {
                        return Err("log bytes came beyond the credit".to_owned());
                    }
                    if to.0 > arena.floor() + arena.size() {
                        self.held = true;
                        return Ok(());
                    }
                    let Some(into) = arena.bytes_mut(receiving.place.0..to.0) else {
                        return Err("the place of log bytes is in use".to_owned());
                    };
                    into.copy_from_slice(&stage[..self.staged]);
                    receiving.have = self.staged as u64;
                    receiving.header = None;
                    self.staged = 0;
                    return self.parse_batches(arena, place, arrived);
                }
                Lead::Foreign(foreign) => return Err(WireError::Foreign(foreign).to_string()),
                Lead::Garbage => return Err(WireError::Garbage.to_string()),
            }
        }
    }

    /// As [`parse_batches`](Self::parse_batches); a frame that is not complete moves to the staging buffer, since
    /// its end may lie beyond the credit.
    fn parse_arena(
        &mut self,
        arena: &mut ArenaOwner,
        pool: &BufPool,
        place: &Place<'_>,
        arrived: &mut Vec<Arrival>,
    ) -> Result<(), String> {
        self.parse_batches(arena, place, arrived)?;
        let Some(receiving) = &mut self.receiving else { return Ok(()) };
        if receiving.have == 0 || receiving.header.is_some() {
            return Ok(());
        }
        let range = receiving.place.0..receiving.place.0 + receiving.have;
        let Some(bytes) = arena.bytes(range) else { return Ok(()) };
        if Lead::of(bytes) == Lead::Batch {
            return Ok(());
        }
        let Some(mut buf) = self.stage.take().or_else(|| pool.get()) else {
            return Err("no buffer is free for a frame".to_owned());
        };
        let Some(into) = buf.get_mut(..bytes.len()) else {
            return Err("a frame is longer than its limit".to_owned());
        };
        into.copy_from_slice(bytes);
        self.staged = bytes.len();
        self.stage = Some(buf);
        receiving.have = 0;
        Ok(())
    }

    /// Takes complete batches and frames from the arena bytes at `place`.
    fn parse_batches(
        &mut self,
        arena: &mut ArenaOwner,
        with: &Place<'_>,
        arrived: &mut Vec<Arrival>,
    ) -> Result<(), String> {
        while let Some(receiving) = self.receiving.as_mut().filter(|receiving| receiving.have > 0) {
            let range = receiving.place.0..receiving.place.0 + receiving.have;
            let Some(bytes) = arena.bytes(range.clone()) else {
                return Err("received bytes are in use".to_owned());
            };
            if receiving.header.is_none() {
                match Lead::of(bytes) {
                    Lead::NeedMore => return Ok(()),
                    Lead::Foreign(foreign) => return Err(WireError::Foreign(foreign).to_string()),
                    Lead::Garbage => {
                        return Err("neither a batch nor a frame stands where one must".to_owned());
                    }
                    Lead::Frame => {
                        let decoded = match decode_frame(bytes) {
                            Ok(decoded) => decoded,
                            Err(WireError::NeedMore(_)) => return Ok(()),
                            Err(error) => return Err(error.to_string()),
                        };
                        let consumed = decoded.consumed;
                        // What stands behind the frame belongs where the frame stands.
                        if let Some(bytes) = arena.bytes_mut(range) {
                            bytes.copy_within(consumed.., 0);
                        }
                        receiving.have -= consumed as u64;
                        push_frame(&mut self.salts, decoded, arrived)?;
                        continue;
                    }
                    Lead::Batch => {}
                }
                if receiving.have < BATCH_HEADER_BYTES {
                    return Ok(());
                }
                receiving.header = Some(check_header(bytes, receiving, &self.salts, with)?);
            }
            let Some((header, hash)) = receiving.header else { return Ok(()) };
            let stored = header.stored();
            let Some(batch) = bytes.get(..stored.len() as usize) else { return Ok(()) };
            if self.ending {
                return Err("log bytes came though nothing is fetched any more".to_owned());
            }
            let salt = salt_of(&self.salts, with, header.start)?;
            let summary = verify_body(&header, &batch[BATCH_HEADER_BYTES as usize..], salt)
                .map_err(|error| format!("batch at {}: {error}", header.start))?;
            let next = with.geometry.batch_place(header.end);
            let mut behind = receiving.have - stored.len();
            if next != stored.end && behind > 0 {
                // A roll jumps to the next segment: the bytes behind it move there. Once per segment.
                if next.plus(behind) > receiving.credit {
                    return Err("log bytes came beyond the credit".to_owned());
                }
                let Some(moved) = arena.bytes(stored.end.0..stored.end.0 + behind) else {
                    return Err("received bytes are in use".to_owned());
                };
                self.behind_roll.extend_from_slice(moved);
                behind = 0;
            }
            receiving.place = next;
            receiving.have = behind;
            receiving.header = None;
            // Complete and checked: readers may have it. Nothing below changes any more.
            arena.publish(stored.end.0).map_err(|error| error.to_string())?;
            let rules = summary.rules;
            arrived.push(Arrival::Batch { header, hash, rules });
            if !self.behind_roll.is_empty() {
                self.put_behind_roll(arena)?;
            }
        }
        Ok(())
    }

    fn put_behind_roll(&mut self, arena: &mut ArenaOwner) -> Result<(), String> {
        // Not receiving any more: these bytes are nobody's.
        let bytes = std::mem::take(&mut self.behind_roll);
        let Some(receiving) = &mut self.receiving else { return Ok(()) };
        let to = receiving.place.plus(bytes.len() as u64);
        if to.0 > arena.floor() + arena.size() {
            self.held = true;
            self.behind_roll = bytes;
            return Ok(());
        }
        let Some(into) = arena.bytes_mut(receiving.place.0..to.0) else {
            return Err("the place of log bytes is in use".to_owned());
        };
        into.copy_from_slice(&bytes);
        receiving.have = bytes.len() as u64;
        Ok(())
    }
}

fn push_frame(
    salts: &mut Vec<(u64, u32)>,
    decoded: Decoded,
    arrived: &mut Vec<Arrival>,
) -> Result<(), String> {
    if decoded.payload_bytes > 0 {
        return Err("a client's frame came from a node".to_owned());
    }
    if let Frame::Segment { seq, salt, .. } = decoded.frame {
        salts.retain(|(known, _)| *known != seq);
        if salts.len() >= MAX_SALTS {
            salts.remove(0);
        }
        salts.push((seq, salt));
    }
    arrived.push(Arrival::Frame(decoded.frame));
    Ok(())
}

fn check_header(
    bytes: &[u8],
    receiving: &Receiving,
    salts: &[(u64, u32)],
    with: &Place<'_>,
) -> Result<(BatchHeader, u64), String> {
    let salt = salt_of(salts, with, receiving.place)?;
    let header = BatchHeader::decode(bytes, with.log, salt, with.geometry)
        .map_err(|error| format!("batch header at {}: {error}", receiving.place))?;
    // It may reach beyond the credit given so far: the sender stops there, and goes on when there is more.
    if header.start != receiving.place {
        return Err(format!("a batch of {} stands at {}", header.start, receiving.place));
    }
    Ok((header, BatchHeader::hash(&header.encode(salt))))
}

/// What the session announced counts before what is in place: a prepared segment may be made anew.
fn salt_of(salts: &[(u64, u32)], with: &Place<'_>, lsn: Lsn) -> Result<u32, String> {
    let seq = with.geometry.segment_of(lsn);
    let announced = salts.iter().find(|(known, _)| *known == seq).map(|(_, salt)| *salt);
    announced.or_else(|| with.files.salt(seq)).ok_or_else(|| format!("segment {seq} was not announced"))
}

/// One receive at most.
const RECV_BYTES: u64 = 1 << 20;
const MAX_SALTS: usize = 64;
