// SPDX-License-Identifier: Apache-2.0
//! `run IMAGE|ROOTFS`: a plan without a bundle.

use std::{
    ffi::OsString, fs::File, io::Read as _, os::unix::ffi::OsStringExt as _, path::Path,
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use oci_spec::image::Config as ImageConfig;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use trine::{
    Landlock, SystemCalls, Volume,
    oci::{Defaults, MEMORY_MIN_BYTES},
};
use trine_abi::{
    control::{Config, Mount, NO_HANDLE, Process},
    layout::MAX_VCPUS,
};

use crate::{
    args::EmbeddedFlags,
    bundle,
    context::Context,
    images::Image,
    plan::{Outline, Plan},
    store::Record,
    values::{self, User, Variables},
};

const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest `/etc/passwd` or `/etc/group` that is read, in bytes.
const USER_FILE_MAX_BYTES: u64 = 1 << 20;

/// Capabilities as docker gives them: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID,
/// SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const CAPABILITIES: u64 = capability_mask(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31]);

const fn capability_mask(numbers: &[u32]) -> u64 {
    let mut mask = 0;
    let mut index = 0;
    while index < numbers.len() {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

/// Where a root file system came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// Name of the image, or path.
    pub(crate) name: &'a str,
    /// Its directory, if it is one: user names are looked up there.
    pub(crate) directory: Option<&'a Path>,
}

/// Makes a plan of flags and image configuration.
///
/// # Errors
/// If a flag cannot be used, or there is no command.
pub(crate) fn plan(
    context: &Context,
    flags: &EmbeddedFlags,
    source: Source<'_>,
    image: Image,
    command: Vec<OsString>,
) -> Result<Plan> {
    let image_config = image.config.as_ref().and_then(|config| config.config().clone());
    let image_config = image_config.unwrap_or_default();
    let id = match &flags.name {
        Some(name) => name.clone(),
        None => values::random_id()?,
    };
    values::check_id(&id)?;
    let hostname = flags.hostname.clone().unwrap_or_else(|| id.clone());
    check_hostname(&hostname)?;
    let user = user(flags.user.as_deref(), &image_config, source)?;
    let process = Process {
        args: arguments(flags, &image_config, command)?,
        env: environment(flags, &image_config, &hostname, &user)?,
        cwd: working_directory(flags.workdir.as_deref(), &image_config)?,
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        umask: 0o022,
        capabilities: capabilities(user.uid),
        terminal: flags.tty,
        stdio: [NO_HANDLE; 3],
        ..Process::default()
    };
    let mut mounts = mounts();
    let volumes = volumes(&flags.volume, &mut mounts)?;
    let config = Config {
        files: vec![
            (b"/etc/hostname".to_vec(), format!("{hostname}\n").into_bytes()),
            (b"/etc/hosts".to_vec(), hosts(&hostname)),
        ],
        hostname: hostname.into_bytes(),
        readonly_root: flags.read_only,
        mounts,
        ..Config::default()
    };
    let defaults = bundle::defaults();
    let record = Record {
        bundle: std::env::current_dir().unwrap_or_default(),
        rootfs: source.name.to_owned(),
        created: values::format_rfc3339(SystemTime::now()),
        memory_bytes: memory_bytes(flags.memory.as_deref(), &defaults)?,
        vcpus: vcpus(flags.cpus, &defaults)?,
        id,
        ..Record::default()
    };
    let outline = Outline {
        record,
        network_namespace: None,
        cgroup: None,
        resources: None,
        volumes,
        policy: None,
        narrowing: None,
        audit: None,
        landlock: Landlock::default(),
        system_calls: SystemCalls::default(),
        records_calls: false,
        log: context.log.vm_path.clone(),
    };
    Ok(Plan { outline, image: image.file, config, process })
}

fn check_hostname(hostname: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '+');
    if hostname.is_empty() || hostname.len() > 64 || !hostname.chars().all(is_allowed) {
        bail!("host name {hostname:?} is not valid: use 1 to 64 letters, digits, - and .");
    }
    Ok(())
}

/// Entry point and command, as docker combines them.
fn arguments(
    flags: &EmbeddedFlags,
    image: &ImageConfig,
    command: Vec<OsString>,
) -> Result<Vec<Vec<u8>>> {
    let strings = |list: &Option<Vec<String>>| -> Vec<Vec<u8>> {
        list.iter().flatten().map(|text| text.as_bytes().to_vec()).collect()
    };
    let mut arguments = match &flags.entrypoint {
        Some(program) if program.is_empty() => vec![],
        Some(program) => vec![program.as_bytes().to_vec()],
        None => strings(image.entrypoint()),
    };
    if !command.is_empty() {
        arguments.extend(command.into_iter().map(OsString::into_vec));
    } else if flags.entrypoint.is_none() {
        arguments.extend(strings(image.cmd()));
    }
    match arguments.first() {
        None => bail!("no command given, and the image has none: add one after the image"),
        Some(program) if program.is_empty() => {
            bail!("the command is empty: give the program to run")
        }
        Some(_) => Ok(arguments),
    }
}

fn environment(
    flags: &EmbeddedFlags,
    image: &ImageConfig,
    hostname: &str,
    user: &User,
) -> Result<Variables> {
    let mut variables = vec![PATH.to_vec(), format!("HOSTNAME={hostname}").into_bytes()];
    if flags.tty {
        variables.push(b"TERM=xterm".to_vec());
    }
    let home = match (&user.home, user.uid) {
        (Some(home), _) => home.as_str(),
        (None, 0) => "/root",
        (None, _) => "/",
    };
    variables.push(format!("HOME={home}").into_bytes());
    let of_image = image.env().iter().flatten().map(|variable| variable.as_bytes().to_vec());
    values::merge(&mut variables, of_image);
    for file in &flags.env_file {
        values::merge(&mut variables, values::read_file(file)?);
    }
    for assignment in &flags.env {
        values::merge(&mut variables, values::parse_assignment(assignment)?);
    }
    Ok(variables)
}

fn working_directory(flag: Option<&str>, image: &ImageConfig) -> Result<Vec<u8>> {
    let directory = match (flag, image.working_dir().as_deref()) {
        (Some(directory), _) => directory,
        (None, Some("") | None) => "/",
        (None, Some(directory)) => directory,
    };
    if !directory.starts_with('/') || directory.contains('\0') {
        bail!("working directory {directory:?} is not absolute: begin it with /");
    }
    Ok(directory.as_bytes().to_vec())
}

/// Root has its capabilities; others have them in the bounding set only, as after a setuid(2).
fn capabilities(uid: u32) -> [u64; 5] {
    let held = if uid == 0 { CAPABILITIES } else { 0 };
    [held, held, 0, CAPABILITIES, 0]
}

fn user(flag: Option<&str>, image: &ImageConfig, source: Source<'_>) -> Result<User> {
    let text = match (flag, image.user().as_deref()) {
        (Some(user), _) => user,
        (None, None | Some("")) => "0",
        (None, Some(user)) => user,
    };
    // Root needs no look-up, and is what most images run as.
    if matches!(text, "0" | "root" | "0:0" | "root:root") {
        return Ok(User { home: Some("/root".to_owned()), ..User::default() });
    }
    if let Some(directory) = source.directory {
        let passwd = read_inside(directory, "etc/passwd")?;
        let group = read_inside(directory, "etc/group")?;
        return values::resolve(text, &passwd, &group);
    }
    match values::parse_numeric(text) {
        Ok((uid, gid)) => Ok(User { uid, gid: gid.unwrap_or(0), ..User::default() }),
        Err(_) => bail!(
            "user {text:?} is a name, which cannot be looked up in image {}: use --user UID[:GID]",
            source.name
        ),
    }
}

/// Reads a small file of a root file system, whose symbolic links must not lead out of it; "" if it
/// is not there.
fn read_inside(directory: &Path, path: &str) -> Result<String> {
    let context = || format!("cannot read {path} of {}", directory.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, directory, flags, Mode::empty()).with_context(context)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&root, path, flags, Mode::empty(), inside) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
        Err(error) => return Err(error).with_context(context),
    };
    if !file.metadata().with_context(context)?.is_file() {
        bail!("{path} of {} is not a regular file: use --user UID[:GID]", directory.display());
    }
    let mut bytes = Vec::new();
    file.take(USER_FILE_MAX_BYTES).read_to_end(&mut bytes).with_context(context)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn memory_bytes(flag: Option<&str>, defaults: &Defaults) -> Result<u64> {
    let Some(text) = flag else {
        return Ok(defaults.memory_bytes);
    };
    let bytes = values::parse_bytes(text)?;
    if bytes < MEMORY_MIN_BYTES {
        bail!(
            "memory of {text} is under the minimum: give --memory {}m or more",
            MEMORY_MIN_BYTES >> 20
        );
    }
    if bytes > defaults.host_memory_bytes {
        bail!(
            "memory of {text} is more than this host has: give --memory {}m or less",
            defaults.host_memory_bytes >> 20
        );
    }
    Ok(bytes)
}

