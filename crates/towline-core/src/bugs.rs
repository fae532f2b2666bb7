//! Bugs on purpose: each breaks the code in one way that has cost others data, and the tests must catch it.
//!
//! A check that cannot fail is a defect. `cargo xtask bugs` builds with `--cfg towline_bugs`, switches on one bug at a
//! time through the environment variable [`VARIABLE`], and fails when one of them survives. In every other build
//! [`bug`] is a constant `false`, and the wrong branch is compiled away.

/// The environment variable that names the bug; read once per process, in builds with `--cfg towline_bugs` only.
pub const VARIABLE: &str = "TOWLINE_BUG";

macro_rules! bugs {
    ($($list:literal { $(#[doc = $wrong:literal] $bug:ident = $name:literal,)+ })+) => {
        /// What can be done wrong, where [`bug`] is asked.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug { $($(#[doc = $wrong] $bug,)+)+ }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$($(Bug::$bug,)+)+];

            /// Its name for [`VARIABLE`].
            pub const fn name(self) -> &'static str {
                match self { $($(Bug::$bug => $name,)+)+ }
            }

            /// What it does wrong, in one line.
            pub fn wrong(self) -> &'static str {
                match self { $($(Bug::$bug => $wrong,)+)+ }.trim_ascii()
            }

            /// What it is a bug of: the log, committing, terms and watermarks, the node.
            pub const fn list(self) -> &'static str {
                match self { $($(Bug::$bug => $list,)+)+ }
            }
        }
    };
}

