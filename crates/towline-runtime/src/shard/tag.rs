//! What a ring operation was for: packed into its 64-bit tag.

/// An operation's purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    /// A durable write, by its slot.
    Write(u64),
    /// Bytes into a session's staging buffer.
    RecvStage(u64),
    /// Bytes into the arena.
    RecvArena(u64),
    /// Bytes that come to a session whose receive stays armed.
    RecvArmed(u64),
    /// Bytes out of a session.
    Send(u64),
    /// A dialled session's connect.
    Connect(u64),
    /// A catch-up read for a session.
    Read(u64),
    /// A client's bytes in.
    ClientRecv(u64),
    /// A client's bytes out.
    ClientSend(u64),
    /// The wake-up eventfd.
    Event,
    /// A timer; nothing but the turn it causes.
    Timer,
    /// Its end is of no interest.
    Ignored,
}

impl Tag {
    pub(crate) fn pack(self) -> u64 {
        let (kind, id) = match self {
            Tag::Write(id) => (1, id),
            Tag::RecvStage(id) => (2, id),
            Tag::RecvArena(id) => (3, id),
            Tag::Send(id) => (4, id),
            Tag::Connect(id) => (5, id),
            Tag::Read(id) => (6, id),
            Tag::ClientRecv(id) => (7, id),
            Tag::ClientSend(id) => (8, id),
            Tag::RecvArmed(id) => (11, id),
            Tag::Event => (9, 0),
            Tag::Timer => (10, 0),
            Tag::Ignored => (0, 0),
        };
        kind << KIND_SHIFT | id & ID_MASK
    }

    pub(crate) fn unpack(tag: u64) -> Tag {
        let id = tag & ID_MASK;
        match tag >> KIND_SHIFT {
            1 => Tag::Write(id),
            2 => Tag::RecvStage(id),
            3 => Tag::RecvArena(id),
            4 => Tag::Send(id),
            5 => Tag::Connect(id),
            6 => Tag::Read(id),
            7 => Tag::ClientRecv(id),
            8 => Tag::ClientSend(id),
            9 => Tag::Event,
            10 => Tag::Timer,
            11 => Tag::RecvArmed(id),
            _ => Tag::Ignored,
        }
    }
}

const KIND_SHIFT: u32 = 56;
const ID_MASK: u64 = (1 << KIND_SHIFT) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_as_they_were_packed() {
        let id = 0x12_3456_789a;
        for tag in [
            Tag::Write(id),
            Tag::RecvStage(id),
            Tag::RecvArena(id),
            Tag::RecvArmed(id),
            Tag::Send(id),
            Tag::Connect(id),
            Tag::Read(id),
            Tag::ClientRecv(id),
            Tag::ClientSend(id),
            Tag::Event,
            Tag::Timer,
            Tag::Ignored,
        ] {
            assert_eq!(Tag::unpack(tag.pack()), tag);
        }
    }
}
