//! Sessions with other nodes: dialled ones and accepted ones alike.

pub(crate) mod dial;
pub(crate) mod incoming;
pub(crate) mod outgoing;

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{set_tcp_nodelay, set_tcp_user_timeout};
use towline_core::format::Frame;
use towline_core::node::{Event, Input, Source};
use towline_core::types::{Lsn, PeerIndex, Position, SessionId, Span};
use towline_uring::{Completion, RingFd};

use super::core::Core;
use super::tag::Tag;
use incoming::{Arrival, Incoming, Place};
use outgoing::{Outgoing, Port};
use rustix::io::Errno;

/// The open sessions.
pub(crate) struct Sessions {
    open: Vec<Session>,
    next_id: u64,
    arrived: Vec<Arrival>,
    /// `Receive`s whose place is still in use.
    receives: Vec<(SessionId, Lsn, Lsn)>,
    pub(crate) cut_for_room: u64,
    gone: Totals,
}

/// Counters of sessions.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) catch_up_bytes: u64,
}

struct Session {
    id: SessionId,
    fd: RingFd,
    socket: OwnedFd,
    peer: Option<PeerIndex>,
    state: State,
    out: Outgoing,
    incoming: Incoming,
}

enum State {
    Connecting {
        until_ns: u64,
    },
    Open,
    /// Ends once what is queued has left, or at `until_ns`.
    Closing {
        why: String,
        until_ns: u64,
    },
    /// The node has been told; removed when nothing of it is in the ring.
    Dead,
}

