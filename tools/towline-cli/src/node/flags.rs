//! The flags of a long-running node, and the same keys in a TOML file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer};
use towline::{Host, NodeOptions, PeerAddress, Primitive, Role, SyncRule, Unmet};

use crate::exit::{Code, Failure};
use crate::units::{parse_bytes, parse_duration};

/// What primary and standby have in common. Every key may stand in the file given by `--config`; a flag given as
/// well must not say otherwise.
#[derive(Args, Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NodeFlags {
    /// Directory of this node's log; created when it does not exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Name of this node, as sync rules and status tables use it [default: the role]
    #[arg(long)]
    name: Option<String>,
    /// Where peers and clients connect; port 0 takes a free one [default: 127.0.0.1:7401]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Serve Prometheus metrics and a status page [address when none is given: 127.0.0.1:7402]
    #[arg(long, value_name = "IP:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:7402", value_parser = parse_listen)]
    metrics: Option<SocketAddr>,
    /// Shards: logs of their own, each on a thread of its own [default: 1]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// A standby to ship to, as its name in the sync rule and its address; may be repeated
    #[arg(long, value_name = "NAME=HOST:PORT")]
    #[serde(default)]
    standby: Vec<String>,
    /// Bytes of a segment file of a new log, a power of two [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    #[serde(default, deserialize_with = "toml_bytes")]
    segment_bytes: Option<u64>,
    /// Bytes of each shard's arena, a power of two [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    #[serde(default, deserialize_with = "toml_bytes")]
    arena_bytes: Option<u64>,
    /// Bytes that may be in flight to the disk, of a new log [default: 16M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    #[serde(default, deserialize_with = "toml_bytes")]
    in_flight_bytes: Option<u64>,
    /// How far the log may reach past the last trim before it is full: appends then wait for a trim [default: 1G]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    #[serde(default, deserialize_with = "toml_bytes")]
    retention_bytes: Option<u64>,
    /// How far a registered standby that is behind holds a trim back [default: the retention]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    #[serde(default, deserialize_with = "toml_bytes")]
    hold_bytes: Option<u64>,
    /// Segments prepared ahead of need [default: 2]
    #[arg(long, value_name = "N")]
    prepare_segments: Option<u32>,
    /// Go through the page cache, where the file system has no direct I/O
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    buffered: Option<bool>,
    /// How writes are made durable [default: as calibrated for the device]
    #[arg(long, value_enum)]
    primitive: Option<PrimitiveName>,
    /// Flushes in flight [default: as calibrated for the device]
    #[arg(long, value_name = "N")]
    flush_depth: Option<usize>,
    /// What carries the shard loops [default: thread]
    #[arg(long, value_enum)]
    host: Option<HostName>,
    /// Pin the first shard's thread to this core, the next to the next
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,
    /// How long an idle shard polls before it sleeps [default: 200us]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(default, deserialize_with = "toml_duration")]
    spin: Option<Duration>,
    /// How long a connection may be silent before a heartbeat [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(default, deserialize_with = "toml_duration")]
    heartbeat: Option<Duration>,
    /// A node that may replace damaged durable bytes of this log at the start; may be repeated. A primary also asks
    /// its standbys [default: a damaged log is refused]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(default)]
    repair_from: Vec<String>,
    /// Record every input of the state machines into `FILE.SHARD`, to be replayed
    #[arg(long, value_name = "FILE")]
    record_inputs: Option<PathBuf>,
    /// Stop cleanly when standard input ends: whoever started this node has gone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    until_input_ends: Option<bool>,
}

/// What only a primary takes.
#[derive(Args, Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PrimaryFlags {
    /// Who counts for remote levels: "FIRST k (a, b)", "ANY k (a, b)" or "*" [default: nobody]
    #[arg(long, value_name = "RULE")]
    sync_rule: Option<String>,
    /// Acknowledge as local, and say so, when the rule has not been met for so long [default: wait]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(default, deserialize_with = "toml_duration")]
    degrade_after: Option<Duration>,
    /// Trim by itself: keep so many bytes behind the flushed end (no application trims here)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    #[serde(default, deserialize_with = "toml_bytes")]
    retain: Option<u64>,
    /// After a restart, lead without asking the standbys; prints what that risks
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    alone: Option<bool>,
}

