// SPDX-License-Identifier: Apache-2.0
//! The machine as a whole: names, memory, random numbers.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    process::creds::{CAP_SYS_ADMIN, CAP_SYS_BOOT},
};

/// The Linux release whose interface this is.
pub(crate) const RELEASE: &str = "6.1.0-trine";
/// uname's version.
pub(crate) const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Trine";
const FIELD_BYTES: usize = 65;

pub(super) fn sys_uname(cx: &mut Cx<'_>, at: u64) -> SysResult {
    let mut raw = vec![0; FIELD_BYTES * 6];
    let vfs = cx.fs().lock().vfs.clone();
    let names = vfs.names.lock().clone();
    let persona = cx.process().personality.load(Ordering::Relaxed);
    let machine: &[u8] = if persona & 0xff == PER_LINUX32 { b"i686" } else { b"x86_64" };
    let fields: [&[u8]; 6] =
        [b"Linux", &names.host, RELEASE.as_bytes(), VERSION.as_bytes(), machine, &names.domain];
    for (slot, field) in raw.chunks_exact_mut(FIELD_BYTES).zip(fields) {
        let bytes = field.len().min(FIELD_BYTES - 1);
        slot[..bytes].copy_from_slice(&field[..bytes]);
    }
    cx.write_bytes(at, &raw)?;
    Ok(0)
}

fn read_name(cx: &Cx<'_>, at: u64, bytes: u64) -> Result<Vec<u8>, Errno> {
    if !cx.creds().has_cap(CAP_SYS_ADMIN) {
        return Err(Errno::PERM);
    }
    if bytes >= FIELD_BYTES as u64 {
        return Err(Errno::INVAL);
    }
    let mut name = vec![0; bytes as usize];
    cx.read_bytes(at, &mut name)?;
    Ok(name)
}

pub(super) fn sys_sethostname(cx: &mut Cx<'_>, at: u64, bytes: u64) -> SysResult {
    let name = read_name(cx, at, bytes)?;
    let vfs = cx.fs().lock().vfs.clone();
    vfs.names.lock().host = name;
    Ok(0)
}

pub(super) fn sys_setdomainname(cx: &mut Cx<'_>, at: u64, bytes: u64) -> SysResult {
    let name = read_name(cx, at, bytes)?;
    let vfs = cx.fs().lock().vfs.clone();
    vfs.names.lock().domain = name;
    Ok(0)
}

pub(super) fn sys_sysinfo(cx: &mut Cx<'_>, at: u64) -> SysResult {
    let services = &cx.kernel.services;
    let mut raw = [0; 112];
    let mut put = |at: usize, value: u64| raw[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, services.monotonic_ns() / 1_000_000_000);
    put(32, services.arena.ram_bytes());
    put(40, services.arena.free_bytes());
    let tasks = services.registry.task_count().min(usize::from(u16::MAX)) as u16;
    raw[80..82].copy_from_slice(&tasks.to_le_bytes());
    raw[104..108].copy_from_slice(&1_u32.to_le_bytes());
    cx.write_bytes(at, &raw)?;
    Ok(0)
}

pub(super) fn sys_getrandom(cx: &mut Cx<'_>, at: u64, bytes: u64, flags: u32) -> SysResult {
    const GRND_RANDOM: u32 = 2;
    const GRND_INSECURE: u32 = 4;
    const CALL_MAX: u64 = 1 << 20;
    if flags & !7 != 0 || flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE {
        return Err(Errno::INVAL.into());
    }
    let bytes = bytes.min(CALL_MAX);
    let mut chunk = [0; 512];
    let mut done = 0;
    while done < bytes {
        let part = (bytes - done).min(chunk.len() as u64) as usize;
        cx.kernel.services.random(&mut chunk[..part]);
        match cx.write_bytes(at.wrapping_add(done), &chunk[..part]) {
            Ok(()) => done += part as u64,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// Set by `setarch -R` and debuggers: execve does not randomise addresses.
pub(super) const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;
/// 32-bit Linux, of which only the machine's name in uname is kept.
const PER_LINUX32: u32 = 8;

pub(super) fn sys_personality(cx: &mut Cx<'_>, persona: u32) -> SysResult {
    const QUERY: u32 = u32::MAX;
    /// SHORT_INODE, WHOLE_SECONDS, STICKY_TIMEOUTS, ADDR_LIMIT_3GB: of old programs, and
    /// MMAP_PAGE_ZERO and READ_IMPLIES_EXEC, which weaken what is mapped.
    const UNSUPPORTED: u32 = 0x0f50_0000;
    let own = cx.process();
    let before = own.personality.load(Ordering::Relaxed);
    if persona == QUERY {
        return Ok(u64::from(before));
    }
    if !matches!(persona & 0xff, 0 | PER_LINUX32) || persona & UNSUPPORTED != 0 {
        return Err(Errno::INVAL.into());
    }
    own.personality.store(persona, Ordering::Relaxed);
    Ok(u64::from(before))
}

pub(super) fn sys_reboot(
    cx: &mut Cx<'_>,
    magic: u32,
    magic2: u32,
    command: u32,
    _argument: u64,
) -> SysResult {
    const MAGIC: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    const CAD_ON: u32 = 0x89ab_cdef;
    const CAD_OFF: u32 = 0;
    if !cx.creds().has_cap(CAP_SYS_BOOT) {
        return Err(Errno::PERM.into());
    }
    if magic != MAGIC || !MAGIC2.contains(&magic2) {
        return Err(Errno::INVAL.into());
    }
    match command {
        CAD_ON | CAD_OFF => Err(Errno::INVAL.into()),
        // In a container this ends init (reboot(2), "inside a PID namespace"): HUP or INT.
        _ => {
            let signal = if command == 0x0123_4567 { 1 } else { 2 };
            if let Some(init) = cx.kernel.services.registry.process(1) {
                cx.kernel.exit_group(&init, signal);
            }
            Ok(0)
        }
    }
}