impl Sessions {
    pub(crate) fn new() -> Sessions {
        Sessions {
            open: Vec::with_capacity(32),
            next_id: 1,
            arrived: Vec::with_capacity(64),
            receives: Vec::new(),
            cut_for_room: 0,
            gone: Totals::default(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.open
            .iter()
            .filter(|session| matches!(session.state, State::Open | State::Closing { .. }))
            .count()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.open.iter().fold(self.gone, |totals, session| totals.plus(session))
    }

    /// Whether any operation is in flight that will end soon by itself.
    pub(crate) fn has_sends(&self) -> bool {
        self.open.iter().any(|session| !session.out.is_quiet())
    }

    /// An upstream dialled, and its hello has been read.
    pub(crate) fn accept(&mut self, core: &mut Core, socket: OwnedFd, hello: towline_core::format::Hello) {
        let Some(id) = self.add(core, socket, None, State::Open) else { return };
        core.brain.handle(Input::Accepted { session: id });
        core.brain.handle(Input::Frame { session: id, frame: Frame::Hello(hello) });
    }

    fn add(
        &mut self,
        core: &mut Core,
        socket: OwnedFd,
        peer: Option<PeerIndex>,
        state: State,
    ) -> Option<SessionId> {
        if self.open.len() >= MAX_SESSIONS {
            return None;
        }
        let fd = core.ring.attach(&socket).ok()?;
        set_options(&socket);
        let id = SessionId(self.next_id);
        self.next_id += 1;
        let (out, incoming) = (Outgoing::default(), Incoming::new(peer.is_some()));
        self.open.push(Session { id, fd, socket, peer, state, out, incoming });
        Some(id)
    }

    /// `Output::Frame`.
    pub(crate) fn push_frame(&mut self, core: &mut Core, id: SessionId, frame: &Frame) {
        let Some(session) = self.find(id) else { return };
        if let Err(why) = session.out.push_frame(frame) {
            session.fail(core, &why);
        }
    }

    /// `Output::Send`.
    pub(crate) fn push_log(&mut self, id: SessionId, span: Span, source: Source) {
        if let Some(session) = self.find(id) {
            session.out.push_log(span, source);
        }
    }

    /// `Output::Close`.
    pub(crate) fn close(&mut self, core: &mut Core, id: SessionId, why: String) {
        if let Some(session) = self.find(id)
            && matches!(session.state, State::Open)
        {
            session.out.close();
            if session.incoming.abandon() {
                let _ = core.ring.cancel(Tag::RecvArena(id.0).pack());
            }
            session.state = State::Closing { why, until_ns: core.now_ns + CLOSE_LIMIT.as_nanos() as u64 };
        }
    }

    /// `Output::Receive`.
    pub(crate) fn receive(&mut self, id: SessionId, at: Lsn, credit: Lsn) {
        self.receives.push((id, at, credit));
    }

    /// This node goes on by itself: nobody else's bytes come into the arena.
    pub(crate) fn stop_receiving(&mut self, core: &mut Core) {
        self.receives.clear();
        for session in &mut self.open {
            if session.incoming.stop_receiving() {
                // It ends with ECANCELED, or with bytes that are dealt with as before.
                let _ = core.ring.cancel(Tag::RecvArena(session.id.0).pack());
            }
        }
    }

    /// Submits whatever can go, and ends what is over. Returns the position behind the last batch that was held.
    pub(crate) fn drive(&mut self, core: &mut Core) -> Option<Position> {
        self.begin_receives(core);
        let mut position = None;
        let mut at = 0;
        while let Some(session) = self.open.get_mut(at) {
            if session.incoming.is_held() {
                let place = Place { files: &core.files, log: core.log, geometry: core.geometry };
                let resumed =
                    session.incoming.resume(core.ring.arena_mut(), &core.frames, &place, &mut self.arrived);
                position = session.deliver(core, &mut self.arrived, resumed).or(position);
            }
            session.drive(core);
            if session.is_gone() {
                let session = self.open.swap_remove(at);
                self.gone = self.gone.plus(&session);
                // Nothing of it is in the ring: an error means that the ring has forgotten it already.
                let _ = core.ring.detach(session.fd);
            } else {
                at += 1;
            }
        }
        position
    }

    fn begin_receives(&mut self, core: &mut Core) {
        let open = &mut self.open;
        self.receives.retain(|(id, at, credit)| {
            let session = open.iter_mut().find(|session| session.id == *id);
            session.is_some_and(|session| !session.incoming.receive(core.ring.arena_mut(), *at, *credit))
        });
    }

    /// `Receive`s that wait for their place.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.receives.is_empty()
    }

    /// A completion of a session's operation. Returns the position behind the last batch that arrived with it.
    pub(crate) fn complete(&mut self, core: &mut Core, tag: Tag, completion: Completion) -> Option<Position> {
        match tag {
            Tag::Connect(id) => self.connected(core, SessionId(id), &completion),
            Tag::Send(id) => {
                let session = self.find(SessionId(id))?;
                match session.out.sent(&completion) {
                    Ok(Some(span)) => {
                        if session.is_told() {
                            core.brain.handle(Input::Sent { session: session.id, span });
                        }
                    }
                    Ok(None) => {}
                    Err(why) => session.fail(core, &why),
                }
            }
            Tag::Read(id) => {
                let session = self.find(SessionId(id))?;
                if let Err(why) = session.out.read(completion) {
                    session.fail(core, &why);
                }
            }
            Tag::RecvStage(id) | Tag::RecvArena(id) | Tag::RecvArmed(id) => {
                return self.received(core, tag, SessionId(id), completion);
            }
            _ => {}
        }
        None
    }

    fn received(
        &mut self,
        core: &mut Core,
        tag: Tag,
        id: SessionId,
        completion: Completion,
    ) -> Option<Position> {
        let mut arrived = std::mem::take(&mut self.arrived);
        let session = self.open.iter_mut().find(|session| session.id == id)?;
        let place = Place { files: &core.files, log: core.log, geometry: core.geometry };
        let count = match completion.result {
            Ok(count) => count as usize,
            Err(_) => 0,
        };
        let arena = core.ring.arena_mut();
        let parsed = if count == 0 {
            let asked_for = match completion.result {
                Err(Errno::NOBUFS) => true,
                Err(_) => session.incoming.is_ending(),
                Ok(_) => false,
            };
            session.incoming.ended();
            match completion.result {
                _ if asked_for => Ok(()),
                Ok(_) => Err("the other side closed the connection".to_owned()),
                Err(errno) => Err(format!("receive: {errno}")),
            }
        } else if matches!(tag, Tag::RecvStage(_)) {
            session.incoming.staged(completion.buf, count, arena, &place, &mut arrived)
        } else if matches!(tag, Tag::RecvArmed(_)) {
            let (buf, more) = (completion.buf, completion.more);
            session.incoming.came(buf, count, more, arena, &core.frames, &place, &mut arrived)
        } else {
            session.incoming.landed(count, arena, &core.frames, &place, &mut arrived)
        };
        let position = session.deliver(core, &mut arrived, parsed);
        self.arrived = arrived;
        position
    }

    /// Ends every session at once.
    pub(crate) fn end_all(&mut self, core: &mut Core, why: &str) {
        self.open.iter_mut().for_each(|session| session.fail(core, why));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// A send that is stuck pins the arena: when less than a quarter of it is free because of one, its session ends.
    /// The standby comes back and reads from segments; appends go on.
    pub(crate) fn relieve(&mut self, core: &mut Core, wanted_floor: Lsn) {
        let arena = core.ring.arena();
        let top = arena.reserved_end().unwrap_or_else(|| arena.published());
        if arena.floor() >= wanted_floor.0 || top.saturating_sub(arena.floor()) <= arena.size() / 4 * 3 {
            return;
        }
        let floor = arena.floor();
        let now_ns = core.now_ns;
        let stuck = self.open.iter_mut().find(|session| {
            session.out.pinned().is_some_and(|(span, since_ns)| {
                span.start.0 <= floor && now_ns.saturating_sub(since_ns) > STUCK_LIMIT.as_nanos() as u64
            })
        });
        if let Some(session) = stuck
            && session.is_told()
        {
            self.cut_for_room += 1;
            session.fail(core, "it takes no bytes, and what it holds of the arena is needed");
        }
    }

    /// The next moment at which something of a session is due.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.open
            .iter()
            .filter_map(|session| match session.state {
                State::Connecting { until_ns } | State::Closing { until_ns, .. } => Some(until_ns),
                State::Open | State::Dead => None,
            })
            .min()
    }

    fn find(&mut self, id: SessionId) -> Option<&mut Session> {
        self.open.iter_mut().find(|session| session.id == id)
    }
}

impl Session {
    fn drive(&mut self, core: &mut Core) {
        match &self.state {
            State::Dead => return,
            State::Connecting { until_ns } => {
                if core.now_ns >= *until_ns {
                    let _ = core.ring.cancel(Tag::Connect(self.id.0).pack());
                }
                return;
            }
            State::Open => {}
            State::Closing { why, until_ns } => {
                if self.out.is_finished() || core.now_ns >= *until_ns {
                    let why = why.clone();
                    return self.fail(core, &why);
                }
            }
        }
        let (fd, id) = (self.fd, self.id.0);
        let mut port = Port {
            ring: &mut core.ring,
            files: &mut core.files,
            frames: &core.frames,
            geometry: core.geometry,
            now_ns: core.now_ns,
            zero_copy: core.zero_copy,
        };
        let driven = self
            .out
            .drive(&mut port, fd, id, Tag::Send(id))
            .and_then(|()| self.incoming.drive(&mut core.ring, &core.frames, fd, id));
        if let Err(why) = driven {
            self.fail(core, &why);
        }
    }

