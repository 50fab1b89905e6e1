// SPDX-License-Identifier: Apache-2.0
//! Image archives become the right tree; hostile and damaged ones are refused and leave nothing.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::archives::{self, Files, Tar};
use common::{Mounted, can_mount};
use serde_json::json;
use tar::EntryType;
use trine_rootfs_builder::{
    ArchiveError, Cache, CacheError, Limits, NamedImage, Quiet, Select, WalkOptions,
};

fn plain(layer: &[u8]) -> Vec<u8> {
    layer.to_vec()
}

fn import_with(dir: &Path, limits: Limits, select: Option<&str>) -> Result<NamedImage, CacheError> {
    let cache = Cache::open(&dir.join("cache"), 1 << 40).unwrap();
    let cache = cache.with_limits(WalkOptions::default(), limits);
    let select = Select { reference: select.map(Into::into) };
    cache.import_archive(&dir.join("archive"), &select, Some("test:1"), &Quiet)
}

fn import(dir: &Path) -> Result<NamedImage, CacheError> {
    import_with(dir, Limits::default(), None)
}

/// Imports `archive`, which must be refused without a trace; returns why.
fn refused_with(archive: &[u8], limits: Limits, select: Option<&str>) -> ArchiveError {
    let dir = tempfile::tempdir().unwrap();
    common::write(&dir.path().join("archive"), archive);
    let error = match import_with(dir.path(), limits, select) {
        Err(CacheError::Archive(error)) => error,
        other => panic!("not refused as an archive: {other:?}"),
    };
    let cache = dir.path().join("cache");
    assert_eq!(common::names_in(&cache), ["boot", "keys", "names"], "{error}");
    for part in ["keys", "names"] {
        assert_eq!(common::names_in(&cache.join(part)), [""; 0], "{error}");
    }
    assert_eq!(common::names_in(dir.path()), ["archive", "cache"], "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.ends_with('.'), "one plain line: {text}");
    error
}

fn refused(archive: &[u8]) -> ArchiveError {
    refused_with(archive, Limits::default(), None)
}

/// The error of an image whose only layer is `layer`.
fn refused_layer(layer: Tar) -> ArchiveError {
    refused(&archives::layout(&[layer.bytes()], plain).tar())
}

/// Layers that use everything, and the names that they make together.
fn good_layers() -> Vec<Vec<u8>> {
    let long = format!("long/{}", "n".repeat(200));
    let first = Tar::new()
        .dir("./")
        .dir("etc/")
        .file("etc/passwd", "root")
        .file("./etc/removed", "x")
        .file("opaque/low", "x")
        .file("opaque/sub/low", "x")
        .file("gone/deep/file", "x")
        .symlink("lib", "usr/lib")
        .dir("usr/lib")
        .file("was-file", "x")
        .file("was-dir/inside", "x")
        .hard_link("etc/hard", "./etc/passwd")
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"12.5"),
            ("uid", b"3000000000"),
            ("SCHILY.xattr.user.key", b"va\nlue"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("short", "long name")
        .raw(EntryType::Fifo, "fifo", "", b"")
        .file(".wh.nothing", "");
    let second = Tar::new()
        .file("etc/.wh.removed", "")
        .file("opaque/sub/new", "y")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/high", "y")
        .file(".wh.gone", "")
        .file("gone/new", "y")
        // Through the link, as when unpacking below a root.
        .file("lib/so", "y")
        .dir("was-file")
        .file("was-file/inside", "y")
        .file("was-dir", "y")
        .file(".wh..wh.plnk/ignored", "")
        .file("etc/passwd", "changed");
    vec![first.bytes(), second.bytes()]
}

const GOOD_NAMES: &[&str] = &[
    "",
    "etc",
    "etc/hard",
    "etc/passwd",
    "fifo",
    "gone",
    "gone/new",
    "lib",
    "long",
    "long/n",
    "opaque",
    "opaque/high",
    "opaque/sub",
    "opaque/sub/new",
    "usr",
    "usr/lib",
    "usr/lib/so",
    "was-dir",
    "was-file",
    "was-file/inside",
];

fn check_good(dir: &Path, image: &NamedImage) {
    let config = image.config.as_ref().unwrap().config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_deref(), Some(&["/bin/app".to_owned()][..]));
    assert_eq!(config.cmd().as_deref(), Some(&["-x".to_owned()][..]));
    assert_eq!(config.working_dir().as_deref(), Some("/srv"));
    assert_eq!(config.user().as_deref(), Some("7:8"));
    common::fsck(&image.image.path);
    if !can_mount() {
        return;
    }
    let mounted = Mounted::image(&image.image.path, &dir.join("mnt"));
    let found = common::look(&mounted.0);
    let names: Vec<_> =
        found.keys().map(|path| path.to_str().unwrap().replace(&"n".repeat(200), "n")).collect();
    assert_eq!(names, GOOD_NAMES);

    let read = |name: &str| fs::read_to_string(mounted.0.join(name)).unwrap();
    // The second layer's file is a new one: the hard link keeps the old.
    assert_eq!((read("etc/passwd").as_str(), read("etc/hard").as_str()), ("changed", "root"));
    assert_eq!(read("lib/so"), "y");
    let passwd = &found[Path::new("etc/passwd")];
    assert_eq!(
        (passwd.mode, passwd.owner, passwd.mtime),
        (0o100_644, (1000, 2000), (1_500_000_000, 0))
    );
    assert_eq!(found[Path::new("opaque/sub")].mode, 0o040_755, "a parent without an entry");
    let long = &found[&Path::new("long").join("n".repeat(200))];
    assert_eq!((long.mtime, long.owner), ((12, 500_000_000), (3_000_000_000, 2000)));
    let xattrs: Vec<_> = long.xattrs.iter().collect();
    assert_eq!(xattrs, [(&b"user.key".to_vec(), &b"va\nlue".to_vec())]);
}

