//! A leader without room for its log: the retention limit, or a segment that could not be prepared. Appends wait, and it is
//! said once why.

use super::leading::{Batch, Leading};
use super::{FreezeReason, Node, Role, note};

impl Node {
    pub(super) fn handle_segment_failed(&mut self, seq: u64, error: &str) {
        let why = format!("segment {seq} could not be prepared: {error}");
        self.out.push_back(note(why.clone()));
        let Role::Leading(leading) = &mut self.role else { return };
        leading.unprepared = Some(why);
        if matches!(leading.batch, Batch::Rolling | Batch::TermStart | Batch::Opening) {
            self.tell_unprepared();
        }
    }

    /// The log needs a segment now that could not be prepared ahead.
    pub(super) fn tell_unprepared(&mut self) {
        if let Role::Leading(Leading { unprepared: Some(why), .. }) = &self.role {
            let why = why.clone();
            self.tell_full(why);
        }
    }

    pub(super) fn tell_full(&mut self, why: String) {
        if let Role::Leading(leading) = &mut self.role
            && leading.full.is_none()
        {
            leading.full = Some(why.clone());
            self.out.push_back(note(format!("appends WAIT for room: {why}")));
            self.freeze(FreezeReason::Full(why));
        }
    }
}
