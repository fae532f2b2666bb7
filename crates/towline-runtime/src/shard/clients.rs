//! Connections of clients: appends, waits, tails and questions over the socket, pipelined, all bounded.

pub(crate) mod connection;
mod long_records;
mod read_memory;
mod reading;
pub(crate) mod tickets;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::net::SendFlags;
use towline_core::bugs::{Bug, bug};
use towline_core::format::{Frame, Outcome, RefusalCode, encode_frame};
use towline_core::node::TicketOutcome;
use towline_core::types::{Lsn, Span, TicketId};
use towline_uring::Completion;

use super::batch::Batches;
use super::core::Core;
use super::tag::Tag;
use connection::{Asked, Connection};
use tickets::ClientTickets;

pub(crate) use long_records::LongRecords;
pub(crate) use read_memory::ReadMemory;
pub(crate) use tickets::is_client;

/// The open client connections.
pub(crate) struct Clients {
    open: Vec<Connection>,
    next_id: u64,
    tickets: ClientTickets,
    /// In the order in which it was asked: a client's next request may undo the one before.
    asked: VecDeque<(u64, Asked)>,
    shards: u16,
}

impl Clients {
    pub(crate) fn new(shards: u16) -> Clients {
        Clients {
            open: Vec::with_capacity(16),
            next_id: 1,
            tickets: ClientTickets::new(),
            asked: VecDeque::new(),
            shards,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    /// A client's hello has been read.
    pub(crate) fn accept(&mut self, core: &mut Core, socket: OwnedFd) {
        if self.open.len() >= MAX_CLIENTS {
            return refuse(&socket);
        }
        let Ok(fd) = core.ring.attach(&socket) else { return };
        super::sessions::set_options(&socket);
        let id = self.next_id;
        self.next_id += 1;
        let mut connection = Connection::new(id, fd, socket);
        let node = core.node_id;
        connection.push(&Frame::WelcomeClient { version: 1, log: core.log, node, shards: self.shards });
        self.open.push(connection);
    }

    /// Reads, parses and writes what can be. What clients ask of the shard itself is in `asked` afterwards; what one
    /// that is gone waited for is added to `cancels`, with the place of its record.
    pub(crate) fn drive(
        &mut self,
        core: &mut Core,
        batches: &mut Batches,
        cancels: &mut Vec<(TicketId, Lsn)>,
    ) {
        let mut at = 0;
        while let Some(connection) = self.open.get_mut(at) {
            connection.drive(core, batches, &mut self.tickets, &mut self.asked);
            if connection.is_gone() {
                let mut connection = self.open.swap_remove(at);
                connection.give_back(core);
                if connection.leaves_tickets() && !bug(Bug::WaitsOutliveClient) {
                    cancels.extend(self.tickets.of(connection.id));
                }
                // Nothing of it is in the ring any more.
                let _ = core.ring.detach(connection.fd);
            } else {
                at += 1;
            }
        }
    }

    /// What clients ask of the shard.
    pub(crate) fn next_asked(&mut self) -> Option<(u64, Asked)> {
        self.asked.pop_front()
    }

    pub(crate) fn complete(&mut self, tag: Tag, completion: Completion) {
        let (Tag::ClientRecv(id) | Tag::ClientSend(id)) = tag else { return };
        let Some(connection) = self.find(id) else { return };
        match tag {
            Tag::ClientRecv(_) => connection.received(completion),
            _ => connection.sent(&completion),
        }
    }

    /// A client's ticket has ended.
    pub(crate) fn acked(&mut self, ticket: TicketId, outcome: &TicketOutcome) {
        let Some(waiting) = self.tickets.end(ticket) else { return };
        let outcome = match outcome {
            TicketOutcome::Committed(committed) => Outcome::Committed(*committed),
            TicketOutcome::Indeterminate(why) => Outcome::Indeterminate(why.clone()),
            TicketOutcome::Refused(why) => Outcome::Refused(why.clone()),
        };
        if let Some(connection) = self.find(waiting.client) {
            connection.answered(&Frame::Appended { request: waiting.request, outcome });
        }
    }

    /// A request without a ticket is done.
    pub(crate) fn done(&mut self, client: u64, request: u64, error: String) {
        if let Some(connection) = self.find(client) {
            connection.push(&Frame::Done { request, error });
        }
    }

    pub(crate) fn push(&mut self, client: u64, frame: &Frame) {
        if let Some(connection) = self.find(client) {
            connection.push(frame);
        }
    }

    /// A client asked to follow the log.
    pub(crate) fn follow(
        &mut self,
        client: u64,
        tail: Result<crate::handle::Tail, crate::error::TailError>,
        core: &Core,
    ) {
        if let Some(connection) = self.find(client) {
            connection.follow(tail, core);
        }
    }

    /// A client asked for the log's own bytes.
    pub(crate) fn read_log(&mut self, client: u64, span: Span, core: &Core) {
        if let Some(connection) = self.find(client) {
            connection.read_log(span, core);
        }
    }

    /// Whether a send is on its way.
    pub(crate) fn has_sends(&self) -> bool {
        self.open.iter().any(Connection::has_send)
    }

    /// Whether something that was read can go on to its client.
    pub(crate) fn has_read(&self) -> bool {
        self.open.iter().any(Connection::has_read)
    }

    /// Bytes that wait for room, need another turn.
    pub(crate) fn is_waiting(&self, long_records: &LongRecords) -> bool {
        self.open.iter().any(|connection| connection.is_waiting(long_records))
    }

    /// When a long record has to make room for one that waits.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.open
            .iter()
            .any(Connection::wants_long)
            .then(|| self.open.iter().filter_map(Connection::long_until_ns).min())?
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Lets what is queued leave, then ends every connection.
    pub(crate) fn end_all(&mut self) {
        self.open.iter_mut().for_each(Connection::close);
    }

    /// Ends every connection at once.
    pub(crate) fn drop_all(&mut self) {
        self.open.iter_mut().for_each(Connection::fail);
    }

    fn find(&mut self, id: u64) -> Option<&mut Connection> {
        self.open.iter_mut().find(|connection| connection.id == id)
    }
}

/// Says so, as far as that leaves at once.
fn refuse(socket: &OwnedFd) {
    let message = format!("{MAX_CLIENTS} clients are connected: try again later");
    let mut bytes = Vec::new();
    if encode_frame(&Frame::Refused { code: RefusalCode::Busy, message }, &mut bytes).is_ok() {
        // Best effort: the connection ends either way.
        let _ = rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

/// Connections of clients per shard; each has a buffer for each direction.
pub(crate) const MAX_CLIENTS: usize = 256;
