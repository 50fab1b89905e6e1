// SPDX-License-Identifier: Apache-2.0
//! Who is there: tasks by thread id, processes by process id.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use super::{Process, TaskRef};
use crate::sync::Lock;

/// First id that is not given again before all others were: as Linux's default.
pub(crate) const PID_MAX: u32 = 32768;

/// All tasks and processes.
#[derive(Debug, Default)]
pub struct Registry {
    tasks: Lock<BTreeMap<u32, TaskRef>>,
    processes: Lock<BTreeMap<u32, Arc<Process>>>,
    current: Lock<Option<TaskRef>>,
    last_id: Lock<u32>,
}

impl Registry {
    /// The task with a thread id.
    pub fn task(&self, tid: u32) -> Option<TaskRef> {
        self.tasks.lock().get(&tid).cloned()
    }

    /// The process with a process id; it may be a zombie.
    pub fn process(&self, pid: u32) -> Option<Arc<Process>> {
        self.processes.lock().get(&pid).cloned()
    }

    /// All processes, zombies among them, by process id.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.processes.lock().values().cloned().collect()
    }

    /// All tasks by thread id.
    pub fn tasks(&self) -> Vec<TaskRef> {
        self.tasks.lock().values().cloned().collect()
    }

    /// How many tasks there are.
    pub fn task_count(&self) -> usize {
        self.tasks.lock().len()
    }

    /// How many processes there are, zombies among them.
    pub fn process_count(&self) -> usize {
        self.processes.lock().len()
    }

    /// The task whose system call is being served.
    pub fn current(&self) -> Option<TaskRef> {
        self.current.lock().clone()
    }

    pub(crate) fn set_current(&self, task: Option<TaskRef>) {
        let before = core::mem::replace(&mut *self.current.lock(), task);
        drop(before);
    }

    pub(crate) fn add_task(&self, task: &TaskRef) {
        self.tasks.lock().insert(task.tid(), task.clone());
    }

    pub(crate) fn add_process(&self, process: &Arc<Process>) {
        self.processes.lock().insert(process.pid, process.clone());
    }

    pub(crate) fn remove_task(&self, tid: u32) {
        let removed = self.tasks.lock().remove(&tid);
        drop(removed);
    }

    pub(crate) fn remove_process(&self, pid: u32) {
        let removed = self.processes.lock().remove(&pid);
        drop(removed);
    }

    /// An id that no task, process, group or session has.
    pub(crate) fn allot_id(&self) -> Option<u32> {
        let (tasks, processes) = (self.tasks.lock(), self.processes.lock());
        let mut last = self.last_id.lock();
        for _ in 0..PID_MAX {
            *last = if *last + 1 >= PID_MAX { 300.min(PID_MAX - 1) } else { *last + 1 };
            let id = *last;
            let used = tasks.contains_key(&id)
                || processes.contains_key(&id)
                || processes.values().any(|p| p.pgid() == id || p.sid() == id);
            if !used {
                return Some(id);
            }
        }
        None
    }
}
