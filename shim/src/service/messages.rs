// SPDX-License-Identifier: Apache-2.0
//! Between the messages of the API and our own types.

use std::path::PathBuf;

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, DeleteResponse, PidsResponse, ProcessInfo, StateRequest, StateResponse,
        StatsResponse, Status, WaitResponse,
    },
    protobuf::{EnumOrUnknown, Message, MessageField, well_known_types::any::Any},
    shim::oci::ProcessDetails,
};

use crate::{
    events::StdioPaths,
    tasks::{CreateRequest, Exit, Phase, Task, View},
    time::timestamp,
};

pub(super) fn create(request: CreateTaskRequest) -> CreateRequest {
    CreateRequest {
        id: request.id,
        bundle: PathBuf::from(request.bundle),
        rootfs: request.rootfs,
        stdio: StdioPaths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        checkpoint: request.checkpoint,
    }
}

pub(super) fn state(request: &StateRequest, task: &Task, view: View) -> StateResponse {
    let status = match view.phase {
        Phase::Created | Phase::Starting => Status::CREATED,
        Phase::Running if view.paused => Status::PAUSED,
        Phase::Running => Status::RUNNING,
        Phase::Stopped(_) => Status::STOPPED,
    };
    let exit = match view.phase {
        Phase::Stopped(exit) => Some(exit),
        _ => None,
    };
    // The id of the process, which is the exec's for an exec.
    let id = if request.exec_id.is_empty() { &request.id } else { &request.exec_id };
    StateResponse {
        id: id.clone(),
        bundle: task.bundle().to_string_lossy().into_owned(),
        pid: task.pid(),
        status: EnumOrUnknown::new(status),
        stdin: view.stdio.stdin,
        stdout: view.stdio.stdout,
        stderr: view.stdio.stderr,
        terminal: view.stdio.terminal,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| timestamp(exit.at)).into(),
        exec_id: request.exec_id.clone(),
        ..StateResponse::default()
    }
}

pub(super) fn deleted(pid: u32, exit: Exit) -> DeleteResponse {
    DeleteResponse {
        pid,
        exit_status: exit.status,
        exited_at: MessageField::some(timestamp(exit.at)),
        ..DeleteResponse::default()
    }
}

pub(super) fn waited(exit: Exit) -> WaitResponse {
    WaitResponse {
        exit_status: exit.status,
        exited_at: MessageField::some(timestamp(exit.at)),
        ..WaitResponse::default()
    }
}

/// Lists the VMM, which is the host process of all of them, for the first process and each exec.
pub(super) fn pids(task: &Task) -> PidsResponse {
    let pid = task.pid();
    let first = ProcessInfo { pid, ..ProcessInfo::default() };
    let execs = task.running_execs().into_iter().map(|exec_id| {
        let details = ProcessDetails { exec_id, ..ProcessDetails::default() };
        let info = Any {
            type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
            value: details.write_to_bytes().expect("a message of a short string always encodes"),
            ..Any::default()
        };
        ProcessInfo { pid, info: MessageField::some(info), ..ProcessInfo::default() }
    });
    PidsResponse {
        processes: std::iter::once(first).chain(execs).collect(),
        ..PidsResponse::default()
    }
}

pub(super) fn stats(stats: Any) -> StatsResponse {
    StatsResponse { stats: MessageField::some(stats), ..StatsResponse::default() }
}
