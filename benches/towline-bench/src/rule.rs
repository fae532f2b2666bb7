//! The written form of a sync rule, as far as a workload must know it before anything is started: the primary has
//! the last word.

/// Who counts, by place in the configuration, while all standbys stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quorum {
    first: bool,
    wanted: usize,
    /// In the order of the rule.
    members: Vec<usize>,
}

impl Quorum {
    /// When the rule is met, from when each standby got there.
    pub(crate) fn reached<N: Copy + Ord>(&self, of: impl Fn(usize) -> Option<N>) -> Option<N> {
        if self.first {
            // The first k of the list are waited for, however slow they are.
            let mut latest = None;
            for &member in self.members.iter().take(self.wanted) {
                latest = latest.max(Some(of(member)?));
            }
            return latest;
        }
        // The k-th earliest, without an allocation: standbys are few.
        let earlier = |at: N| {
            let is_earlier = |member: &&usize| of(**member).is_some_and(|other| other <= at);
            self.members.iter().filter(is_earlier).count()
        };
        let enough = |at: &N| earlier(*at) >= self.wanted;
        self.members.iter().filter_map(|&member| of(member)).filter(enough).min()
    }
}

/// Reads `rule` and checks that `names` can meet it.
///
/// # Errors
/// Not a rule, a name that no standby has, or more standbys asked for than there are.
pub(crate) fn parse(rule: &str, names: &[String]) -> Result<Quorum, String> {
    let refuse = |why: String| Err(format!("sync_rule '{rule}': {why}"));
    let text = rule.trim();
    let all = || (0..names.len()).collect::<Vec<_>>();
    if text == "*" {
        return Ok(Quorum { first: true, wanted: 1, members: all() });
    }
    let Some((head, list)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) else {
        return refuse("use FIRST k (a, b), ANY k (a, b) or *".into());
    };
    let head: Vec<&str> = head.split_whitespace().collect();
    let wanted = match head[..] {
        [method, k] if ["FIRST", "ANY"].contains(&method.to_ascii_uppercase().as_str()) => {
            k.parse::<usize>().ok().map(|k| (method.eq_ignore_ascii_case("FIRST"), k))
        }
        _ => None,
    };
    let Some((first, wanted)) = wanted.filter(|&(_, wanted)| wanted > 0) else {
        return refuse("use FIRST k (a, b), ANY k (a, b) or *, with k at least 1".into());
    };
    let listed: Vec<&str> = list.split(',').map(|name| name.trim().trim_matches('"')).collect();
    if listed.contains(&"*") {
        return if wanted <= names.len() {
            Ok(Quorum { first, wanted, members: all() })
        } else {
            refuse(format!("there are {} standbys", names.len()))
        };
    }
    let mut members = Vec::new();
    for name in &listed {
        match names.iter().position(|known| known == name) {
            Some(place) => members.push(place),
            None => {
                return refuse(format!("no standby is called '{name}': there are {}", names.join(", ")));
            }
        }
    }
    if wanted > listed.len() {
        return refuse(format!("it lists {} standbys and asks for {wanted}", listed.len()));
    }
    Ok(Quorum { first, wanted, members })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn rules_that_these_standbys_can_meet_pass_and_others_do_not() {
        let names = ["a".to_owned(), "b".to_owned()];
        for good in ["*", "ANY 1 (a, b)", "first 2 (b,a)", "ANY 2 (*)", " FIRST 1 ( \"a\" ) "] {
            parse(good, &names).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            "",
            "a",
            "ANY (a)",
            "ANY 0 (a)",
            "ANY 3 (a, b)",
            "ANY 1 (c)",
            "SOME 1 (a)",
            "ANY 3 (*)",
            "ANY 1 ()",
        ] {
            assert!(parse(bad, &names).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn any_k_is_met_by_the_fastest_and_first_k_by_those_named_first() {
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let met = |rule: &str, times: [Option<u32>; 3]| {
            parse(rule, &names).unwrap_or_else(|error| panic!("{error}")).reached(|place| times[place])
        };
        let times = [Some(30), Some(10), Some(20)];
        assert_eq!(met("ANY 1 (*)", times), Some(10));
        assert_eq!(met("ANY 2 (*)", times), Some(20));
        assert_eq!(met("ANY 2 (a, b)", times), Some(30));
        assert_eq!(met("FIRST 1 (c, a)", times), Some(20));
        assert_eq!(met("FIRST 2 (b, c, a)", times), Some(20));
        assert_eq!(met("*", times), Some(30));
        assert_eq!(met("ANY 2 (*)", [Some(7), None, Some(7)]), Some(7));
        assert_eq!(met("ANY 2 (*)", [None, None, Some(7)]), None);
    }
}