    /// Hands over what has arrived. Returns the position behind the last batch of it.
    fn deliver(
        &mut self,
        core: &mut Core,
        arrived: &mut Vec<Arrival>,
        parsed: Result<(), String>,
    ) -> Option<Position> {
        let mut position = None;
        for arrival in arrived.drain(..) {
            if !self.is_told() {
                continue;
            }
            match arrival {
                Arrival::Frame(frame) => core.brain.handle(Input::Frame { session: self.id, frame }),
                Arrival::Batch { header, hash, rules } => {
                    position = Some(header.after());
                    core.brain.handle(Input::Received { session: self.id, header, hash, rules });
                }
            }
        }
        // What arrived before the fault was sound, and is dealt with; the fault ends the session.
        if let Err(why) = parsed {
            self.fail(core, &why);
        }
        position
    }

    /// Whether the node knows this session as open.
    fn is_told(&self) -> bool {
        matches!(self.state, State::Open | State::Closing { .. })
    }

    fn is_gone(&self) -> bool {
        matches!(self.state, State::Dead) && self.out.is_quiet() && self.incoming.is_quiet()
    }

    /// Ends the session: the node hears of it once, the socket is shut down so that every operation on it ends.
    fn fail(&mut self, core: &mut Core, why: &str) {
        if matches!(self.state, State::Dead) {
            return;
        }
        let told = self.is_told();
        self.state = State::Dead;
        // What is in flight ends with the shutdown.
        self.incoming.abandon();
        // Already gone on the other side: then the operations have ended by themselves.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        if told {
            let text = format!("session {}: {why}", self.id.0);
            let about = format!("session of {:?}: {why}", self.peer);
            core.events.say_of(&about, &Event::Note { text });
            let input =
                Input::Disconnected { session: self.id, error: why.to_owned(), jitter: rand::random() };
            core.brain.handle(input);
        }
    }
}

impl Totals {
    fn plus(self, session: &Session) -> Totals {
        Totals {
            sent_bytes: self.sent_bytes + session.out.sent_bytes,
            received_bytes: self.received_bytes + session.incoming.received_bytes,
            catch_up_bytes: self.catch_up_bytes + session.out.catch_up_bytes,
        }
    }
}

/// Commits are small and wait for nothing; a peer that is gone without a word is found out by the kernel too.
pub(crate) fn set_options(socket: &OwnedFd) {
    // A socket without these options is slower to find out, not wrong.
    let _ = set_tcp_nodelay(socket, true);
    let _ = set_tcp_user_timeout(socket, USER_TIMEOUT.as_millis() as u32);
}

/// The node's own standbys, the sessions it follows, and strays on their way out.
pub(crate) const MAX_SESSIONS: usize = 64;
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Longer than any scheduling hiccup, shorter than what fills an arena's last quarter at full speed.
const STUCK_LIMIT: Duration = Duration::from_millis(50);
const USER_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