fn vcpus(flag: Option<u32>, defaults: &Defaults) -> Result<u32> {
    let most = defaults.host_cpus.min(MAX_VCPUS as u32);
    match flag {
        None => Ok(defaults.vcpus),
        Some(count) if (1..=most).contains(&count) => Ok(count),
        Some(count) => bail!("{count} vCPUs cannot be had on this host: give --cpus 1 to {most}"),
    }
}

fn hosts(hostname: &str) -> Vec<u8> {
    format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
        .into_bytes()
}

/// The file systems that every container has.
fn mounts() -> Vec<Mount> {
    [
        ("/proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        ("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
    ]
    .map(|(destination, kind, options)| Mount {
        destination: destination.as_bytes().to_vec(),
        kind: kind.as_bytes().to_vec(),
        source: kind.as_bytes().to_vec(),
        options: options.split(',').map(|option| option.as_bytes().to_vec()).collect(),
        volume: None,
    })
    .to_vec()
}

/// Adds the mounts of `-v SOURCE:DESTINATION[:OPTIONS]`.
fn volumes(given: &[String], mounts: &mut Vec<Mount>) -> Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    for text in given {
        let parts: Vec<_> = text.split(':').collect();
        let (source, destination, options) = match parts[..] {
            [source, destination] => (source, destination, ""),
            [source, destination, options] => (source, destination, options),
            _ => bail!("volume {text:?} is not SOURCE:DESTINATION[:OPTIONS]"),
        };
        if !destination.starts_with('/') || destination.split('/').any(|name| name == "..") {
            bail!("volume {text:?}: the destination must be an absolute path without \"..\"");
        }
        let options: Vec<_> = options.split(',').filter(|option| !option.is_empty()).collect();
        if let Some(unknown) =
            options.iter().find(|option| !matches!(**option, "ro" | "rw" | "noexec" | "nosuid"))
        {
            bail!("volume {text:?}: option {unknown:?} is not one of ro, rw, noexec, nosuid");
        }
        let source = std::fs::canonicalize(source)
            .with_context(|| format!("volume {text:?}: cannot use {source}"))?;
        let volume = Volume { source, recursive: true, readonly: options.contains(&"ro") };
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        mounts.push(volume.mount(volumes.len(), destination.as_bytes(), &options));
        volumes.push(volume);
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use oci_spec::image::ConfigBuilder;
    use tempfile::TempDir;

    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        ConfigBuilder::default()
            .entrypoint(words(entrypoint))
            .cmd(words(cmd))
            .env(words(&["A=image", "PATH=/image"]))
            .working_dir("/srv")
            .user("1000:100")
            .build()
            .expect("complete")
    }

    fn combined(entrypoint_flag: Option<&str>, command: &[&str]) -> Vec<String> {
        let flags = EmbeddedFlags {
            entrypoint: entrypoint_flag.map(str::to_owned),
            ..EmbeddedFlags::default()
        };
        let command = command.iter().map(OsString::from).collect();
        arguments(&flags, &image(&["entry", "-x"], &["cmd"]), command)
            .map(|list| {
                list.into_iter().map(|word| String::from_utf8(word).expect("utf-8")).collect()
            })
            .unwrap_or_default()
    }

    #[test]
    fn arguments_combine_as_in_docker() {
        assert_eq!(combined(None, &[]), ["entry", "-x", "cmd"]);
        assert_eq!(combined(None, &["mine"]), ["entry", "-x", "mine"]);
        assert_eq!(combined(Some("other"), &[]), ["other"]);
        assert_eq!(combined(Some("other"), &["mine"]), ["other", "mine"]);
        assert_eq!(combined(Some(""), &["mine"]), ["mine"]);
        // Nothing left to run: an error.
        assert_eq!(combined(Some(""), &[]), [""; 0]);
    }

    #[test]
    fn environment_of_flags_wins_over_files_and_image() {
        let scratch = TempDir::new().expect("scratch directory");
        let file = scratch.path().join("env");
        fs::write(&file, "A=file\nB=file\n").expect("write");
        let flags = EmbeddedFlags {
            env: words(&["B=flag", "HOME=/h"]),
            env_file: vec![file],
            ..EmbeddedFlags::default()
        };
        let got = environment(&flags, &image(&[], &[]), "h", &User::default()).expect("valid");
        let got: Vec<_> = got.iter().map(|bytes| str::from_utf8(bytes).expect("utf-8")).collect();
        assert_eq!(got, ["PATH=/image", "HOSTNAME=h", "HOME=/h", "A=file", "B=flag"]);
    }

    #[test]
    fn user_of_image_is_numeric_and_a_name_needs_a_directory() {
        let source = Source { name: "img", directory: None };
        let got = user(None, &image(&[], &[]), source).expect("numbers");
        assert_eq!((got.uid, got.gid), (1000, 100));
        let error = format!("{:#}", user(Some("web"), &image(&[], &[]), source).expect_err("name"));
        assert!(error.contains("\"web\"") && error.contains("--user UID"), "{error}");
        assert_eq!(user(Some("root"), &image(&[], &[]), source).expect("root").uid, 0);
    }

    #[test]
    fn user_by_name_never_reads_outside_of_the_root() {
        let scratch = TempDir::new().expect("scratch directory");
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("etc")).expect("mkdir");
        fs::write(scratch.path().join("passwd"), "evil:x:1:1::/:\n").expect("write");
        symlink("../../passwd", root.join("etc/passwd")).expect("symlink");
        let source = Source { name: "root", directory: Some(&root) };
        let none = ImageConfig::default();
        assert!(user(Some("evil"), &none, source).is_err());
        // An absolute link is of the container's root: here it leads to the file within.
        fs::remove_file(root.join("etc/passwd")).expect("remove");
        fs::write(root.join("passwd"), "good:x:7:8::/:\n").expect("write");
        symlink("/passwd", root.join("etc/passwd")).expect("symlink");
        assert_eq!(user(Some("good"), &none, source).expect("inside").uid, 7);
    }

    #[test]
    fn capabilities_are_the_fourteen_of_docker() {
        assert_eq!(CAPABILITIES, 0x0000_0000_a804_25fb);
        assert_eq!(capabilities(1000), [0, 0, 0, CAPABILITIES, 0]);
    }

    #[test]
    fn memory_and_vcpus_out_of_range_name_the_range() {
        let defaults = Defaults { host_cpus: 2, host_memory_bytes: 1 << 30, ..Defaults::default() };
        assert_eq!(memory_bytes(None, &defaults).expect("default"), 256 << 20);
        assert_eq!(memory_bytes(Some("64m"), &defaults).expect("fits"), 64 << 20);
        let error = memory_bytes(Some("15m"), &defaults).expect_err("too little").to_string();
        assert!(error.contains("minimum") && error.contains("16m"), "{error}");
        let error = memory_bytes(Some("2g"), &defaults).expect_err("too much").to_string();
        assert!(error.contains("1024m"), "{error}");
        assert_eq!(vcpus(Some(2), &defaults).expect("fits"), 2);
        for count in [0, 3] {
            let error = vcpus(Some(count), &defaults).expect_err("out of range").to_string();
            assert!(error.contains("--cpus 1 to 2"), "{error}");
        }
    }

    #[test]
    fn working_directory_must_be_absolute() {
        let image = image(&[], &[]);
        assert_eq!(working_directory(None, &image).expect("image's"), b"/srv");
        assert_eq!(working_directory(Some("/x"), &image).expect("flag's"), b"/x");
        assert!(working_directory(Some("x"), &image).is_err());
        assert_eq!(working_directory(None, &ImageConfig::default()).expect("default"), b"/");
    }
}
