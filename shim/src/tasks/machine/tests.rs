// SPDX-License-Identifier: Apache-2.0
//! The machine against the order that containerd relies on, and against random histories.

#[path = "../../../tests/support/order.rs"]
mod order;

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;

fn machine() -> Machine {
    Machine::new("c", "/b", Vec::new(), StdioPaths::default(), 42)
}

fn exit(status: u32) -> Exit {
    Exit { status, at: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(status)) }
}

fn step(event: &Event) -> order::Step {
    let exec = match event {
        Event::ExecAdded { exec_id, .. }
        | Event::ExecStarted { exec_id, .. }
        | Event::Exit { exec_id, .. } => exec_id.clone(),
        _ => String::new(),
    };
    order::Step { topic: event.topic().to_owned(), container: "c".to_owned(), exec }
}

fn topics(machine: &mut Machine) -> Vec<String> {
    let outcomes = machine.take_outcomes();
    let steps = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Event(event) => Some(step(event)),
        Outcome::Ended(..) | Outcome::Gone(_) => None,
    });
    steps.map(|step| format!("{} {}", step.topic, step.exec).trim().to_owned()).collect()
}

fn running() -> Machine {
    let mut machine = machine();
    machine.begin_start("").unwrap();
    machine.started("");
    machine.take_outcomes();
    machine
}

fn running_with_exec() -> Machine {
    let mut machine = running();
    machine.begin_exec("e", StdioPaths::default()).unwrap();
    machine.exec_added("e").unwrap();
    machine.begin_start("e").unwrap();
    machine.started("e");
    machine.take_outcomes();
    machine
}

#[test]
fn exit_before_the_start_is_reported_comes_after_it() {
    let mut machine = machine();
    machine.begin_start("").unwrap();
    machine.exited("", exit(3), false);
    assert_eq!(topics(&mut machine), ["/tasks/create"]);
    machine.started("");
    assert_eq!(topics(&mut machine), ["/tasks/start", "/tasks/exit"]);
    assert_eq!(machine.view("").unwrap().phase, Phase::Stopped(exit(3)));
}

#[test]
fn exit_waits_for_the_exits_of_execs() {
    let mut machine = running_with_exec();
    machine.exited("", exit(0), false);
    assert!(machine.holds_exit());
    assert_eq!(topics(&mut machine), Vec::<String>::new());
    assert!(machine.begin_exec("f", StdioPaths::default()).is_err(), "no new exec in it");
    assert!(matches!(machine.check_kill(""), Err(Refusal::NotFound { .. })));

    machine.exited("e", exit(1), false);
    assert_eq!(topics(&mut machine), ["/tasks/exit e", "/tasks/exit"]);
}

#[test]
fn exit_is_not_held_for_ever() {
    let mut machine = running_with_exec();
    machine.exited("", exit(0), false);
    machine.give_up_execs(SystemTime::UNIX_EPOCH);
    assert_eq!(topics(&mut machine), ["/tasks/exit e", "/tasks/exit"]);
    let Phase::Stopped(end) = machine.view("e").unwrap().phase else { panic!("exec runs") };
    assert_eq!(end.status, KILLED);
    machine.exited("e", exit(9), false);
    assert_eq!(topics(&mut machine), Vec::<String>::new(), "the real exit came too late");
}

#[test]
fn exit_is_not_held_by_an_exec_that_is_gone() {
    let mut machine = running();
    machine.begin_exec("e", StdioPaths::default()).unwrap();
    machine.begin_start("e").unwrap();
    machine.exited("", exit(0), false);
    assert!(machine.holds_exit());
    machine.exec_refused("e");
    assert_eq!(topics(&mut machine), ["/tasks/exit"]);
}

