// SPDX-License-Identifier: Apache-2.0
//! Credentials: user and group ids, capabilities (capabilities(7)).

use alloc::vec::Vec;

/// CAP_CHOWN.
pub const CAP_CHOWN: u32 = 0;
/// CAP_DAC_OVERRIDE.
pub const CAP_DAC_OVERRIDE: u32 = 1;
/// CAP_DAC_READ_SEARCH.
pub const CAP_DAC_READ_SEARCH: u32 = 2;
/// CAP_FOWNER.
pub const CAP_FOWNER: u32 = 3;
/// CAP_FSETID.
pub const CAP_FSETID: u32 = 4;
/// CAP_KILL.
pub const CAP_KILL: u32 = 5;
/// CAP_SETGID.
pub const CAP_SETGID: u32 = 6;
/// CAP_SETUID.
pub const CAP_SETUID: u32 = 7;
/// CAP_SETPCAP.
pub const CAP_SETPCAP: u32 = 8;
/// CAP_NET_BIND_SERVICE.
pub const CAP_NET_BIND_SERVICE: u32 = 10;
/// CAP_NET_ADMIN.
pub const CAP_NET_ADMIN: u32 = 12;
/// CAP_NET_RAW.
pub const CAP_NET_RAW: u32 = 13;
/// CAP_IPC_LOCK.
pub const CAP_IPC_LOCK: u32 = 14;
/// CAP_IPC_OWNER.
pub const CAP_IPC_OWNER: u32 = 15;
/// CAP_SYS_CHROOT.
pub const CAP_SYS_CHROOT: u32 = 18;
/// CAP_SYS_PTRACE.
pub const CAP_SYS_PTRACE: u32 = 19;
/// CAP_SYS_ADMIN.
pub const CAP_SYS_ADMIN: u32 = 21;
/// CAP_SYS_BOOT.
pub const CAP_SYS_BOOT: u32 = 22;
/// CAP_SYS_NICE.
pub const CAP_SYS_NICE: u32 = 23;
/// CAP_SYS_RESOURCE.
pub const CAP_SYS_RESOURCE: u32 = 24;
/// CAP_SYS_TIME.
pub const CAP_SYS_TIME: u32 = 25;
/// CAP_MKNOD.
pub const CAP_MKNOD: u32 = 27;
/// CAP_SETFCAP.
pub const CAP_SETFCAP: u32 = 31;
/// The last capability that exists (CAP_CHECKPOINT_RESTORE).
pub const CAP_LAST: u32 = 40;
/// Every capability that exists.
pub const CAP_ALL: u64 = (1 << (CAP_LAST + 1)) - 1;

/// Capability sets, one bit a capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What is checked.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What execve may keep.
    pub inheritable: u64,
    /// What execve can grant at all.
    pub bounding: u64,
    /// What execve of an ordinary file keeps.
    pub ambient: u64,
}

/// Who a task acts as.
#[derive(Clone, Debug, Default)]
pub struct Creds {
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// Saved user.
    pub suid: u32,
    /// User for files.
    pub fsuid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved group.
    pub sgid: u32,
    /// Group for files.
    pub fsgid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities.
    pub caps: Capabilities,
    /// PR_SET_SECUREBITS.
    pub securebits: u32,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
}

impl Creds {
    /// The kernel itself, or an all-powerful root.
    pub fn root() -> Self {
        let caps = Capabilities {
            effective: CAP_ALL,
            permitted: CAP_ALL,
            inheritable: 0,
            bounding: CAP_ALL,
            ambient: 0,
        };
        Self { caps, ..Self::default() }
    }

    /// Whether a capability (`CAP_*`) is effective.
    pub fn has_cap(&self, cap: u32) -> bool {
        cap < 64 && self.caps.effective >> cap & 1 == 1
    }

    /// Whether files treat the task as a member of a group.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// Whether a group is one that setgid may change to without privilege.
    pub fn is_own_gid(&self, gid: u32) -> bool {
        [self.gid, self.egid, self.sgid].contains(&gid)
    }

    /// Whether a user is one that setuid may change to without privilege.
    pub fn is_own_uid(&self, uid: u32) -> bool {
        [self.uid, self.euid, self.suid].contains(&uid)
    }
}
