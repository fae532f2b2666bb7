//! Flags, configuration files and directories that cannot be: each has its message, its exit code, and loses nothing.

mod support;

use std::fs;

use support::{Folder, NodePlan, assert_refused, numbered, text, towline, towline_with};

#[test]
fn help_teaches_and_is_no_failure() {
    let output = towline(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for word in ["Exit codes", "towline primary", "remote_apply", "bench"] {
        assert!(text(&output.stdout).contains(word), "{word}");
    }
    let commands = [
        "bench", "probe", "primary", "standby", "append", "tail", "status", "rule", "trim", "log", "report",
        "sim", "advise",
    ];
    for command in commands {
        let output = towline(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let help = text(&output.stdout);
        assert!(help.contains("Example"), "{command} has no example: {help}");
        assert!(!help.contains("__floor-peer"), "{command}");
    }
}

#[test]
fn unknown_and_contradictory_flags_are_usage_errors() {
    let folder = Folder::new();
    let dir = format!("--dir={}", folder.join("d").display());
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["primary", &dir, "--sync-rul=x"], "--sync-rule"),
        (&["primary"], "--dir"),
        (&["primary", &dir, "--sync-rule=ANY 1 (a)"], "--standby"),
        (&["primary", &dir, "--standby=a=127.0.0.1:1", "--sync-rule=ANY 3 (a)"], "--sync-rule"),
        (
            &[
                "primary",
                &dir,
                "--standby=a=127.0.0.1:1",
                "--standby=b=127.0.0.1:2",
                "--sync-rule=ANY 3 (a, b)",
            ],
            "3",
        ),
        (&["primary", &dir, "--standby=a=127.0.0.1:1", "--sync-rule=ANY 1 (c)"], "c"),
        (&["primary", &dir, "--standby=a=127.0.0.1:1", "--sync-rule=SOME 1 (a)"], "FIRST or ANY"),
        (&["primary", &dir, "--standby=a=127.0.0.1:1", "--standby=a=127.0.0.1:2"], "twice"),
        (&["primary", &dir, "--standby=a"], "NAME=HOST:PORT"),
        (&["primary", &dir, "--degrade-after=10s"], "--standby"),
        (&["primary", &dir, "--degrade-after=10"], "duration"),
        (&["primary", &dir, "--standby=a=127.0.0.1:1", "--standby=b=127.0.0.1:1"], "--standby: 'a' and 'b'"),
        (&["primary", &dir, "--pin=0", "--host=glommio"], "--pin"),
        (&["primary", &dir, "--pin=9999"], "--pin 9999"),
        (&["primary", &dir, "--shards=0"], "--shards: 0"),
        (&["primary", &dir, "--flush-depth=0"], "--flush-depth"),
        (&["primary", &dir, "--retain=2G"], "--retain"),
        (&["primary", &dir, "--arena-bytes=5M"], "--arena-bytes: "),
        (&["primary", &dir, "--segment-bytes=1M"], "segment"),
        (&["primary", &dir, "--listen=somewhere"], "--listen"),
        (&["primary", &dir, "--listen=localhost:0"], "an IP address"),
        (&["standby", &dir, "--retain=1M"], "--retain"),
        (&["standby", &dir, "--sync-rule=*"], "--sync-rule"),
        (&["append", "--level=most"], "most"),
        (&["append", "--window=soon"], "window"),
        (&["tail", "--from=here"], "LSN"),
        (&["probe", "--dir=/nowhere/at/all"], "--dir"),
        (&["promote", "127.0.0.1:1"], "--standbys"),
        (&["promote", "here", "--standbys=a=127.0.0.1:1"], "here"),
        (&["switchover", "--from=127.0.0.1:1"], "--to"),
        (&["rule"], "RULE"),
        (&["trim", "soon"], "LSN"),
        (&["log", "repair", "d"], "--from"),
        (&["survive", "--level=most"], "most"),
        (&["survive", "--failure=bad-luck"], "bad-luck"),
        (&["survive", "--soak=0s"], "nothing"),
        (&["survive", "--times=0"], "--times"),
        (&["sim", "run", "--seed=many"], "seed"),
        (&["sim", "run"], "--seed"),
        (&["sim", "swarm", "--from=18446744073709551615", "--seeds=2"], "last seed"),
        (&["sim", "replay", "/nowhere/at/all"], "does not exist"),
        (&["report", "/nowhere/at/all"], "does not exist"),
        (&["advise", "--survive=primary-disk-loss", "--p99=2ms", "--run=/nowhere/at/all"], "does not exist"),
        (&["advise", "--survive=bad-luck", "--p99=2ms"], "bad-luck"),
        (&["bench", "nothing-like-it"], "nothing-like-it"),
    ];
    for (arguments, word) in cases {
        assert_refused(&towline(arguments), 2, &[word]);
    }
    assert!(!folder.join("d").exists(), "nothing may be made before the flags are known to be right");
}

