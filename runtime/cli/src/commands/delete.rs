// SPDX-License-Identifier: Apache-2.0
//! `delete`: with the help of the holder, or from disk alone when the holder is dead.

use anyhow::{Result, bail};

use crate::{
    args::DeleteArgs,
    context::Context,
    control::{Client, Request},
    remains::remove_remains,
    store::Directory,
};

/// `trine delete`.
///
/// # Errors
/// If there is no such container, or it runs, without `--force`.
pub(crate) fn delete(context: &Context, arguments: &DeleteArgs) -> Result<()> {
    let directory = match context.root.find(&arguments.id)? {
        Some(directory) => directory,
        None if arguments.force => return Ok(()),
        None => context.root.open(&arguments.id)?,
    };
    match Client::connect(&directory)? {
        Some(client) => {
            client.ask(&Request::Delete { force: arguments.force })?;
            // When the holder is gone, so is everything it held.
            client.wait_closed()
        }
        None => delete_remains(&directory, arguments),
    }
}

fn delete_remains(directory: &Directory, arguments: &DeleteArgs) -> Result<()> {
    // Without a record there is nothing but the directory: its maker died at once.
    let record = directory.read_record()?.unwrap_or_default();
    if record.owner.is_alive() {
        if !arguments.force {
            bail!("container {:?} is just being created: try again, or use --force", arguments.id);
        }
        // Its VMM and I/O process end with it.
        record.owner.kill();
    }
    remove_remains(directory, &record)
}
