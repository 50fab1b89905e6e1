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

/// Bytes that a process shares with none; `None` if it has ended.
pub(crate) fn private_bytes(id: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    Some(kibibytes(&text, "Private_Clean:")? + kibibytes(&text, "Private_Dirty:")?)
}

/// Name of a process; `None` if it has ended.
pub(crate) fn name(id: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    Some(name.trim().to_owned())
}

/// How often threads of the processes have begun to wait so far.
pub(crate) fn wakeups(ids: &[u32]) -> u64 {
    of_threads(ids, "status", |text| number(text, "voluntary_ctxt_switches:"))
}

/// How long threads of the processes have run so far, in nanoseconds; of those that are there now.
pub(crate) fn running_ns(ids: &[u32]) -> u64 {
    // Time on a processor, time waiting for one, how often.
    of_threads(ids, "schedstat", |text| text.split_whitespace().next()?.parse().ok())
}

/// Sums up a number of a file that each thread has.
fn of_threads(ids: &[u32], file: &str, number_fn: impl Fn(&str) -> Option<u64>) -> u64 {
    let of_process = |id: &u32| {
        let threads = fs::read_dir(format!("/proc/{id}/task")).ok()?;
        let of_thread =
            |thread: fs::DirEntry| number_fn(&fs::read_to_string(thread.path().join(file)).ok()?);
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
        assert!(private_bytes(own[0]).is_some_and(|bytes| bytes > 4096));
        assert!(running_ns(&own) > 0);
    }
}
