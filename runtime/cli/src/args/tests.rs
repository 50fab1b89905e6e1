// SPDX-License-Identifier: Apache-2.0
//! Command lines as runc's callers write them.

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};

use super::*;

fn parse(line: &str) -> Cli {
    let words = ["trine"].into_iter().chain(line.split_whitespace());
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn command(line: &str) -> Command {
    parse(line).command.expect("a command")
}

#[test]
fn definition_is_consistent() {
    Cli::command().debug_assert();
}

/// These are what containerd's go-runc and podman's conmon send.
#[test]
fn runc_invocations_are_understood() {
    let cli = parse(
        "--root /run/r --log /b/log.json --log-format json --systemd-cgroup create \
         --bundle /b --pid-file /b/init.pid --console-socket /tmp/s --no-pivot --no-new-keyring c1",
    );
    assert_eq!(cli.global.root.as_deref(), Some(Path::new("/run/r")));
    assert_eq!(cli.global.log_format, LogFormat::Json);
    assert!(cli.global.systemd_cgroup);
    let Some(Command::Create(create)) = cli.command else { panic!("not a create") };
    assert_eq!((create.id.as_str(), create.bundle.as_path()), ("c1", Path::new("/b")));
    assert_eq!(create.flags.pid_file.as_deref(), Some(Path::new("/b/init.pid")));
    assert!(create.flags.no_pivot && create.flags.no_new_keyring);

    assert!(matches!(command("start c1"), Command::Start(start) if start.id == "c1"));
    assert!(matches!(command("state c1"), Command::State(state) if state.id == "c1"));
    assert!(matches!(command("delete --force c1"), Command::Delete(delete) if delete.force));
    assert!(matches!(command("pause c1"), Command::Pause(_)));
    assert!(matches!(command("resume c1"), Command::Resume(_)));
    assert!(matches!(command("list --format json"), Command::List(_)));
    assert!(matches!(command("ps --format json c1"), Command::Ps(ps) if ps.id.is_some()));
    assert!(matches!(command("update --resources - c1"), Command::Update(_)));
    assert!(matches!(command("spec --bundle /b"), Command::Spec(_)));

    let Command::Check(check) = command("check --json --program /bin/a --program /bin/b image")
    else {
        panic!("not a check")
    };
    assert!(check.json && check.programs.len() == 2 && check.subject == Path::new("image"));

    let Command::Kill(kill) = command("kill --all c1 9") else { panic!("not a kill") };
    assert!(kill.all && kill.signal == "9");
    let Command::Kill(kill) = command("kill c1") else { panic!("not a kill") };
    assert_eq!(kill.signal, "SIGTERM");

    let line = "exec --process /p.json --console-socket /s --detach --pid-file /f c1";
    let Command::Exec(exec) = command(line) else { panic!("not an exec") };
    assert!(exec.detach && exec.target == ["c1"]);

    let Command::Run(run) = command("run --bundle /b -d --keep --no-subreaper c1") else {
        panic!("not a run")
    };
    assert!(run.detach && run.keep && run.bundle.is_some() && run.target == ["c1"]);
}

#[test]
fn flags_after_the_first_argument_belong_to_the_command() {
    let Command::Exec(exec) = command("exec -t c1 ls -d --color /") else { panic!("not an exec") };
    assert!(exec.tty && !exec.detach);
    assert_eq!(exec.target, ["c1", "ls", "-d", "--color", "/"]);
    let Command::Run(run) = command("run -m 1g img sh -c -- -e --version") else {
        panic!("not a run")
    };
    assert_eq!(run.target, ["img", "sh", "-c", "--", "-e", "--version"]);
    assert!(run.embedded.env.is_empty());
}

#[test]
fn embedded_flags_in_dockers_short_forms() {
    let line = "run -it -m 64m -e A=1 -e B -w /srv -u 5 --timeout 3 --json=/r img sh";
    let Command::Run(run) = command(line) else { panic!("not a run") };
    let flags = &run.embedded;
    assert!(flags.interactive && flags.tty);
    assert_eq!(flags.env, ["A=1", "B"]);
    assert_eq!((run.timeout, run.json.as_deref()), (Some(3), Some(Path::new("/r"))));
    let Command::Run(run) = command("run --json img") else { panic!("not a run") };
    assert_eq!(run.json.as_deref(), Some(Path::new("-")));
}

#[test]
fn wrong_command_lines_are_refused() {
    for line in [
        "run",
        "run --detach --timeout 3 img",
        "run --timeout 0 img",
        "create",
        "create a b",
        "kill",
        "delete",
        "exec",
        "list extra",
        "--log-format xml list",
        "start --force c1",
        "completion tcsh",
        "image",
        "image rm",
    ] {
        let words = ["trine"].into_iter().chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}
