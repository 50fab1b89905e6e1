// SPDX-License-Identifier: Apache-2.0
//! The program as containerd runs it: start, connect, shut down, delete; no VM is needed.

#[path = "support/containerd.rs"]
mod containerd;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use containerd::{
    Containerd, NAMESPACE, PROGRAM, connect, deadline, eventually, is_alive, shim_pid, shut_down,
    task_client,
};
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest,
        ResizePtyRequest, ResumeRequest, StartRequest, StateRequest, StatsRequest,
        UpdateTaskRequest, WaitRequest,
    },
    bootstrap_api::{BootstrapParams, BootstrapResult},
    protobuf::Message,
    ttrpc::{Code, Request},
    types::introspection::RuntimeInfo,
};

const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (Code, String) {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        other => panic!("expected a status, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_connect_shutdown_leaves_nothing() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let began = Instant::now();
    let address = containerd.start("c1", &bundle);
    println!("start took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), address);

    let client = task_client(&address).await;
    let pid = shim_pid(&client).await;
    assert!(is_alive(pid));
    shut_down(&client).await;
    assert_eq!(containerd.sockets(), Vec::<std::path::PathBuf>::new(), "gone before the answer");
    eventually("the server ends", || !is_alive(pid)).await;
    assert_eq!(containerd.topics(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_names_of_the_api_are_served() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let mut pids = BTreeSet::new();
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let request = Request {
            service: service.to_owned(),
            method: "Connect".to_owned(),
            payload: ConnectRequest::default().write_to_bytes().unwrap(),
            ..Request::default()
        };
        let response = connect(&address).await.unwrap().request(request).await.unwrap();
        let response = ConnectResponse::parse_from_bytes(&response.payload).unwrap();
        assert_eq!(response.task_pid, 0);
        pids.insert(response.shim_pid);
    }
    assert_eq!(pids.len(), 1);
    shut_down(&task_client(&address).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_protocol_is_answered_in_kind() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let socket_dir = containerd.path().join("other");
    let params = BootstrapParams {
        instance_id: "c1".to_owned(),
        namespace: NAMESPACE.to_owned(),
        socket_dir: Some(socket_dir.to_str().unwrap().to_owned()),
        ..BootstrapParams::default()
    };
    let output = containerd.run("start", "c1", &bundle, &params.write_to_bytes().unwrap());
    assert_eq!(output.stderr, b"");
    let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((result.version, &*result.protocol), (3, "ttrpc"));
    assert!(result.address.starts_with(&format!("unix://{}/", socket_dir.display())));
    shut_down(&task_client(&result.address).await).await;
    assert_eq!(fs::read_dir(&socket_dir).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_of_one_pod_at_once_share_one_server() {
    let containerd = Containerd::new().await;
    let bundles: Vec<_> = (0..20)
        .map(|number| {
            let id = format!("c{number}");
            let bundle = containerd.bundle(&id, &[(SANDBOX_ID, "pod")]);
            (id, bundle)
        })
        .collect();
    let addresses: BTreeSet<_> = thread::scope(|scope| {
        let starts: Vec<_> = bundles
            .iter()
            .map(|(id, bundle)| scope.spawn(|| containerd.start(id, bundle)))
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(addresses.len(), 1);
    let address = addresses.first().unwrap();
    for (_, bundle) in &bundles {
        assert_eq!(&fs::read_to_string(bundle.join("address")).unwrap(), address);
    }
    let records =
        bundles.iter().filter(|(_, bundle)| bundle.join("trine-shim.json").exists()).count();
    assert_eq!(records, 1, "one of them started the server");
    assert_eq!(containerd.sockets().len(), 1, "no lock is left");

    let client = task_client(address).await;
    let pid = shim_pid(&client).await;
    shut_down(&client).await;
    eventually("the server ends", || !is_alive(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_address_can_connect_at_once() {
    let containerd = Containerd::new().await;
    for round in 0..20 {
        let id = format!("c{round}");
        let bundle = containerd.bundle(&id, &[]);
        let address = containerd.start(&id, &bundle);
        for _ in 0..50 {
            connect(&address).await.unwrap();
        }
        shut_down(&task_client(&address).await).await;
        assert!(connect(&address).await.is_err(), "nothing to connect to after Shutdown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn same_id_starts_anew_after_shutdown() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let mut pids = BTreeSet::new();
    for _ in 0..5 {
        let address = containerd.start("c1", &bundle);
        let client = task_client(&address).await;
        assert!(pids.insert(shim_pid(&client).await), "a server of its own each time");
        shut_down(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_start_says_why_in_one_line_and_leaves_nothing() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let config = containerd.path().join("config.toml");
    let before = fs::read_to_string(&config).unwrap();

    fs::write(&config, "[vm]\ndefault_vcpus = 0.5\n").unwrap();
    let output = containerd.run("start", "c1", &bundle, &containerd.options());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(stderr.contains("config.toml line 2: invalid type"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);

    fs::write(&config, before).unwrap();
    fs::write(bundle.join("config.json"), "{\"annotations\": 1}").unwrap();
    let output = containerd.run("start", "c1", &bundle, &containerd.options());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(stderr.contains("config.json: invalid type"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);

    assert!(containerd.sockets().is_empty());
    assert!(!bundle.join("address").exists() && !bundle.join("trine-shim.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_cleans_up_after_a_killed_server() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let pid = shim_pid(&task_client(&address).await).await;
    kill(pid, "KILL");
    eventually("the server is gone", || !is_alive(pid)).await;
    assert_eq!(containerd.sockets().len(), 1, "it could not remove its socket");

    // Twice at once, as containerd may.
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let output = containerd.run("delete", "c1", &bundle, b"");
                assert!(output.status.success());
                assert_eq!(output.stderr, b"");
                let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
                assert_eq!(response.exit_status, 137);
                assert!(response.exited_at.seconds > 0);
            });
        }
    });
    assert!(containerd.sockets().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_has_a_living_server_without_tasks_end() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let pid = shim_pid(&task_client(&address).await).await;
    let began = Instant::now();
    assert!(containerd.run("delete", "c1", &bundle, b"").status.success());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    eventually("the server is gone", || !is_alive(pid)).await;
    assert!(containerd.sockets().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_ends_a_server_that_hangs() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let pid = shim_pid(&task_client(&address).await).await;
    kill(pid, "STOP");
    let began = Instant::now();
    assert!(containerd.run("delete", "c1", &bundle, b"").status.success());
    assert!(began.elapsed() < Duration::from_secs(5));
    eventually("the server is gone", || !is_alive(pid)).await;
    assert!(containerd.sockets().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn start_replaces_a_server_that_was_killed() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let pid = shim_pid(&task_client(&address).await).await;
    kill(pid, "KILL");
    // Threads of a killed process may hold the socket after its first one is gone.
    let path = address.strip_prefix("unix://").unwrap();
    eventually("the server is gone", || UnixStream::connect(path).is_err()).await;
    assert_eq!(containerd.start("c1", &bundle), address);
    let client = task_client(&address).await;
    assert_ne!(shim_pid(&client).await, pid);
    shut_down(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_a_server_without_tasks() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    for signal in ["TERM", "INT"] {
        let address = containerd.start("c1", &bundle);
        let pid = shim_pid(&task_client(&address).await).await;
        kill(pid, "HUP");
        assert!(is_alive(pid));
        kill(pid, signal);
        eventually("the server ends", || !is_alive(pid)).await;
        assert!(containerd.sockets().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_gets_no_task_ends() {
    let containerd = Containerd::with_config("idle_exit_seconds = 1").await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let pid = shim_pid(&task_client(&address).await).await;
    eventually("the idle server ends", || !is_alive(pid)).await;
    assert!(containerd.sockets().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn server_is_detached_from_containerd() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let client = task_client(&address).await;
    let pid = shim_pid(&client).await;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let own = pid.to_string();
    assert_eq!((fields[2], fields[3]), (&*own, &*own), "process group and session");
    for stream in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{stream}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"));
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), bundle);
    shut_down(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids_are_not_found_by_every_call() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let client = task_client(&address).await;
    let ctx = deadline;
    let codes = [
        code(client.state(ctx(), &StateRequest::default()).await),
        code(client.start(ctx(), &StartRequest::default()).await),
        code(client.delete(ctx(), &DeleteRequest::default()).await),
        code(client.pids(ctx(), &PidsRequest::default()).await),
        code(client.pause(ctx(), &PauseRequest::default()).await),
        code(client.resume(ctx(), &ResumeRequest::default()).await),
        code(client.checkpoint(ctx(), &CheckpointTaskRequest::default()).await),
        code(client.kill(ctx(), &KillRequest::default()).await),
        code(client.resize_pty(ctx(), &ResizePtyRequest::default()).await),
        code(client.close_io(ctx(), &CloseIORequest::default()).await),
        code(client.update(ctx(), &UpdateTaskRequest::default()).await),
        code(client.wait(ctx(), &WaitRequest::default()).await),
        code(client.stats(ctx(), &StatsRequest::default()).await),
    ];
    for (code, message) in codes {
        assert_eq!(code, Code::NOT_FOUND, "{message}");
        assert!(message.contains("container \"\" not found"), "{message}");
    }
    let exec = ExecProcessRequest { exec_id: "e".to_owned(), ..ExecProcessRequest::default() };
    assert_eq!(code(client.exec(ctx(), &exec).await).0, Code::NOT_FOUND);
    shut_down(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn create_names_what_is_wrong_with_the_bundle() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let client = task_client(&address).await;
    let config = bundle.join("config.json");
    let good = fs::read_to_string(&config).unwrap();
    let request = |id: &str| CreateTaskRequest {
        id: id.to_owned(),
        bundle: bundle.to_str().unwrap().to_owned(),
        ..CreateTaskRequest::default()
    };
    let create = async |request: CreateTaskRequest| code(client.create(deadline(), &request).await);

    for (json, expected, text) in [
        ("{", Code::INVALID_ARGUMENT, "config.json: not valid JSON"),
        (r#"{"ociVersion": "3.0.0"}"#, Code::INVALID_ARGUMENT, "ociVersion \"3.0.0\""),
        (
            r#"{"ociVersion": "1.0.2", "process": {"user": {}, "cwd": "/"}}"#,
            Code::INVALID_ARGUMENT,
            "process.args is missing",
        ),
        (
            &good.replace(
                "\"namespaces\"",
                "\"resources\": {\"memory\": {\"limit\": 1}}, \"namespaces\"",
            ),
            Code::INVALID_ARGUMENT,
            "memory limit: 1 bytes is under the minimum",
        ),
        (
            &good
                .replace("\"linux\"", "\"hooks\": {\"poststop\": [{\"path\": \"/h\"}]}, \"linux\""),
            Code::UNIMPLEMENTED,
            "poststop hook /h",
        ),
        (
            &good.replace(
                "\"linux\"",
                "\"mounts\": [{\"destination\": \"/data\", \"type\": \"bind\", \
                 \"source\": \"/tmp\", \"options\": [\"rshared\"]}], \"linux\"",
            ),
            Code::UNIMPLEMENTED,
            "bind mount at /data with propagation \"rshared\"",
        ),
    ] {
        fs::write(&config, json).unwrap();
        let (code, message) = create(request("c1")).await;
        assert_eq!(code, expected, "{message}");
        assert!(message.contains(text) && !message.contains('\n'), "{message}");
    }
    fs::remove_file(&config).unwrap();
    let (found, message) = create(request("c1")).await;
    assert_eq!(found, Code::INVALID_ARGUMENT);
    assert!(message.contains("config.json"), "{message}");

    fs::write(&config, &good).unwrap();
    let (found, message) = create(request("../c1")).await;
    assert_eq!(found, Code::INVALID_ARGUMENT, "{message}");
    let checkpoint = CreateTaskRequest { checkpoint: "/c".to_owned(), ..request("c1") };
    assert_eq!(create(checkpoint).await.0, Code::UNIMPLEMENTED);
    let logger = CreateTaskRequest { stdout: "binary:///l".to_owned(), ..request("c1") };
    assert_eq!(create(logger).await.0, Code::UNIMPLEMENTED);

    assert!(!bundle.join("trine-task.json").exists(), "nothing is left of it");
    assert_eq!(containerd.topics(), Vec::<String>::new(), "and nobody was told");
    let pid = shim_pid(&client).await;
    shut_down(&client).await;
    eventually("the server ends although Create never succeeded", || !is_alive(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_nobody_reads_stops_no_call() {
    let containerd = Containerd::new().await;
    let bundle = containerd.bundle("c1", &[]);
    let address = containerd.start("c1", &bundle);
    let client = task_client(&address).await;
    // Each failure logs its id twice: more than ten times what the FIFO holds.
    let request = StartRequest { id: "x".repeat(3000), ..StartRequest::default() };
    for _ in 0..200 {
        assert_eq!(code(client.start(deadline(), &request).await).0, Code::NOT_FOUND);
    }
    shut_down(&client).await;
}

#[test]
fn version_and_info_need_nothing() {
    let output = Command::new(PROGRAM).arg("-v").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains(env!("CARGO_PKG_VERSION")));

    let output = Command::new(PROGRAM).arg("-info").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(info.name, "io.containerd.trine.v1");
}

#[test]
fn wrong_use_is_told_in_one_line() {
    for (args, expected) in [
        (&["start"][..], "invalid namespace \"\""),
        (&["-namespace", "n", "start"], "invalid id \"\""),
        (&["-namespace", "n", "-id", "../x", "start"], "invalid id \"../x\""),
        (&["-nope", "1", "start"], "unknown flag -nope"),
        (&["stop"], "unknown action \"stop\""),
        (&[], "no action"),
        (&["-serve"], "standard input is not a listening socket"),
    ] {
        let output = Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

fn kill(pid: u32, signal: &str) {
    assert!(
        Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid.to_string())
            .status()
            .unwrap()
            .success()
    );
}
