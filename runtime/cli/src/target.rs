// SPDX-License-Identifier: Apache-2.0
//! What the first argument of `run` means.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{args::RunArgs, images};

/// What `run` is to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An OCI bundle, under this container id.
    Bundle {
        /// Where config.json is.
        bundle: PathBuf,
        /// Container id.
        id: String,
    },
    /// An image of the cache.
    Image(String),
    /// An OCI layout or an archive.
    Archive(PathBuf),
    /// A root file system.
    Directory(PathBuf),
}

/// Decides what the arguments of `run` mean; also returns the command.
///
/// `is_image` tells whether the cache has an image of this name, `directory` is where relative paths
/// start and where config.json is looked for.
///
/// # Errors
/// If they mean nothing, or more than one thing.
pub(crate) fn decide(
    arguments: &RunArgs,
    directory: &Path,
    mut is_image: impl FnMut(&str) -> Result<bool>,
) -> Result<(Target, Vec<OsString>)> {
    let (first, rest) = match arguments.target.split_first() {
        Some((first, rest)) => (first.as_os_str(), rest),
        None => bail!("nothing to run: give an image, a root file system or --bundle DIR ID"),
    };
    // `run IMAGE -- CMD`: the dashes end nothing here, as nothing after IMAGE is a flag of ours.
    let command = match rest.split_first() {
        Some((dashes, after)) if dashes == "--" => after.to_vec(),
        _ => rest.to_vec(),
    };
    if let Some(bundle) = &arguments.bundle {
        return Ok((as_bundle(arguments, directory.join(bundle), first, &command)?, vec![]));
    }

    let path = directory.join(first);
    let is_path = is_explicit_path(first);
    if !is_path
        && let Some(name) = first.to_str()
        && is_image(name)?
    {
        return Ok((Target::Image(name.to_owned()), command));
    }
    if path.is_dir() {
        if images::is_layout(&path) {
            return Ok((Target::Archive(path), command));
        }
        if path.join("config.json").is_file() && path.join("rootfs").is_dir() {
            bail!(
                "{} is a bundle, not a root file system: run it with --bundle {} ID",
                path.display(),
                first.display()
            );
        }
        return Ok((Target::Directory(path), command));
    }
    if path.exists() {
        return Ok((Target::Archive(path), command));
    }
    let says_bundle = command.is_empty() && arguments.embedded.first_given().is_none();
    if !is_path && says_bundle && directory.join("config.json").is_file() {
        return Ok((as_bundle(arguments, directory.to_owned(), first, &command)?, vec![]));
    }
    if is_path {
        bail!("{} does not exist: give an image, an archive or a directory", first.display());
    }
    bail!(
        "no image and no file is called {:?}: see `trine image ls`, or build one with `trine image \
         build`",
        first.display().to_string()
    );
}

fn is_explicit_path(text: &OsStr) -> bool {
    let bytes = text.as_encoded_bytes();
    [b"/".as_slice(), b"./", b"../"].iter().any(|start| bytes.starts_with(start))
        || bytes == b"."
        || bytes == b".."
}

fn as_bundle(
    arguments: &RunArgs,
    bundle: PathBuf,
    id: &OsStr,
    command: &[OsString],
) -> Result<Target> {
    if let Some(flag) = arguments.embedded.first_given() {
        bail!("{flag} does not apply to a bundle: say it in its config.json");
    }
    if let Some(extra) = command.first() {
        bail!(
            "unexpected argument {:?} after the container id: the command of a bundle is in its \
             config.json",
            extra.display().to_string()
        );
    }
    match id.to_str() {
        Some(id) => Ok(Target::Bundle { bundle, id: id.to_owned() }),
        None => bail!("container id {} is not UTF-8: use letters and digits", id.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;
    use tempfile::TempDir;

    use super::*;
    use crate::args::{Cli, Command};

    fn scratch() -> TempDir {
        let scratch = TempDir::new().expect("scratch directory");
        for directory in ["rootfs", "layout", "b/rootfs"] {
            fs::create_dir_all(scratch.path().join(directory)).expect("mkdir");
        }
        for file in ["image.tar", "layout/oci-layout", "layout/index.json", "b/config.json"] {
            fs::write(scratch.path().join(file), "{}").expect("write");
        }
        scratch
    }

    fn decide_in(directory: &Path, line: &str) -> Result<(Target, Vec<OsString>)> {
        let words = ["trine", "run"].into_iter().chain(line.split(' '));
        let Some(Command::Run(arguments)) = Cli::try_parse_from(words).expect("parses").command
        else {
            panic!("not a run");
        };
        decide(&arguments, directory, |name| Ok(name == "alpine" || name == "rootfs"))
    }

    fn error_in(directory: &Path, line: &str) -> String {
        decide_in(directory, line).expect_err(line).to_string()
    }

    #[test]
    fn decide_tells_image_directory_layout_and_archive_apart() {
        let scratch = scratch();
        let at = scratch.path();
        for (line, target) in [
            ("alpine", Target::Image("alpine".to_owned())),
            // A name that is both is the image; ./ makes it the path.
            ("rootfs", Target::Image("rootfs".to_owned())),
            ("./rootfs", Target::Directory(at.join("./rootfs"))),
            ("b/rootfs", Target::Directory(at.join("b/rootfs"))),
            ("layout", Target::Archive(at.join("layout"))),
            ("image.tar", Target::Archive(at.join("image.tar"))),
        ] {
            assert_eq!(decide_in(at, line).expect(line).0, target, "{line}");
        }
    }

    #[test]
    fn decide_leaves_the_command_alone_but_for_leading_dashes() {
        let scratch = scratch();
        for (line, command) in [
            ("alpine", vec![]),
            ("alpine sh -c -x", vec!["sh", "-c", "-x"]),
            ("alpine -- sh -- x", vec!["sh", "--", "x"]),
            ("-m 64m alpine --memory 1", vec!["--memory", "1"]),
        ] {
            let (target, got) = decide_in(scratch.path(), line).expect(line);
            assert_eq!(target, Target::Image("alpine".to_owned()), "{line}");
            assert_eq!(got, command, "{line}");
        }
    }

    #[test]
    fn decide_bundle_by_flag_or_by_config_json_here() {
        let scratch = scratch();
        let (at, bundle) = (scratch.path(), scratch.path().join("b"));
        let expected = || Target::Bundle { bundle: bundle.clone(), id: "c1".to_owned() };
        assert_eq!(decide_in(at, "--bundle b c1").expect("flag").0, expected());
        assert_eq!(decide_in(at, "-b b c1").expect("flag").0, expected());
        assert_eq!(decide_in(&bundle, "c1").expect("here").0, expected());
        // An image or a command makes it the other form, config.json or not.
        let (target, _) = decide_in(&bundle, "alpine").expect("image");
        assert_eq!(target, Target::Image("alpine".to_owned()));
        assert!(error_in(&bundle, "c1 sh").contains("no image and no file is called \"c1\""));
        assert!(error_in(&bundle, "-m 1g c1").contains("no image and no file"));
    }

    #[test]
    fn decide_contradictions_name_the_argument() {
        let scratch = scratch();
        let at = scratch.path();
        assert!(error_in(at, "--bundle b --memory 1g c1").contains("--memory does not apply"));
        assert!(error_in(at, "--bundle b c1 sh").contains("unexpected argument \"sh\""));
        assert!(error_in(at, "b").contains("is a bundle"));
        assert!(error_in(at, "./gone").contains("./gone does not exist"));
        assert!(error_in(at, "gone").contains("\"gone\""));
    }
}
