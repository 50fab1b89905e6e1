// SPDX-License-Identifier: Apache-2.0
//! /dev/kvm, and what is behind it.

use std::{fs, io, path::Path};

use kvm_ioctls::{Cap, Kvm};

use super::Finding;

/// The only version of the interface there has ever been.
const API_VERSION: i32 = 12;
const DEVICE: &str = "/dev/kvm";
/// FSGSBASE in AT_HWCAP2.
const HWCAP2_FSGSBASE: u64 = 1 << 1;
const AT_HWCAP2: u64 = 26;

/// Checks it.
pub(super) fn check() -> Vec<Finding> {
    vec![device(), kind(), fsgsbase()]
}

fn device() -> Finding {
    const NAME: &str = "kvm";
    if !Path::new(DEVICE).exists() {
        return Finding::fail(NAME, format!("{DEVICE} is missing"), missing_remedy());
    }
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return unusable(NAME, io::Error::from_raw_os_error(error.errno())),
    };
    if kvm.get_api_version() != API_VERSION {
        return Finding::fail(
            NAME,
            format!("{DEVICE} has version {}", kvm.get_api_version()),
            format!("use a kernel with KVM version {API_VERSION}"),
        );
    }
    // The one check that cannot be fooled: make a VM.
    if let Err(error) = kvm.create_vm() {
        let error = io::Error::from_raw_os_error(error.errno());
        return Finding::fail(
            NAME,
            format!("a VM cannot be made ({error})"),
            "see what else uses virtualisation, and the kernel's log",
        );
    }
    let missing: Vec<_> = [
        (Cap::UserMemory, "USER_MEMORY"),
        (Cap::ReadonlyMem, "READONLY_MEM"),
        (Cap::Ioeventfd, "IOEVENTFD"),
        (Cap::SyncRegs, "SYNC_REGS"),
    ]
    .into_iter()
    .filter(|(capability, _)| !kvm.check_extension(*capability))
    .map(|(_, name)| name)
    .collect();
    if missing.is_empty() {
        Finding::ok(NAME, format!("{DEVICE} makes VMs"))
    } else {
        let remedy = "use a newer kernel";
        Finding::fail(
            NAME,
            format!("{DEVICE} lacks KVM_CAP_{}", missing.join(", KVM_CAP_")),
            remedy,
        )
    }
}

fn unusable(name: &'static str, error: io::Error) -> Finding {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "run as root, or `usermod -aG kvm USER` and log in again".to_owned()
        }
        _ => missing_remedy(),
    };
    Finding::fail(name, format!("{DEVICE} cannot be opened ({error})"), remedy)
}

fn missing_remedy() -> String {
    let flags = cpu_flags();
    let module = if flags.iter().any(|flag| flag == "vmx") {
        "`modprobe kvm_intel`"
    } else if flags.iter().any(|flag| flag == "svm") {
        "`modprobe kvm_amd`"
    } else {
        return "enable virtualisation (VT-x or AMD-V) in the firmware, or nested virtualisation in \
                the cloud, or use a host with kvm_pvm"
            .to_owned();
    };
    format!("{module}, or pass the device into this container")
}

fn kind() -> Finding {
    const NAME: &str = "kvm kind";
    let is_loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    let flags = cpu_flags();
    let has = |flag: &str| flags.iter().any(|have| have == flag);
    if is_loaded("kvm_pvm") {
        return Finding::warn(
            NAME,
            "PVM (no nested VMX or SVM needed)",
            "its boundary is out-of-tree code, and traps are slower: prefer kvm_intel or kvm_amd \
             where you can choose",
        );
    }
    if is_loaded("kvm_intel") {
        return Finding::ok(NAME, if has("vmx") { "Intel VT-x" } else { "kvm_intel" });
    }
    if is_loaded("kvm_amd") {
        return Finding::ok(NAME, if has("svm") { "AMD-V" } else { "kvm_amd" });
    }
    let virtualisation = if has("vmx") || has("svm") { "the CPU could" } else { "nor can the CPU" };
    Finding::warn(
        NAME,
        format!("neither kvm_intel, kvm_amd nor kvm_pvm is a module here ({virtualisation})"),
        "fine if KVM is built in; else load one of them",
    )
}

fn fsgsbase() -> Finding {
    const NAME: &str = "fsgsbase";
    let auxv = fs::read("/proc/self/auxv").unwrap_or_default();
    if auxiliary_value(&auxv, AT_HWCAP2).unwrap_or(0) & HWCAP2_FSGSBASE != 0 {
        Finding::ok(NAME, "the host lets programs set FS and GS base")
    } else {
        Finding::fail(
            NAME,
            "the host does not let programs set FS and GS base",
            "use Linux 5.9 or newer on a CPU from 2012 or later, without `nofsgsbase`",
        )
    }
}

/// Finds an entry of the auxiliary vector: pairs of words, in the host's byte order.
fn auxiliary_value(auxv: &[u8], key: u64) -> Option<u64> {
    let (words, _) = auxv.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    pairs
        .iter()
        .find(|[name, _]| u64::from_ne_bytes(*name) == key)
        .map(|[_, value]| u64::from_ne_bytes(*value))
}

fn cpu_flags() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags"));
    let list = flags.and_then(|line| line.split_once(':')).map_or("", |(_, list)| list);
    list.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auxiliary_value_finds_the_pair_of_the_key() {
        let words: Vec<u8> =
            [6_u64, 4096, AT_HWCAP2, 2, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
        assert_eq!(auxiliary_value(&words, AT_HWCAP2), Some(2));
        // A value that looks like the key is no key.
        let words: Vec<u8> = [6, AT_HWCAP2, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
        assert_eq!(auxiliary_value(&words, AT_HWCAP2), None);
        assert_eq!(auxiliary_value(&words[..7], 6), None);
    }

    #[test]
    fn unusable_by_permission_says_how_to_get_it() {
        let finding = unusable("kvm", io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(finding.grade, super::super::Grade::Fail);
        assert!(finding.remedy.expect("a remedy").contains("usermod -aG kvm"));
    }
}
