// SPDX-License-Identifier: Apache-2.0
//! Whether this process may make VMs.

use std::path::Path;

use rustix::{
    fs::{Access, Mode, OFlags},
    io::Errno,
};

use crate::Error;

const DEVICE: &str = "/dev/kvm";

/// Checks what is cheap to check before a VMM is started.
pub(crate) fn check() -> Result<(), Error> {
    check_device(Path::new(DEVICE))
}

fn check_device(device: &Path) -> Result<(), Error> {
    rustix::fs::access(device, Access::READ_OK | Access::WRITE_OK).map_err(explain)
}

/// Finds out whether KVM is why a VMM failed at its start.
pub(crate) fn diagnose() -> Result<(), Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(DEVICE, flags, Mode::empty()).map(drop).map_err(explain)
}

fn explain(errno: Errno) -> Error {
    let reason = match errno {
        Errno::NOENT => {
            "it does not exist: enable virtualization in the firmware or for this VM, and load \
             kvm_intel or kvm_amd (in a container, pass the device in)"
                .to_owned()
        }
        Errno::ACCESS | Errno::PERM => {
            "permission denied: run as root, join the group that owns it (usually kvm), or let the \
             device cgroup allow it"
                .to_owned()
        }
        Errno::NODEV | Errno::NXIO => "no driver behind it: load kvm_intel or kvm_amd".to_owned(),
        errno => errno.to_string(),
    };
    Error::Kvm { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_missing_device_names_the_remedy() {
        let error = check_device(Path::new("/dev/no-such-kvm")).expect_err("missing");
        let message = error.to_string();
        assert!(message.contains("does not exist") && message.contains("kvm_intel"), "{message}");
    }

    #[test]
    fn explain_permission_names_the_remedy() {
        assert!(explain(Errno::ACCESS).to_string().contains("group"));
        assert!(explain(Errno::PERM).to_string().contains("device cgroup"));
    }
}
