//! Tickets of socket clients: they live on the shard's thread, so that they need no atomics.

use towline_core::types::limits::MAX_TICKETS;
use towline_core::types::{Lsn, TicketId};

/// The tickets, by number.
pub(crate) struct ClientTickets {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Slot {
    generation: u32,
    waiting: Option<Waiting>,
}

/// Who waits for a ticket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiting {
    pub(crate) client: u64,
    pub(crate) request: u64,
    /// Where its record begins; 0 for a wait.
    pub(crate) lsn: Lsn,
}

impl Slot {
    fn id(&self, index: usize) -> TicketId {
        TicketId(CLIENT | u64::from(self.generation & GENERATION_MASK) << 32 | index as u64)
    }
}

impl ClientTickets {
    pub(crate) fn new() -> ClientTickets {
        ClientTickets { slots: Vec::new(), free: Vec::new() }
    }

    /// The record of a ticket has its place.
    pub(crate) fn placed(&mut self, id: TicketId, lsn: Lsn) {
        let waiting = self.slots.get_mut(id.0 as u32 as usize).and_then(|slot| slot.waiting.as_mut());
        if let Some(waiting) = waiting {
            waiting.lsn = lsn;
        }
    }

    /// The tickets of a client, with the places of their records.
    pub(crate) fn of(&self, client: u64) -> impl Iterator<Item = (TicketId, Lsn)> {
        self.slots.iter().enumerate().filter_map(move |(index, slot)| {
            let waiting = slot.waiting.filter(|waiting| waiting.client == client)?;
            Some((slot.id(index), waiting.lsn))
        })
    }

    /// A number for a ticket; `None` when as many wait as may.
    pub(crate) fn begin(&mut self, waiting: Waiting) -> Option<TicketId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < MAX_TICKETS => {
                self.slots.push(Slot { generation: 0, waiting: None });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let slot = &mut self.slots[index as usize];
        slot.waiting = Some(waiting);
        Some(slot.id(index as usize))
    }

    /// The ticket has ended: who waits for it.
    pub(crate) fn end(&mut self, id: TicketId) -> Option<Waiting> {
        let slot = self.slots.get_mut(id.0 as u32 as usize)?;
        if u64::from(slot.generation & GENERATION_MASK) != (id.0 & !CLIENT) >> 32 {
            return None;
        }
        let waiting = slot.waiting.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.0 as u32);
        Some(waiting)
    }
}

/// Whether a ticket is a socket client's.
pub(crate) fn is_client(id: TicketId) -> bool {
    id.0 & CLIENT != 0
}

const CLIENT: u64 = 1 << 63;
const GENERATION_MASK: u32 = 0x7fff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_ends_once() {
        let mut tickets = ClientTickets::new();
        let waiting = Waiting { client: 1, request: 7, lsn: Lsn(0) };
        let a = tickets.begin(waiting).unwrap();
        assert!(is_client(a));
        assert_eq!(tickets.end(a), Some(waiting));
        assert_eq!(tickets.end(a), None);
        let b = tickets.begin(waiting).unwrap();
        assert_ne!(a, b, "same slot, another life");
        assert_eq!(tickets.end(a), None);
        assert_eq!(tickets.end(b), Some(waiting));
    }

    #[test]
    fn what_a_client_leaves_is_found_with_its_place() {
        let mut tickets = ClientTickets::new();
        let mut begin =
            |client| tickets.begin(Waiting { client, request: 1, lsn: Lsn(0) }).expect("one is free");
        let (wait, _other, append) = (begin(1), begin(2), begin(1));
        tickets.placed(append, Lsn(8320));
        assert_eq!(tickets.of(1).collect::<Vec<_>>(), [(wait, Lsn(0)), (append, Lsn(8320))]);
        tickets.end(wait);
        assert_eq!(tickets.of(1).collect::<Vec<_>>(), [(append, Lsn(8320))]);
    }
}
