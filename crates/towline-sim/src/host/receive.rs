//! What arrives on sessions: frames as they are, log bytes once their batch is complete in the arena.

use std::collections::VecDeque;

use towline_core::format::{BatchHeader, Frame, HelloRole, verify_body};
use towline_core::node::{Input, StartRole};
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use towline_core::types::{Lsn, SessionId, Span};

use super::{Host, Message, Wish};
use crate::env::{Env, promise};
use crate::marks::sometimes;

/// Where log bytes go.
#[derive(Clone, Copy, Debug)]
pub struct Receiving {
    session: SessionId,
    at: Lsn,
    credit: Lsn,
}

/// What became of a piece of log.
enum Taken {
    Yes,
    /// There is no room, or nobody to take it.
    NotYet,
    /// Its checksums do not hold.
    Damaged,
}

impl Host {
    /// Something arrived on a session.
    pub fn deliver(&mut self, session: SessionId, message: Message) {
        if let Message::Frame(Frame::Hello(hello)) = &message
            && hello.role == HelloRole::Upstream
        {
            self.inbox.push_back(Input::Accepted { session });
        }
        self.held.entry(session).or_default().push_back(message);
    }

    /// A session is gone.
    pub fn session_ended(&mut self, session: SessionId, jitter: u64) {
        self.held.remove(&session);
        self.announced.remove(&session);
        self.receiving.take_if(|receiving| receiving.session == session);
        self.inbox.push_back(Input::Disconnected { session, error: "gone".into(), jitter });
    }

    /// The node has told a session to go whose other end was gone already: what waits of it is nobody's.
    pub fn let_go(&mut self, session: SessionId) {
        if let Some(Message::End(jitter)) = self.held.get(&session).and_then(|held| held.back()) {
            let jitter = *jitter;
            self.session_ended(session, jitter);
        }
    }

    pub(super) fn receive_from(&mut self, session: SessionId, at: Lsn, credit: Lsn) {
        match &mut self.receiving {
            Some(receiving) if receiving.session == session => receiving.credit = credit,
            _ => self.receiving = Some(Receiving { session, at, credit }),
        }
    }

    /// Passes on what has arrived, in order.
    pub(super) fn pump(&mut self, env: &mut Env) {
        let sessions: Vec<SessionId> = self.held.keys().copied().collect();
        for session in sessions {
            let Some(mut held) = self.held.remove(&session) else { continue };
            self.pump_session(session, &mut held, env);
            if !held.is_empty() {
                self.held.insert(session, held);
            }
        }
    }

    fn pump_session(&mut self, session: SessionId, held: &mut VecDeque<Message>, env: &mut Env) {
        while let Some(message) = held.pop_front() {
            let (span, bytes) = match message {
                Message::Frame(frame) => {
                    if let Frame::Segment { seq, salt } = frame {
                        self.announced.entry(session).or_default().insert(seq, salt);
                    }
                    self.feed(Input::Frame { session, frame });
                    continue;
                }
                Message::End(jitter) => {
                    self.announced.remove(&session);
                    self.receiving.take_if(|receiving| receiving.session == session);
                    self.feed(Input::Disconnected { session, error: "gone".into(), jitter });
                    return;
                }
                Message::Bytes(span, bytes) => (span, bytes),
            };
            let taken = match self.receiving {
                Some(Receiving { session: from, at, credit }) if from == session => {
                    // A sender keeps to the credit; a fetched tail waits in the socket.
                    let keeps = span.end <= credit || self.config.role == StartRole::Primary;
                    promise!(env, keeps, "sent {span:?} past the credit {credit}");
                    if span.end > credit {
                        Taken::NotYet
                    } else {
                        self.receive(session, at, span, &bytes, env)
                    }
                }
                _ => Taken::NotYet,
            };
            match taken {
                Taken::Yes => {}
                Taken::NotYet => {
                    held.push_front(Message::Bytes(span, bytes));
                    return;
                }
                Taken::Damaged => {
                    sometimes!(env.marks, DamagedStream);
                    self.wishes.push(Wish::Damaged(session));
                    return;
                }
            }
        }
    }

    /// Takes bytes into the arena and hands over the batches that are complete. Their segment need not be in place:
    /// its salt was announced.
    fn receive(&mut self, session: SessionId, mut at: Lsn, span: Span, bytes: &[u8], env: &mut Env) -> Taken {
        let geometry = self.config.geometry;
        self.arena.put(span.start, bytes);
        let mut block = vec![0; BLOCK_BYTES as usize];
        loop {
            at = geometry.batch_place(at);
            if at.plus(BLOCK_BYTES) > span.end {
                break;
            }
            let said = self.announced.get(&session).and_then(|salts| salts.get(&geometry.segment_of(at)));
            let Some(salt) = said.copied().or_else(|| self.salt_at(at)) else {
                env.breaks(format!("bytes came at {at}, whose segment was not announced"));
                break;
            };
            self.arena.read(at, &mut block);
            let Ok(header) = BatchHeader::decode(&block, self.config.log, salt, geometry) else {
                return Taken::Damaged;
            };
            if header.start != at {
                // A block of another place.
                return Taken::Damaged;
            }
            if header.stored().end > span.end {
                break;
            }
            let stored = self.arena.get(header.stored());
            let Ok(summary) = verify_body(&header, &stored[BATCH_HEADER_BYTES as usize..], salt) else {
                return Taken::Damaged;
            };
            let hash = BatchHeader::hash(&header.encode(salt));
            self.batch_stands(&header);
            self.rules.extend(summary.rules.iter().cloned());
            self.feed(Input::Received { session, header, hash, rules: summary.rules });
            at = header.end;
        }
        if let Some(receiving) = &mut self.receiving {
            receiving.at = at;
        }
        Taken::Yes
    }

    /// A batch has this place in the log: what the application knew to stand from there on does not.
    pub(super) fn batch_stands(&mut self, header: &BatchHeader) {
        if self.config.applies {
            self.ends.split_off(&header.start.plus(1));
            self.ends.insert(header.end, header.after());
        }
    }
}
