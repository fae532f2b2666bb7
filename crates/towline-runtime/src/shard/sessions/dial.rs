//! Dialling: the node says when, this finds the address and connects.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use towline_core::node::Input;
use towline_core::types::{PeerIndex, SessionId};
use towline_uring::{Completion, tcp_socket};

use super::{Sessions, State};
use crate::handle::shared::{Command, ShardShared};
use crate::shard::core::Core;
use crate::shard::tag::Tag;

impl Sessions {
    /// `Output::Dial`.
    pub(crate) fn dial(&mut self, core: &mut Core, peer: PeerIndex) {
        let Some(address) = core.peers.get(usize::from(peer.0)).cloned() else {
            return fail(core, peer, "no such standby is configured");
        };
        match address.parse::<SocketAddr>() {
            Ok(address) => self.connect(core, peer, address),
            // A name: its lookup may take seconds.
            Err(_) => resolve(&core.shared, peer, address),
        }
    }

    /// A standby's name has been looked up.
    pub(crate) fn resolved(&mut self, core: &mut Core, peer: PeerIndex, address: Result<SocketAddr, String>) {
        match address {
            Ok(address) => self.connect(core, peer, address),
            Err(why) => fail(core, peer, &why),
        }
    }

    fn connect(&mut self, core: &mut Core, peer: PeerIndex, address: SocketAddr) {
        let socket = match tcp_socket(&address) {
            Ok(socket) => socket,
            Err(error) => return fail(core, peer, &format!("socket: {error}")),
        };
        let until_ns = core.now_ns + CONNECT_LIMIT.as_nanos() as u64;
        let Some(id) = self.add(core, socket, Some(peer), State::Connecting { until_ns }) else {
            return fail(core, peer, "the ring takes no more sockets");
        };
        let Some(fd) = self.find(id).map(|session| session.fd) else { return };
        if let Err(error) = core.ring.connect(fd, &address, Tag::Connect(id.0).pack()) {
            self.give_up(core, id, &error.to_string());
        }
    }

    pub(super) fn connected(&mut self, core: &mut Core, id: SessionId, completion: &Completion) {
        let Some(session) = self.find(id) else { return };
        if !matches!(session.state, State::Connecting { .. }) {
            return;
        }
        match (completion.result, session.peer) {
            (Ok(_), Some(peer)) => {
                session.state = State::Open;
                core.brain.handle(Input::Connected { peer, session: id, nonce: rand::random() });
            }
            (Ok(_), None) => {}
            // Its time was up: see `drive`.
            (Err(Errno::CANCELED), _) => {
                self.give_up(core, id, &format!("no answer in {} s", CONNECT_LIMIT.as_secs()));
            }
            (Err(errno), _) => self.give_up(core, id, &errno.to_string()),
        }
    }

    /// A connection that never opened: the node is told that its dial failed.
    fn give_up(&mut self, core: &mut Core, id: SessionId, why: &str) {
        let Some(session) = self.find(id) else { return };
        session.state = State::Dead;
        if let Some(peer) = session.peer {
            fail(core, peer, why);
        }
    }
}

fn fail(core: &mut Core, peer: PeerIndex, why: &str) {
    let error = match core.peers.get(usize::from(peer.0)) {
        Some(address) => format!("{address}: {why}"),
        None => why.to_owned(),
    };
    core.brain.handle(Input::DialFailed { peer, error, jitter: rand::random() });
}

/// Looks a name up on a thread of its own, which ends with it. One per peer at a time: the node dials again only
/// after the answer.
fn resolve(shared: &Arc<ShardShared>, peer: PeerIndex, address: String) {
    let asking = Arc::clone(shared);
    let look_up = move || {
        let found = address.to_socket_addrs().map_err(|error| error.to_string());
        let address =
            found.and_then(|mut all| all.next().ok_or_else(|| "the name has no address".to_owned()));
        asking.command_waiting(Command::Resolved { peer, address });
    };
    let started = std::thread::Builder::new().name("towline-resolve".to_owned()).spawn(look_up);
    if let Err(error) = started {
        let address = Err(format!("no thread for a name lookup: {error}"));
        // From the shard's own thread: a full queue would be waited for by the one who empties it.
        if shared.command(Command::Resolved { peer, address }).is_err() {
            debug_assert!(false, "the command queue is larger than the standbys are many");
        }
    }
}

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