#[test]
fn archives_of_every_form_give_the_same_image() {
    let layers = good_layers();
    let docker = archives::docker(&layers, &["test:1"]);
    let oci = archives::layout(&layers, archives::gzip);
    let mut both = oci.clone();
    // `docker save` since version 25: a layout, with a manifest.json for old readers.
    both.json("manifest.json", &json!([{"Config": "x", "RepoTags": null, "Layers": []}]));
    let forms = [
        ("oci-archive, gzip", oci.tar()),
        ("oci-archive, zstd", archives::layout(&layers, archives::zstd).tar()),
        ("oci-archive, plain", archives::layout(&layers, plain).tar()),
        ("docker save, old", docker.tar()),
        ("docker save, new", both.tar()),
        ("compressed oci-archive", archives::gzip(&oci.tar())),
        ("compressed docker save", archives::zstd(&docker.tar())),
    ];
    let mut digests = Vec::new();
    for (form, bytes) in &forms {
        let dir = tempfile::tempdir().unwrap();
        common::write(&dir.path().join("archive"), bytes);
        let image = import(dir.path()).unwrap_or_else(|error| panic!("{form}: {error}"));
        check_good(dir.path(), &image);
        digests.push(image.image.digest);
    }
    let dir = tempfile::tempdir().unwrap();
    oci.directory(&dir.path().join("archive"));
    digests.push(import(dir.path()).unwrap().image.digest);
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn imported_image_is_named_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    common::write(&dir.path().join("archive"), archives::layout(&good_layers(), plain).tar());
    let first = import(dir.path()).unwrap();
    let again = import(dir.path()).unwrap();
    let inode = |image: &NamedImage| image.image.file.metadata().unwrap().ino();
    assert_eq!(inode(&first), inode(&again));
    let cache = Cache::open(&dir.path().join("cache"), 1 << 40).unwrap();
    let resolved = cache.resolve("test:1").unwrap();
    assert_eq!(inode(&resolved), inode(&first));
    assert_eq!(resolved.config, first.config);
    assert!(cache.resolve(&first.image.digest.hex()).unwrap().config.is_some());
    // The user named it: it is on the disk, and survives a reboot.
    assert_eq!(first.image.file.metadata().unwrap().mode() & 0o777, 0o444);
}

