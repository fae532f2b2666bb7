//! What any configuration file is put through: refused as a usage error, or a plan that a node can be started with.
//! The fuzz target `config` of `tools/fuzz` includes this file; its stable twin is below.

use std::path::Path;

use crate::exit::Code;

use super::{NodeFlags, Plan, PrimaryFlags, StandbyFlags, primary_plan, standby_plan, with_text};

/// Reads `bytes` as the configuration of a primary and of a standby.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("node.toml");
    let primary = with_text(path, text, NodeFlags::default(), PrimaryFlags::default())
        .and_then(|(node, own)| primary_plan(node, own));
    let standby = with_text(path, text, NodeFlags::default(), StandbyFlags::default())
        .and_then(|(node, own)| standby_plan(node, own));
    for plan in [primary, standby] {
        match plan {
            Ok(Plan { options, .. }) => {
                assert!(options.check().is_ok(), "a plan that no node can be started with")
            }
            Err(failure) => {
                assert_eq!(failure.code, Code::Usage);
                assert!(!failure.error.to_string().is_empty());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A line that may stand in a configuration: a key that exists or does not, with a value of any kind.
    fn line() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            Just("dir"),
            Just("name"),
            Just("listen"),
            Just("metrics"),
            Just("shards"),
            Just("standby"),
            Just("segment-bytes"),
            Just("arena-bytes"),
            Just("retention-bytes"),
            Just("flush-depth"),
            Just("sync-rule"),
            Just("degrade-after"),
            Just("retain"),
            Just("host"),
            Just("pin"),
            Just("spin"),
            Just("repair-from"),
            Just("apply-safe"),
            Just("unknown"),
            Just("a.b"),
            Just("\"\""),
        ];
        let value = prop_oneof![
            Just("\"d\"".to_owned()),
            Just("\"127.0.0.1:0\"".to_owned()),
            Just("[\"a=b:1\"]".to_owned()),
            Just("\"ANY 1 (a)\"".to_owned()),
            Just("true".to_owned()),
            Just("\"64M\"".to_owned()),
            Just("\"10s\"".to_owned()),
            Just("\"99999999999999999999E\"".to_owned()),
            Just("{}".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| format!("{number:?}")),
            "\"[ -~]{0,12}\"",
            Just("[".to_owned()),
        ];
        (key, value).prop_map(|(key, value)| format!("{key} = {value}\n"))
    }

    proptest! {
        #[test]
        fn any_configuration_is_a_plan_or_a_usage_error(lines in vec(line(), 0..6)) {
            config(lines.concat().as_bytes());
        }

        #[test]
        fn any_bytes_are_too(bytes in vec(any::<u8>(), 0..80)) {
            config(&bytes);
        }
    }
}
