// SPDX-License-Identifier: Apache-2.0
//! What every command gets: the flags before the command, put to use.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{args::Global, log::Log, store::Root};

/// Flags before the command, put to use.
#[derive(Debug)]
pub(crate) struct Context {
    /// State of containers.
    pub(crate) root: Root,
    /// Its path.
    pub(crate) root_path: PathBuf,
    /// Directory of the image cache.
    pub(crate) images: PathBuf,
    /// The log.
    pub(crate) log: Log,
    systemd_cgroup: bool,
}

impl Context {
    /// Applies the flags.
    ///
    /// # Errors
    /// If the log file cannot be opened.
    pub(crate) fn new(global: &Global) -> Result<Self> {
        let root_path = global.root.clone().unwrap_or_else(default_root);
        let root_path = std::path::absolute(&root_path).unwrap_or(root_path);
        Ok(Self {
            root: Root::new(root_path.clone()),
            root_path,
            images: global.images.clone().unwrap_or_else(default_images),
            log: Log::open(global)?,
            systemd_cgroup: global.systemd_cgroup,
        })
    }

    /// Checks a spec's cgroup path against `--systemd-cgroup`, and returns what the library takes,
    /// which tells the two forms apart by the colons.  A container without a path gets one if it
    /// has limits.
    ///
    /// # Errors
    /// If the path has the other form.
    pub(crate) fn cgroup_path(
        &self,
        path: Option<String>,
        id: &str,
        has_limits: bool,
    ) -> Result<Option<String>> {
        let is_systemd = |path: &str| path.split(':').count() == 3 && !path.starts_with('/');
        match path {
            None if self.systemd_cgroup => Ok(Some(format!("system.slice:trine:{id}"))),
            None if has_limits => Ok(Some(format!("/trine-{id}"))),
            Some(path) if self.systemd_cgroup && !is_systemd(&path) => bail!(
                "linux.cgroupsPath {path:?} is not SLICE:PREFIX:NAME: change it, or leave out \
                 --systemd-cgroup"
            ),
            Some(path) if !self.systemd_cgroup && is_systemd(&path) => bail!(
                "linux.cgroupsPath {path:?} is systemd's SLICE:PREFIX:NAME: add --systemd-cgroup"
            ),
            path => Ok(path),
        }
    }
}

fn default_root() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !is_root() => Path::new(&runtime).join("trine"),
        _ => PathBuf::from("/run/trine"),
    }
}

fn default_images() -> PathBuf {
    if is_root() {
        return PathBuf::from(trine_rootfs_builder::cache::DEFAULT_DIR);
    }
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    match base {
        Some(base) => base.join("trine/images"),
        None => PathBuf::from(trine_rootfs_builder::cache::DEFAULT_DIR),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn context(flags: &[&str]) -> Context {
        let cli = Cli::try_parse_from([&["trine"], flags].concat()).expect("parses");
        Context::new(&cli.global).expect("no log to open")
    }

    #[test]
    fn cgroup_path_must_have_the_form_that_the_flag_says() {
        let (plain, systemd) = (context(&[]), context(&["--systemd-cgroup"]));
        let path = |text: &str| Some(text.to_owned());
        let (one, other) = (path("/default/c"), path("a.slice:cri:c"));
        let of = |context: &Context, path, limits| context.cgroup_path(path, "c", limits).ok();
        assert_eq!(of(&plain, None, false), Some(None));
        assert_eq!(of(&plain, None, true), Some(path("/trine-c")));
        assert_eq!(of(&plain, one.clone(), true), Some(one.clone()));
        assert_eq!(of(&plain, other.clone(), true), None);
        assert_eq!(of(&systemd, other.clone(), true), Some(other));
        assert_eq!(of(&systemd, None, false), Some(path("system.slice:trine:c")));
        assert_eq!(of(&systemd, one, true), None);
    }
}