#[test]
fn the_right_image_of_several_is_taken() {
    let layer = |name: &str| vec![Tar::new().file(name, name).bytes()];
    let mut files = Files::default();
    let mut one = archives::add_image(&mut files, &layer("one"), "amd64", plain);
    let mut two = archives::add_image(&mut files, &layer("two"), "amd64", plain);
    let arm = archives::add_image(&mut files, &layer("arm"), "arm64", plain);
    one["annotations"] = json!({"org.opencontainers.image.ref.name": "app:1"});
    two["annotations"] = json!({"io.containerd.image.name": "docker.io/library/app:latest"});
    let several = archives::layout_of(files.clone(), &[one.clone(), two]).tar();
    let error = refused(&several);
    assert!(
        matches!(&error, ArchiveError::Several { available } if available.contains("app:1")),
        "{error}"
    );
    let error = refused_with(&several, Limits::default(), Some("app:2"));
    assert!(
        matches!(&error, ArchiveError::NotFound { available, .. } if available.contains("app:latest")),
        "{error}"
    );
    let mut digests = Vec::new();
    for name in ["app:1", "app", "docker.io/library/app"] {
        let dir = tempfile::tempdir().unwrap();
        common::write(&dir.path().join("archive"), &several);
        digests.push(import_with(dir.path(), Limits::default(), Some(name)).unwrap().image.digest);
    }
    assert!(digests[0] != digests[1] && digests[1] == digests[2]);

    // An index of platforms, as registries serve it.
    let platform = |mut descriptor: serde_json::Value, os: &str, architecture: &str| {
        descriptor["platform"] = json!({"os": os, "architecture": architecture});
        descriptor
    };
    let attestation = platform(arm.clone(), "unknown", "unknown");
    let arm = platform(arm, "linux", "arm64");
    let index = |files: &mut Files, manifests: &[serde_json::Value]| {
        let index =
            json!({"schemaVersion": 2, "mediaType": archives::INDEX, "manifests": manifests});
        files.blob(archives::INDEX, index.to_string().into_bytes())
    };
    let nested = index(&mut files, &[arm.clone(), platform(one, "linux", "amd64"), attestation]);
    let dir = tempfile::tempdir().unwrap();
    common::write(&dir.path().join("archive"), archives::layout_of(files.clone(), &[nested]).tar());
    assert_eq!(import(dir.path()).unwrap().image.digest, digests[0]);
    let foreign = index(&mut files, &[arm]);
    let error = refused(&archives::layout_of(files, &[foreign]).tar());
    assert!(
        matches!(&error, ArchiveError::NoPlatform { found } if found == "linux/arm64"),
        "{error}"
    );
}

#[test]
fn image_for_another_platform_is_refused_by_its_configuration() {
    let mut files = Files::default();
    let image = archives::add_image(&mut files, &good_layers(), "arm64", plain);
    let error = refused(&archives::layout_of(files, &[image]).tar());
    assert!(
        matches!(&error, ArchiveError::NoPlatform { found } if found == "linux/arm64"),
        "{error}"
    );
}

