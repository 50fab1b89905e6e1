// SPDX-License-Identifier: Apache-2.0
//! The order that containerd relies on, checked over a recorded stream of events.
//!
//! ```text
//! create(c) < start(c) < exit(c) < delete(c)
//! exec-added(e) < exec-started(e) < exit(e) < exit(c)
//! oom(c) < exit(c); one exit per process; nothing for c after delete(c)
//! ```

use std::collections::{BTreeMap, BTreeSet};

/// One event: topic, container, and exec ("" for the first process).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) topic: String,
    pub(crate) container: String,
    pub(crate) exec: String,
}

#[derive(Default)]
struct Task {
    seen: BTreeSet<String>,
    execs: BTreeMap<String, BTreeSet<String>>,
}

/// Returns what is wrong with a stream of events, if anything is.
pub(crate) fn check(steps: &[Step]) -> Result<(), String> {
    let mut tasks: BTreeMap<&str, Task> = BTreeMap::new();
    for (index, step) in steps.iter().enumerate() {
        let topic = step.topic.trim_start_matches("/tasks/");
        let task = tasks.entry(&step.container).or_default();
        check_step(task, topic, &step.exec)
            .map_err(|reason| format!("event {index}, {step:?}: {reason}"))?;
    }
    Ok(())
}

fn check_step(task: &mut Task, topic: &str, exec: &str) -> Result<(), String> {
    let need = |condition: bool, reason: &str| {
        if condition { Ok(()) } else { Err(reason.to_owned()) }
    };
    if topic == "create" {
        need(!task.seen.contains("create") || task.seen.contains("delete"), "created twice")?;
        *task = Task::default();
        task.seen.insert("create".to_owned());
        return Ok(());
    }
    need(task.seen.contains("create"), "before create")?;
    need(!task.seen.contains("delete"), "after delete")?;
    match topic {
        "start" => {
            need(task.seen.insert("start".to_owned()), "started twice")?;
            need(!task.seen.contains("exit"), "start after exit")
        }
        "exec-added" => {
            need(!task.seen.contains("exit"), "exec after exit")?;
            task.execs.insert(exec.to_owned(), BTreeSet::from(["added".to_owned()]));
            Ok(())
        }
        "exec-started" => {
            need(!task.seen.contains("exit"), "exec after exit")?;
            let seen = task.execs.get_mut(exec).ok_or("exec started before it was added")?;
            need(seen.insert("started".to_owned()), "exec started twice")
        }
        "exit" if exec.is_empty() => {
            need(task.seen.insert("exit".to_owned()), "exited twice")?;
            let open = task
                .execs
                .iter()
                .find(|(_, seen)| seen.contains("started") && !seen.contains("exit"));
            match open {
                Some((exec, _)) => Err(format!("exit before that of exec {exec:?}")),
                None => Ok(()),
            }
        }
        "exit" => {
            need(!task.seen.contains("exit"), "exec exit after the exit")?;
            let seen = task.execs.get_mut(exec).ok_or("exit of an unknown exec")?;
            need(seen.contains("started"), "exit of an exec that was not started")?;
            need(seen.insert("exit".to_owned()), "exec exited twice")
        }
        "oom" => need(!task.seen.contains("exit"), "oom after exit"),
        "paused" | "resumed" => need(task.seen.contains("start"), "before start"),
        "delete" => {
            need(
                !task.seen.contains("start") || task.seen.contains("exit"),
                "deleted while running",
            )?;
            task.seen.insert("delete".to_owned());
            Ok(())
        }
        other => Err(format!("unknown topic {other:?}")),
    }
}
