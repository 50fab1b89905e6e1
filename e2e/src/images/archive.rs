// SPDX-License-Identifier: Apache-2.0
//! Writes OCI image archives, good ones and, for tests of bad input, broken ones.

use std::{fs::File, io::Write as _, path::Path};

use anyhow::Result;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header, HeaderMode};

/// A layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    blob: Vec<u8>,
    media_type: &'static str,
    /// The digest of what the blob unpacks to.
    diff_id: String,
}

impl Layer {
    fn plain(blob: Vec<u8>) -> Self {
        let diff_id = digest(&blob);
        Self { blob, media_type: "application/vnd.oci.image.layer.v1.tar", diff_id }
    }

    /// Compresses the layer.
    pub(crate) fn compressed(self) -> Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&self.blob)?;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        Ok(Self { blob: encoder.finish()?, media_type, diff_id: self.diff_id })
    }

    /// Packs a directory, with owners, modes and times.
    pub(crate) fn of_directory(directory: &Path) -> Result<Self> {
        let mut tar = Builder::new(Vec::new());
        tar.mode(HeaderMode::Complete);
        tar.follow_symlinks(false);
        tar.append_dir_all(".", directory)?;
        Ok(Self::plain(tar.into_inner()?))
    }

    /// A layer with one file; its name goes into the header as it is, however wrong.
    pub(crate) fn with_file(name: &str, contents: &[u8]) -> Result<Self> {
        let mut header = Header::new_ustar();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&header, contents)?;
        Ok(Self::plain(tar.into_inner()?))
    }
}

/// Writes an image of these layers as a tar of an OCI layout.
pub(crate) fn write_archive(
    file: &Path,
    reference: &str,
    layers: &[Layer],
    entrypoint: &[&str],
) -> Result<()> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Cmd": entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let descriptors: Vec<Value> =
        layers.iter().map(|layer| descriptor(layer.media_type, &layer.blob)).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": descriptors,
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rsplit(':').next(),
    });
    entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });

    let mut tar = Builder::new(File::create(file)?);
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", index.to_string().as_bytes())?;
    let blobs = layers.iter().map(|layer| &layer.blob).chain([&config, &manifest]);
    for blob in blobs {
        append(&mut tar, &format!("blobs/sha256/{}", hash(blob)), blob)?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

fn append(tar: &mut Builder<File>, name: &str, contents: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(contents.len() as u64);
    tar.append_data(&mut header, name, contents)?;
    Ok(())
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hash(blob))
}

fn hash(blob: &[u8]) -> String {
    hex(&Sha256::digest(blob))
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
