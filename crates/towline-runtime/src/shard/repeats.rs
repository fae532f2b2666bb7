//! What happens again and again is said once, then counted: a standby that closes every connection in its greeting is
//! dialled once a second for as long as it does, and its operator has read the line the first time.

use std::collections::VecDeque;

/// What happened lately, each with how often.
#[derive(Default)]
pub(crate) struct Repeats {
    spells: VecDeque<Spell>,
}

struct Spell {
    about: String,
    count: u64,
    /// The count that is said next.
    next: u64,
    said_ns: u64,
    last_ns: u64,
}

impl Repeats {
    /// It has happened once more: how often in this spell, if that is worth a line.
    pub(crate) fn once_more(&mut self, about: &str, now_ns: u64) -> Option<u64> {
        self.spells.retain(|spell| now_ns.saturating_sub(spell.last_ns) < SPELL_NS);
        let Some(spell) = self.spells.iter_mut().find(|spell| spell.about == about) else {
            if self.spells.len() == MAX_SPELLS {
                self.spells.pop_front();
            }
            let about = about.to_owned();
            self.spells.push_back(Spell { about, count: 1, next: 3, said_ns: now_ns, last_ns: now_ns });
            return Some(1);
        };
        spell.count += 1;
        spell.last_ns = now_ns;
        if spell.count < spell.next && now_ns.saturating_sub(spell.said_ns) < SAY_AGAIN_NS {
            return None;
        }
        spell.said_ns = now_ns;
        // 3, 10, 30, 100, …
        while spell.next <= spell.count {
            let is_power_of_ten = 10u64.pow(spell.next.ilog10()) == spell.next;
            spell.next = if is_power_of_ten { 3 * spell.next } else { spell.next / 3 * 10 };
        }
        Some(spell.count)
    }

    /// Something has changed: what happens from here on is new.
    pub(crate) fn forget(&mut self) {
        self.spells.clear();
    }
}

/// What has not happened for this long is new when it does.
const SPELL_NS: u64 = 60_000_000_000;
/// What goes on is said this often at least.
const SAY_AGAIN_NS: u64 = 600_000_000_000;
const MAX_SPELLS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_goes_on_for_an_hour_is_said_a_dozen_times() {
        let mut repeats = Repeats::default();
        let said: Vec<u64> = (0..3600).filter_map(|at| repeats.once_more("closed", at * SECOND)).collect();
        assert_eq!(said, [1, 3, 10, 30, 100, 300, 900, 1000, 1600, 2200, 2800, 3000, 3600]);
        assert_eq!(repeats.once_more("another cause", 3600 * SECOND), Some(1));
    }

    #[test]
    fn a_pause_or_a_change_makes_it_new() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.once_more("closed", 0), Some(1));
        assert_eq!(repeats.once_more("closed", SECOND), None);
        assert_eq!(repeats.once_more("closed", 61 * SECOND), Some(1));
        repeats.forget();
        assert_eq!(repeats.once_more("closed", 62 * SECOND), Some(1));
    }

    #[test]
    fn a_flood_of_causes_is_bounded() {
        let mut repeats = Repeats::default();
        for number in 0..10 * MAX_SPELLS {
            assert_eq!(repeats.once_more(&number.to_string(), 0), Some(1));
        }
        assert_eq!(repeats.spells.len(), MAX_SPELLS);
    }
}
