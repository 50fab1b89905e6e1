// SPDX-License-Identifier: Apache-2.0
//! `list`.

use anyhow::Result;

use super::snapshot::Snapshot;
use crate::{
    args::{ListArgs, ListFormat},
    context::Context,
    output,
};

/// `trine list`.
///
/// # Errors
/// If the containers cannot be listed.
pub(crate) fn list(context: &Context, arguments: &ListArgs) -> Result<()> {
    let snapshots = Snapshot::all(context)?;
    if arguments.quiet {
        let ids = snapshots.iter().map(|snapshot| format!("{}\n", snapshot.record.id));
        return output::print(&ids.collect::<String>());
    }
    match arguments.format {
        ListFormat::Json => {
            output::print_json(&snapshots.into_iter().map(Snapshot::oci_state).collect::<Vec<_>>())
        }
        ListFormat::Table => output::print(&table(&snapshots)),
    }
}

fn table(snapshots: &[Snapshot]) -> String {
    let mut rows = vec![output::heading(&["ID", "PID", "STATUS", "BUNDLE", "CREATED"])];
    rows.extend(snapshots.iter().map(|snapshot| {
        vec![
            snapshot.record.id.clone(),
            snapshot.pid().to_string(),
            snapshot.status.as_str().to_owned(),
            snapshot.record.bundle.display().to_string(),
            snapshot.record.created.clone(),
        ]
    }));
    output::table(&rows)
}
