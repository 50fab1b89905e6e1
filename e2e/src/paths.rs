// SPDX-License-Identifier: Apache-2.0
//! Where things are.

use std::path::{Path, PathBuf};

/// The root of the source tree.
pub(crate) fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().unwrap_or(crate_folder).to_owned()
}

/// The folder of the programs under test.
pub(crate) fn programs() -> PathBuf {
    root().join("target/x86_64-unknown-linux-gnu/release")
}

/// The command line tool under test.
pub(crate) fn trine() -> PathBuf {
    programs().join("trine")
}

/// What is fetched or built once and then kept: packages, images, guest programs.
pub(crate) fn cache() -> PathBuf {
    root().join("target/e2e")
}
