// SPDX-License-Identifier: Apache-2.0
//! The crate graph follows trust: who may link whom, and who may contain `unsafe`.

use std::fs;

use anyhow::{Context as _, Result};

use crate::metadata::Metadata;

/// The side of the VM boundary that a crate runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The definitions that both sides link.
    Both,
    /// In the VM.
    Guest,
    /// On the host.
    Host,
    /// Neither: tests, benchmarks, checks.
    Development,
}

/// Crates with their side and layer.  A crate links crates of its own side and of a lower layer,
/// and those of [`Side::Both`]; nothing else.  So neither of `trine-vmm` and `trine-io` can link the
/// other, and the guest cannot link what the host runs.
const CRATES: &[(&str, Side, u32)] = &[
    ("trine-abi", Side::Both, 0),
    ("trine-nucleus", Side::Guest, 0),
    ("trine-machine", Side::Guest, 1),
    ("trine-posix", Side::Guest, 2),
    ("trine-kernel", Side::Guest, 3),
    ("trine-jail", Side::Host, 0),
    ("trine-link", Side::Host, 0),
    ("trine-policy", Side::Host, 0),
    ("trine-rootfs-builder", Side::Host, 0),
    ("trine-check", Side::Host, 1),
    ("trine-vmm", Side::Host, 1),
    ("trine-io", Side::Host, 1),
    ("trine", Side::Host, 2),
    ("trine-cli", Side::Host, 3),
    ("containerd-shim-trine", Side::Host, 3),
    ("trine-bench", Side::Development, 4),
    ("trine-e2e", Side::Development, 4),
    ("trine-fuzz", Side::Development, 4),
    ("trine-tools", Side::Development, 4),
];

/// Crates that may contain `unsafe`; every other one forbids it.
const UNSAFE: &[&str] = &[
    "trine-nucleus",
    "trine-machine",
    "trine-kernel",
    "trine-vmm",
    "trine-jail",
    // Programs that it measures fork, and are entered by C.
    "trine-bench",
];

/// Returns what is wrong with the graph.
pub(crate) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let mut faults = links(metadata);
    for (name, package) in &metadata.members {
        let manifest = fs::read_to_string(&package.manifest)
            .with_context(|| format!("read {}", package.manifest.display()))?;
        if !manifest.contains("[lints]\nworkspace = true") {
            faults.push(format!("{name}: Cargo.toml does not take the workspace's lints"));
        }
        if UNSAFE.contains(&name.as_str()) {
            continue;
        }
        for root in &package.roots {
            let text =
                fs::read_to_string(root).with_context(|| format!("read {}", root.display()))?;
            if !text.contains("#![forbid(unsafe_code)]") {
                faults.push(format!("{name}: no #![forbid(unsafe_code)] in {}", root.display()));
            }
        }
    }
    Ok(faults)
}

fn links(metadata: &Metadata) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, package) in &metadata.members {
        let Some((side, layer)) = place(name) else {
            faults.push(format!("{name}: has no side and layer in tools/src/crates.rs"));
            continue;
        };
        for linked in &package.links {
            let Some((linked_side, linked_layer)) = place(linked) else { continue };
            let is_allowed = match linked_side {
                Side::Both => true,
                _ if side == Side::Development => true,
                linked_side => linked_side == side && linked_layer < layer,
            };
            if !is_allowed {
                faults.push(format!(
                    "{name} ({side:?}, layer {layer}) links {linked} ({linked_side:?}, layer \
                     {linked_layer})"
                ));
            }
        }
    }
    faults
}

fn place(name: &str) -> Option<(Side, u32)> {
    CRATES.iter().find(|(known, ..)| *known == name).map(|(_, side, layer)| (*side, *layer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Package;

    fn metadata(edges: &[(&str, &[&str])]) -> Metadata {
        let member = |(name, links): &(&str, &[&str])| {
            let links = links.iter().map(|link| (*link).to_owned()).collect();
            ((*name).to_owned(), Package { name: (*name).to_owned(), links, ..Package::default() })
        };
        Metadata { members: edges.iter().map(member).collect(), others: Vec::new() }
    }

    #[test]
    fn links_down_one_side_are_allowed() {
        let graph = [
            ("trine", ["trine-vmm", "trine-io", "trine-abi"].as_slice()),
            ("trine-posix", ["trine-machine", "trine-abi"].as_slice()),
            ("trine-e2e", ["trine"].as_slice()),
        ];
        assert_eq!(links(&metadata(&graph)), Vec::<String>::new());
    }

    #[test]
    fn links_across_up_or_sideways_are_faults() {
        for (name, linked) in [
            ("trine-vmm", "trine-posix"),
            ("trine-posix", "trine-link"),
            ("trine-vmm", "trine-io"),
            ("trine-io", "trine"),
            ("trine-abi", "trine-link"),
            ("trine", "trine-e2e"),
            ("unknown", "trine"),
        ] {
            let faults = links(&metadata(&[(name, &[linked])]));
            assert_eq!(faults.len(), 1, "{name} -> {linked}: {faults:?}");
        }
    }
}
