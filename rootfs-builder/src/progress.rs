// SPDX-License-Identifier: Apache-2.0
//! What a build tells its caller while it runs.

/// A step of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Walking the source's directories; counts entries, the total is unknown (0).
    Scan,
    /// Checking the digests of an archive's blobs; counts bytes.
    Verify,
    /// Unpacking the layers of an archive; counts compressed bytes.
    Unpack,
    /// Writing file data into the image; counts bytes.
    Write,
}

/// Receives the progress of a build; the command line draws its bar from it.
///
/// Calls come from the building thread, at most once per file or per MiB: keep them short.
pub trait Progress: Sync {
    /// Says that `done` of `total` units of `phase` are done; `total` is 0 when it is unknown.
    fn update(&self, phase: Phase, done: u64, total: u64);
}

/// Reports to nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn update(&self, _phase: Phase, _done: u64, _total: u64) {}
}
