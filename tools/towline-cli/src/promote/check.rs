//! What would leave a node behind or stall every remote append, found out before the primary is paused.

use std::net::ToSocketAddrs;
use std::time::Duration;

use anyhow::anyhow;
use towline::SyncRule;
use towline::client::{Client, ClientOptions, PromoteOptions};
use towline_core::node::{NodeStatus, RoleStatus};

use crate::client::shard_status;
use crate::exit::{Code, Failure, Outcome};

/// Whether a switchover from one node to the other, not the same one, with these standbys and this rule, can end well.
pub(super) fn hand_over(
    from_address: &str,
    from: &mut [Client],
    to_address: &str,
    to: &mut [Client],
    options: &PromoteOptions,
) -> Outcome {
    for (old, new) in from.iter_mut().zip(to) {
        let (status, is_leading) =
            (shard_status(old)?.node, |node: &NodeStatus| matches!(node.role, RoleStatus::Primary(_)));
        if !is_leading(&status) {
            let why = match is_leading(&shard_status(new)?.node) {
                true => format!("{to_address} leads already, and {from_address} does not"),
                false => format!("{from_address} does not lead: promote a standby"),
            };
            return Err(Failure::new(Code::Failed, anyhow!("not switched over: {why}")));
        }
        let names: Vec<&str> = options.standbys.iter().map(|(name, _)| name.as_str()).collect();
        check_rule(&status, options.rule.as_deref(), &names)?;
    }
    match from.first() {
        Some(old) if !options.standbys.iter().any(|(_, address)| leads_to(address, old)) => {
            Err(Failure::usage(format!(
                "--standbys does not name {from_address}, the present primary: nobody would ship to it any more, and it \
                 would follow nobody; add it by its name: --standbys NAME={from_address},..."
            )))
        }
        _ => Ok(()),
    }
}

/// Whether an address is that of the node behind a connection, by where it points or by who answers there.
fn leads_to(address: &str, node: &Client) -> bool {
    let same = address.to_socket_addrs().is_ok_and(|mut all| all.any(|one| one == node.address()));
    let answers = || {
        let options = ClientOptions { connect_timeout: ASK_LIMIT, ..ClientOptions::default() };
        Client::connect_with(address, 0, options).is_ok_and(|other| other.node_id() == node.node_id())
    };
    same || answers()
}

/// The rules that will bind the new primary: the next one, and the one before it where the next asks for fewer standbys,
/// since it then comes into force only once the old one agrees.
fn check_rule(node: &NodeStatus, wanted: Option<&str>, names: &[&str]) -> Outcome {
    let in_force = node.gate.rule.rule.as_str();
    let newest = node.gate.pending.as_ref().map_or(in_force, |pending| pending.rule.as_str());
    let next = wanted.unwrap_or(newest);
    let parsed =
        SyncRule::parse(next).map_err(|error| Failure::usage(format!("--sync-rule '{next}': {error}")))?;
    let count = |text: &str| SyncRule::parse(text).ok().flatten().map_or(0, |rule| rule.k);
    let most = count(in_force).max(count(newest));
    let refused = |whose: String, why: String| {
        let enough = usize::from(most.max(1)) <= names.len();
        let example = format!(": --sync-rule 'ANY {} ({})'", most.max(1), names.join(", "));
        Err(Failure::usage(format!(
            "{whose} cannot be met by the standbys of the new primary ({why}): appends at remote levels would wait for \
             ever; give a rule among them for as many{}",
            if enough { example } else { String::new() }
        )))
    };
    if let Some(Err(why)) = parsed.as_ref().map(|rule| rule.check_against(names)) {
        let whose = if wanted.is_some() { "--sync-rule" } else { "the log's sync rule" };
        return refused(format!("{whose} '{next}'"), why.to_string());
    }
    let old = SyncRule::parse(in_force).ok().flatten().filter(|_| count(next) < most);
    match old.map(|rule| rule.check_against(names)) {
        Some(Err(why)) => refused(
            format!(
                "--sync-rule '{next}' asks for fewer standbys, so it waits for the log's '{in_force}', which"
            ),
            why.to_string(),
        ),
        _ => Ok(()),
    }
}

/// How long a node that is named is given to say who it is.
const ASK_LIMIT: Duration = Duration::from_secs(1);