/// What only a standby takes.
#[derive(Args, Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct StandbyFlags {
    /// Apply only what the sync rule has made safe [default: what the primary has flushed]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    apply_safe: Option<bool>,

    /// Keep the log and apply nothing: it never counts for remote_apply
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    log_only: Option<bool>,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HostName {
    /// A plain thread per shard
    Thread,
    /// A task in a glommio executor
    Glommio,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PrimitiveName {
    /// One write with RWF_DSYNC
    Dsync,
    /// A write linked to an fdatasync
    LinkedFsync,
    /// A write, and an fdatasync by a thread of its own
    Flusher,
}

/// A node as it will be started.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) options: NodeOptions,
    /// Trim by itself to this.
    pub(crate) retain_bytes: Option<u64>,
    /// Stop when standard input ends.
    pub(crate) until_input_ends: bool,
    /// Hand the records to an application.
    pub(crate) applies: bool,
}

/// Flags and file of a primary, checked against each other.
pub(crate) fn plan_primary(
    config: Option<&Path>,
    node: NodeFlags,
    own: PrimaryFlags,
) -> Result<Plan, Failure> {
    let (node, own) = with_file(config, node, own)?;
    primary_plan(node, own)
}

/// What a primary's flags and file say together.
pub(crate) fn primary_plan(node: NodeFlags, own: PrimaryFlags) -> Result<Plan, Failure> {
    let until_input_ends = node.until_input_ends.unwrap_or(false);
    let mut options = node.options(Role::Primary)?;
    check_rule(own.sync_rule.as_deref(), &options.standbys)?;
    if own.degrade_after.is_some() && options.standbys.is_empty() {
        return Err(Failure::usage(
            "--degrade-after without a standby has no meaning; name them: --standby a=HOST:PORT",
        ));
    }
    if let Some(retain) = own.retain
        && retain > options.retention_bytes.saturating_sub(2 * options.segment_bytes)
    {
        return Err(Failure::usage(format!(
            "--retain {retain} leaves less than two segments of {} below --retention-bytes {}; retain less, or raise \
             the retention",
            options.segment_bytes, options.retention_bytes
        )));
    }
    options.sync_rule = own.sync_rule;
    options.unmet = own.degrade_after.map_or(Unmet::Stall, Unmet::DegradeAfter);
    options.alone = own.alone.unwrap_or(false);
    Ok(Plan { options, retain_bytes: own.retain, until_input_ends, applies: false })
}

/// A rule that can never be met would stall every remote append: refused before anything is touched.
fn check_rule(rule: Option<&str>, standbys: &[PeerAddress]) -> Result<(), Failure> {
    let Some(text) = rule else { return Ok(()) };
    let refused = |why: String| Failure::usage(format!("--sync-rule '{text}': {why}"));
    let Some(rule) = SyncRule::parse(text).map_err(|error| refused(error.to_string()))? else {
        return Ok(());
    };
    if standbys.is_empty() {
        return Err(refused("cannot be met without a standby; name them: --standby a=HOST:PORT".to_owned()));
    }
    let names: Vec<&str> = standbys.iter().map(|standby| standby.name.as_str()).collect();
    rule.check_against(&names).map_err(|error| refused(error.to_string()))
}

/// Flags and file of a standby, checked against each other.
pub(crate) fn plan_standby(
    config: Option<&Path>,
    node: NodeFlags,
    own: StandbyFlags,
) -> Result<Plan, Failure> {
    let (node, own) = with_file(config, node, own)?;
    standby_plan(node, own)
}

/// What a standby's flags and file say together.
pub(crate) fn standby_plan(node: NodeFlags, own: StandbyFlags) -> Result<Plan, Failure> {
    let until_input_ends = node.until_input_ends.unwrap_or(false);
    let mut options = node.options(Role::Standby)?;
    options.apply_safe = own.apply_safe.unwrap_or(false);
    let applies = !own.log_only.unwrap_or(false);
    if options.apply_safe && !applies {
        return Err(Failure::usage(
            "--apply-safe and --log-only contradict each other: one applies later, one never",
        ));
    }
    Ok(Plan { options, retain_bytes: None, until_input_ends, applies })
}