#[test]
fn configuration_files_are_held_to_the_flags() {
    let folder = Folder::new();
    let config = folder.join("node.toml");
    let flag = format!("--config={}", config.display());
    let dir = folder.join("d");
    for (content, words) in [
        (
            "segment-byte = 1\n",
            &["segment-byte", "node.toml", "sync-rule", "degrade-after", "retain", "alone"][..],
        ),
        ("sync_rule = \"*\"\n", &["sync_rule", "it is written 'sync-rule'"]),
        ("log-only = true\n", &["'log-only' is not one of a primary"]),
        ("dir = 7\n", &["dir"]),
        ("dir = \"d\"\ndir = \"e\"\n", &["node.toml", "dir"]),
        ("dir = \"d\"\nspin = \"long\"\n", &["spin", "long"]),
        ("not toml", &["node.toml"]),
        ("dir = \"other\"\n", &["contradict", "dir"]),
    ] {
        fs::write(&config, content).unwrap();
        let dir = format!("--dir={}", dir.display());
        let arguments =
            if content.contains("other") { vec!["primary", &flag, &dir] } else { vec!["primary", &flag] };
        assert_refused(&towline(&arguments), 2, words);
    }
    assert_refused(&towline(&["primary", "--config=no-such-file.toml"]), 2, &["no-such-file.toml"]);
    assert!(!dir.exists());
}

#[test]
fn a_node_runs_from_a_configuration_file() {
    let folder = Folder::new();
    let config = folder.join("primary.toml");
    fs::write(&config, "segment-bytes = \"8M\"\nretain = \"16M\"\nheartbeat = \"500ms\"\n").unwrap();
    let plan = NodePlan::primary(folder.join("p")).flag(format!("--config={}", config.display()));
    let node = plan.start();
    node.append("local", &numbered(0..3));
    assert_eq!(node.tail(), numbered(0..3));
    node.wait_said("--retain");
    node.stop();
}

#[test]
fn directories_that_cannot_be_a_log_are_refused() {
    let folder = Folder::new();
    let file = folder.join("file");
    fs::write(&file, "text").unwrap();
    assert_refused(&NodePlan::primary(&file).refused(), 1, &["file", "directory"]);

    let foreign = folder.join("foreign");
    fs::create_dir_all(foreign.join("shard-0")).unwrap();
    fs::write(foreign.join("shard-0").join("letter.txt"), "dear").unwrap();
    assert_refused(&NodePlan::primary(&foreign).refused(), 1, &["letter.txt"]);
    assert_eq!(fs::read_to_string(foreign.join("shard-0").join("letter.txt")).unwrap(), "dear");

    for command in ["inspect", "verify", "dump"] {
        let empty = folder.path().to_str().unwrap();
        assert_refused(&towline(&["log", command, empty]), 1, &["no log"]);
        assert_refused(&towline(&["log", command, "/nowhere/at/all"]), 2, &["/nowhere/at/all"]);
    }
}

#[test]
fn a_log_that_is_open_is_refused_to_others() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    node.append("local", &numbered(0..10));
    assert_refused(&NodePlan::primary(folder.join("p")).refused(), 1, &["in use"]);
    let dir = folder.join("p");
    assert_refused(&towline(&["log", "verify", dir.to_str().unwrap()]), 1, &["in use"]);
    assert_eq!(node.tail(), numbered(0..10), "the refusals must not disturb the owner");
    node.stop();
}

#[test]
fn commands_without_a_node_are_unavailable() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = format!("--address={port}");
    for arguments in [
        &["status", &address][..],
        &["tail", &address],
        &["append", &address],
        &["rule", "*", &address],
        &["trim", "0/0", &address],
    ] {
        assert_refused(&towline_with(arguments, b"x\n"), 4, &["no connection", &port.to_string()]);
    }
}

/// Files that are no text, or far too long, where text is expected; and a cause is told once.
#[test]
fn files_of_another_kind_are_refused() {
    let folder = Folder::new();
    let [noise, long] = ["noise", "long"].map(|name| folder.join(name));
    fs::write(
        &noise,
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    fs::write(&long, "a = 1\n".repeat(500_000)).unwrap();
    // What is text and no trace is wrong usage; what is no text cannot be read.
    for (file, replayed) in [(&noise, 1), (&long, 2)] {
        let path = file.to_str().unwrap();
        assert_refused(&towline(&["primary", "--dir=d", &format!("--config={path}")]), 2, &["--config"]);
        assert_refused(&towline(&["report", path]), 1, &[path]);
        assert_refused(&towline(&["sim", "replay", path]), replayed, &[path]);
    }
    let refused = towline(&["bench", "canonical", &format!("--dir={}", noise.display())]);
    assert_refused(&refused, 1, &["Not a directory"]);
    assert_eq!(text(&refused.stderr).matches("Not a directory").count(), 1, "{}", text(&refused.stderr));
}

/// As a user who owns nothing here. Only root can become one.
#[test]
fn what_may_not_be_read_or_written_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = Folder::new();
    let dir = folder.join("closed");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.to_str().unwrap();
    for arguments in [
        &["primary", "--dir", path, "--listen=127.0.0.1:0"][..],
        &["standby", "--dir", path, "--listen=127.0.0.1:0", "--name=a"],
        &["log", "verify", path],
        &["bench", "canonical", "--dir", path],
    ] {
        use std::os::unix::process::CommandExt;
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let mut command = std::process::Command::new("/proc/self/fd/0");
        command.args(arguments).stdin(fs::File::open(env!("CARGO_BIN_EXE_towline")).unwrap());
        let output = command.uid(65_534).gid(65_534).output().unwrap();
        assert_refused(&output, 1, &["ermission denied"]);
    }
}

#[test]
fn a_closed_standard_output_is_quiet() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_towline"))
        .arg("--help")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}