#[test]
fn exec_that_cannot_start_ends_for_those_who_wait_and_for_nobody_else() {
    let mut machine = running();
    machine.begin_exec("e", StdioPaths::default()).unwrap();
    machine.exec_added("e").unwrap();
    machine.begin_start("e").unwrap();
    machine.take_outcomes();
    machine.start_failed("e", exit(127));
    assert_eq!(machine.take_outcomes(), [Outcome::Ended("e".to_owned(), exit(127))]);
    assert!(matches!(machine.begin_start("e"), Err(Refusal::State { .. })));
    assert_eq!(machine.check_delete("e"), Ok(Some(exit(127))));
}

#[test]
fn exec_that_was_never_started_does_not_keep_waiters() {
    let mut machine = running();
    machine.begin_exec("e", StdioPaths::default()).unwrap();
    machine.exec_added("e").unwrap();
    machine.take_outcomes();
    machine.exited("", exit(5), false);
    let outcomes = machine.take_outcomes();
    assert!(outcomes.contains(&Outcome::Ended("e".to_owned(), exit(5))), "{outcomes:?}");
    assert!(outcomes.contains(&Outcome::Ended(String::new(), exit(5))));
}

#[test]
fn out_of_memory_comes_before_the_exit() {
    let mut machine = running();
    machine.exited("", exit(KILLED), true);
    assert_eq!(topics(&mut machine), ["/tasks/oom", "/tasks/exit"]);
}

#[test]
fn kill_answers_as_containerd_expects() {
    let mut machine = running_with_exec();
    machine.begin_exec("new", StdioPaths::default()).unwrap();
    assert_eq!(machine.check_kill(""), Ok(()));
    assert_eq!(machine.check_kill("e"), Ok(()));
    assert!(matches!(machine.check_kill("new"), Err(Refusal::State { .. })));
    assert!(matches!(machine.check_kill("gone"), Err(Refusal::NotFound { .. })));
    machine.exited("e", exit(0), false);
    assert!(matches!(machine.check_kill("e"), Err(Refusal::NotFound { .. })));

    assert_eq!(self::machine().check_kill(""), Ok(()), "a created task can be killed");
}

#[test]
fn start_that_failed_can_be_repeated_unless_the_task_has_ended() {
    let mut machine = machine();
    machine.begin_start("").unwrap();
    assert!(machine.begin_start("").is_err(), "one at a time");
    machine.start_failed("", exit(255));
    machine.begin_start("").unwrap();
    machine.exited("", exit(KILLED), false);
    machine.start_failed("", exit(255));
    assert_eq!(machine.view("").unwrap().phase, Phase::Stopped(exit(KILLED)));
    assert_eq!(topics(&mut machine), ["/tasks/create", "/tasks/exit"]);
}

#[test]
fn paused_task_can_only_be_resumed_or_killed() {
    let mut machine = running();
    assert!(machine.check_pause(false).is_err());
    machine.check_pause(true).unwrap();
    machine.set_paused(true);
    assert!(machine.view("").unwrap().paused);
    assert!(machine.check_pause(true).is_err());
    assert!(machine.check_delete("").is_err());
    assert!(machine.begin_exec("e", StdioPaths::default()).is_err());
    assert_eq!(machine.check_kill(""), Ok(()));
    machine.set_paused(false);
    assert_eq!(topics(&mut machine), ["/tasks/paused", "/tasks/resumed"]);
}

/// What may happen, in any order; the number picks one of a few execs.
#[derive(Clone, Copy, Debug)]
enum Act {
    BeginStart(u8),
    Started(u8),
    StartFailed(u8),
    Exited(u8, bool),
    BeginExec(u8),
    ExecAdded(u8),
    ExecRefused(u8),
    Pause(bool),
    GiveUp,
    Delete(u8),
}

