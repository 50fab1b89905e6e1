// SPDX-License-Identifier: Apache-2.0
//! Finds the one image to use in an archive: its layers and its configuration.

use std::collections::BTreeMap;

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::blobs::{Blob, Blobs};
use super::{ArchiveError, Limits};
use crate::erofs::{hex, parse_hex};

/// How many indexes may be nested.
const MAX_NESTING: u32 = 4;
/// More layers than any builder makes.
const MAX_LAYERS: usize = 1024;
/// Annotations that name an image of a layout.
const NAME_ANNOTATIONS: [&str; 2] =
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Which image of an archive is wanted, if it has several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// The image's name or tag as the archive has it; `None` takes the only one.
    pub reference: Option<String>,
}

/// An image of an archive.
#[derive(Debug)]
pub(super) struct Found {
    /// The digest that names it.
    pub(super) id: String,
    pub(super) config: ImageConfiguration,
    pub(super) layers: Vec<Layer>,
}

/// A layer, not yet read.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) blob: LayerBlob,
    /// The digest of its unpacked data.
    pub(super) diff_id: String,
}

/// Where a layer's data is.
#[derive(Debug)]
pub(super) enum LayerBlob {
    /// A blob by digest, to be verified before it is read.
    Digest { digest: String, len: u64 },
    /// A file by name, of an archive without digests of packed data.
    Name(String),
}

impl LayerBlob {
    /// Opens it; what has a digest is verified.
    pub(super) fn open(&self, blobs: &Blobs) -> Result<Blob, ArchiveError> {
        match self {
            Self::Digest { digest, len } => blobs.verified(digest, *len),
            Self::Name(name) => blobs.require(name),
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Digest { digest, .. } => format!("layer {digest}"),
            Self::Name(name) => format!("layer {name:?}"),
        }
    }
}

/// An item of `docker save`'s manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Finds the image.
pub(super) fn find(blobs: &Blobs, select: &Select, limits: &Limits) -> Result<Found, ArchiveError> {
    if blobs.get("index.json")?.is_some() {
        return find_oci(blobs, select, limits);
    }
    if blobs.get("manifest.json")?.is_some() {
        return find_docker(blobs, select, limits);
    }
    Err(ArchiveError::NotAnImage { path: blobs.path().into() })
}

fn find_oci(blobs: &Blobs, select: &Select, limits: &Limits) -> Result<Found, ArchiveError> {
    let index: ImageIndex = parse("index.json", &blobs.document("index.json", limits)?)?;
    let mut candidates = BTreeMap::new();
    for descriptor in index.manifests() {
        let label = name_of(descriptor).unwrap_or_else(|| descriptor.digest().to_string());
        candidates
            .entry(descriptor.digest().to_string())
            .or_insert((Vec::new(), descriptor))
            .0
            .push(label);
    }
    let available = || {
        candidates.values().flat_map(|(labels, _)| labels.clone()).collect::<Vec<_>>().join(", ")
    };
    let mut chosen: Vec<_> = candidates.values().map(|(_, descriptor)| *descriptor).collect();
    if let Some(reference) = &select.reference {
        let named = index.manifests().iter().filter(|descriptor| {
            let names = names_of(descriptor);
            names.iter().any(|name| same_reference(name, reference))
                || descriptor.digest().as_ref() == reference
        });
        chosen = named.collect();
        chosen.dedup_by(|a, b| a.digest() == b.digest());
        if chosen.is_empty() {
            return Err(ArchiveError::NotFound {
                reference: reference.clone(),
                available: available(),
            });
        }
    }
    let descriptor = choose(chosen, available)?;
    let manifest = manifest_of(blobs, descriptor, limits)?;
    let id = manifest.0;
    let manifest = manifest.1;

    let config = manifest.config();
    let bytes = blobs
        .verified(config.digest().as_ref(), config.size())?
        .read_all("image configuration", limits)?;
    let layers = manifest.layers().iter().map(|layer| {
        check_layer_type(layer)?;
        Ok(LayerBlob::Digest { digest: layer.digest().to_string(), len: layer.size() })
    });
    found(id, &bytes, layers.collect::<Result<Vec<_>, _>>()?)
}

