//! Connections: made in a round trip, in order each, in no order among each other; delayed, clogged, cut one way or both, ended at one end
//! while the other does not know.

use std::collections::VecDeque;
use std::ops::Range;

use towline_core::node::Input;
use towline_core::types::{PeerIndex, SessionId};

use super::World;
use crate::host::Message;
use crate::marks::sometimes;

/// A connection. Way 0 leads to the listener, way 1 to the dialer.
#[derive(Debug)]
pub struct Link {
    hosts: [usize; 2],
    sessions: [SessionId; 2],
    /// Whether the dialer's and the listener's process hold their end.
    open: [bool; 2],
    ways: [Way; 2],
    delay_ns: Range<u64>,
}

/// A connection that is being made: what it finds when it is due counts, whatever its node has become meanwhile.
#[derive(Debug)]
pub struct Dial {
    from: usize,
    peer: usize,
    due_ns: u64,
}

#[derive(Debug, Default)]
struct Way {
    /// With the time from which they may arrive.
    queue: VecDeque<(u64, Message)>,
    last_ns: u64,
    /// Nothing passes before.
    clogged_ns: u64,
    /// The sender has ended: its end follows what is under way.
    ended: bool,
}

impl World {
    /// A round trip at least, and now and then as long as a term lasts.
    pub(super) fn dial(&mut self, n: usize, peer: usize) {
        let rng = &mut self.env.rng;
        let mut due_ns = self.env.now_ns + 2 * rng.within(self.setup.delay_ns.clone());
        if rng.chance(0.1 + self.setup.packet_loss) {
            due_ns += rng.within(200_000..8_000_000);
        }
        self.dials.push(Dial { from: n, peer, due_ns });
    }

    fn connect_due(&mut self) {
        let now_ns = self.env.now_ns;
        let mut due: Vec<Dial> = self.dials.extract_if(.., |dial| dial.due_ns <= now_ns).collect();
        due.sort_by_key(|dial| dial.due_ns);
        due.into_iter().for_each(|dial| self.connect(dial.from, dial.peer));
    }

    fn connect(&mut self, n: usize, peer: usize) {
        let listener = self.peer_host(n, peer);
        let jitter = self.env.rng.bits();
        let peer = PeerIndex(peer as u16);
        let reachable = |to: usize| self.hosts.get(to).is_some_and(|host| host.node.is_some());
        let cut = |to: usize| self.deaf.contains(&(n, to)) || self.deaf.contains(&(to, n));
        let Some(listener) = listener.filter(|to| reachable(*to) && !cut(*to)) else {
            self.hosts[n].inbox.push_back(Input::DialFailed { peer, error: "refused".into(), jitter });
            return;
        };
        let sessions = [SessionId(self.next_session), SessionId(self.next_session + 1)];
        self.next_session += 2;
        let mut delay_ns = self.setup.delay_ns.clone();
        if self.far.contains(&n) || self.far.contains(&listener) {
            delay_ns = 10 * delay_ns.start..10 * delay_ns.end;
        }
        let (hosts, ways) = ([n, listener], Default::default());
        self.links.push(Link { hosts, sessions, open: [true; 2], ways, delay_ns });
        self.hosts[n].inbox.push_back(Input::Connected { peer, session: sessions[0], nonce: jitter });
    }

    /// The host behind a place in a node's configuration.
    pub(super) fn peer_host(&self, n: usize, peer: usize) -> Option<usize> {
        self.hosts[n].config.standbys.get(peer)?.strip_prefix('n')?.parse().ok()
    }

    /// The link of a session, and the way that its host's messages take.
    fn link_of(&self, n: usize, session: SessionId) -> Option<(usize, usize)> {
        self.links.iter().enumerate().find_map(|(index, link)| {
            let way = (0..2).find(|way| link.hosts[*way] == n && link.sessions[*way] == session)?;
            Some((index, way))
        })
    }

