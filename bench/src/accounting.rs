// SPDX-License-Identifier: Apache-2.0
//! What the kernel counts, of the host and of processes.

use std::fs;

use anyhow::{Context as _, Result};

/// Bytes that the host could give to new programs.
///
/// # Errors
/// If the kernel does not say.
pub(crate) fn memory_available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    kibibytes(&text, "MemAvailable:").context("/proc/meminfo has no MemAvailable")
}

/// Bytes of the processes, each page divided by how many processes share it.  Those that have ended
/// count nothing.
pub(crate) fn proportional_bytes(ids: &[u32]) -> u64 {
    let of_process = |id: &u32| {
        let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
        kibibytes(&text, "Pss:")
    };
    ids.iter().filter_map(of_process).sum()
}

/// How often threads of the processes have begun to wait so far.
pub(crate) fn wakeups(ids: &[u32]) -> u64 {
    let of_process = |id: &u32| {
        let threads = fs::read_dir(format!("/proc/{id}/task")).ok()?;
        let of_thread = |thread: fs::DirEntry| {
            let text = fs::read_to_string(thread.path().join("status")).ok()?;
            number(&text, "voluntary_ctxt_switches:")
        };
        Some(threads.flatten().filter_map(of_thread).sum::<u64>())
    };
    ids.iter().filter_map(of_process).sum()
}

/// The number after a key at the start of a line.
pub(crate) fn number(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn kibibytes(text: &str, key: &str) -> Option<u64> {
    number(text, key)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_whole_keys() {
        let text = "nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t7\nPss:   12 kB\n";

        assert_eq!(number(text, "voluntary_ctxt_switches:"), Some(7));
        assert_eq!(kibibytes(text, "Pss:"), Some(12 * 1024));
        assert_eq!(number(text, "Rss:"), None);
    }

    #[test]
    fn own_figures_are_there() {
        let own = [std::process::id()];

        assert!(memory_available().expect("the kernel says") > 1 << 20);
        assert!(proportional_bytes(&own) > 4096);
    }
}
