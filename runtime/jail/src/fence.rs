// SPDX-License-Identifier: Apache-2.0
//! Landlock: what the threads of a process may do with files, by where these are.
//!
//! It comes on top of the empty root and the descriptors, and holds without them: a thread that
//! serves a VM can open, make and change files below the roots of that VM's volumes, and nothing
//! else, whatever descriptors or paths it is brought to use.
//!
//! Landlock restricts threads, and those that they make later.  In `trine-io` each VM's thread
//! restricts itself; the first thread, which only talks to the sandbox, does not: whatever it gave
//! up, its threads would lack, and a domain without rules takes away renames between directories
//! (`LANDLOCK_ACCESS_FS_REFER`) even where it says nothing of them.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope,
    make_bitflags,
};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::posture::JailError;

/// What the host must have: before it, names could not move between directories at all.
const NEEDED: ABI = ABI::V2;
/// What is used where the host has it.
const NEWEST: ABI = ABI::V6;

/// What no volume is for: running programs, device nodes, sockets, and ioctls of devices.
const NEVER: BitFlags<AccessFs> =
    make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock | MakeSock | IoctlDev});

/// Whether the processes confine themselves with Landlock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landlock {
    /// They do, and a host without it (Linux 5.19) is an error.
    #[default]
    Required,
    /// They do where the host has it.
    BestEffort,
    /// They do not.
    Off,
}

impl std::str::FromStr for Landlock {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "required" => Ok(Self::Required),
            "best-effort" => Ok(Self::BestEffort),
            "off" => Ok(Self::Off),
            _ => Err("must be required, best-effort or off"),
        }
    }
}

/// A root of a volume.
#[derive(Clone, Copy, Debug)]
pub struct Root<'a> {
    /// Names a directory or a regular file.
    pub descriptor: BorrowedFd<'a>,
    /// Nothing is written below it.
    pub is_readonly: bool,
}

/// A restriction that a thread can put itself under.
#[derive(Debug)]
pub struct Fence(Option<RulesetCreated>);

impl Fence {
    /// Around everything: no file is opened by a name, nothing is connected.
    pub(crate) fn around_all(mode: Landlock) -> Result<Self, JailError> {
        Self::new(mode, AccessNet::from_all(ABI::V4), &[])
    }

