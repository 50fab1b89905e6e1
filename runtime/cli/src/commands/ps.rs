// SPDX-License-Identifier: Apache-2.0
//! `ps`: the VMs of this host, or one VM and the processes in it.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{
    snapshot::Snapshot,
    vms::{self, ForeignVm},
};
use crate::{
    args::{ListFormat, PsArgs},
    context::Context,
    control::{Client, ProcessRow, Reply, Request, Status},
    output, values,
};

/// A VM, as `ps` shows it.
#[derive(Debug, Serialize)]
struct VmRow {
    id: String,
    vm_pid: u32,
    vcpus: u32,
    /// Resident memory of the VMM, guest included.
    memory_bytes: u64,
    /// Memory that the guest may use; `None` if only containerd knows.
    memory_limit_bytes: Option<u64>,
    uptime_seconds: Option<f64>,
    status: &'static str,
    /// "trine", or containerd's namespace.
    owner: String,
}

/// `trine ps`.
///
/// # Errors
/// If there is no such container, or it does not answer.
pub(crate) fn ps(context: &Context, arguments: &PsArgs) -> Result<()> {
    match &arguments.id {
        Some(id) => one(context, id, arguments.format),
        None => all(context, arguments.format),
    }
}

fn all(context: &Context, format: ListFormat) -> Result<()> {
    let snapshots = Snapshot::all(context)?;
    let known: HashSet<_> = snapshots.iter().map(|snapshot| snapshot.record.vmm.pid).collect();
    let mut rows: Vec<_> = snapshots.iter().map(of_snapshot).collect();
    rows.extend(vms::find_others(&known).into_iter().map(of_foreign));
    match format {
        ListFormat::Json => output::print_json(&rows),
        ListFormat::Table => output::print(&vm_table(&rows)),
    }
}

fn one(context: &Context, id: &str, format: ListFormat) -> Result<()> {
    let directory = context.root.open(id)?;
    let snapshot = Snapshot::of(context, id)?;
    if snapshot.status == Status::Stopped {
        bail!("container {id:?} has stopped: it has no processes");
    }
    let client = Client::connect(&directory)?;
    let client = client.with_context(|| format!("container {id:?} has just ended"))?;
    let Reply::Processes(processes) = client.call(&Request::Processes)? else {
        bail!("the process that holds container {id:?} gave an unexpected answer");
    };
    let vm = of_snapshot(&snapshot);
    match format {
        ListFormat::Json => {
            output::print_json(&serde_json::json!({ "vm": vm, "processes": processes }))
        }
        ListFormat::Table => {
            output::print(&format!("{}\n{}", vm_table(&[vm]), process_table(&processes)))
        }
    }
}

fn of_snapshot(snapshot: &Snapshot) -> VmRow {
    let record = &snapshot.record;
    let process = vms::look_at(snapshot.pid());
    VmRow {
        id: record.id.clone(),
        vm_pid: snapshot.pid(),
        vcpus: record.vcpus,
        memory_bytes: process.as_ref().map_or(0, |process| process.resident_bytes),
        memory_limit_bytes: Some(record.memory_bytes),
        uptime_seconds: process.map(|process| process.uptime.as_secs_f64()),
        status: snapshot.status.as_str(),
        owner: "trine".to_owned(),
    }
}

fn of_foreign(vm: ForeignVm) -> VmRow {
    VmRow {
        id: vm.id,
        vm_pid: vm.process.pid,
        vcpus: vm.vcpus,
        memory_bytes: vm.process.resident_bytes,
        memory_limit_bytes: None,
        uptime_seconds: Some(vm.process.uptime.as_secs_f64()),
        // Created, running or paused: only its shim knows.
        status: "alive",
        owner: match vm.namespace {
            Some(namespace) => format!("containerd/{namespace}"),
            None => "-".to_owned(),
        },
    }
}

fn vm_table(rows: &[VmRow]) -> String {
    let names = ["ID", "VM PID", "VCPUS", "MEMORY", "LIMIT", "UPTIME", "STATUS", "OWNER"];
    let mut table = vec![output::heading(&names)];
    let dash = || "-".to_owned();
    table.extend(rows.iter().map(|row| {
        let uptime = row.uptime_seconds.map(Duration::from_secs_f64);
        vec![
            row.id.clone(),
            if row.vm_pid == 0 { dash() } else { row.vm_pid.to_string() },
            row.vcpus.to_string(),
            values::format_bytes(row.memory_bytes),
            row.memory_limit_bytes.map_or_else(dash, values::format_bytes),
            uptime.map_or_else(dash, values::format_duration),
            row.status.to_owned(),
            row.owner.clone(),
        ]
    }));
    output::table(&table)
}

fn process_table(processes: &[ProcessRow]) -> String {
    let names = ["PID", "PPID", "UID", "STATE", "CPU", "MEMORY", "COMMAND"];
    let mut table = vec![output::heading(&names)];
    table.extend(processes.iter().map(|process| {
        vec![
            process.pid.to_string(),
            process.parent.to_string(),
            process.uid.to_string(),
            process.state.to_string(),
            format!("{:.2}s", Duration::from_nanos(process.cpu_ns).as_secs_f64()),
            values::format_bytes(process.resident_bytes),
            process.command.clone(),
        ]
    }));
    output::table(&table)
}
