// SPDX-License-Identifier: Apache-2.0
//! What cargo says of the workspace and of everything it depends on.

use std::{collections::BTreeMap, env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// One package.
#[derive(Clone, Debug, Default)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Its licence expression, empty if it has none.
    pub(crate) licence: String,
    /// Where it comes from; empty for members of the workspace.
    pub(crate) source: String,
    /// Its Cargo.toml.
    pub(crate) manifest: PathBuf,
    /// Names of the workspace members that it links (not what only its tests link).
    pub(crate) links: Vec<String>,
    /// Root source files of its libraries and programs.
    pub(crate) roots: Vec<PathBuf>,
}

/// The workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    /// Members of the workspace by name.
    pub(crate) members: BTreeMap<String, Package>,
    /// Everything else.
    pub(crate) others: Vec<Package>,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .output()
            .context("run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Self::parse(&serde_json::from_slice(&output.stdout).context("parse cargo metadata")?)
    }

    fn parse(value: &Value) -> Result<Self> {
        let all = value["packages"].as_array().context("cargo metadata without packages")?;
        let mut metadata = Self::default();
        for package in all.iter().map(Package::parse) {
            if package.source.is_empty() {
                metadata.members.insert(package.name.clone(), package);
            } else {
                metadata.others.push(package);
            }
        }
        let names: Vec<String> = metadata.members.keys().cloned().collect();
        for member in metadata.members.values_mut() {
            member.links.retain(|name| names.contains(name));
        }
        Ok(metadata)
    }
}

impl Package {
    fn parse(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let array = |key: &str| value[key].as_array().cloned().unwrap_or_default();
        let links = array("dependencies")
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
            .collect();
        let roots = array("targets")
            .iter()
            .filter(|target| {
                let kinds = target["kind"].as_array().cloned().unwrap_or_default();
                kinds.iter().any(|kind| kind == "lib" || kind == "bin")
            })
            .filter_map(|target| target["src_path"].as_str().map(PathBuf::from))
            .collect();
        Self {
            name: text("name"),
            version: text("version"),
            licence: text("license"),
            source: text("source"),
            manifest: text("manifest_path").into(),
            links,
            roots,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_keeps_links_between_members_only() {
        let value = serde_json::json!({ "packages": [
            { "name": "a", "source": null, "license": "MIT", "dependencies": [
                { "name": "b", "kind": null }, { "name": "c", "kind": "dev" },
                { "name": "serde", "kind": null } ] },
            { "name": "b", "source": null, "dependencies": [] },
            { "name": "c", "source": null, "dependencies": [] },
            { "name": "serde", "source": "registry+x", "dependencies": [] },
        ]});
        let metadata = Metadata::parse(&value).unwrap();
        assert_eq!(metadata.members["a"].links, ["b"]);
        assert_eq!(metadata.members.len(), 3);
        assert_eq!(metadata.others.len(), 1);
    }
}