bugs! {
    "log" {
        /// An append is acknowledged when its write is issued, before the flush has completed.
        AckBeforeFlush = "ack-before-flush",
        /// The flush behind a write is not linked to it and may overtake it.
        UnlinkedFsync = "unlinked-fsync",
        /// Damage in the middle of durable data is cut off like a torn tail.
        CutAtRot = "cut-at-rot",
        /// A batch from before its segment was recycled is accepted under another salt.
        RecycledBatch = "recycled-batch",
        /// A batch does not end on a block: the next one rewrites a block that holds durable bytes.
        TailRewritten = "tail-rewritten",
        /// The completion of a write from before a cut marks new bytes as flushed.
        LateCompletion = "late-completion",
        /// A name in a directory is taken for durable without an fsync of the directory.
        DirectoryNotFsynced = "directory-not-fsynced",
        /// The flushed watermark passes over a write that has not completed.
        FlushedOverHole = "flushed-over-hole",
    }
    "commit" {
        /// The primary, met again behind a standby's address, counts as a standby.
        PrimaryCounts = "primary-counts",
        /// One node behind two addresses counts twice.
        NodeCountsTwice = "node-counts-twice",
        /// `FIRST k` is satisfied by any k.
        FirstAsAny = "first-as-any",
        /// Who waits across a change of the sync rule is acknowledged under the old rule alone.
        StaleRule = "stale-rule",
        /// A new rule comes into force before its record is safe under the old one.
        RuleTooEarly = "rule-too-early",
        /// A wait that was cancelled is answered as a success.
        CancelIsSuccess = "cancel-is-success",
        /// While the standbys are gone, acks claim the level that was asked for.
        SilentDegrade = "silent-degrade",
        /// A window in bytes lets one more append of the same size through.
        WindowOffByOne = "window-off-by-one",
        /// A standby applies what the primary has never flushed.
        AppliesUnflushed = "applies-unflushed",
        /// A standby with `apply = safe` applies what the rule has not made safe.
        ApplySafeIgnored = "apply-safe-ignored",
    }
    "terms and watermarks" {
        /// Two nodes' terms of one number are taken for the same term.
        EqualTerms = "equal-terms",
        /// A standby reports before its log was cut to the fork: divergent bytes count.
        DivergentReport = "divergent-report",
        /// A term is adopted from a node whose log is behind.
        AdoptsFromBehind = "adopts-from-behind",
        /// Logs are compared by LSN instead of by last term, then LSN.
        LsnBeforeTerm = "lsn-before-term",
        /// One node fewer than n - k + 1 is enough to lead.
        SmallQuorum = "small-quorum",
        /// In a promotion the superseded primary's adoption counts like a standby's.
        SupersededCounts = "superseded-counts",
        /// A term is adopted while received bytes are not flushed: they are missing from the comparison.
        AdoptsUnflushed = "adopts-unflushed",
        /// An adoption is answered before it is durable.
        AdoptionNotDurable = "adoption-not-durable",
        /// A restarted primary leads on k adoptions, whomever those standbys followed last.
        LeadsOnK = "leads-on-k",
        /// A restarted primary counts an empty node: what its lost disk acknowledged is cut from the others.
        EmptyCounts = "empty-counts",
        /// A term's start is fixed while a standby's longer log is still being fetched.
        StartBeforeCompare = "start-before-compare",
        /// A history entry beyond the end of the log is taken for its last term.
        TermBeyondEnd = "term-beyond-end",
        /// A report counts before it has reached the start of the leader's term.
        ReportBeforeTerm = "report-before-term",
        /// A killed process's lock is free before its last write has landed.
        LockFreedEarly = "lock-freed-early",
        /// Recovery believes a batch of an old term that was truncated.
        TruncatedBatch = "truncated-batch",
        /// A window in bytes counts padding and headers.
        WindowCountsPadding = "window-counts-padding",
        /// A window in records lets one record more through.
        WindowOneRecordMore = "window-one-record-more",
        /// A change of the rule forgets the tickets that wait under the old one.
        RuleForgetsTickets = "rule-forgets-tickets",
        /// A node that stepped down while it dialled offers its old log in the new term.
        OffersOldLog = "offers-old-log",
        /// A log is taken in a term that its own history does not have.
        TakesOldLog = "takes-old-log",
        /// A directory that stands where a disk was lost counts before it holds what that disk held.
        JoinsTooEarly = "joins-too-early",
        /// A log that ends before its first rule is taken for one that never had a rule, whoever led it.
        NoRuleAsksNobody = "no-rule-asks-nobody",
        /// A leader goes on although a standby has adopted a higher term.
        GoesOnDeposed = "goes-on-deposed",
        /// A leader steps down for a term that it will refuse once its writes in flight are flushed.
        StepsDownInVain = "steps-down-in-vain",
    }
    "node" {
        /// More is shipped than a standby has room for.
        CreditIgnored = "credit-ignored",
        /// Arena bytes are given back before they are flushed.
        ReleasedUnflushed = "released-unflushed",
        /// A segment is closed before the next one is in place.
        RollTooEarly = "roll-too-early",
        /// The log is trimmed past what standbys still need.
        TrimPastStandbys = "trim-past-standbys",
        /// A standby is trimmed at its own port, past its application and what others may need from it.
        TrimmedAtItsPort = "trimmed-at-its-port",
        /// A promoted standby trims what its own application has not read yet.
        TrimPastApplication = "trim-past-application",
        /// A leader's log start is believed beyond what it has sent.
        LogStartBelieved = "log-start-believed",
        /// Waits for positions may take the places of appends.
        WaitsTakeAll = "waits-take-all",
        /// What a client waits for outlives its connection.
        WaitsOutliveClient = "waits-outlive-client",
        /// What producers hold when a leadership ends is given to the next one.
        OrphanHandedOver = "orphan-handed-over",
        /// A promotion that is refused leaves its addresses behind.
        AddressesKept = "addresses-kept",
        /// A standby writes outside the span that its meta block calls unfinished.
        WritesOutsideSpan = "writes-outside-span",
        /// A permit to write from before a term began, whose span is no longer recorded, still counts after it.
        StalePermit = "stale-permit",
        /// A segment that was made under another salt than the last one asked for counts as in place.
        StaleSegment = "stale-segment",
        /// A standby makes segments in whatever order it is told of them: a crash finds a gap.
        SegmentOutOfTurn = "segment-out-of-turn",
        /// While a segment cannot be made, those behind it are: a crash finds a gap.
        SegmentBehindGap = "segment-behind-gap",
        /// A segment is made anew although it holds batches, of another salt than its file's.
        BatchesReplaced = "batches-replaced",
        /// A primary that has adopted another's term since it led leads by k standbys that have not.
        ProofAfterAdoption = "proof-after-adoption",
        /// Where a leader's claim to have flushed is cut back to a fork, the rest of it is taken for another node's.
        ClaimChangesHands = "claim-changes-hands",
        /// What a crash in the middle of a cut left over counts as the log's: the segment is never made anew.
        LeftoverHeld = "leftover-held",
        /// A relay ships what it received of a segment that it has not announced, because its own is not in place.
        ShipsUnannounced = "ships-unannounced",
        /// A standby says that its log reaches farther than it does.
        ReadySaysMore = "ready-says-more",
        /// A standby reports as written what lies in memory that ends with the process.
        WrittenInOwnMemory = "written-in-own-memory",
        /// A fetched tail counts before it is flushed.
        FetchedUnflushed = "fetched-unflushed",
        /// A primary leads again although it lost bytes that it had reported as flushed.
        LeadsAfterLoss = "leads-after-loss",
        /// A standby that lost durable data is not noticed.
        LossUnnoticed = "loss-unnoticed",
        /// A standby that lost durable data counts all the same.
        ExcludedCounts = "excluded-counts",
        /// A batch is taken without a look at the one before it.
        ChainUnchecked = "chain-unchecked",
        /// A batch is taken whoever owns its place.
        OwnerUnchecked = "owner-unchecked",
        /// A former primary cuts what it acknowledged at a remote level.
        CutsAcknowledged = "cuts-acknowledged",
        /// What was acknowledged is not in the meta block when a primary crashes.
        AcknowledgedForgotten = "acknowledged-forgotten",
        /// What standbys have flushed and a primary has not is taken for acknowledged: after a crash it halts for it.
        AcknowledgedUnflushed = "acknowledged-unflushed",
        /// A cut leaves an application alone that had been told to apply what is cut, and has not said that it did.
        ResetForgotten = "reset-forgotten",
        /// A primary that returns with other standbys in its list leads without those that may have acknowledged.
        SwappedListUnnoticed = "swapped-list-unnoticed",
        /// A restarted primary is judged by the rule and the set that it knew before it heard from others.
        StaleElectorate = "stale-electorate",
    }
}