#[test]
fn truncated_archives_are_refused_wherever_they_end() {
    for whole in [
        archives::layout(&good_layers(), archives::gzip).tar(),
        archives::docker(&good_layers(), &[]).tar(),
        archives::gzip(&archives::layout(&good_layers(), plain).tar()),
    ] {
        // The last 1024 bytes are the mark of the end, of which one half suffices.
        let ends = (0..whole.len() - 1024).step_by(997);
        for end in ends.chain([1, 511, 512, 513, 1024]) {
            let error = refused(&whole[..end]);
            let expected = matches!(
                error,
                ArchiveError::Truncated { .. }
                    | ArchiveError::NotAnImage { .. }
                    | ArchiveError::Malformed { .. }
            );
            assert!(expected, "cut at {end}: {error}");
        }
    }
}

#[test]
fn wrong_digests_of_every_part_are_refused() {
    let good = archives::layout(&good_layers(), archives::gzip);
    let blobs: Vec<_> = good.0.keys().filter(|name| name.starts_with("blobs/")).cloned().collect();
    assert_eq!(blobs.len(), 4, "manifest, configuration, two layers");
    for name in blobs {
        let mut bad = good.clone();
        *bad.0.get_mut(&name).unwrap().last_mut().unwrap() ^= 1;
        let error = refused(&bad.tar());
        assert!(matches!(error, ArchiveError::WrongDigest { .. }), "{name}: {error}");

        let mut bad = good.clone();
        bad.0.get_mut(&name).unwrap().pop();
        assert!(matches!(refused(&bad.tar()), ArchiveError::Truncated { .. }), "{name}");

        let mut bad = good.clone();
        bad.0.get_mut(&name).unwrap().push(0);
        assert!(matches!(refused(&bad.tar()), ArchiveError::Malformed { .. }), "{name}");

        let mut bad = good.clone();
        bad.0.remove(&name);
        assert!(matches!(refused(&bad.tar()), ArchiveError::Missing { .. }), "{name}");
    }
    // Without digests of packed layers, those of the unpacked data count.
    let good = archives::docker(&good_layers(), &[]);
    for name in good.0.keys().filter(|name| *name != "manifest.json") {
        let mut bad = good.clone();
        let bytes = bad.0.get_mut(name).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let error = refused(&bad.tar());
        assert!(matches!(error, ArchiveError::WrongDigest { .. }), "{name}: {error}");
    }
}

#[test]
fn names_that_could_leave_the_root_are_refused() {
    let long = "x/".repeat(3000);
    let deep = "x/".repeat(300);
    let wide = "x".repeat(256);
    for name in ["../x", "a/../../x", "a/..", "..", "/etc/passwd", "//x", &long, &deep, &wide] {
        let layer = Tar::new().pax(&[("path", name.as_bytes())]).file("short", "");
        let error = refused_layer(layer);
        assert!(matches!(error, ArchiveError::BadPath { .. }), "{name}: {error}");
    }
    for name in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        let error = refused_layer(Tar::new().file(name, ""));
        assert!(matches!(error, ArchiveError::BadPath { .. }), "{name}: {error}");
    }
    for layer in [
        Tar::new().file("file", "").file("file/below", ""),
        Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", ""),
        Tar::new().symlink("a", "a/a").file("a/x", ""),
        Tar::new().file("./", ""),
    ] {
        let error = refused_layer(layer);
        assert!(matches!(error, ArchiveError::BadPath { .. }), "{error}");
    }
}

#[test]
fn links_out_of_the_root_stay_inside() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap();
    let up = format!("../../../../../../..{target}");
    let layer =
        Tar::new().symlink("abs", target).file("abs/x", "1").symlink("rel", &up).file("rel/y", "2");
    common::write(&dir.path().join("archive"), archives::layout(&[layer.bytes()], plain).tar());
    let image = import(dir.path()).unwrap();
    assert_eq!(common::names_in(&outside), [""; 0]);
    let mounted = Mounted::image(&image.image.path, &dir.path().join("mnt"));
    let inside = mounted.0.join(target.trim_start_matches('/'));
    assert_eq!(common::names_in(&inside), ["x", "y"]);
}

