// SPDX-License-Identifier: Apache-2.0
//! `image`.

use std::time::SystemTime;

use anyhow::{Result, bail};
use serde_json::json;
use trine_rootfs_builder::ImageInfo;

use crate::{
    args::{ImageBuildArgs, ImageCommand, ImageListArgs, ImagePruneArgs, ImageRemoveArgs},
    context::Context,
    images::{self, Images},
    output, values,
};

/// Digits of a digest that are shown to people; `run` and `rm` take as few as 8.
const SHOWN_DIGITS: usize = 12;

/// `trine image`.
///
/// # Errors
/// As each of them.
pub(crate) fn image(context: &Context, command: &ImageCommand) -> Result<()> {
    let images = Images::open(&context.images)?;
    match command {
        ImageCommand::Build(arguments) => build(&images, arguments),
        ImageCommand::Ls(arguments) => list(&images, arguments),
        ImageCommand::Rm(arguments) => remove(&images, arguments),
        ImageCommand::Prune(arguments) => prune(&images, arguments),
    }
}

fn build(images: &Images, arguments: &ImageBuildArgs) -> Result<()> {
    let source = &arguments.source;
    if !source.exists() {
        bail!("{} does not exist: give a directory or an archive", source.display());
    }
    let name = arguments.tag.as_deref();
    let image = if source.is_dir() && !images::is_layout(source) {
        let image = images.of_directory(source)?;
        if let Some(name) = name {
            images.tag(name, &image)?;
        }
        image
    } else {
        images.import(source, name)?
    };
    // Nobody counts those of an image that is there already.
    let calls = image.report.as_ref().map(|report| (report.calls_rewritten, report.calls_found));
    if arguments.json {
        return output::print_json(&json!({
            "digest": image.digest,
            "name": name,
            "size_bytes": image.size_bytes,
            "system_calls": calls.map(|(rewritten, found)| {
                json!({"found": found, "rewritten": rewritten})
            }),
        }));
    }
    let size = values::format_bytes(image.size_bytes);
    match name {
        Some(name) => output::print(&format!("{}  {name}  {size}\n", image.digest))?,
        None => output::print(&format!("{}  {size}\n", image.digest))?,
    }
    match calls {
        Some((rewritten, found)) => output::print(&format!(
            "rewrote {rewritten} of {found} system calls in the code of its programs\n"
        )),
        None => Ok(()),
    }
}

fn list(images: &Images, arguments: &ImageListArgs) -> Result<()> {
    let list = images.list()?;
    if arguments.json {
        return output::print_json(&list.iter().map(to_json).collect::<Vec<_>>());
    }
    let mut rows = vec![output::heading(&["NAME", "DIGEST", "SIZE", "LAST USED", "IN USE"])];
    for image in &list {
        let used = SystemTime::now().duration_since(image.last_used).unwrap_or_default();
        let row = |name: &str| {
            vec![
                name.to_owned(),
                image.digest.hex().chars().take(SHOWN_DIGITS).collect(),
                values::format_bytes(image.size_bytes),
                format!("{} ago", values::format_duration(used)),
                if image.in_use { "yes" } else { "no" }.to_owned(),
            ]
        };
        match image.names.as_slice() {
            [] => rows.push(row("-")),
            names => rows.extend(names.iter().map(|name| row(name))),
        }
    }
    output::print(&output::table(&rows))
}

fn to_json(image: &ImageInfo) -> serde_json::Value {
    json!({
        "digest": image.digest.to_string(),
        "names": image.names,
        "size_bytes": image.size_bytes,
        "last_used": values::format_rfc3339(image.last_used),
        "in_use": image.in_use,
    })
}

/// Removes all that can be removed, and then says what could not.
fn remove(images: &Images, arguments: &ImageRemoveArgs) -> Result<()> {
    let mut first_error = None;
    for name in &arguments.images {
        match images.remove(name) {
            Ok(removed) => {
                for name in &removed.names {
                    output::print(&format!("removed name {name}\n"))?;
                }
                if let Some(digest) = removed.image {
                    output::print(&format!("removed image {digest}\n"))?;
                }
            }
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn prune(images: &Images, arguments: &ImagePruneArgs) -> Result<()> {
    let freed = images.prune()?;
    if arguments.json {
        return output::print_json(&json!({"freed_bytes": freed}));
    }
    output::print(&format!("freed {}\n", values::format_bytes(freed)))
}