impl Bug {
    /// The bug of this name.
    pub fn from_name(name: &str) -> Option<Bug> {
        Bug::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// Whether the code shall do this wrong, now.
#[cfg(not(towline_bugs))]
#[inline(always)]
pub const fn bug(_: Bug) -> bool {
    false
}

/// Whether the code shall do this wrong, now.
///
/// # Panics
/// When the environment names no bug: a run that broke nothing would pass for one that caught something.
#[cfg(towline_bugs)]
pub fn bug(asked: Bug) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
        Some(Bug::from_name(&name).unwrap_or_else(|| panic!("{VARIABLE}={name}: there is no such bug")))
    });
    *chosen == Some(asked)
}

/// How terms compare in a build with bugs: [`Bug::EqualTerms`] forgets the node.
#[cfg(towline_bugs)]
mod equal_terms {
    use std::cmp::Ordering;

    use super::{Bug, bug};
    use crate::types::Term;

    impl Ord for Term {
        fn cmp(&self, other: &Term) -> Ordering {
            let by_number = self.number.cmp(&other.number);
            if bug(Bug::EqualTerms) { by_number } else { by_number.then(self.node.cmp(&other.node)) }
        }
    }

    impl PartialOrd for Term {
        fn partial_cmp(&self, other: &Term) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Term {
        fn eq(&self, other: &Term) -> bool {
            self.cmp(other) == Ordering::Equal
        }
    }

    impl Eq for Term {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_bugs_apart() {
        for bug in Bug::ALL {
            assert_eq!(Bug::from_name(bug.name()), Some(*bug));
            assert!(bug.wrong().ends_with('.') && !bug.wrong().starts_with(' '), "{bug:?}");
        }
        assert_eq!(Bug::from_name("no-such-bug"), None);
    }

    #[cfg(not(towline_bugs))]
    #[test]
    fn an_ordinary_build_has_none() {
        assert!(Bug::ALL.iter().all(|one| !bug(*one)));
    }
}
