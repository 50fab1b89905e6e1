// SPDX-License-Identifier: Apache-2.0
//! What `trine` says to wrong input: the exit status, one line on stderr, and nothing left behind.
//! None of these gets as far as a VM.
#![forbid(unsafe_code)]

mod bench;

use std::fs;

use bench::Bench;

/// A spec that Trine accepts.
const SPEC: &str = r#"{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"cwd":"/","args":["/bin/true"]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"mount"}],"resources":{"memory":{"limit":268435456}}}}"#;

#[test]
fn command_lines_that_mean_nothing_exit_with_2() {
    let bench = Bench::new();
    for (line, expected) in [
        ("", "no command given"),
        ("--bogus", "'--bogus'"),
        ("run --bogus x", "'--bogus'"),
        ("run", "required"),
        ("frobnicate", "'frobnicate'"),
        ("create", "<ID>"),
        ("create a b", "'b'"),
        ("kill", "<ID>"),
        ("--log-format xml list", "xml"),
        ("run --timeout 0 x", "1 or more"),
        ("completion tcsh", "tcsh"),
        ("check", "<IMAGE|BINARY>"),
    ] {
        bench.refused(line, 2, expected);
    }
}

#[test]
fn checks_that_cannot_be_made_exit_with_125() {
    let bench = Bench::new();
    bench.refused("check gone", 125, "no image \"gone\"");
    bench.refused("check --program /bin/a /bin/true", 125, "--program is for images");
    bench.make_directory("tree/bin");
    bench.write("tree/bin/text", "text");
    bench.refused("check --program /bin/gone tree", 125, "/bin/gone");
    bench.refused("check --program /bin/text tree", 125, "neither an ELF program nor");
}