/// Follows nested indexes to the manifest for this machine; returns it with its digest.
fn manifest_of(
    blobs: &Blobs,
    descriptor: &Descriptor,
    limits: &Limits,
) -> Result<(String, ImageManifest), ArchiveError> {
    let mut descriptor = descriptor.clone();
    for _ in 0..MAX_NESTING {
        let digest = descriptor.digest().to_string();
        let what = format!("manifest {digest}");
        let bytes = blobs.verified(&digest, descriptor.size())?.read_all(&what, limits)?;
        match descriptor.media_type() {
            MediaType::ImageManifest => return Ok((digest, parse(&what, &bytes)?)),
            MediaType::ImageIndex => {}
            MediaType::Other(kind) if kind == DOCKER_MANIFEST => {
                return Ok((digest, parse(&what, &bytes)?));
            }
            MediaType::Other(kind) if kind == DOCKER_INDEX => {}
            other => {
                let reason = format!("it is neither an image manifest nor an index: {other}");
                return Err(ArchiveError::malformed(what, reason));
            }
        }
        let index: ImageIndex = parse(&what, &bytes)?;
        let manifests = index.manifests().iter().collect::<Vec<_>>();
        let available = || {
            let digests = manifests.iter().map(|descriptor| descriptor.digest().to_string());
            digests.collect::<Vec<_>>().join(", ")
        };
        descriptor = choose(manifests.clone(), available)?.clone();
    }
    Err(ArchiveError::malformed("index.json", "its indexes are nested too deeply"))
}

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Returns the one descriptor for this machine.
fn choose(
    descriptors: Vec<&Descriptor>,
    available_fn: impl Fn() -> String,
) -> Result<&Descriptor, ArchiveError> {
    let fits = |descriptor: &&&Descriptor| {
        // Without a platform it may be right: its configuration will say.
        descriptor.platform().as_ref().is_none_or(|platform| {
            *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64
        })
    };
    let fitting: Vec<_> = descriptors.iter().filter(fits).copied().collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => {
            let platforms = descriptors.iter().filter_map(|d| d.platform().as_ref());
            let found = platforms.map(|p| format!("{}/{}", p.os(), p.architecture()));
            let found = found.collect::<Vec<_>>().join(", ");
            Err(ArchiveError::NoPlatform {
                found: if found.is_empty() { "none".into() } else { found },
            })
        }
        _ => Err(ArchiveError::Several { available: available_fn() }),
    }
}

fn check_layer_type(layer: &Descriptor) -> Result<(), ArchiveError> {
    let kind = layer.media_type().to_string();
    let known = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
    if known.iter().any(|prefix| kind.starts_with(prefix)) && !kind.ends_with("+encrypted") {
        return Ok(());
    }
    let reason = format!("its media type is {kind}, not a layer's");
    Err(ArchiveError::Unsupported { what: format!("layer {}", layer.digest()), reason })
}

