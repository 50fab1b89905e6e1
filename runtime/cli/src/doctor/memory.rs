// SPDX-License-Identifier: Apache-2.0
//! How the host backs guest memory.

use std::fs;

use super::Finding;

/// Checks it.
pub(super) fn check() -> Vec<Finding> {
    let mut findings = vec![huge_pages(), available()];
    findings.extend(nx_huge_pages());
    findings
}

fn huge_pages() -> Finding {
    const NAME: &str = "transparent huge pages";
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    match text.as_deref().ok().and_then(selected) {
        Some(mode @ ("madvise" | "always")) => Finding::ok(NAME, mode),
        Some(mode) => Finding::warn(
            NAME,
            mode,
            "guest memory is slower: `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
        ),
        None => Finding::warn(
            NAME,
            "the kernel has none",
            "guest memory is slower: use one with CONFIG_TRANSPARENT_HUGEPAGE",
        ),
    }
}

/// Finds the word in brackets.
fn selected(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

fn available() -> Finding {
    const NAME: &str = "memory";
    /// What a default VM may take.
    const WANTED_KIB: u64 = 256 << 10;
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    match kibibytes {
        Some(free) if free >= WANTED_KIB => Finding::ok(NAME, format!("{} MiB free", free >> 10)),
        Some(free) => Finding::warn(
            NAME,
            format!("{} MiB free", free >> 10),
            "a VM takes up to 256 MiB unless told otherwise: free some, or use --memory",
        ),
        None => Finding::warn(NAME, "/proc/meminfo cannot be read", "mount /proc"),
    }
}

/// A mitigation that splits the huge pages of executable guest memory (iTLB multihit).
fn nx_huge_pages() -> Option<Finding> {
    const NAME: &str = "nx_huge_pages";
    let text = fs::read_to_string("/sys/module/kvm/parameters/nx_huge_pages").ok()?;
    let value = text.trim();
    if matches!(value, "N" | "0" | "off") {
        return Some(Finding::ok(NAME, "off"));
    }
    Some(Finding::warn(
        NAME,
        format!("{value}: KVM splits huge pages that guests execute from"),
        "starts are slower; if /sys/devices/system/cpu/vulnerabilities/itlb_multihit says that \
         this CPU is not affected, set kvm.nx_huge_pages=off",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selected_is_the_word_in_brackets() {
        assert_eq!(selected("always [madvise] never\n"), Some("madvise"));
        assert_eq!(selected("[always] madvise never"), Some("always"));
        assert_eq!(selected("always"), None);
    }
}