impl NodeFlags {
    fn options(self, role: Role) -> Result<NodeOptions, Failure> {
        let Some(dir) = self.dir else {
            return Err(Failure::usage("--dir DIR is missing: where this node keeps its log"));
        };
        let host = match (self.host, self.pin) {
            (Some(HostName::Glommio), Some(_)) => {
                return Err(Failure::usage(
                    "--pin and --host glommio contradict each other: only threads are pinned",
                ));
            }
            (Some(HostName::Glommio), None) => Host::Glommio,
            (_, pin) => Host::Thread { pin },
        };
        if self.flush_depth == Some(0) {
            return Err(Failure::usage("--flush-depth 0: at least one flush must be in flight"));
        }
        let standard = NodeOptions::default();
        let standbys: Vec<PeerAddress> =
            self.standby.iter().map(|text| parse_standby(text)).collect::<Result<_, _>>()?;
        let mut repair_from = self.repair_from;
        if role == Role::Primary {
            repair_from.extend(standbys.iter().map(|standby| standby.address.clone()));
        }
        let retention_bytes = self.retention_bytes.unwrap_or(standard.retention_bytes);
        let options = NodeOptions {
            dir,
            role,
            name: self.name.unwrap_or_else(|| role_name(role).to_owned()),
            shards: self.shards.unwrap_or(standard.shards),
            listen: Some(self.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7401)))),
            metrics: self.metrics,
            standbys,
            repair_from,
            segment_bytes: self.segment_bytes.unwrap_or(standard.segment_bytes),
            arena_bytes: self.arena_bytes.unwrap_or(standard.arena_bytes),
            in_flight_bytes: self.in_flight_bytes.unwrap_or(standard.in_flight_bytes),
            retention_bytes,
            hold_bytes: self.hold_bytes.unwrap_or(retention_bytes),
            prepare_segments: self.prepare_segments.unwrap_or(standard.prepare_segments),
            buffered: self.buffered.unwrap_or(false),
            primitive: self.primitive.and_then(PrimitiveName::primitive),
            flush_depth: self.flush_depth,
            host,
            spin: self.spin.unwrap_or(standard.spin),
            heartbeat: self.heartbeat.unwrap_or(standard.heartbeat),
            record_inputs: self.record_inputs,
            ..standard
        };
        options.check().map_err(|error| Failure::usage(with_flag_name(&error.to_string())))?;
        check_pin(options.host, options.shards)?;
        Ok(options)
    }
}

/// An option's field at the start of a message, as the flag that set it.
fn with_flag_name(message: &str) -> String {
    let Some((field, why)) = message.split_once(": ") else { return message.to_owned() };
    let key = if field == "standbys" { "standby".to_owned() } else { field.replace('_', "-") };
    match NodeFlags::KEYS.contains(&key.as_str()) {
        true => format!("--{key}: {why}"),
        false => message.to_owned(),
    }
}

/// A pinned thread needs its core: the kernel would run it anywhere, without a word.
fn check_pin(host: Host, shards: u16) -> Result<(), Failure> {
    let Host::Thread { pin: Some(pin) } = host else { return Ok(()) };
    let allowed = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
    if pin >= allowed {
        return Err(Failure::usage(format!(
            "--pin {pin}: this process may run on {allowed} cores, 0 to {}; {shards} shard(s) take one each, from this one on",
            allowed - 1
        )));
    }
    Ok(())
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an IP address and a port, as in 127.0.0.1:7401; a name is not looked up".to_owned()
    })
}

impl PrimitiveName {
    fn primitive(self) -> Option<Primitive> {
        Primitive::from_name(match self {
            PrimitiveName::Dsync => "dsync",
            PrimitiveName::LinkedFsync => "linked-fsync",
            PrimitiveName::Flusher => "flusher",
        })
    }
}

/// The word for a role.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
    }
}

pub(crate) fn parse_standby(text: &str) -> Result<PeerAddress, Failure> {
    match text.split_once('=') {
        Some((name, address)) => {
            Ok(PeerAddress { name: name.trim().to_owned(), address: address.trim().to_owned() })
        }
        None => Err(Failure::usage(format!("'{text}': write a standby as NAME=HOST:PORT"))),
    }
}

/// Joins flags with the file. The file's keys are those of the flags; a key given in both places must agree.
fn with_file<Own>(config: Option<&Path>, node: NodeFlags, own: Own) -> Result<(NodeFlags, Own), Failure>
where
    Own: serde::de::DeserializeOwned + PartialEq + Merge,
{
    let Some(path) = config else { return Ok((node, own)) };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--config {}: cannot be read", path.display()))
        .map_err(|error| Failure::new(Code::Usage, error))?;
    with_text(path, &text, node, own)
}

