// SPDX-License-Identifier: Apache-2.0
//! The rules of the states, against a guest that lies.

use super::*;
use crate::Stream;

fn process(name: &str) -> Process {
    Process { args: vec![name.as_bytes().to_vec()], ..Process::default() }
}

fn stdio() -> Stdio {
    Stdio { stdin: Stream::Null, stdout: Stream::Null, stderr: Stream::Null }
}

fn running() -> State {
    let mut state = State::new("c".into(), &process("init"), [NO_HANDLE; 3]);
    state.loaded(INIT_KEY, 1);
    state.phase = Phase::Running;
    state.record_mut("").expect("init").life = Life::Running;
    state
}

fn run_exec(state: &mut State, id: &str) -> u32 {
    state.add_exec(id, process("sh"), stdio()).expect("exec");
    let record = state.record_mut(id).expect("exec");
    record.life = Life::Running;
    record.key
}

#[test]
fn exit_code_of_wait_statuses() {
    for (status, code) in [(0, 0), (7 << 8, 7), (9, 137), (15 | 0x80, 143), (u32::MAX, 255)] {
        assert_eq!(exit_code(status), code, "{status:#x}");
    }
    assert_eq!((load_code(2), load_code(13), load_code(8)), (127, 126, 126));
}

#[test]
fn execs_end_before_the_first_process_and_each_ends_once() {
    let mut state = running();
    let one = run_exec(&mut state, "one");
    let two = run_exec(&mut state, "two");
    state.add_exec("never", process("x"), stdio()).expect("exec");
    let (id, status) = state.exec_exited(one, 7 << 8).expect("first exit");
    assert_eq!((id.as_str(), status.code), ("one", 7));
    assert_eq!(state.exec_exited(one, 0), None, "twice");
    assert_eq!(state.exec_exited(99, 0), None, "nobody");
    assert_eq!(state.exec_exited(INIT_KEY, 0), None, "not an exec");

    let exits = state.end_execs();
    assert_eq!(exits.len(), 1);
    assert_eq!((exits[0].0.as_str(), exits[0].1.code), ("two", KILLED));
    assert!(state.record("never").expect("exec").is_announced, "its waiters are woken");
    assert_eq!(state.exec_exited(two, 0), None, "after its end");

    assert_eq!(state.init_exited(3).expect("exit").1.code, 3);
    assert_eq!(state.init_exited(4), None);
    assert_eq!(state.container(), ContainerState::Stopped);
    let refused = state.add_exec("late", process("x"), stdio());
    assert!(matches!(refused, Err(Error::WrongState { state: "stopped", .. })));
}

#[test]
fn exit_before_a_start_is_not_believed() {
    let mut state = running();
    state.add_exec("e", process("x"), stdio()).expect("exec");
    let key = state.record("e").expect("exec").key;
    assert_eq!(state.exec_exited(key, 0), None);
    let again = state.add_exec("e", process("x"), stdio());
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
}

#[test]
fn only_the_first_word_on_loading_counts() {
    let mut state = State::new("c".into(), &process("init"), [NO_HANDLE; 3]);
    state.load_failed(INIT_KEY, 2, b"no such\nfile");
    state.loaded(INIT_KEY, 1);
    assert_eq!(state.phase, Phase::Booting);
    let Load::Failed { errno, reason } = state.record("").expect("init").load.clone() else {
        panic!("it failed");
    };
    assert_eq!((errno, reason.as_str()), (2, "no such?file"));
    let error = state.record("").expect("init").load_error(errno, &reason);
    assert_eq!(error.to_string(), "cannot run \"init\": no such?file");
}

#[test]
fn kill_is_refused_for_what_has_ended_or_never_ran() {
    let mut state = running();
    run_exec(&mut state, "e");
    state.add_exec("never", process("x"), stdio()).expect("exec");
    assert_eq!(state.check_kill("").expect("init"), INIT_KEY);
    assert!(state.check_kill("e").is_ok());
    assert!(matches!(state.check_kill("never"), Err(Error::WrongState { .. })));
    assert!(matches!(state.check_kill("nobody"), Err(Error::NotFound { .. })));
    state.end_execs();
    state.init_exited(0);
    assert!(matches!(state.check_kill(""), Err(Error::NotFound { .. })));
    assert!(matches!(state.check_kill("e"), Err(Error::NotFound { .. })));
}

#[test]
fn exec_is_deleted_when_it_never_ran_or_its_exit_was_told() {
    let mut state = running();
    let key = run_exec(&mut state, "e");
    assert!(state.check_delete_exec("e").is_err(), "running");
    state.exec_exited(key, 0);
    assert!(state.check_delete_exec("e").is_err(), "not told yet");
    state.announced("e");
    assert!(state.check_delete_exec("e").is_ok());
    state.add_exec("never", process("x"), stdio()).expect("exec");
    assert!(state.check_delete_exec("never").is_ok());
}

#[test]
fn out_of_memory_marks_the_process_it_killed_and_the_first_if_it_died_of_it() {
    let mut state = running();
    let key = run_exec(&mut state, "e");
    state.record_mut("e").expect("exec").guest_pid = Some(42);
    state.ran_out_of_memory(42);
    assert!(state.exec_exited(key, 9).expect("exit").1.out_of_memory);
    assert!(state.init_exited(KILLED).expect("exit").1.out_of_memory);

    let mut state = running();
    state.ran_out_of_memory(77);
    assert!(!state.init_exited(0).expect("exit").1.out_of_memory, "it ended well");
}
