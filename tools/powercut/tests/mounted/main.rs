//! Real mounts. Where nothing can be mounted, every test here is listed as ignored and the reason is printed.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod data;
#[path = "../model/mod.rs"]
mod model;
mod program;
mod support;
mod towline;
mod world;

use libtest_mimic::{Arguments, Trial};
use powercut::{Mount, MountOptions};

fn main() {
    let cannot = powercut::can_mount().err().or_else(trial_mount);
    if let Some(why) = &cannot {
        eprintln!("\n=== SKIPPED: tests of real mounts cannot run: {why}\n");
    }
    let tests: &[(&str, fn())] = &[
        ("worlds_end_as_the_model_allows", world::worlds_end_as_the_model_allows),
        (
            "direct_writes_of_the_ring_are_durable_and_overlap",
            data::direct_writes_of_the_ring_are_durable_and_overlap,
        ),
        ("a_durable_write_in_flight_is_torn", data::a_durable_write_in_flight_is_torn),
        ("direct_access_must_be_aligned", data::direct_access_must_be_aligned),
        (
            "a_direct_read_sees_what_a_cached_page_may_hide",
            data::a_direct_read_sees_what_a_cached_page_may_hide,
        ),
        ("what_is_open_stays_dead_after_a_cut", data::what_is_open_stays_dead_after_a_cut),
        ("mappings_locks_and_unlinked_files_work", data::mappings_locks_and_unlinked_files_work),
        ("a_dirty_mapping_is_lost_like_any_other_write", data::dirty_pages_need_a_flush),
        ("troubles_reach_the_program", data::troubles_reach_the_program),
        ("a_busy_mount_ends_too", data::a_busy_mount_ends_too),
        ("places_that_cannot_work_are_refused", data::places_that_cannot_work_are_refused),
        ("the_program_mounts_cuts_restores_and_ends", program::mounts_cuts_restores_and_ends),
        ("a_killed_mount_is_a_cut_and_is_cleaned", program::a_killed_mount_is_a_cut_and_is_cleaned),
        ("a_signal_ends_a_busy_mount", program::a_signal_ends_a_busy_mount),
        ("mistakes_are_explained", program::mistakes_are_explained),
        ("local_survives_a_cut", towline::local_survives_a_cut),
        ("off_loses_what_was_not_flushed", towline::off_loses_what_was_not_flushed),
        ("a_flush_that_fails_poisons_the_log", towline::a_flush_that_fails_poisons_the_log),
        (
            "who_reads_segments_sees_what_is_written_meanwhile",
            towline::who_reads_segments_sees_what_is_written_meanwhile,
        ),
    ];
    let trials = tests
        .iter()
        .map(|(name, test)| {
            let test = *test;
            Trial::test(*name, move || {
                test();
                Ok(())
            })
            .with_ignored_flag(cannot.is_some())
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Some containers have the device and refuse the mount.
fn trial_mount() -> Option<String> {
    let folder = support::Folder::new();
    Mount::start(&folder.mount, &folder.below, &MountOptions::default()).err().map(|error| error.to_string())
}
