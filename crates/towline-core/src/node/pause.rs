//! A leader that takes no more appends for a while, so that its standbys can reach its end and one of them can be
//! promoted without a loss. It goes on by itself when nobody has taken over in time.

use super::leading::Batch;
use super::{FreezeReason, Node, Output, Role};

/// Appends are held back.
#[derive(Debug)]
pub(super) struct Pause {
    /// Who waits to hear that the log stands still.
    request: Option<u64>,
    until_ns: u64,
}

impl Node {
    pub(super) fn handle_pause(&mut self, request: u64, limit_ns: u64) {
        let refused = match &self.role {
            _ if self.stopping => Some("this node is stopping"),
            Role::Leading(_) if self.pause.is_some() => Some("appends are paused already"),
            Role::Leading(leading) if leading.batch == Batch::TermStart => {
                Some("the term has not begun yet: try again")
            }
            Role::Leading(_) => None,
            _ => Some("this node does not lead"),
        };
        if let Some(why) = refused {
            self.out.push_back(Output::Paused { request, result: Err(why.to_owned()) });
            return;
        }
        self.pause = Some(Pause {
            request: Some(request),
            until_ns: self.now_ns.saturating_add(limit_ns.min(MAX_PAUSE_NS)),
        });
        // An open batch is closed by the driver, as before a roll: `BatchSealed` says so.
        if let Role::Leading(leading) = &mut self.role
            && leading.batch != Batch::Open
        {
            leading.batch = Batch::Paused;
            self.freeze_when_paused();
        }
    }

    /// Everything accepted is in its batch: nobody waits for another.
    pub(super) fn freeze_when_paused(&mut self) {
        let why = "appends are paused: the leadership is being handed over; try again at the new primary"
            .to_owned();
        self.freeze(FreezeReason::Unavailable(why));
    }

    pub(super) fn settle_pause(&mut self) {
        let Some(pause) = &mut self.pause else { return };
        if pause.until_ns <= self.now_ns {
            return self.resume();
        }
        let Role::Leading(leading) = &self.role else { return };
        if leading.batch == Batch::Paused
            && self.tail.is_flushed()
            && let Some(request) = pause.request.take()
        {
            let end = self.tail.end().lsn;
            self.out.push_back(Output::Paused { request, result: Ok(end) });
        }
    }

    pub(super) fn pause_deadline_ns(&self) -> Option<u64> {
        self.pause.as_ref().map(|pause| pause.until_ns)
    }

    /// Nobody has taken over: appends go on.
    pub(super) fn resume(&mut self) {
        self.fail_pause("appends go on");
        if let Role::Leading(leading) = &mut self.role
            && leading.batch == Batch::Paused
        {
            leading.batch = Batch::Opening;
        }
    }

    pub(super) fn fail_pause(&mut self, why: &str) {
        if let Some(request) = self.pause.take().and_then(|pause| pause.request) {
            self.out.push_back(Output::Paused { request, result: Err(why.to_owned()) });
        }
    }
}

/// A pause that nobody ends is over after this, whatever was asked for: ten minutes.
const MAX_PAUSE_NS: u64 = 600_000_000_000;
