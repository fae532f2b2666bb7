//! Hostile bytes at every place where bytes come in: the stable twin of the fuzz targets in `tools/fuzz`.

mod hostile_targets;

use hostile_targets::TARGETS;
use proptest::collection::vec;
use proptest::prelude::*;

/// Runs one target over bytes that are random, or random frames' worth of them.
fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    (target.expect("a target of that name").1)(bytes);
}

#[test]
fn nothing_at_all_is_stood_by_every_target() {
    for (name, target) in TARGETS {
        for bytes in [&[][..], &[0], &[0xFF; 64], &[0; 300]] {
            println!("{name}: {} bytes", bytes.len());
            target(bytes);
        }
    }
}

proptest! {
    #[test]
    fn frames(bytes in vec(any::<u8>(), 0..400)) {
        run("frame", &bytes);
    }

    #[test]
    fn streams_in_any_pieces(bytes in vec(any::<u8>(), 0..600)) {
        run("stream", &bytes);
    }

    #[test]
    fn batch_headers(bytes in vec(any::<u8>(), 0..200)) {
        run("batch_header", &bytes);
    }

    #[test]
    fn batch_bodies(bytes in vec(prop_oneof![Just(0u8), 0u8..9, any::<u8>()], 0..300)) {
        run("batch_body", &bytes);
    }

    #[test]
    fn segment_headers(bytes in vec(any::<u8>(), 0..9)) {
        run("segment_header", &bytes);
    }

    #[test]
    fn meta_blocks(bytes in vec(any::<u8>(), 0..30)) {
        run("meta", &bytes);
    }

    #[test]
    fn logs_under_any_damage(choice: u8, patches in vec(vec(any::<u8>(), 6), 0..6)) {
        run("recovery", &[vec![choice], patches.concat()].concat());
    }

    #[test]
    fn sync_rules(text in "(FIRST|ANY|first)? ?[0-9]{0,3} ?[(*]?[a-z*,\" ]{0,20}[)]?") {
        run("sync_rule", text.as_bytes());
    }

    #[test]
    fn sessions(parts in vec((0u8..40, vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 47)), 0..12)) {
        let bytes: Vec<u8> = parts.into_iter().flat_map(|(kind, body)| [vec![kind], body].concat()).collect();
        run("session", &bytes);
    }
}