/// The same, of a file that was read.
pub(crate) fn with_text<Own>(
    path: &Path,
    text: &str,
    node: NodeFlags,
    own: Own,
) -> Result<(NodeFlags, Own), Failure>
where
    Own: serde::de::DeserializeOwned + PartialEq + Merge,
{
    let usage = |error: anyhow::Error| Failure::new(Code::Usage, error);
    let table: toml::Table = toml::from_str(text)
        .map_err(|error| usage(anyhow!("--config {}: {}", path.display(), error.to_string().trim_end())))?;
    // Two structs share one flat table, so the keys are dealt out by name before serde refuses the unknown ones.
    let (own_table, node_table): (toml::Table, toml::Table) =
        table.into_iter().partition(|(key, _)| Own::KEYS.contains(&key.as_str()));
    // Refused here, since either struct knows only its own half of the keys.
    if let Some(key) = node_table.keys().find(|key| !NodeFlags::KEYS.contains(&key.as_str())) {
        return Err(usage(anyhow!("--config {}: {}", path.display(), unknown_key::<Own>(key))));
    }
    let in_file = |error: toml::de::Error| {
        usage(anyhow!(
            "--config {}: {}; keys are the long flags",
            path.display(),
            error.to_string().trim_end()
        ))
    };
    let file_node: NodeFlags = node_table.try_into().map_err(in_file)?;
    let file_own: Own = own_table.try_into().map_err(in_file)?;
    Ok((node.merge(file_node)?, own.merge(file_own)?))
}

/// What a key that nobody knows should have been.
fn unknown_key<Own: Merge>(key: &str) -> String {
    if PrimaryFlags::KEYS.iter().chain(StandbyFlags::KEYS).any(|other| *other == key) {
        return format!("the key '{key}' is not one of a {}", Own::OWNER);
    }
    let dashed = key.replace('_', "-").to_ascii_lowercase();
    let mut keys: Vec<&str> = NodeFlags::KEYS.iter().chain(Own::KEYS).copied().collect();
    keys.sort_unstable();
    match keys.contains(&dashed.as_str()) {
        true => format!("unknown key '{key}'; it is written '{dashed}'"),
        false => format!("unknown key '{key}'; keys are the long flags: {}", keys.join(", ")),
    }
}

/// Joins what flags and file say.
pub(crate) trait Merge: Sized {
    const KEYS: &'static [&'static str];
    /// The role whose keys they are.
    const OWNER: &'static str;

    fn merge(self, file: Self) -> Result<Self, Failure>;
}

fn one_of<T: PartialEq>(key: &str, flag: Option<T>, file: Option<T>) -> Result<Option<T>, Failure> {
    match (flag, file) {
        (Some(flag), Some(file)) if flag != file => Err(Failure::usage(format!(
            "--{key} and the key '{key}' of --config contradict each other; remove one of them"
        ))),
        (flag, file) => Ok(flag.or(file)),
    }
}

macro_rules! merge {
    ($kind:ident of $owner:literal { $($field:ident = $key:literal),* $(,)? } $(lists { $($list:ident = $list_key:literal),* })?) => {
        impl Merge for $kind {
            const KEYS: &'static [&'static str] = &[$($key,)* $($($list_key,)*)?];
            const OWNER: &'static str = $owner;

            fn merge(self, file: $kind) -> Result<$kind, Failure> {
                Ok($kind {
                    $($field: one_of($key, self.$field, file.$field)?,)*
                    $($($list: one_of(
                        $list_key,
                        Some(self.$list).filter(|list| !list.is_empty()),
                        Some(file.$list).filter(|list| !list.is_empty()),
                    )?.unwrap_or_default(),)*)?
                })
            }
        }
    };
}

