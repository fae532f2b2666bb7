//! The written form of a sync rule, as far as a workload must know it before anything is started: the primary has
//! the last word.

/// Checks that `rule` can be met by `names`.
///
/// # Errors
/// Not a rule, a name that no standby has, or more standbys asked for than there are.
pub(crate) fn check(rule: &str, names: &[String]) -> Result<(), String> {
    let refuse = |why: String| Err(format!("sync_rule '{rule}': {why}"));
    let text = rule.trim();
    if text == "*" {
        return Ok(());
    }
    let Some((head, list)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) else {
        return refuse("use FIRST k (a, b), ANY k (a, b) or *".into());
    };
    let head: Vec<&str> = head.split_whitespace().collect();
    let wanted = match head[..] {
        [method, k] if ["FIRST", "ANY"].contains(&method.to_ascii_uppercase().as_str()) => {
            k.parse::<usize>().ok()
        }
        _ => None,
    };
    let Some(wanted) = wanted.filter(|&wanted| wanted > 0) else {
        return refuse("use FIRST k (a, b), ANY k (a, b) or *, with k at least 1".into());
    };
    let listed: Vec<&str> = list.split(',').map(|name| name.trim().trim_matches('"')).collect();
    if listed.contains(&"*") {
        return if wanted <= names.len() {
            Ok(())
        } else {
            refuse(format!("there are {} standbys", names.len()))
        };
    }
    if let Some(stranger) = listed.iter().find(|name| !names.iter().any(|known| known == *name)) {
        return refuse(format!("no standby is called '{stranger}': there are {}", names.join(", ")));
    }
    if wanted > listed.len() {
        return refuse(format!("it lists {} standbys and asks for {wanted}", listed.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn rules_that_these_standbys_can_meet_pass_and_others_do_not() {
        let names = ["a".to_owned(), "b".to_owned()];
        for good in ["*", "ANY 1 (a, b)", "first 2 (b,a)", "ANY 2 (*)", " FIRST 1 ( \"a\" ) "] {
            check(good, &names).unwrap_or_else(|error| panic!("{good}: {error}"));
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
            assert!(check(bad, &names).is_err(), "{bad} was accepted");
        }
    }
}