fn find_docker(blobs: &Blobs, select: &Select, limits: &Limits) -> Result<Found, ArchiveError> {
    let bytes = blobs.document("manifest.json", limits)?;
    let images: Vec<DockerManifest> = parse("manifest.json", &bytes)?;
    let tags = |image: &DockerManifest| image.repo_tags.clone().unwrap_or_default();
    let available = || {
        let labels = images.iter().map(|image| match tags(image).as_slice() {
            [] => image.config.clone(),
            tags => tags.join(", "),
        });
        labels.collect::<Vec<_>>().join(", ")
    };
    let matches = |image: &&DockerManifest| match &select.reference {
        Some(reference) => {
            tags(image).iter().any(|tag| same_reference(tag, reference))
                || image.config == *reference
        }
        None => true,
    };
    let chosen: Vec<_> = images.iter().filter(matches).collect();
    let image = match (chosen.as_slice(), &select.reference) {
        ([image], _) => *image,
        ([], Some(reference)) => {
            let (reference, available) = (reference.clone(), available());
            return Err(ArchiveError::NotFound { reference, available });
        }
        ([], None) => return Err(ArchiveError::malformed("manifest.json", "it names no image")),
        _ => return Err(ArchiveError::Several { available: available() }),
    };

    let config = blobs.require(&image.config)?;
    let bytes = config.read_all("image configuration", limits)?;
    let digest = hex(&Sha256::digest(&bytes));
    // Docker names the configuration by its digest, in both forms of the archive.
    let stem = image.config.rsplit('/').next().unwrap_or_default();
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    if parse_hex(stem).is_some() && stem != digest {
        return Err(ArchiveError::WrongDigest {
            what: format!("image configuration {:?}", image.config),
            expected: format!("sha256:{stem}"),
            found: format!("sha256:{digest}"),
        });
    }
    let layers = image.layers.iter().map(|name| LayerBlob::Name(name.clone())).collect();
    found(format!("docker sha256:{digest}"), &bytes, layers)
}

/// Checks the configuration against the layers.
fn found(id: String, config: &[u8], layers: Vec<LayerBlob>) -> Result<Found, ArchiveError> {
    const WHAT: &str = "image configuration";
    let config: ImageConfiguration = parse(WHAT, config)?;
    if *config.os() != Os::Linux || *config.architecture() != Arch::Amd64 {
        let found = format!("{}/{}", config.os(), config.architecture());
        return Err(ArchiveError::NoPlatform { found });
    }
    let diff_ids = config.rootfs().diff_ids();
    if layers.is_empty() {
        return Err(ArchiveError::NoLayers);
    }
    if layers.len() > MAX_LAYERS {
        return Err(ArchiveError::TooLarge { limit: MAX_LAYERS as u64, unit: "layers" });
    }
    if diff_ids.len() != layers.len() {
        let reason = format!("it lists {} layers, the manifest {}", diff_ids.len(), layers.len());
        return Err(ArchiveError::malformed(WHAT, reason));
    }
    let layers = layers.into_iter().zip(diff_ids);
    let layers = layers.map(|(blob, diff_id)| Layer { blob, diff_id: diff_id.clone() }).collect();
    Ok(Found { id, layers, config })
}

fn names_of(descriptor: &Descriptor) -> Vec<String> {
    let Some(annotations) = descriptor.annotations() else { return Vec::new() };
    NAME_ANNOTATIONS.iter().filter_map(|key| annotations.get(*key)).cloned().collect()
}

fn name_of(descriptor: &Descriptor) -> Option<String> {
    names_of(descriptor).into_iter().next()
}

/// Compares names the way users write them: Docker Hub's prefix and the tag `latest` may be left
/// out.
fn same_reference(name: &str, wanted: &str) -> bool {
    fn full(name: &str) -> String {
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        let last = name.rsplit('/').next().unwrap_or(name);
        if last.contains([':', '@']) { name.into() } else { format!("{name}:latest") }
    }
    name == wanted || full(name) == full(wanted)
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Json { what: what.into(), source })
}

#[cfg(test)]
mod tests {
    use super::same_reference;

    #[test]
    fn same_reference_ignores_docker_hub_and_latest() {
        assert!(same_reference("docker.io/library/busybox:latest", "busybox"));
        assert!(same_reference("busybox:1", "docker.io/library/busybox:1"));
        assert!(same_reference("localhost:5000/a/b", "localhost:5000/a/b:latest"));
        assert!(!same_reference("busybox:1", "busybox"));
        assert!(!same_reference("quay.io/library/busybox", "busybox"));
    }
}
