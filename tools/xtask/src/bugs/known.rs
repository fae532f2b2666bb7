//! For each bug one place that is known to catch it, and fast: what CI runs.

use towline_core::bugs::Bug;

/// Something that runs and may catch a bug.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    /// One test of a program (`package/target`).
    Test(&'static str, &'static str),
    /// All tests of a program; its place in the list of programs.
    Program(usize),
    /// Simulated worlds from this seed on.
    Worlds { from: u64, count: u64 },
}

impl Place {
    /// Whether it needs neither a real process nor a real disk.
    pub(crate) fn is_simulated(self) -> bool {
        self.package().is_none_or(|package| matches!(package, "towline-core" | "towline-sim"))
    }

    /// The package of a single test.
    pub(crate) fn package(self) -> Option<&'static str> {
        match self {
            Place::Test(program, _) => program.split('/').next(),
            Place::Program(_) | Place::Worlds { .. } => None,
        }
    }
}

/// Where `bug` is caught at the latest.
pub(crate) fn known(bug: Bug) -> Place {
    match bug {
        Bug::AckBeforeFlush => worlds(),
        Bug::UnlinkedFsync => mounted("direct_writes_of_the_ring_are_durable_and_overlap"),
        Bug::CutAtRot => recovery("rot_in_the_middle"),
        Bug::RecycledBatch => recovery("recycled_old_content"),
        Bug::TailRewritten => worlds(),
        Bug::LateCompletion => unit("log::tail::tests::a_completion_from_before_a_cut_does_not_count"),
        Bug::DirectoryNotFsynced => mounted("local_survives_a_cut"),
        Bug::FlushedOverHole => unit("log::tail::tests::flushed_moves_only_over_an_unbroken_run"),
        Bug::PrimaryCounts
        | Bug::NodeCountsTwice
        | Bug::FirstAsAny
        | Bug::StaleRule
        | Bug::RuleTooEarly
        | Bug::CancelIsSuccess
        | Bug::SilentDegrade
        | Bug::WindowCountsPadding
        | Bug::WindowOneRecordMore
        | Bug::RuleForgetsTickets
        | Bug::WindowOffByOne => gate(),
        Bug::AppliesUnflushed => worlds(),
        Bug::ApplySafeIgnored => {
            standby("a_reader_sees_what_both_have_flushed_and_with_apply_safe_only_what_the_rule_made_safe")
        }
        Bug::EqualTerms => claim("of_two_terms_with_one_number_only_the_higher_node_streams"),
        Bug::DivergentReport => {
            claim("a_cut_is_recorded_with_the_history_that_asks_for_it_and_a_late_write_marks_nothing")
        }
        Bug::AdoptsFromBehind | Bug::LsnBeforeTerm => unit(
            "replication::single_leader::leadership::tests::adoption_compares_last_term_before_lsn_and_refuses_a_sender_behind",
        ),
        Bug::SmallQuorum => {
            unit("replication::single_leader::leadership::tests::the_quorum_meets_every_k_set")
        }
        Bug::SupersededCounts => unit(
            "replication::single_leader::leadership::tests::a_promotion_counts_standbys_only_and_never_by_proof",
        ),
        Bug::AdoptsUnflushed => claim("an_adoption_waits_for_the_flush_of_what_was_received"),
        Bug::AdoptionNotDurable => claim("an_adoption_is_said_only_when_it_is_durable_to_whomever_asks"),
        Bug::LeadsOnK => claim("a_restart_needs_a_quorum_or_k_that_followed_its_last_term"),
        Bug::EmptyCounts => claim("an_empty_node_counts_in_a_restart_only_with_all_the_others"),
        Bug::StartBeforeCompare => {
            claim("a_tail_that_a_standby_holds_is_fetched_and_flushed_before_the_term_starts")
        }
        Bug::TermBeyondEnd => standby("a_history_entry_beyond_the_end_of_the_log_is_not_its_last_term"),
        Bug::ReportBeforeTerm => claim("a_report_counts_only_from_the_start_of_the_leaders_term"),
        Bug::LockFreedEarly => {
            Place::Test("towline-uring/process", "the_lock_outlives_a_killed_writer_until_its_writes_landed")
        }
        Bug::TruncatedBatch => recovery("stale_batches_of_a_truncated_term"),
        Bug::CreditIgnored => worlds(),
        Bug::ReleasedUnflushed | Bug::WritesOutsideSpan | Bug::ReadySaysMore => worlds(),
        Bug::StalePermit => claim("writing::a_permit_from_before_a_term_allows_nothing_after_it"),
        Bug::StaleSegment => claim("writing::what_is_written_waits_for_the_file_that_was_asked_for_last"),
        Bug::ShipsUnannounced => {
            claim("writing::a_relay_ships_nothing_of_a_segment_that_it_has_not_announced")
        }
        Bug::ProofAfterAdoption => {
            claim("who_has_adopted_another_s_term_since_it_led_is_not_proven_right_by_k_that_have_not")
        }
        Bug::ClaimChangesHands => claim("what_is_left_of_a_claim_below_a_fork_is_its_own_node_s"),
        Bug::LeftoverHeld => Place::Test(
            "towline-runtime/storage",
            "keeper::what_an_interrupted_cut_left_over_does_not_hold_its_segment",
        ),
        Bug::RollTooEarly => claim("a_segment_is_closed_only_when_the_next_is_in_place"),
        Bug::SegmentOutOfTurn => {
            claim("writing::segments_are_made_in_the_order_of_the_log_and_not_far_ahead_of_it")
        }
        Bug::SegmentBehindGap => storage("keeper::what_cannot_be_made_holds_up_the_segments_behind_it"),
        Bug::BatchesReplaced => {
            storage("keeper::a_segment_with_a_batch_of_its_place_is_not_made_anew_whatever_its_salt")
        }
        Bug::TrimmedAtItsPort => claim("counting::a_standby_is_not_trimmed_at_its_own_port"),
        Bug::TrimPastApplication => {
            claim("trimming::a_promoted_standby_keeps_what_its_application_has_not_read")
        }
        Bug::LogStartBelieved => {
            claim("counting::a_leader_cannot_make_a_standby_trim_beyond_what_it_has_sent")
        }
        Bug::WaitsTakeAll => claim("counting::waits_leave_room_for_appends"),
        Bug::WaitsOutliveClient => {
            Place::Test("towline-runtime/strangers", "what_a_client_waits_for_ends_with_its_connection")
        }
        Bug::OrphanHandedOver => Place::Test(
            "towline-runtime/lib",
            "shard::batch::tests::what_producers_hold_when_a_leadership_ends_is_in_nobodys_log_and_ends_none",
        ),
        Bug::AddressesKept => {
            Place::Test("towline-runtime/refused_promotion", "a_refused_promotion_sends_no_relay_elsewhere")
        }
        Bug::TrimPastStandbys => claim("a_trim_leaves_what_a_registered_standby_still_needs"),
        Bug::WrittenInOwnMemory => standby("written_is_what_a_killed_process_would_find_again"),
        Bug::FetchedUnflushed => {
            claim("a_tail_that_a_standby_holds_is_fetched_and_flushed_before_the_term_starts")
        }
        Bug::LeadsAfterLoss => claim("a_primary_that_lost_what_it_had_flushed_must_not_lead"),
        Bug::LossUnnoticed => claim("a_standby_that_lost_durable_data_no_longer_counts"),
        Bug::ExcludedCounts => gate(),
        Bug::ChainUnchecked => claim("a_batch_that_does_not_follow_ends_the_session"),
        Bug::CutsAcknowledged
        | Bug::AcknowledgedForgotten
        | Bug::SwappedListUnnoticed
        | Bug::JoinsTooEarly
        | Bug::GoesOnDeposed
        | Bug::StaleElectorate => Place::Test("towline-core/promotion_scripts", "every_script_holds"),
        Bug::OffersOldLog => {
            standby("changed_leader::who_stepped_down_offers_its_log_to_nobody_whose_dial_was_under_way")
        }
        Bug::TakesOldLog => {
            standby("changed_leader::a_stream_of_a_term_that_its_history_does_not_have_is_refused")
        }
        Bug::ResetForgotten => standby(
            "changed_leader::a_cut_below_what_might_be_applied_resets_the_application_whatever_it_has_said",
        ),
        Bug::NoRuleAsksNobody => claim("a_log_without_a_rule_that_another_led_may_end_before_the_first_one"),
        Bug::StepsDownInVain => {
            claim("a_leader_does_not_step_down_for_a_term_that_its_writes_in_flight_will_refuse")
        }
        Bug::AcknowledgedUnflushed => {
            claim("what_is_not_flushed_here_is_acknowledged_at_no_level_although_standbys_are_ahead")
        }
        Bug::OwnerUnchecked => claim("a_batch_of_a_term_that_does_not_own_its_place_ends_the_session"),
    }
}

/// The first worlds: few enough to be run in seconds, and enough of them that a new kind of world does not lose the one
/// that shows it.
const fn worlds() -> Place {
    Place::Worlds { from: 0, count: 10 }
}

const fn gate() -> Place {
    Place::Test("towline-core/gate_scripts", "every_script_holds")
}

const fn unit(test: &'static str) -> Place {
    Place::Test("towline-core/lib", test)
}

const fn claim(test: &'static str) -> Place {
    Place::Test("towline-core/node_claims", test)
}

const fn standby(test: &'static str) -> Place {
    Place::Test("towline-core/standby_claims", test)
}

const fn recovery(test: &'static str) -> Place {
    Place::Test("towline-core/recovery_shapes", test)
}

const fn storage(test: &'static str) -> Place {
    Place::Test("towline-runtime/storage", test)
}

const fn mounted(test: &'static str) -> Place {
    Place::Test("powercut/mounted", test)
}
