// SPDX-License-Identifier: Apache-2.0
//! Makes image archives, good and bad.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar that is written entry by entry, with names that no honest tool writes.
pub(crate) struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry whose name and target are put into the header as they are.
    pub(crate) fn raw(mut self, kind: EntryType, name: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(1_500_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, data: impl AsRef<[u8]>) -> Self {
        self.raw(EntryType::Regular, name, "", data.as_ref())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name, target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name, target, b"")
    }

    /// Adds PAX records for the entry that follows.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            data.extend(format!("{len} {key}=").as_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.raw(EntryType::XHeader, "pax", "", &data)
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// The files of an archive, by name.
#[derive(Clone, Default)]
pub(crate) struct Files(pub(crate) BTreeMap<String, Vec<u8>>);

impl Files {
    pub(crate) fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let size = bytes.len();
        self.0.insert(format!("blobs/sha256/{digest}"), bytes);
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
    }

    pub(crate) fn json(&mut self, name: &str, value: &Value) {
        self.0.insert(name.into(), value.to_string().into_bytes());
    }

    /// Writes a tar of the files.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let tar = self.0.iter().fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes));
        tar.bytes()
    }

    pub(crate) fn directory(&self, dir: &Path) {
        for (name, bytes) in &self.0 {
            super::write(&dir.join(name), bytes);
        }
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A configuration for `layers`, unpacked.
pub(crate) fn config(layers: &[Vec<u8>], architecture: &str) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|l| format!("sha256:{}", sha256(l))).collect();
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["A=b"], "Entrypoint": ["/bin/app"], "Cmd": ["-x"],
                   "WorkingDir": "/srv", "User": "7:8"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// Adds an image to an OCI layout, and returns its descriptor; `pack_fn` compresses a layer.
pub(crate) fn add_image(
    files: &mut Files,
    layers: &[Vec<u8>],
    architecture: &str,
    pack_fn: impl Fn(&[u8]) -> Vec<u8>,
) -> Value {
    let json = config(layers, architecture).to_string().into_bytes();
    let config = files.blob("application/vnd.oci.image.config.v1+json", json);
    let layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers: Vec<_> =
        layers.iter().map(|layer| files.blob(layer_type, pack_fn(layer))).collect();
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    files.blob(MANIFEST, manifest.to_string().into_bytes())
}

/// An OCI layout with one image.
pub(crate) fn layout(layers: &[Vec<u8>], pack_fn: impl Fn(&[u8]) -> Vec<u8>) -> Files {
    let mut files = Files::default();
    let descriptor = add_image(&mut files, layers, "amd64", pack_fn);
    layout_of(files, &[descriptor])
}

/// Finishes an OCI layout.
pub(crate) fn layout_of(mut files: Files, manifests: &[Value]) -> Files {
    files.json("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
    files.json("index.json", &json!({"schemaVersion": 2, "manifests": manifests}));
    files
}

/// `docker save` before version 25: directories by layer, names without digests.
pub(crate) fn docker(layers: &[Vec<u8>], tags: &[&str]) -> Files {
    let mut files = Files::default();
    let config = config(layers, "amd64").to_string().into_bytes();
    let config_name = format!("{}.json", sha256(&config));
    files.0.insert(config_name.clone(), config);
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{number:064x}/layer.tar");
        files.0.insert(name.clone(), layer.clone());
        names.push(name);
    }
    files.json(
        "manifest.json",
        &json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]),
    );
    files
}
