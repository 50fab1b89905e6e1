// SPDX-License-Identifier: Apache-2.0
//! An OCI image archive of the root file system, for containerd.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Name of the image.
pub(crate) const NAME: &str = "trine.test/bench:latest";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes the archive.
///
/// # Errors
/// If a file cannot be read or written.
pub(crate) fn write(rootfs: &Path, archive: &Path) -> Result<()> {
    let layer = layer(rootfs).context("cannot make the layer of the image")?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config.as_bytes()),
        "layers": [descriptor(LAYER, &layer)],
    })
    .to_string();
    let mut of_manifest = descriptor(MANIFEST, manifest.as_bytes());
    of_manifest["annotations"] = json!({
        "io.containerd.image.name": NAME,
        "org.opencontainers.image.ref.name": "latest",
    });
    let index = json!({ "schemaVersion": 2, "manifests": [of_manifest] }).to_string();

    let write_all = || -> std::io::Result<()> {
        let mut out = Builder::new(BufWriter::new(File::create(archive)?));
        append(&mut out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut out, "index.json", index.as_bytes())?;
        for blob in [manifest.as_bytes(), config.as_bytes(), &layer] {
            append(&mut out, &digest(blob).replace("sha256:", "blobs/sha256/"), blob)?;
        }
        out.into_inner()?.flush()
    };
    write_all().with_context(|| format!("cannot write {}", archive.display()))
}

fn layer(rootfs: &Path) -> std::io::Result<Vec<u8>> {
    let mut layer = Builder::new(vec![]);
    layer.follow_symlinks(false);
    layer.append_dir_all(".", rootfs)?;
    layer.into_inner()
}

fn append(out: &mut Builder<impl std::io::Write>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    out.append_data(&mut header, name, bytes)
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(blob), "size": blob.len() })
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, io::Read as _};

    use super::*;

    #[test]
    fn archive_holds_what_its_descriptors_say() {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let (rootfs, archive) = (directory.path().join("root"), directory.path().join("a.tar"));
        fs::create_dir(&rootfs).expect("a directory can be made");
        fs::write(rootfs.join("hello"), "x").expect("a file can be written");

        write(&rootfs, &archive).expect("the archive can be written");

        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(File::open(&archive).expect("it is there"));
        for entry in tar.entries().expect("it is a tar file") {
            let mut entry = entry.expect("entries are sound");
            let name = entry.path().expect("names are UTF-8").display().to_string();
            let mut bytes = vec![];
            entry.read_to_end(&mut bytes).expect("entries are whole");
            files.insert(name, bytes);
        }
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("it is JSON");
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("there is a digest");
            let bytes = &files[&digest.replace("sha256:", "blobs/sha256/")];
            assert_eq!(Some(bytes.len() as u64), descriptor["size"].as_u64());
            assert_eq!(super::digest(bytes), digest);
            bytes.clone()
        };
        let index = parse(&files["index.json"]);
        let manifest = parse(&blob(&index["manifests"][0]));
        let config = parse(&blob(&manifest["config"]));
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        let mut layer = tar::Archive::new(&layer[..]);
        let names = layer.entries().expect("the layer is a tar file").map(|entry| {
            entry.expect("entries are sound").path().expect("names are UTF-8").into_owned()
        });
        assert!(names.into_iter().any(|name| name.ends_with("hello")));
    }
}
