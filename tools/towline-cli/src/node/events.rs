//! What an operator should know, as lines.

use towline::Event;
use towline_core::types::PeerIndex;

/// The line of an event; `standbys` are the configured names, in order.
pub(super) fn line(event: &Event, standbys: &[String]) -> String {
    let name = |peer: &PeerIndex| standbys.get(usize::from(peer.0)).map_or("?", String::as_str);
    match event {
        Event::Leading { history } => match history.last() {
            Some(entry) => format!("leading in term {} from {}", entry.term, entry.start),
            None => "leading".to_owned(),
        },
        Event::Waiting { why } => format!("waiting before it may lead: {why}"),
        Event::SteppedDown { why } => format!("STEPPED DOWN: {why}"),
        Event::StandbyConnected { peer, node, from } => {
            format!("standby {} (node {node}) connected; shipping from {from}", name(peer))
        }
        Event::StandbyStreaming { peer } => {
            format!("standby {} has caught up and follows the live log", name(peer))
        }
        Event::StandbyCatchingUp { peer } => {
            format!("standby {} is behind and reads from segments", name(peer))
        }
        Event::StandbyLost { peer, why } => format!("standby {} lost: {why}", name(peer)),
        Event::StandbyMustResync { peer, why } => {
            format!("standby {} MUST RESYNC: {why}; empty its directory and start it again", name(peer))
        }
        Event::StandbyExcluded { peer, reported, now } => format!(
            "standby {} EXCLUDED: it had reported {reported} as flushed and came back with {now}: it has lost durable data \
             and no longer counts",
            name(peer)
        ),
        Event::Degraded { released } => format!(
            "DEGRADED: the sync rule cannot be met; acknowledgements say local until it is met again ({released} released \
             now)"
        ),
        Event::Healed => "healed: the sync rule is met again".to_owned(),
        Event::Cut { span } => format!("CUT the log from {} to {}; a copy is kept", span.start, span.end),
        Event::Poisoned { error } => {
            format!("POISONED: {error}; restart the node, which reads its log again")
        }
        Event::Halted { why } => format!("HALTED: {why}"),
        Event::Note { text } => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline::Lsn;

    #[test]
    fn standbys_are_called_by_their_names() {
        let names = ["a".to_owned(), "b".to_owned()];
        let lost = Event::StandbyLost { peer: PeerIndex(1), why: "closed".to_owned() };
        assert_eq!(line(&lost, &names), "standby b lost: closed");
        let excluded = Event::StandbyExcluded { peer: PeerIndex(0), reported: Lsn(8192), now: Lsn(4096) };
        assert!(line(&excluded, &names).contains("0/00002000"));
        assert!(line(&Event::StandbyStreaming { peer: PeerIndex(9) }, &names).contains('?'));
    }
}
