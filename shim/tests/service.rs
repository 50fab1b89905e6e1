// SPDX-License-Identifier: Apache-2.0
//! The task API over ttrpc, on guests without VMs: codes, order of events, cancelled calls.

#[path = "support/fake.rs"]
mod fake;
#[path = "support/order.rs"]
mod order;
#[path = "support/rig.rs"]
mod rig;

use std::{fs, sync::Arc, time::Duration};

use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, CreateTaskRequest, KillRequest,
        PidsRequest, ResizePtyRequest, ShutdownRequest, StatsRequest, Status, UpdateTaskRequest,
        WaitRequest,
    },
    cgroups::metrics::Metrics,
    protobuf::{Message, MessageField, well_known_types::any::Any},
    ttrpc::{Code, context},
};
use fake::Behaviour;
use proptest::{prelude::*, test_runner::TestRunner};
use rig::{Rig, code, ctx};
use tokio::{task::JoinSet, time};
use trine_shim::delete;

#[tokio::test(flavor = "multi_thread")]
async fn life_of_a_container_and_an_exec() {
    let rig = Rig::new(Behaviour::default()).await;
    let pid = rig.create("c").await;
    assert_eq!(rig.status("c", "").await, Status::CREATED);
    assert_eq!(rig.start("c", "").await.unwrap(), pid);
    assert_eq!(rig.status("c", "").await, Status::RUNNING);

    rig.exec("c", "e", "/bin/app").await.unwrap();
    assert_eq!(rig.status("c", "e").await, Status::CREATED);
    assert_eq!(rig.start("c", "e").await.unwrap(), pid);
    let request = PidsRequest { id: "c".to_owned(), ..PidsRequest::default() };
    assert_eq!(rig.client.pids(ctx(), &request).await.unwrap().processes.len(), 2);
    rig.host.guest("c").end("e", 3);
    assert_eq!(rig.wait("c", "e").await.unwrap().exit_status, 3);
    assert_eq!(rig.delete("c", "e").await.unwrap(), 3);

    rig.kill("c", "", 9).await.unwrap();
    let exit = rig.wait("c", "").await.unwrap();
    assert_eq!(exit.exit_status, 137);
    assert!(exit.exited_at.seconds > 0);
    assert_eq!(rig.status("c", "").await, Status::STOPPED);
    let request = ConnectRequest { id: "c".to_owned(), ..ConnectRequest::default() };
    assert_eq!(rig.client.connect(ctx(), &request).await.unwrap().task_pid, pid);
    assert_eq!(rig.delete("c", "").await.unwrap(), 137);
    assert_eq!(
        rig.topics().await,
        ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"]
    );
    rig.assert_order().await;
    assert_eq!(rig.host.live_pods(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_the_wrong_state_answer_as_containerd_expects() {
    let rig = Rig::new(Behaviour::default()).await;
    // Created.
    rig.create("c").await;
    assert_eq!(code(rig.create_as("c", "").await), Code::ALREADY_EXISTS);
    assert_eq!(code(rig.exec("c", "e", "/bin/app").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(rig.pause("c").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(rig.kill("c", "", 0).await), Code::INVALID_ARGUMENT);
    assert_eq!(code(rig.kill("c", "", 65).await), Code::INVALID_ARGUMENT);
    let request = CheckpointTaskRequest { id: "c".to_owned(), ..CheckpointTaskRequest::default() };
    assert_eq!(code(rig.client.checkpoint(ctx(), &request).await), Code::UNIMPLEMENTED);

    // Running.
    rig.start("c", "").await.unwrap();
    assert_eq!(code(rig.start("c", "").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(rig.delete("c", "").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(rig.resume("c").await), Code::FAILED_PRECONDITION);
    for exec_id in ["", "../e", "e/f"] {
        assert_eq!(code(rig.exec("c", exec_id, "/bin/app").await), Code::INVALID_ARGUMENT);
    }
    rig.exec("c", "e", "/bin/app").await.unwrap();
    assert_eq!(code(rig.exec("c", "e", "/bin/app").await), Code::ALREADY_EXISTS);
    assert_eq!(code(rig.kill("c", "e", 9).await), Code::FAILED_PRECONDITION);
    for call in [
        code(rig.start("c", "nope").await),
        code(rig.kill("c", "nope", 9).await),
        code(rig.wait("c", "nope").await),
        code(rig.delete("c", "nope").await),
    ] {
        assert_eq!(call, Code::NOT_FOUND);
    }
    rig.start("c", "e").await.unwrap();
    assert_eq!(code(rig.delete("c", "e").await), Code::FAILED_PRECONDITION);
    rig.host.guest("c").end("e", 0);
    rig.wait("c", "e").await.unwrap();
    assert_eq!(code(rig.kill("c", "e", 9).await), Code::NOT_FOUND);
    assert_eq!(code(rig.start("c", "e").await), Code::FAILED_PRECONDITION);

    // Paused.
    rig.pause("c").await.unwrap();
    assert_eq!(rig.status("c", "").await, Status::PAUSED);
    assert_eq!(code(rig.pause("c").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(rig.exec("c", "f", "/bin/app").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(rig.delete("c", "").await), Code::FAILED_PRECONDITION);
    rig.resume("c").await.unwrap();

    // Stopped.
    rig.host.guest("c").end("", 0);
    rig.wait("c", "").await.unwrap();
    assert_eq!(code(rig.kill("c", "", 9).await), Code::NOT_FOUND);
    assert_eq!(code(rig.exec("c", "g", "/bin/app").await), Code::FAILED_PRECONDITION);
    let request = CloseIORequest { id: "c".to_owned(), stdin: true, ..CloseIORequest::default() };
    rig.client.close_io(ctx(), &request).await.unwrap();
    let request = ResizePtyRequest { id: "c".to_owned(), ..ResizePtyRequest::default() };
    assert_eq!(code(rig.client.resize_pty(ctx(), &request).await), Code::FAILED_PRECONDITION);

    // Deleted.
    rig.delete("c", "").await.unwrap();
    assert_eq!(code(rig.delete("c", "").await), Code::NOT_FOUND);
    assert_eq!(code(rig.wait("c", "").await), Code::NOT_FOUND);
    rig.assert_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_end_at_once_keep_the_order() {
    let rig = Rig::new(Behaviour { exits_at_once: true, ..Behaviour::default() }).await;
    for number in 0..300 {
        let id = format!("c{number}");
        rig.create(&id).await;
        rig.start(&id, "").await.unwrap();
        assert_eq!(rig.wait(&id, "").await.unwrap().exit_status, 0);
        rig.delete(&id, "").await.unwrap();
    }
    rig.assert_order().await;
    assert_eq!(rig.steps().await.len(), 300 * 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_all_told_and_none_is_left() {
    let rig = Arc::new(Rig::new(Behaviour::default()).await);
    rig.running("c").await;
    rig.exec("c", "started", "/bin/app").await.unwrap();
    rig.start("c", "started").await.unwrap();
    rig.exec("c", "never", "/bin/app").await.unwrap();
    rig.exec("c", "deleted", "/bin/app").await.unwrap();
    let mut waits = JoinSet::new();
    for process in ["", "started", "never", "deleted"] {
        for _ in 0..20 {
            let rig = Arc::clone(&rig);
            waits.spawn(async move {
                rig.wait("c", process).await.map(|exit| (process, exit.exit_status))
            });
        }
    }
    time::sleep(Duration::from_millis(100)).await;
    rig.delete("c", "deleted").await.unwrap();
    rig.host.guest("c").end("", 9);
    let mut told = Vec::new();
    while let Some(wait) = time::timeout(Duration::from_secs(5), waits.join_next()).await.unwrap() {
        told.push(wait.unwrap().unwrap());
    }
    assert_eq!(told.len(), 80);
    let count = |process, status| told.iter().filter(|told| **told == (process, status)).count();
    assert_eq!((count("", 9), count("started", 137), count("never", 9)), (20, 20, 20));
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 9, "and later, at once");
    rig.assert_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_of_a_missing_program_fails_in_words_that_tools_know() {
    let behaviour = Behaviour { missing_program: b"nope".to_vec(), ..Behaviour::default() };
    let rig = Rig::new(behaviour).await;
    rig.running("c").await;
    rig.exec("c", "e", "nope").await.unwrap();
    let Err(ttrpc::Error::RpcStatus(status)) = rig.start("c", "e").await else { panic!() };
    assert_eq!(status.code(), Code::INVALID_ARGUMENT);
    assert!(status.message.contains("executable file not found in $PATH"), "{}", status.message);
    assert_eq!(rig.wait("c", "e").await.unwrap().exit_status, 127);
    assert_eq!(rig.status("c", "e").await, Status::STOPPED);
    assert_eq!(rig.delete("c", "e").await.unwrap(), 127);
    assert_eq!(rig.topics().await, ["create", "start", "exec-added"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn container_that_was_never_started_is_deleted_quietly() {
    let rig = Rig::new(Behaviour::default()).await;
    rig.create("c").await;
    assert_eq!(rig.delete("c", "").await.unwrap(), 137);
    rig.create("d").await;
    rig.kill("d", "", 9).await.unwrap();
    assert_eq!(rig.wait("d", "").await.unwrap().exit_status, 137);
    rig.delete("d", "").await.unwrap();
    assert_eq!(rig.topics().await, ["create", "delete", "create", "exit", "delete"]);
    rig.assert_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_is_reported_before_the_exit() {
    let rig = Rig::new(Behaviour::default()).await;
    rig.running("c").await;
    rig.host.guest("c").run_out_of_memory();
    assert_eq!(rig.wait("c", "").await.unwrap().exit_status, 137);
    assert_eq!(rig.topics().await, ["create", "start", "oom", "exit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_calls_run_to_their_end() {
    let behaviour = Behaviour { delay: Duration::from_millis(30), ..Behaviour::default() };
    for deadline_ms in [1, 10, 29, 31, 45, 60, 70, 100] {
        let rig = Rig::new(behaviour.clone()).await;
        let short = || context::with_duration(Duration::from_millis(deadline_ms));
        let request = CreateTaskRequest {
            id: "c".to_owned(),
            bundle: rig.bundle("c", "").to_str().unwrap().to_owned(),
            ..CreateTaskRequest::default()
        };
        // Whether containerd hears of it or not, it happens.
        let _ = rig.client.create(short(), &request).await;
        let request = KillRequest { id: "c".to_owned(), signal: 9, ..KillRequest::default() };
        let _ = rig.client.kill(short(), &request).await;
        let _ = rig.delete_within(short(), "c", "").await;

        // What containerd does then: again, with patience.
        let deleted = rig.delete("c", "").await;
        assert!(deleted.is_ok() || code(deleted) == Code::NOT_FOUND);
        assert!(rig.registry.is_empty(), "with a deadline of {deadline_ms} ms");
        assert_eq!(rig.host.live_pods(), 0);
        rig.assert_order().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_nothing_while_there_are_tasks() {
    let rig = Rig::new(Behaviour::default()).await;
    rig.running("c").await;
    rig.client.shutdown(ctx(), &ShutdownRequest::default()).await.unwrap();
    assert!(time::timeout(Duration::from_millis(100), rig.closer.closed()).await.is_err());
    rig.kill("c", "", 9).await.unwrap();
    rig.delete("c", "").await.unwrap();
    rig.client.shutdown(ctx(), &ShutdownRequest::default()).await.unwrap();
    time::timeout(Duration::from_secs(1), rig.closer.closed()).await.unwrap();
    assert!(!rig.dir.path().join("socket").exists());
    assert_eq!(code(rig.create_as("d", "").await), Code::UNAVAILABLE);
}

const SANDBOX: &str = r#""io.kubernetes.cri.container-type": "sandbox",
    "io.kubernetes.cri.sandbox-id": "pod""#;
const MEMBER: &str = r#""io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-id": "pod""#;

#[tokio::test(flavor = "multi_thread")]
async fn sandbox_runs_until_it_is_killed() {
    for (signal, expected) in [(9, 137), (15, 0), (2, 0)] {
        let rig = Rig::new(Behaviour::default()).await;
        let pid = rig.create_as("pod", SANDBOX).await.unwrap();
        assert_eq!(rig.start("pod", "").await.unwrap(), pid);
        rig.kill("pod", "", 1).await.unwrap();
        assert_eq!(rig.status("pod", "").await, Status::RUNNING);
        assert_eq!(code(rig.exec("pod", "e", "/bin/sh").await), Code::UNIMPLEMENTED);
        assert_eq!(code(rig.delete("pod", "").await), Code::FAILED_PRECONDITION);
        rig.kill("pod", "", signal).await.unwrap();
        assert_eq!(rig.wait("pod", "").await.unwrap().exit_status, expected);
        rig.delete("pod", "").await.unwrap();
        assert_eq!(rig.host.live_pods(), 0);
        assert_eq!(rig.topics().await, ["create", "start", "exit", "delete"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_lives_as_long_as_its_last_member_in_any_order() {
    for sandbox_first in [true, false] {
        let rig = Rig::new(Behaviour::default()).await;
        rig.create_as("pod", SANDBOX).await.unwrap();
        rig.start("pod", "").await.unwrap();
        rig.create_as("c", MEMBER).await.unwrap();
        rig.start("c", "").await.unwrap();
        assert_eq!(rig.host.live_pods(), 1);
        for id in ["pod", "c"] {
            rig.kill(id, "", 9).await.unwrap();
            rig.wait(id, "").await.unwrap();
        }
        let mut ids = ["c", "pod"];
        if sandbox_first {
            ids.reverse();
        }
        rig.delete(ids[0], "").await.unwrap();
        assert_eq!(rig.host.live_pods(), 1);
        rig.delete(ids[1], "").await.unwrap();
        assert_eq!(rig.host.live_pods(), 0);
        rig.assert_order().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_has_a_living_server_let_go_of_one_container() {
    let rig = Rig::new(Behaviour::default()).await;
    let address = format!("unix://{}", rig.dir.path().join("socket").display());
    let mut bundles = Vec::new();
    for (id, annotations) in [("pod", SANDBOX), ("c", MEMBER), ("d", MEMBER)] {
        rig.create_as(id, annotations).await.unwrap();
        rig.start(id, "").await.unwrap();
        let bundle = rig.bundle(id, annotations);
        fs::write(bundle.join("address"), &address).unwrap();
        bundles.push(bundle);
    }
    let delete = async |id: &'static str, number: usize| {
        let bundle = bundles[number].clone();
        let deleted = tokio::task::spawn_blocking(move || delete::clean_up(id, &bundle));
        deleted.await.unwrap().unwrap().exit_status
    };

    assert_eq!(delete("c", 1).await, 137);
    assert_eq!(code(rig.delete("c", "").await), Code::NOT_FOUND);
    assert_eq!(rig.status("d", "").await, Status::RUNNING);
    rig.host.guest("d").end("", 5);
    rig.wait("d", "").await.unwrap();

    assert_eq!(delete("pod", 0).await, 137);
    assert_eq!(rig.status("d", "").await, Status::STOPPED, "the sandbox went, the server did not");
    assert_eq!(delete("d", 2).await, 5);
    time::timeout(Duration::from_secs(1), rig.closer.closed()).await.unwrap();
    assert_eq!(delete("d", 2).await, 5, "again, with the server gone");
    rig.assert_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn member_without_its_pod_is_refused() {
    let rig = Rig::new(Behaviour::default()).await;
    assert_eq!(code(rig.create_as("c", MEMBER).await), Code::FAILED_PRECONDITION);
    assert!(rig.registry.is_empty());
    assert_eq!(rig.host.live_pods(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn death_of_the_io_process_ends_containers_then_the_sandbox() {
    let rig = Rig::new(Behaviour::default()).await;
    rig.create_as("pod", SANDBOX).await.unwrap();
    rig.start("pod", "").await.unwrap();
    for id in ["c", "d"] {
        rig.create_as(id, MEMBER).await.unwrap();
        rig.start(id, "").await.unwrap();
    }
    let pod = rig.host.pods.lock().unwrap()[0].clone();
    pod.die();
    for id in ["pod", "c", "d"] {
        assert_eq!(rig.wait(id, "").await.unwrap().exit_status, 137);
        rig.delete(id, "").await.unwrap();
    }
    let steps = rig.steps().await;
    let exits: Vec<_> = steps.iter().filter(|step| step.topic == "/tasks/exit").collect();
    assert_eq!(exits.len(), 3);
    assert_eq!(exits[2].container, "pod");
    rig.assert_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_come_from_the_cgroup_and_updates_go_there() {
    let cgroup = tempfile::tempdir().unwrap();
    fs::write(cgroup.path().join("memory.usage_in_bytes"), "4096\n").unwrap();
    fs::write(cgroup.path().join("memory.limit_in_bytes"), "8192\n").unwrap();
    let cgroup_path = Some(cgroup.path().to_owned());
    let rig = Rig::new(Behaviour { cgroup: cgroup_path, ..Behaviour::default() }).await;
    rig.running("c").await;
    let request = StatsRequest { id: "c".to_owned(), ..StatsRequest::default() };
    let stats = rig.client.stats(ctx(), &request).await.unwrap().stats;
    assert_eq!(stats.type_url, "io.containerd.cgroups.v1.Metrics");
    let metrics = Metrics::parse_from_bytes(&stats.value).unwrap();
    assert_eq!((metrics.memory.usage.usage, metrics.memory.usage.limit), (4096, 8192));

    let update = async |json: &str| {
        let resources = Any { value: json.as_bytes().to_vec(), ..Any::default() };
        let request = UpdateTaskRequest {
            id: "c".to_owned(),
            resources: MessageField::some(resources),
            ..UpdateTaskRequest::default()
        };
        rig.client.update(ctx(), &request).await
    };
    update(r#"{"cpu": {"shares": 5}}"#).await.unwrap();
    update(r#"{"memory": {"limit": 67108864}}"#).await.unwrap();
    assert_eq!(code(update(r#"{"memory": {"limit": 134217728}}"#).await), Code::UNIMPLEMENTED);
    assert_eq!(code(update("{").await), Code::INVALID_ARGUMENT);
}

/// What a client may do, with one of two containers and two execs each.
#[derive(Clone, Copy, Debug)]
enum Call {
    Create(u8),
    Start(u8, u8),
    Exec(u8, u8),
    Kill(u8, u8),
    End(u8, u8),
    Wait(u8, u8),
    Delete(u8, u8),
    Pause(u8),
    Resume(u8),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let (id, exec) = (0u8..2, 0u8..3);
    let call = prop_oneof![
        2 => id.clone().prop_map(Call::Create),
        4 => (id.clone(), exec.clone()).prop_map(|(id, exec)| Call::Start(id, exec)),
        3 => (id.clone(), 1u8..3).prop_map(|(id, exec)| Call::Exec(id, exec)),
        1 => (id.clone(), exec.clone()).prop_map(|(id, exec)| Call::Kill(id, exec)),
        2 => (id.clone(), exec.clone()).prop_map(|(id, exec)| Call::End(id, exec)),
        1 => (id.clone(), exec.clone()).prop_map(|(id, exec)| Call::Wait(id, exec)),
        2 => (id.clone(), exec).prop_map(|(id, exec)| Call::Delete(id, exec)),
        1 => id.clone().prop_map(Call::Pause),
        1 => id.prop_map(Call::Resume),
    ];
    prop::collection::vec(call, 1..40)
}

async fn perform(rig: Arc<Rig>, call: Call) {
    let name = |number: u8| format!("c{number}");
    let exec = |number: u8| if number == 0 { String::new() } else { format!("e{number}") };
    let result = match call {
        Call::Create(id) => rig.create_as(&name(id), "").await.map(drop),
        Call::Start(id, number) => rig.start(&name(id), &exec(number)).await.map(drop),
        Call::Exec(id, number) => rig.exec(&name(id), &exec(number), "/bin/app").await,
        Call::Kill(id, number) => rig.kill(&name(id), &exec(number), 9).await,
        Call::End(id, number) => {
            let pods = rig.host.pods.lock().unwrap().clone();
            for pod in pods {
                let guest = pod.guests.lock().unwrap().get(&name(id)).cloned();
                if let Some(guest) = guest {
                    let process = exec(number);
                    tokio::task::spawn_blocking(move || guest.end(&process, 1)).await.unwrap();
                }
            }
            Ok(())
        }
        Call::Wait(id, number) => {
            let short = context::with_duration(Duration::from_millis(5));
            let request =
                WaitRequest { id: name(id), exec_id: exec(number), ..WaitRequest::default() };
            rig.client.wait(short, &request).await.map(drop)
        }
        Call::Delete(id, number) => rig.delete(&name(id), &exec(number)).await.map(drop),
        Call::Pause(id) => rig.pause(&name(id)).await,
        Call::Resume(id) => rig.resume(&name(id)).await,
    };
    // Refusals are expected; a bug would be a code that no state explains.
    if let Err(ttrpc::Error::RpcStatus(status)) = result {
        let expected = [
            Code::NOT_FOUND,
            Code::ALREADY_EXISTS,
            Code::FAILED_PRECONDITION,
            Code::DEADLINE_EXCEEDED,
        ];
        assert!(expected.contains(&status.code()), "{call:?}: {status:?}");
    }
}

/// Does what containerd does when it gives a container up.
async fn remove(rig: &Rig, id: &str) {
    for _ in 0..100 {
        let _ = rig.kill(id, "", 9).await;
        match rig.delete(id, "").await {
            Ok(_) => return,
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::NOT_FOUND => return,
            Err(_) => time::sleep(Duration::from_millis(5)).await,
        }
    }
    panic!("{id} cannot be removed");
}

#[test]
fn any_calls_at_once_keep_the_order_and_leave_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config =
        ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&calls(), |calls| {
            let steps = runtime.block_on(async {
                let delay = Duration::from_micros(300);
                let rig = Arc::new(Rig::new(Behaviour { delay, ..Behaviour::default() }).await);
                for id in ["c0", "c1"] {
                    rig.running(id).await;
                }
                let mut running = JoinSet::new();
                for call in calls {
                    running.spawn(perform(Arc::clone(&rig), call));
                    tokio::task::yield_now().await;
                }
                while let Some(done) = running.join_next().await {
                    done.unwrap();
                }
                for id in ["c0", "c1"] {
                    remove(&rig, id).await;
                }
                assert!(rig.registry.is_empty());
                assert_eq!(rig.host.live_pods(), 0);
                rig.steps().await
            });
            prop_assert_eq!(order::check(&steps), Ok(()), "{:#?}", steps);
            Ok(())
        })
        .unwrap();
}
