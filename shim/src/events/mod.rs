// SPDX-License-Identifier: Apache-2.0
//! What containerd is told of tasks: events, in order, through a bounded queue.

mod publisher;
mod queue;

use containerd_shim_protos::{
    events::task as proto,
    protobuf::{Message, MessageField, well_known_types::any::Any},
    topics,
    types::mount::Mount,
};

use crate::{tasks::Exit, time::timestamp};

pub use publisher::publish;
pub use queue::{Queue, Queued};

/// The standard streams of a task, as containerd named them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StdioPaths {
    /// Standard input; empty = none.
    pub stdin: String,
    /// Standard output; empty = none.
    pub stdout: String,
    /// Standard error; empty = none.
    pub stderr: String,
    /// The process has a terminal.
    pub terminal: bool,
}

/// Something that happened to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It was created.
    Create {
        /// Container.
        id: String,
        /// Its bundle.
        bundle: String,
        /// Mounts of its root file system.
        rootfs: Vec<Mount>,
        /// Streams of the first process.
        stdio: StdioPaths,
        /// Host process id.
        pid: u32,
    },
    /// Its first process was started.
    Start {
        /// Container.
        id: String,
        /// Host process id.
        pid: u32,
    },
    /// An exec was registered.
    ExecAdded {
        /// Container.
        id: String,
        /// Exec.
        exec_id: String,
    },
    /// An exec was started.
    ExecStarted {
        /// Container.
        id: String,
        /// Exec.
        exec_id: String,
        /// Host process id.
        pid: u32,
    },
    /// Memory ran out in it.
    OutOfMemory {
        /// Container.
        id: String,
    },
    /// A process ended.
    Exit {
        /// Container.
        id: String,
        /// Exec, or empty for the first process.
        exec_id: String,
        /// Host process id.
        pid: u32,
        /// How.
        exit: Exit,
    },
    /// It was stopped in its tracks.
    Paused {
        /// Container.
        id: String,
    },
    /// It goes on.
    Resumed {
        /// Container.
        id: String,
    },
    /// It was deleted.
    Delete {
        /// Container.
        id: String,
        /// Host process id.
        pid: u32,
        /// How its first process ended.
        exit: Exit,
    },
}

impl Event {
    /// Returns containerd's topic for the event.
    pub fn topic(&self) -> &'static str {
        match self {
            Self::Create { .. } => topics::TASK_CREATE_EVENT_TOPIC,
            Self::Start { .. } => topics::TASK_START_EVENT_TOPIC,
            Self::ExecAdded { .. } => topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            Self::ExecStarted { .. } => topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            Self::OutOfMemory { .. } => topics::TASK_OOM_EVENT_TOPIC,
            Self::Exit { .. } => topics::TASK_EXIT_EVENT_TOPIC,
            Self::Paused { .. } => topics::TASK_PAUSED_EVENT_TOPIC,
            Self::Resumed { .. } => topics::TASK_RESUMED_EVENT_TOPIC,
            Self::Delete { .. } => topics::TASK_DELETE_EVENT_TOPIC,
        }
    }

    /// Encodes the event; its type is the bare name of the message, without a host.
    pub fn encode(self) -> Any {
        match self {
            Self::Create { id, bundle, rootfs, stdio, pid } => any(
                "TaskCreate",
                &proto::TaskCreate {
                    container_id: id,
                    bundle,
                    rootfs,
                    io: MessageField::some(proto::TaskIO {
                        stdin: stdio.stdin,
                        stdout: stdio.stdout,
                        stderr: stdio.stderr,
                        terminal: stdio.terminal,
                        ..proto::TaskIO::default()
                    }),
                    pid,
                    ..proto::TaskCreate::default()
                },
            ),
            Self::Start { id, pid } => any(
                "TaskStart",
                &proto::TaskStart { container_id: id, pid, ..proto::TaskStart::default() },
            ),
            Self::ExecAdded { id, exec_id } => any(
                "TaskExecAdded",
                &proto::TaskExecAdded {
                    container_id: id,
                    exec_id,
                    ..proto::TaskExecAdded::default()
                },
            ),
            Self::ExecStarted { id, exec_id, pid } => any(
                "TaskExecStarted",
                &proto::TaskExecStarted {
                    container_id: id,
                    exec_id,
                    pid,
                    ..proto::TaskExecStarted::default()
                },
            ),
            Self::OutOfMemory { id } => {
                any("TaskOOM", &proto::TaskOOM { container_id: id, ..proto::TaskOOM::default() })
            }
            Self::Exit { id, exec_id, pid, exit } => any(
                "TaskExit",
                &proto::TaskExit {
                    // The id of the process: the container's for the first one.
                    id: if exec_id.is_empty() { id.clone() } else { exec_id },
                    container_id: id,
                    pid,
                    exit_status: exit.status,
                    exited_at: MessageField::some(timestamp(exit.at)),
                    ..proto::TaskExit::default()
                },
            ),
            Self::Paused { id } => any(
                "TaskPaused",
                &proto::TaskPaused { container_id: id, ..proto::TaskPaused::default() },
            ),
            Self::Resumed { id } => any(
                "TaskResumed",
                &proto::TaskResumed { container_id: id, ..proto::TaskResumed::default() },
            ),
            Self::Delete { id, pid, exit } => any(
                "TaskDelete",
                &proto::TaskDelete {
                    container_id: id,
                    pid,
                    exit_status: exit.status,
                    exited_at: MessageField::some(timestamp(exit.at)),
                    ..proto::TaskDelete::default()
                },
            ),
        }
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    let value = message.write_to_bytes().expect("a message without required fields encodes");
    Any { type_url: format!("containerd.events.{name}"), value, ..Any::default() }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn exit_event_names_container_and_process() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
        let exit = Exit { status: 7, at };
        for (exec_id, expected) in [("", "c1"), ("e1", "e1")] {
            let event = Event::Exit { id: "c1".into(), exec_id: exec_id.into(), pid: 4, exit };
            assert_eq!(event.topic(), "/tasks/exit");
            let any = event.encode();
            assert_eq!(any.type_url, "containerd.events.TaskExit");
            let decoded = proto::TaskExit::parse_from_bytes(&any.value).unwrap();
            assert_eq!((&*decoded.container_id, &*decoded.id), ("c1", expected));
            assert_eq!((decoded.exit_status, decoded.pid, decoded.exited_at.seconds), (7, 4, 9));
        }
    }
}
