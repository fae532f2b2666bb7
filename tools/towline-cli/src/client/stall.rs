//! What keeps appends waiting, in words: from the node's own status.

use std::time::{Duration, Instant};

use towline::Level;
use towline::client::ClientOptions;
use towline_core::node::{NodeStatus, RoleStatus};

use super::{Target, shard_status};
use crate::exit::Failure;
use crate::out;

/// Says on standard error what an append waits for, once nothing has ended for a while.
pub(super) struct StallNotes {
    target: Target,
    level: Level,
    next: Instant,
}

impl StallNotes {
    pub(super) fn new(target: Target, level: Level) -> StallNotes {
        StallNotes { target, level, next: Instant::now() }
    }

    /// `waiting` appends have waited for `time`, and nothing has ended meanwhile.
    pub(super) fn look(&mut self, waiting: usize, time: Duration) {
        if time < FIRST_NOTE || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + NEXT_NOTE;
        let (target, level) = (self.target.clone(), self.level);
        // Aside: a node that does not answer this either must not hold the appends up. Without a thread, no note.
        let _ = std::thread::Builder::new().name("note".to_owned()).spawn(move || {
            let why = cause(&target, level);
            out::note(&format!(
                "towline: {waiting} append(s) at {level} have waited {} s: {why}; they wait on (--timeout gives up)",
                time.as_secs()
            ));
        });
    }
}

fn cause(target: &Target, level: Level) -> String {
    let options = ClientOptions { name: "append".to_owned(), ..ClientOptions::default() };
    let status =
        target.connect(options).map_err(Failure::from).and_then(|mut client| shard_status(&mut client));
    let node = match status {
        Ok(status) => status.node,
        Err(failure) => return failure.message(),
    };
    match node.role {
        RoleStatus::Primary(_) => {}
        RoleStatus::Ended(why) => return format!("the node has ended: {why}"),
        _ => return "the node does not lead".to_owned(),
    }
    match unmet(&node).filter(|_| level.is_remote()) {
        Some(unmet) => unmet,
        None => {
            "the node is slow or has no room: its standard error and `towline status` say more".to_owned()
        }
    }
}

/// What a leader's sync rule lacks, when it is not met: the rule, and how its standbys are.
fn unmet(node: &NodeStatus) -> Option<String> {
    let gate = &node.gate;
    if gate.rule.rule.is_empty() || gate.unmet_since_ns.is_none() {
        return None;
    }
    let states: Vec<String> =
        node.standbys.iter().map(|peer| format!("{} is {}", peer.name, peer.state)).collect();
    Some(format!("the sync rule {} is not met ({})", gate.rule.rule, states.join(", ")))
}

/// How long nothing ends before it is said.
const FIRST_NOTE: Duration = Duration::from_secs(5);
/// And how long until it is said again.
const NEXT_NOTE: Duration = Duration::from_secs(60);