#[test]
fn bundles_that_cannot_be_used_name_the_file_and_the_field() {
    let bench = Bench::new();
    bench.refused("create --bundle gone c1", 1, "gone: No such file or directory: give --bundle");
    bench.refused("run --bundle gone c1", 125, "cannot use bundle");

    bench.make_directory("b");
    bench.refused("create --bundle b c1", 1, "config.json does not exist: `trine spec` writes one");
    let cases = [
        ("", "config.json"),
        ("{", "line 1"),
        ("[]", "config.json"),
        (r#"{"process":{}}"#, "ociVersion is missing"),
        (r#"{"ociVersion":"9.0.0"}"#, "ociVersion \"9.0.0\" is not supported"),
        (r#"{"ociVersion":"1.0.2"}"#, "process is missing"),
        (
            r#"{"ociVersion":"1.0.2","process":{"cwd":"/","user":{"uid":0,"gid":0}}}"#,
            "process.args",
        ),
        (
            r#"{"ociVersion":"1.0.2","process":{"cwd":"/","user":{"uid":0,"gid":0},"args":["a"]}}"#,
            "config.json has no root",
        ),
    ];
    for (text, expected) in cases {
        bench.write("b/config.json", text);
        bench.refused("create --bundle b c1", 1, expected);
        bench.refused("run --bundle b c1", 125, expected);
    }
}

#[test]
fn bundles_whose_rootfs_or_limits_cannot_be_used_are_refused() {
    let bench = Bench::new();
    bench.write("b/config.json", SPEC);
    bench.refused("create --bundle b c1", 1, "b/rootfs");
    bench.make_directory("b/rootfs");
    bench.refused("create --bundle b c1", 1, "b/rootfs is empty");
    bench.refused("run --bundle b c1", 125, "b/rootfs is empty");
    bench.write("b/rootfs/file", "");

    bench.write("b/config.json", &SPEC.replace("268435456", "4096"));
    bench.refused("create --bundle b c1", 1, "memory limit");
    bench.write("b/config.json", SPEC);
    bench.refused("create --bundle b --preserve-fds 1 c1", 1, "--preserve-fds 1");
    bench.refused("create --bundle b --console-socket /s c1", 1, "--console-socket /s");
    bench.refused("run --bundle b --console-socket /s c1", 125, "needs --detach");
    bench.refused("create --bundle b ../c1", 1, "container id \"../c1\" is not valid");
    let with_cgroup = |path: &str| {
        SPEC.replace("\"resources\"", &format!("\"cgroupsPath\":\"{path}\",\"resources\""))
    };
    bench.write("b/config.json", &with_cgroup("/default/c1"));
    bench.refused("--systemd-cgroup create --bundle b c1", 1, "leave out --systemd-cgroup");
    bench.write("b/config.json", &with_cgroup("a.slice:cri:c1"));
    bench.refused("create --bundle b c1", 1, "add --systemd-cgroup");

    bench.write("b/config.json", &SPEC.replace("\"args\"", "\"terminal\":true,\"args\""));
    bench.refused("create --bundle b c1", 1, "a terminal needs --console-socket");
    bench.refused("create --bundle b --console-socket gone c1", 1, "console socket gone");
}

#[test]
fn duplicate_id_is_refused_and_the_first_stays() {
    let bench = Bench::new();
    bench.write("b/config.json", SPEC);
    bench.write("b/rootfs/file", "");
    // As a container of a supervisor that was killed leaves it.
    bench.write(
        "run/c1/state.json",
        r#"{"version":1,"id":"c1","owner":{"pid":0,"startTicks":0},"vmm":{"pid":0,"startTicks":0},"bundle":"/b","rootfs":"r","created":"2026-01-02T03:04:05Z","annotations":{},"memoryBytes":1,"vcpus":1,"cgroups":[],"isEphemeral":false,"exitCode":null}"#,
    );
    for (line, code) in [("create --bundle b c1", 1), ("run --bundle b c1", 125)] {
        let said = bench.run(line);
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.stderr.contains("\"c1\" is already in use"), "{said:?}");
        assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
    }
    assert!(bench.run("state c1").stdout.contains("\"stopped\""));
    assert_eq!(bench.run("list -q").stdout, "c1\n");
    assert!(bench.run("kill c1 KILL").stderr.contains("is not running"));
    assert_eq!(bench.run("delete c1").code, 0);
    assert_eq!(bench.run("list -q").stdout, "");
    bench.assert_empty();
}

#[test]
fn embedded_runs_that_cannot_start_exit_with_125() {
    let bench = Bench::new();
    bench.make_directory("empty");
    bench.write("root/file", "");
    bench.write("env", "A=1\n=2\n");
    for (line, expected) in [
        ("run nosuch sh", "no image and no file is called \"nosuch\""),
        ("run ./nosuch sh", "./nosuch does not exist"),
        ("run ./empty sh", "is empty"),
        ("run ./root", "no command given"),
        ("run -m 1m ./root sh", "--memory 16m or more"),
        ("run -m lots ./root sh", "\"lots\""),
        ("run -m 99999g ./root sh", "more than this host has"),
        ("run --cpus 0 ./root sh", "--cpus 1 to"),
        ("run --cpus 4096 ./root sh", "--cpus 1 to"),
        ("run -e =1 ./root sh", "has no name"),
        ("run --env-file env ./root sh", "line 2"),
        ("run --env-file gone ./root sh", "environment file gone"),
        ("run -w srv ./root sh", "\"srv\" is not absolute"),
        ("run -u nobody ./root sh", "/etc/passwd"),
        ("run --hostname a/b ./root sh", "host name"),
        ("run --name a/b ./root sh", "container id \"a/b\""),
        ("run -d -t ./root sh", "--console-socket"),
        ("run --preserve-fds 3 ./root sh", "--preserve-fds 3"),
        ("run --bundle root --memory 64m c1", "--memory does not apply"),
    ] {
        bench.refused(line, 125, expected);
    }
}

#[test]
fn archives_that_are_not_sound_are_refused_by_name() {
    let bench = Bench::new();
    bench.write("text.tar", "this is not an archive");
    bench.write("empty.tar", "");
    bench.write("layout/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    bench.write("layout/index.json", "{");
    for source in ["text.tar", "empty.tar", "layout"] {
        bench.refused(&format!("image build {source} -t x"), 1, source);
        bench.refused(&format!("run ./{source} sh"), 125, source);
    }
    bench.refused("image build gone -t x", 1, "gone does not exist");
    bench.refused("image rm nosuch", 1, "nosuch");
    assert_eq!(bench.run("image ls --json").stdout.trim(), "[]");
}

#[test]
fn containers_that_are_not_there_are_named() {
    let bench = Bench::new();
    for line in ["state", "start", "kill", "delete", "pause", "resume", "ps"] {
        bench.refused(&format!("{line} c9"), 1, "container \"c9\" does not exist");
        bench.refused(&format!("{line} .."), 1, "container id \"..\" is not valid");
    }
    bench.refused("exec c9 sh", 1, "container \"c9\" does not exist");
    bench.refused("kill c9 NOSUCH", 1, "unknown signal \"NOSUCH\"");
    bench.write("r.json", "{}");
    bench.refused("update --resources r.json c9", 1, "container \"c9\" does not exist");
    bench.write("r.json", "{");
    bench.refused("update --resources r.json c9", 1, "r.json");
    assert_eq!(bench.run("delete --force c9").code, 0);
}

#[test]
fn damaged_state_is_named_and_does_not_hide_the_rest() {
    let bench = Bench::new();
    bench.write("run/c1/state.json", "{\"version\":1");
    bench.write("run/c2/state.json", "{\"version\":1");
    let said = bench.run("list");
    assert_eq!((said.code, said.stderr.lines().count()), (0, 2), "{said:?}");
    let said = bench.run("state c1");
    assert!(said.code == 1 && said.stderr.contains("c1/state.json is damaged"), "{said:?}");
}

#[test]
fn log_file_gets_the_error_as_json() {
    let bench = Bench::new();
    bench.refused("--log gone/log list", 1, "gone/log");
    let said = bench.run("--log log --log-format json state c9");
    assert_eq!(said.code, 1);
    let line: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(bench.path("log")).expect("log")).expect("json");
    assert_eq!(line["level"], "error");
    let message = line["msg"].as_str().expect("text");
    assert_eq!(said.stderr, format!("trine: {message}\n"));
}

#[test]
fn report_of_a_failed_run_is_json() {
    let bench = Bench::new();
    let said = bench.run("run --json=report nosuch sh");
    assert_eq!(said.code, 125);
    let text = fs::read_to_string(bench.path("report")).expect("report");
    let report: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!((&report["exit_code"], &report["reason"]), (&125.into(), &"error".into()));
    assert!(report["error"].as_str().expect("text").contains("nosuch"));
}