fn process(number: u8) -> String {
    if number == 0 { String::new() } else { format!("e{number}") }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let which = 0u8..4;
    let act = prop_oneof![
        3 => which.clone().prop_map(Act::BeginStart),
        3 => which.clone().prop_map(Act::Started),
        1 => which.clone().prop_map(Act::StartFailed),
        3 => (which.clone(), any::<bool>()).prop_map(|(number, oom)| Act::Exited(number, oom)),
        2 => (1u8..4).prop_map(Act::BeginExec),
        2 => (1u8..4).prop_map(Act::ExecAdded),
        1 => (1u8..4).prop_map(Act::ExecRefused),
        1 => any::<bool>().prop_map(Act::Pause),
        1 => Just(Act::GiveUp),
        1 => which.prop_map(Act::Delete),
    ];
    prop::collection::vec(act, 0..60)
}

/// Does what a caller that keeps the rules would do; returns whether the task is deleted.
fn perform(machine: &mut Machine, being_added: &mut BTreeSet<u8>, act: Act) -> bool {
    let phase = |machine: &Machine, number| machine.view(&process(number)).map(|view| view.phase);
    match act {
        Act::BeginStart(number) if !being_added.contains(&number) => {
            drop(machine.begin_start(&process(number)));
        }
        Act::Started(number) if phase(machine, number) == Ok(Phase::Starting) => {
            machine.started(&process(number));
        }
        Act::StartFailed(number) if phase(machine, number) == Ok(Phase::Starting) => {
            machine.start_failed(&process(number), exit(127));
        }
        Act::Exited(number, oom) => machine.exited(&process(number), exit(1), oom),
        Act::BeginExec(number) => {
            if machine.begin_exec(&process(number), StdioPaths::default()).is_ok() {
                being_added.insert(number);
            }
        }
        Act::ExecAdded(number) if being_added.remove(&number) => {
            drop(machine.exec_added(&process(number)));
        }
        Act::ExecRefused(number) if being_added.remove(&number) => {
            machine.exec_refused(&process(number));
        }
        Act::Pause(pause) => {
            if machine.check_pause(pause).is_ok() {
                machine.set_paused(pause);
            }
        }
        Act::GiveUp => machine.give_up_execs(SystemTime::UNIX_EPOCH),
        Act::Delete(number) if !being_added.contains(&number) => {
            if machine.check_delete(&process(number)).is_ok() {
                machine.deleted(&process(number), exit(0));
                return number == 0;
            }
        }
        Act::BeginStart(_)
        | Act::Started(_)
        | Act::StartFailed(_)
        | Act::ExecAdded(_)
        | Act::ExecRefused(_)
        | Act::Delete(_) => {}
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_history_keeps_the_order(acts in acts()) {
        let mut machine = machine();
        let mut being_added = BTreeSet::new();
        for act in acts {
            if perform(&mut machine, &mut being_added, act) {
                break;
            }
        }
        let steps: Vec<_> = machine
            .take_outcomes()
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Event(event) => Some(step(event)),
                Outcome::Ended(..) | Outcome::Gone(_) => None,
            })
            .collect();
        prop_assert_eq!(order::check(&steps), Ok(()));
    }

    #[test]
    fn any_process_that_ended_has_told_those_who_wait_once(acts in acts()) {
        let mut machine = machine();
        let mut being_added = BTreeSet::new();
        let mut ended = BTreeMap::<String, u32>::new();
        for act in acts {
            let is_deleted = perform(&mut machine, &mut being_added, act);
            for outcome in machine.take_outcomes() {
                match outcome {
                    Outcome::Ended(process, _) => *ended.entry(process).or_default() += 1,
                    Outcome::Gone(process) => drop(ended.remove(&process)),
                    Outcome::Event(_) => {}
                }
            }
            if is_deleted {
                break;
            }
            for number in 0..4 {
                if let Ok(view) = machine.view(&process(number)) {
                    let told = ended.get(&process(number)).copied().unwrap_or(0);
                    let expected = u32::from(matches!(view.phase, Phase::Stopped(_)));
                    prop_assert_eq!(told, expected, "process {}", number);
                }
            }
        }
    }
}
