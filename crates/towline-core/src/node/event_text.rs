//! The log line of an event. What an operator must act on is in capitals.

use std::fmt::{self, Display, Formatter};

use super::io::Event;
use crate::types::PeerIndex;

impl Event {
    /// The line, with standbys by their configured names; one that has none is called by its place.
    pub fn line<'a>(&'a self, names: &'a [String]) -> impl Display + 'a {
        Line { event: self, names }
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Line { event: self, names: &[] }.fmt(f)
    }
}

struct Line<'a> {
    event: &'a Event,
    names: &'a [String],
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = |peer: &PeerIndex| Name { peer: *peer, names: self.names };
        match self.event {
            Event::Leading { history } => match history.last() {
                Some(entry) => write!(f, "leading in term {} from {}", entry.term, entry.start),
                None => f.write_str("leading"),
            },
            Event::Waiting { why } => write!(f, "waiting before it may lead: {why}"),
            Event::SteppedDown { why } => write!(f, "STEPPED DOWN: {why}"),
            Event::StandbyConnected { peer, node, from } => {
                write!(f, "standby {} (node {node}) connected; shipping from {from}", name(peer))
            }
            Event::StandbyStreaming { peer } => {
                write!(f, "standby {} has caught up and follows the live log", name(peer))
            }
            Event::StandbyCatchingUp { peer } => {
                write!(f, "standby {} is behind and reads from segments", name(peer))
            }
            Event::StandbyLost { peer, why } => write!(f, "standby {} lost: {why}", name(peer)),
            Event::StandbyUnreachable { peer, why } => {
                write!(f, "standby {} cannot be reached: {why}; it is tried again", name(peer))
            }
            Event::StandbyMustResync { peer, why } => {
                write!(f, "standby {} MUST RESYNC: {why}; empty its directory and start it again", name(peer))
            }
            Event::StandbyExcluded { peer, reported, now } => write!(
                f,
                "standby {} EXCLUDED: it had reported {reported} as flushed and came back with {now}: it has lost \
                 durable data, and counts again only when it holds all of it again; look at its disk",
                name(peer)
            ),
            Event::StandbyIncluded { peer, flushed } => write!(
                f,
                "standby {} counts again: it has flushed the log up to {flushed}, and with it all that it had lost",
                name(peer)
            ),
            Event::RuleUnmet { why } => {
                write!(f, "the sync rule is NOT MET, and appends at remote levels wait: {why}")
            }
            Event::Degraded { released } => write!(
                f,
                "DEGRADED: the sync rule cannot be met; acknowledgements say local until it is met again ({released} \
                 released now)"
            ),
            Event::Healed => f.write_str("healed: the sync rule is met again"),
            Event::Cut { span } => {
                write!(f, "CUT the log from {} to {}; a copy is kept", span.start, span.end)
            }
            Event::Poisoned { error } => {
                write!(f, "POISONED: {error}; restart the node, which reads its log again")
            }
            Event::Halted { why } => write!(f, "HALTED: {why}"),
            Event::Note { text } => f.write_str(text),
        }
    }
}

struct Name<'a> {
    peer: PeerIndex,
    names: &'a [String],
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.names.get(usize::from(self.peer.0)) {
            Some(name) => write!(f, "'{name}'"),
            None => write!(f, "#{}", self.peer.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Lsn;

    #[test]
    fn standbys_are_called_by_their_names() {
        let names = ["a".to_owned(), "b".to_owned()];
        let lost = Event::StandbyLost { peer: PeerIndex(1), why: "closed".to_owned() };
        assert_eq!(lost.line(&names).to_string(), "standby 'b' lost: closed");
        assert_eq!(lost.to_string(), "standby #1 lost: closed");
        let excluded = Event::StandbyExcluded { peer: PeerIndex(0), reported: Lsn(8192), now: Lsn(4096) };
        assert!(excluded.line(&names).to_string().contains("0/00002000"));
    }
}
