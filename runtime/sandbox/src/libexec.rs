// SPDX-License-Identifier: Apache-2.0
//! Where the programs and the guest kernel lie.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use crate::Error;

/// The last place looked at.
const DEFAULT: &str = "/usr/local/libexec/trine";

/// Finds the folder of `trine-io`, `trine-vmm` and `trine-kernel`: the one that the caller names,
/// else `TRINE_LIBEXEC`, else the first of the usual places that has them.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, Error> {
    let given = named
        .map(Path::to_path_buf)
        .or_else(|| env::var_os("TRINE_LIBEXEC").filter(|value| !value.is_empty()).map(Into::into));
    if let Some(folder) = given {
        return check(folder);
    }
    let program = env::current_exe()
        .map_err(|source| Error::host("find the folder of the running program", source))?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    let places = [beside.to_path_buf(), beside.join("../libexec/trine"), DEFAULT.into()];
    let mut places = places.into_iter().map(check);
    let first = places.next().unwrap_or_else(|| check(DEFAULT.into()));
    first.or_else(|error| places.find_map(Result::ok).ok_or(error)).map_err(|_| {
        let places =
            format!("{}, {}/../libexec/trine or {DEFAULT}", beside.display(), beside.display());
        Error::host(
            format!("find trine-io in {places} (install Trine, or set TRINE_LIBEXEC)"),
            io::ErrorKind::NotFound,
        )
    })
}

fn check(folder: PathBuf) -> Result<PathBuf, Error> {
    let program = folder.join("trine-io");
    match rustix::fs::access(&program, rustix::fs::Access::EXEC_OK) {
        Ok(()) => Ok(folder),
        Err(errno) => Err(Error::host(format!("run {}", program.display()), errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn find_named_folder_must_have_the_program() {
        let folder = tempfile::tempdir().expect("folder");
        let error = find(Some(folder.path())).expect_err("empty");
        assert!(error.to_string().contains("trine-io"), "{error}");
        let program = folder.path().join("trine-io");
        fs::write(&program, "").expect("file");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("mode");
        assert_eq!(find(Some(folder.path())).expect("found"), folder.path());
    }
}
