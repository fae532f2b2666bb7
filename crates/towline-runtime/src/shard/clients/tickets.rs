//! Tickets of socket clients: they live on the shard's thread, so that they need no atomics.

use towline_core::types::TicketId;
use towline_core::types::limits::MAX_TICKETS;

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
}

impl ClientTickets {
    pub(crate) fn new() -> ClientTickets {
        ClientTickets { slots: Vec::new(), free: Vec::new() }
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
        Some(TicketId(CLIENT | u64::from(slot.generation & GENERATION_MASK) << 32 | u64::from(index)))
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
        let waiting = Waiting { client: 1, request: 7 };
        let a = tickets.begin(waiting).unwrap();
        assert!(is_client(a));
        assert_eq!(tickets.end(a), Some(waiting));
        assert_eq!(tickets.end(a), None);
        let b = tickets.begin(waiting).unwrap();
        assert_ne!(a, b, "same slot, another life");
        assert_eq!(tickets.end(a), None);
        assert_eq!(tickets.end(b), Some(waiting));
    }
}