merge!(NodeFlags of "node" {
    dir = "dir", name = "name", listen = "listen", metrics = "metrics", shards = "shards",
    segment_bytes = "segment-bytes", arena_bytes = "arena-bytes", in_flight_bytes = "in-flight-bytes",
    retention_bytes = "retention-bytes", hold_bytes = "hold-bytes", prepare_segments = "prepare-segments",
    buffered = "buffered", primitive = "primitive", flush_depth = "flush-depth", host = "host", pin = "pin",
    until_input_ends = "until-input-ends", spin = "spin", heartbeat = "heartbeat", record_inputs = "record-inputs",
} lists { standby = "standby", repair_from = "repair-from" });
merge!(PrimaryFlags of "primary" {
    sync_rule = "sync-rule", degrade_after = "degrade-after", retain = "retain", alone = "alone",
});
merge!(StandbyFlags of "standby" { apply_safe = "apply-safe", log_only = "log-only" });

/// A size as a number of bytes, or as text with a unit.
fn toml_bytes<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(source)? {
        Size::Bytes(bytes) => Ok(Some(bytes)),
        Size::Text(text) => parse_bytes(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

fn toml_duration<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    parse_duration(&String::deserialize(source)?).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn node(dir: &str) -> NodeFlags {
        NodeFlags { dir: Some(dir.into()), ..NodeFlags::default() }
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let config = file(
            "dir = \"d\"\nlisten = \"127.0.0.1:0\"\nstandby = [\"a=127.0.0.1:1\", \"b=h:2\"]\nsync-rule = \"ANY 1 (a, b)\"\n\
             segment-bytes = \"8M\"\narena-bytes = 8388608\ndegrade-after = \"10s\"\nbuffered = true\nhost = \"glommio\"\n",
        );
        let plan = plan_primary(Some(config.path()), NodeFlags::default(), PrimaryFlags::default()).unwrap();
        assert_eq!(plan.options.segment_bytes, 8 << 20);
        assert_eq!(plan.options.arena_bytes, 8 << 20);
        assert_eq!(plan.options.standbys[1].address, "h:2");
        assert_eq!(plan.options.unmet, Unmet::DegradeAfter(Duration::from_secs(10)));
        assert_eq!(plan.options.host, Host::Glommio);
        assert!(plan.options.buffered);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_key_in_the_message() {
        let refused = |text: &str, flags: NodeFlags| -> String {
            let config = file(text);
            let failure = plan_primary(Some(config.path()), flags, PrimaryFlags::default()).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{text}");
            failure.error.to_string()
        };
        let none = NodeFlags::default;
        assert!(refused("dir = \"d\"\nsegment-byte = 1\n", none()).contains("segment-byte"));
        let unknown = refused("dir = \"d\"\nquorum = 1\n", none());
        for key in ["sync-rule", "degrade-after", "retain", "alone", "dir", "standby", "repair-from"] {
            assert!(unknown.contains(key), "{key}: {unknown}");
        }
        assert!(refused("dir = \"d\"\nsync_rule = \"*\"\n", none()).contains("it is written 'sync-rule'"));
        assert!(
            refused("dir = \"d\"\napply-safe = true\n", none()).contains("apply-safe"),
            "a standby's key"
        );
        assert!(refused("dir = \"d\"\nname = 3\n", none()).contains("name"));
        assert!(refused("dir = \"d\"\nlisten = \"here\"\n", none()).contains("listen"));
        assert!(refused("dir = [", none()).contains("--config"));
        assert!(refused("dir = \"d\"\n", node("e")).contains("contradict"));
        assert!(refused("", none()).contains("--dir"));
        assert!(refused("dir = \"d\"\nsync-rule = \"ANY 1 (a)\"\n", none()).contains("--sync-rule"));
        assert!(refused("dir = \"d\"\nhost = \"glommio\"\npin = 1\n", none()).contains("--pin"));
        assert!(refused("dir = \"d\"\nstandby = [\"a\"]\n", none()).contains("NAME=HOST:PORT"));
        assert!(refused("dir = \"d\"\nretain = \"1G\"\n", none()).contains("--retain"));
        assert!(refused("dir = \"d\"\nshards = 0\n", none()).contains("shards"));
    }

    #[test]
    fn every_primitive_has_its_name() {
        for name in PrimitiveName::value_variants() {
            assert!(name.primitive().is_some(), "{name:?}");
        }
    }

    #[test]
    fn a_flag_that_agrees_with_the_file_is_no_contradiction() {
        let config = file("dir = \"d\"\n");
        assert!(plan_standby(Some(config.path()), node("d"), StandbyFlags::default()).is_ok());
    }
}
