// SPDX-License-Identifier: Apache-2.0
//! A container as it is now: its record, and what its holder says.

use std::{
    collections::BTreeMap,
    io::{Write as _, stderr},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::OCI_VERSION;
use crate::{
    context::Context,
    control::{Client, Status},
    failure,
    remains::remove_remains,
    store::{Claim, Directory, Record, Root},
};

/// A container as it is now.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// What is on disk.
    pub(crate) record: Record,
    /// Its status.
    pub(crate) status: Status,
    /// Exit status of the first process, if it has ended and somebody knows.
    pub(crate) exit_code: Option<u32>,
}

/// The state as the OCI runtime specification has it, with what runc adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OciState {
    oci_version: &'static str,
    id: String,
    pid: u32,
    status: Status,
    bundle: PathBuf,
    rootfs: String,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
}

impl Snapshot {
    /// Looks at a container; `None` if it is not there yet or any more.
    ///
    /// # Errors
    /// If the record is damaged, or the holder does not answer.
    pub(crate) fn take(directory: &Directory) -> Result<Option<Self>> {
        let Some(record) = directory.read_record()? else {
            return Ok(None);
        };
        if let Some((status, exit_code)) = Client::state(directory)? {
            return Ok(Some(Self { record, status, exit_code }));
        }
        // The holder listens only when the container is made.
        let status = if record.owner.is_alive() { Status::Creating } else { Status::Stopped };
        let exit_code = record.exit_code;
        Ok(Some(Self { record, status, exit_code }))
    }

    /// Looks at the container with this id.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn of(context: &Context, id: &str) -> Result<Self> {
        let directory = context.root.open(id)?;
        Self::take(&directory)?
            .with_context(|| format!("container {id:?} is just being created: try again"))
    }

    /// Looks at all containers, and removes what dead foreground runs left.  A container that
    /// cannot be looked at comes back as an error beside its name.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(crate) fn all(context: &Context) -> Result<Vec<Self>> {
        let mut snapshots = Vec::new();
        for directory in context.root.all()? {
            match Self::take(&directory) {
                Ok(Some(snapshot)) if snapshot.is_abandoned() => {
                    if let Err(error) = remove_remains(&directory, &snapshot.record) {
                        let path = directory.path().display().to_string();
                        context.log.debug(|| format!("cannot clean {path}: {error:#}"));
                    }
                }
                Ok(Some(snapshot)) => snapshots.push(snapshot),
                Ok(None) => {}
                Err(error) => {
                    let path = directory.path().display();
                    let why = failure::one_line(&error);
                    // If stderr is gone, the rest of the list still counts.
                    let _ = writeln!(stderr(), "trine: cannot look at {path}: {why}");
                }
            }
        }
        Ok(snapshots)
    }

    /// Tells whether nobody will ever delete the container.
    fn is_abandoned(&self) -> bool {
        self.record.is_ephemeral && self.status == Status::Stopped && !self.record.owner.is_alive()
    }

    /// Process id of the VMM; 0 if there is none any more.
    pub(crate) fn pid(&self) -> u32 {
        if self.status == Status::Stopped { 0 } else { self.record.vmm.pid }
    }

    /// Returns the OCI state.
    pub(crate) fn oci_state(self) -> OciState {
        OciState {
            oci_version: OCI_VERSION,
            pid: self.pid(),
            status: self.status,
            exit_code: self.exit_code,
            id: self.record.id,
            bundle: self.record.bundle,
            rootfs: self.record.rootfs,
            created: self.record.created,
            annotations: self.record.annotations,
            owner: String::new(),
        }
    }
}

/// Claims an id; one that a dead foreground run left behind is free.
///
/// # Errors
/// If it is taken.
pub(crate) fn claim(root: &Root, record: &Record) -> Result<Claim> {
    let error = match root.claim(record) {
        Ok(claim) => return Ok(claim),
        Err(error) => error,
    };
    let Ok(Some(directory)) = root.find(&record.id) else {
        return Err(error);
    };
    match Snapshot::take(&directory) {
        Ok(Some(snapshot)) if snapshot.is_abandoned() => {
            remove_remains(&directory, &snapshot.record)?;
            root.claim(record)
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::Owner;

    fn record(id: &str) -> Record {
        Record {
            id: id.to_owned(),
            bundle: PathBuf::from("/b"),
            rootfs: "/b/rootfs".to_owned(),
            created: "2026-01-02T03:04:05.000000006Z".to_owned(),
            annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            vmm: Owner { pid: 4711, start_ticks: 1 },
            ..Record::default()
        }
    }

    #[test]
    fn oci_state_is_the_golden_json() {
        let snapshot = Snapshot { record: record("c1"), status: Status::Running, exit_code: None };
        let golden = r#"{"ociVersion":"1.2.1","id":"c1","pid":4711,"status":"running","bundle":"/b","rootfs":"/b/rootfs","created":"2026-01-02T03:04:05.000000006Z","annotations":{"k":"v"},"owner":""}"#;
        assert_eq!(serde_json::to_string(&snapshot.oci_state()).expect("json"), golden);
    }

    #[test]
    fn oci_state_of_a_stopped_container_has_no_pid() {
        let snapshot =
            Snapshot { record: record("c1"), status: Status::Stopped, exit_code: Some(7) };
        let json = serde_json::to_value(snapshot.oci_state()).expect("json");
        assert_eq!(
            (&json["pid"], &json["status"], &json["exitCode"]),
            (&serde_json::json!(0), &serde_json::json!("stopped"), &serde_json::json!(7))
        );
    }

    #[test]
    fn take_tells_creating_from_dead_by_the_owner() {
        let scratch = TempDir::new().expect("scratch directory");
        let root = Root::new(scratch.path().to_owned());
        let directory = root.claim(&record("c1")).expect("claim").keep();
        let status = |directory| Snapshot::take(directory).expect("read").expect("a record").status;
        assert_eq!(status(&directory), Status::Creating);
        directory.write_record(&Record { version: 1, ..record("c1") }).expect("write");
        assert_eq!(status(&directory), Status::Stopped);
    }

    #[test]
    fn claim_takes_over_what_a_dead_foreground_run_left_and_nothing_else() {
        let scratch = TempDir::new().expect("scratch directory");
        let root = Root::new(scratch.path().to_owned());
        let directory = root.claim(&record("c1")).expect("claim").keep();
        // Its owner is this process, which lives.
        assert!(claim(&root, &record("c1")).is_err());
        let dead = Record { version: 1, ..record("c1") };
        directory.write_record(&dead).expect("write");
        assert!(claim(&root, &record("c1")).is_err(), "a container of `create` stays");
        directory.write_record(&Record { is_ephemeral: true, ..dead }).expect("write");
        claim(&root, &record("c1")).expect("free");
    }
}