#[test]
fn hard_links_to_what_is_not_there_are_refused() {
    for target in ["missing", "dir", "a/missing", "."] {
        let error = refused_layer(Tar::new().dir("dir").hard_link("x", target));
        assert!(matches!(error, ArchiveError::BadLink { .. }), "{target}: {error}");
    }
    for target in ["/etc/passwd", "../etc/passwd", "dir/../../x"] {
        let error = refused_layer(Tar::new().dir("dir").hard_link("x", target));
        assert!(matches!(error, ArchiveError::BadPath { .. }), "{target}: {error}");
    }
    let itself = refused_layer(Tar::new().hard_link("x", "x"));
    assert!(matches!(itself, ArchiveError::BadLink { .. }), "{itself}");
}

#[test]
fn bombs_are_stopped_before_they_fill_the_disk() {
    let zeros = vec![0; 70 << 20];
    let layer = Tar::new().file("zeros", &zeros).bytes();
    for pack_fn in [archives::gzip, archives::zstd] {
        let archive = archives::layout(std::slice::from_ref(&layer), pack_fn).tar();
        let limits = Limits { max_ratio: 100, ..Limits::default() };
        let error = refused_with(&archive, limits, None);
        assert!(matches!(error, ArchiveError::TooLarge { limit: 100, .. }), "{error}");
        let limits = Limits { max_unpacked_bytes: 1 << 20, ..Limits::default() };
        let error = refused_with(&archive, limits, None);
        assert!(matches!(error, ArchiveError::TooLarge { limit: 1_048_576, .. }), "{error}");
    }
    // The archive itself as a bomb.
    let limits = Limits { max_unpacked_bytes: 1 << 20, ..Limits::default() };
    let error = refused_with(&archives::gzip(&zeros), limits, None);
    assert!(matches!(error, ArchiveError::TooLarge { .. }), "{error}");

    let many = (0..100).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), ""));
    let archive = archives::layout(&[many.bytes()], plain).tar();
    let limits = Limits { max_entries: 50, ..Limits::default() };
    let error = refused_with(&archive, limits, None);
    assert!(matches!(error, ArchiveError::TooLarge { limit: 50, .. }), "{error}");
}