    /// Around everything but the volumes of one VM.
    ///
    /// # Errors
    /// [`JailError::Landlock`] if it is required and the host does not have it.
    pub fn around_volumes(mode: Landlock, roots: &[Root<'_>]) -> Result<Self, JailError> {
        Self::new(mode, BitFlags::empty(), roots)
    }

    fn new(
        mode: Landlock,
        ports: BitFlags<AccessNet>,
        roots: &[Root<'_>],
    ) -> Result<Self, JailError> {
        let level = match mode {
            Landlock::Required => CompatLevel::HardRequirement,
            Landlock::BestEffort => CompatLevel::BestEffort,
            Landlock::Off => return Ok(Self(None)),
        };
        let build = || -> Result<RulesetCreated, RulesetError> {
            let mut ruleset = Ruleset::default()
                .set_compatibility(level)
                .handle_access(AccessFs::from_all(NEEDED))?
                .set_compatibility(CompatLevel::BestEffort)
                .handle_access(AccessFs::from_all(NEWEST))?
                .scope(Scope::from_all(NEWEST))?;
            if !ports.is_empty() {
                ruleset = ruleset.handle_access(ports)?;
            }
            let mut created = ruleset.create()?;
            for root in roots {
                created = created.add_rule(PathBeneath::new(root.descriptor, granted(root)))?;
            }
            Ok(created)
        };
        build().map(|created| Self(Some(created))).map_err(refuse)
    }

    /// Puts the calling thread under it, and the threads that it makes from now on.
    ///
    /// # Errors
    /// [`JailError::Landlock`] if the kernel refuses.
    pub fn enter(self) -> Result<(), JailError> {
        let Some(ruleset) = self.0 else { return Ok(()) };
        // Nothing can be gained by exec since [`crate::posture::drop_privileges`].
        ruleset.no_new_privs(false).restrict_self().map(drop).map_err(refuse)
    }
}

fn refuse(error: RulesetError) -> JailError {
    JailError::Landlock(Box::new(error))
}

/// What is allowed below a root.
fn granted(root: &Root<'_>) -> BitFlags<AccessFs> {
    let reading = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let all = if root.is_readonly { reading } else { AccessFs::from_all(NEWEST) & !NEVER };
    // Rights of a directory cannot be given for a file.
    let is_directory = rustix::fs::fstat(root.descriptor)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    if is_directory { all } else { all & AccessFs::from_file(NEWEST) }
}

/// Fails where [`Landlock::Required`] cannot be had.
pub(crate) fn check(mode: Landlock) -> Result<(), JailError> {
    Fence::around_volumes(mode, &[]).map(drop)
}

/// Whether this host has what [`Landlock::Required`] asks for.
pub fn is_supported() -> bool {
    Fence::around_all(Landlock::Required).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::ErrorKind,
        os::fd::AsFd as _,
        path::{Path, PathBuf},
        thread,
    };

    use super::*;

    fn parts(root: &Path) -> [PathBuf; 3] {
        ["one", "two", "read"].map(|name| {
            let path = root.join(name);
            fs::create_dir(&path).expect("mkdir");
            fs::write(path.join("file"), name).expect("written");
            path
        })
    }

    #[test]
    fn thread_reaches_its_volumes_only() {
        if !is_supported() || !rustix::process::geteuid().is_root() {
            println!("skipped: needs root and a host with Landlock");
            return;
        }
        let tree = tempfile::tempdir().expect("directory");
        let [one, two, read] = parts(tree.path());
        let inside = thread::spawn(move || {
            let roots = [(&one, false), (&read, true)];
            let open = roots
                .map(|(path, is_readonly)| (fs::File::open(path).expect("opened"), is_readonly));
            let roots = open.each_ref().map(|(file, is_readonly)| Root {
                descriptor: file.as_fd(),
                is_readonly: *is_readonly,
            });
            Fence::around_volumes(Landlock::Required, &roots)
                .expect("made")
                .enter()
                .expect("entered");
            let denied = Some(ErrorKind::PermissionDenied);
            let kind = |result: std::io::Result<()>| result.err().map(|error| error.kind());
            assert_eq!(kind(fs::write(one.join("new"), "x")), None);
            assert_eq!(kind(fs::create_dir(one.join("d"))), None);
            assert_eq!(kind(fs::rename(one.join("new"), one.join("d/new"))), None);
            assert_eq!(fs::read(read.join("file")).expect("read"), b"read");
            assert_eq!(kind(fs::write(read.join("file"), "x")), denied);
            assert_eq!(kind(fs::remove_file(read.join("file"))), denied);
            assert_eq!(kind(fs::read(two.join("file")).map(drop)), denied);
            assert_eq!(kind(fs::write(two.join("new"), "x")), denied);
            assert_eq!(kind(fs::read("/etc/passwd").map(drop)), denied);
            // A link of a volume to the outside leads nowhere either.
            std::os::unix::fs::symlink(two.join("file"), one.join("link")).expect("link");
            assert_eq!(kind(fs::read(one.join("link")).map(drop)), denied);
            // Threads that it makes are under it too.
            let later = thread::spawn(|| fs::read("/etc/passwd").is_err());
            assert!(later.join().expect("joined"));
        });
        inside.join().expect("joined");
        assert!(fs::read("/etc/passwd").is_ok(), "other threads are not under it");
    }

    #[test]
    fn modes_are_parsed_and_off_does_nothing() {
        assert_eq!("best-effort".parse(), Ok(Landlock::BestEffort));
        assert_eq!("required".parse(), Ok(Landlock::default()));
        assert!("on".parse::<Landlock>().is_err());
        assert!(Fence::around_all(Landlock::Off).expect("nothing").0.is_none());
    }
}