    pub(super) fn say(&mut self, n: usize, session: SessionId, message: Message) {
        let Some((link, way)) = self.link_of(n, session) else { return };
        let (link, rng) = (&mut self.links[link], &mut self.env.rng);
        // The other end is gone: nobody will read it.
        if !link.open[1 - way] || !link.open[way] {
            return;
        }
        let mut due_ns = self.env.now_ns + rng.within(link.delay_ns.clone());
        if rng.chance(self.setup.packet_loss) {
            due_ns += rng.within(200_000..3_000_000);
        }
        let way = &mut link.ways[way];
        way.last_ns = way.last_ns.max(due_ns);
        way.queue.push_back((way.last_ns, message));
    }

    /// A process ends its session: the other end hears of it behind what is under way.
    pub(super) fn close(&mut self, n: usize, session: SessionId) {
        if let Some((link, way)) = self.link_of(n, session) {
            self.end_one_side(link, way);
            self.links[link].ways[way].ended = true;
        }
        self.hosts[n].let_go(session);
    }

    /// One end is gone and its process knows; what it had sent still arrives, what comes for it does not.
    fn end_one_side(&mut self, link: usize, side: usize) {
        let link = &mut self.links[link];
        let was_open = std::mem::take(&mut link.open[side]);
        link.ways[1 - side].queue.clear();
        let (host, session) = (link.hosts[side], link.sessions[side]);
        if was_open && self.hosts[host].node.is_some() {
            let jitter = self.env.rng.bits();
            self.hosts[host].session_ended(session, jitter);
        }
    }

    pub(super) fn carry(&mut self) {
        self.connect_due();
        let now_ns = self.env.now_ns;
        for index in 0..self.links.len() {
            for way in 0..2 {
                let link = &mut self.links[index];
                let (from, to) = (link.hosts[way], link.hosts[1 - way]);
                if self.deaf.contains(&(from, to)) || link.ways[way].clogged_ns > now_ns {
                    continue;
                }
                while let Some((_, message)) = link.ways[way].queue.pop_front_if(|(due, _)| *due <= now_ns) {
                    if link.open[1 - way] {
                        self.hosts[to].deliver(link.sessions[1 - way], message);
                    }
                }
                let hears = link.ways[way].ended && link.ways[way].queue.is_empty();
                if hears && link.open[1 - way] {
                    // Behind what has arrived and was not looked at yet.
                    link.open[1 - way] = false;
                    link.ways[1 - way].queue.clear();
                    let end = Message::End(self.env.rng.bits());
                    self.hosts[to].deliver(link.sessions[1 - way], end);
                }
            }
        }
        self.links.retain(|link| link.open != [false; 2]);
    }

    // --- faults

    /// A process is gone: its connections end with it, or are left half open where nobody can say so.
    pub(super) fn drop_links_of(&mut self, n: usize, power: bool) {
        self.dials.retain(|dial| dial.from != n);
        for index in 0..self.links.len() {
            for side in 0..2 {
                if self.links[index].hosts[side] != n || !self.links[index].open[side] {
                    continue;
                }
                self.end_one_side(index, side);
                let half_open = power && self.env.rng.chance(0.5);
                sometimes!(self.env.marks, HalfOpen, half_open);
                self.links[index].ways[side].ended = !half_open;
            }
        }
    }

    /// Connections of a host break: both ends know, or only one.
    pub(super) fn break_links_of(&mut self, n: usize, one_sided: bool) {
        for index in 0..self.links.len() {
            if !self.links[index].hosts.contains(&n) {
                continue;
            }
            let side = self.env.rng.index(2);
            self.end_one_side(index, side);
            if one_sided {
                sometimes!(self.env.marks, HalfOpen);
            } else {
                self.end_one_side(index, 1 - side);
            }
        }
    }

    /// One direction of a connection stands still for a while.
    pub(super) fn clog(&mut self, until_ns: u64) {
        if self.links.is_empty() {
            return;
        }
        let (index, way) = (self.env.rng.index(self.links.len()), self.env.rng.index(2));
        self.links[index].ways[way].clogged_ns = until_ns;
    }

    pub(super) fn heal_network(&mut self) {
        self.deaf.clear();
        self.far.clear();
        let normal = &self.setup.delay_ns;
        for link in &mut self.links {
            link.delay_ns = normal.clone();
            link.ways.iter_mut().for_each(|way| way.clogged_ns = 0);
        }
    }
}