#[test]
fn malformed_layers_are_refused() {
    let layer = Tar::new().file("file", common::noise(1, 600)).bytes();
    let changed = |change_fn: &dyn Fn(&mut Vec<u8>)| {
        let mut layer = layer.clone();
        change_fn(&mut layer);
        refused(&archives::layout(&[layer], plain).tar())
    };
    // The archive is whole and all digests are right: only the layer is bad.
    let cut = changed(&|layer| layer.truncate(700));
    assert!(matches!(cut, ArchiveError::Truncated { .. }), "{cut}");
    let checksum = changed(&|layer| layer[0] ^= 1);
    assert!(matches!(checksum, ArchiveError::Malformed { .. }), "{checksum}");
    let huge = changed(&|layer| {
        layer[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
        let sum: u32 = layer[..512]
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        layer[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    });
    assert!(
        matches!(huge, ArchiveError::Malformed { .. } | ArchiveError::Truncated { .. }),
        "{huge}"
    );

    let sparse = refused_layer(Tar::new().raw(EntryType::GNUSparse, "s", "", b""));
    assert!(matches!(sparse, ArchiveError::Unsupported { .. }), "{sparse}");
    let sparse = refused_layer(Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("s", ""));
    assert!(matches!(sparse, ArchiveError::Unsupported { .. }), "{sparse}");
    let odd = refused_layer(Tar::new().raw(EntryType::new(b'V'), "volume", "", b""));
    assert!(matches!(odd, ArchiveError::Unsupported { .. }), "{odd}");
    let pax =
        refused_layer(Tar::new().raw(EntryType::XHeader, "x", "", b"999 path=x\n").file("f", ""));
    assert!(matches!(pax, ArchiveError::Malformed { .. }), "{pax}");
    let name = refused_layer(Tar::new().raw(EntryType::GNULongName, "x", "", &vec![b'n'; 2 << 20]));
    assert!(matches!(name, ArchiveError::Malformed { .. }), "{name}");
}

#[test]
fn documents_that_break_their_form_are_refused() {
    let none = archives::layout(&[], plain).tar();
    assert!(matches!(refused(&none), ArchiveError::NoLayers));
    assert!(matches!(refused(&archives::docker(&[], &[]).tar()), ArchiveError::NoLayers));
    assert!(matches!(refused(b"not a tar at all"), ArchiveError::Truncated { .. }));
    assert!(matches!(refused(b""), ArchiveError::Truncated { .. }));
    assert!(matches!(refused(&[0; 10_240]), ArchiveError::NotAnImage { .. }));
    let other = Tar::new().file("some/file", "x").bytes();
    assert!(matches!(refused(&other), ArchiveError::NotAnImage { .. }));
    for (document, text) in [
        ("index.json", "{"),
        ("index.json", "[]"),
        ("manifest.json", "{}"),
        ("manifest.json", "[{}]"),
    ] {
        let archive = Tar::new().file(document, text).bytes();
        assert!(matches!(refused(&archive), ArchiveError::Json { .. }), "{document} {text}");
    }
    let nothing = Tar::new().file("manifest.json", "[]").bytes();
    assert!(matches!(refused(&nothing), ArchiveError::Malformed { .. }));

    // An index may nest, but not without end.
    let mut files = Files::default();
    let mut descriptor = archives::add_image(&mut files, &good_layers(), "amd64", plain);
    for _ in 0..10 {
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        descriptor = files.blob(archives::INDEX, index.to_string().into_bytes());
    }
    let error = refused(&archives::layout_of(files, &[descriptor]).tar());
    assert!(matches!(error, ArchiveError::Malformed { .. }), "{error}");

    // A digest is no path.
    let manifest =
        json!({"mediaType": archives::MANIFEST, "size": 1, "digest": "sha256:../../../etc/passwd"});
    let error = refused(&archives::layout_of(Files::default(), &[manifest]).tar());
    assert!(
        matches!(error, ArchiveError::Json { .. } | ArchiveError::Unsupported { .. }),
        "{error}"
    );

    // More layers than the configuration knows.
    let mut files = archives::docker(&good_layers(), &[]);
    let config = archives::config(&good_layers()[..1], "amd64");
    files.json("c.json", &config);
    let layers: Vec<_> = files.0.keys().filter(|name| name.ends_with(".tar")).cloned().collect();
    files.json("manifest.json", &json!([{"Config": "c.json", "RepoTags": [], "Layers": layers}]));
    assert!(matches!(refused(&files.tar()), ArchiveError::Malformed { .. }));
}

#[test]
fn links_in_a_layout_directory_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("archive");
    archives::layout(&good_layers(), plain).directory(&layout);
    let index = layout.join("index.json");
    fs::rename(&index, dir.path().join("elsewhere.json")).unwrap();
    std::os::unix::fs::symlink("../elsewhere.json", &index).unwrap();
    let error = import(dir.path()).unwrap_err();
    assert!(matches!(error, CacheError::Archive(ArchiveError::Malformed { .. })), "{error}");
}

#[test]
fn links_in_a_docker_archive_lead_to_their_layer() {
    let layers = good_layers();
    let files = archives::docker(&layers, &["x"]);
    let second = format!("{:064x}/layer.tar", 1);
    let tar = files.0.iter().fold(Tar::new(), |tar, (name, bytes)| {
        if *name == second {
            tar.file("real/layer.tar", bytes).symlink(name, "../real/layer.tar")
        } else {
            tar.file(name, bytes)
        }
    });
    let dir = tempfile::tempdir().unwrap();
    common::write(&dir.path().join("archive"), tar.bytes());
    check_good(dir.path(), &import(dir.path()).unwrap());
}
