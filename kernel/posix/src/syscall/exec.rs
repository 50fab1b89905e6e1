// SPDX-License-Identifier: Apache-2.0
//! execve.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use trine_machine::Registers;

use super::system::ADDR_NO_RANDOMIZE;
use crate::{
    Errno, Kernel,
    cx::{Cx, Restart, Stop, SysResult},
    fs,
    process::{
        TaskRef,
        exec::{Loaded, Request},
        frame::initial_fpu,
        signal::SIGCHLD,
        task::AltStack,
    },
    sync::Lock,
};

const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;
/// Longest argument string, with its NUL.
const STRING_MAX: usize = 128 << 10;
/// Largest total of the strings of one list, in bytes: what is more fails anyway.
const LIST_MAX: usize = 6 << 20;

fn read_list(cx: &Cx<'_>, at: u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = Vec::new();
    let mut total = 0;
    if at == 0 {
        return Ok(list);
    }
    let mut slot = at;
    loop {
        let pointer = cx.read_u64(slot)?;
        if pointer == 0 {
            return Ok(list);
        }
        let string = match cx.read_string(pointer, STRING_MAX) {
            Err(Errno::NAMETOOLONG) => return Err(Errno::TOO_BIG),
            other => other?,
        };
        total += string.len() + 9;
        if total > LIST_MAX {
            return Err(Errno::TOO_BIG);
        }
        list.push(string);
        slot = slot.checked_add(8).ok_or(Errno::FAULT)?;
    }
}

pub(super) fn sys_execve(cx: &mut Cx<'_>, path_at: u64, args: u64, env: u64) -> SysResult {
    sys_execveat(cx, AT_FDCWD, path_at, args, env, 0)
}

pub(super) fn sys_execveat(
    cx: &mut Cx<'_>,
    dir: i32,
    path_at: u64,
    args_at: u64,
    env_at: u64,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL.into());
    }
    let path = cx.read_path(path_at)?;
    let args = read_list(cx, args_at)?;
    let env = read_list(cx, env_at)?;
    let context = cx.fs().lock().clone();
    let creds = cx.creds();
    let (file, path) = if path.starts_with(b"/") || dir == AT_FDCWD {
        if path.is_empty() {
            return Err(Errno::NOENT.into());
        }
        (fs::open_executable(&context, &creds, &path)?, path)
    } else {
        let base = cx.files().lock().get(dir)?;
        if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
            let file = fs::open_executable_at(&context, &creds, base.location().clone())?;
            (file, alloc::format!("/dev/fd/{dir}").into_bytes())
        } else {
            let mut there = context.clone();
            there.cwd = base.location().clone();
            let name = [alloc::format!("/dev/fd/{dir}/").as_bytes(), &path].concat();
            (fs::open_executable(&there, &creds, &path)?, name)
        }
    };
    let limits = cx.task.process.limits.lock().clone();
    let persona = cx.task.process.personality.load(Ordering::Relaxed);
    let is_fixed = persona & ADDR_NO_RANDOMIZE != 0;
    let is_traced = cx.task.is_traced();
    let request = Request { file, path, args, env, is_fixed, is_traced };
    let loaded = cx.kernel.load_program(&context, &creds, &limits, request)?;
    // Everything that can fail did not.  The other threads go first.
    let siblings = cx.task.process.threads.lock().clone();
    if siblings.len() > 1 {
        for sibling in siblings.iter().filter(|sibling| !Arc::ptr_eq(sibling, &cx.task)) {
            cx.kernel.end_soon(sibling);
        }
        // The program is loaded again when they are gone: nothing of it is kept meanwhile.
        cx.task.process.thread_wait.add(&cx.ticket());
        return Err(cx.block(None, Restart::Uninterruptible));
    }
    let task = cx.task.clone();
    cx.kernel.become_program(&task, loaded);
    Err(Stop::Jump)
}

impl Kernel {
    /// Makes a task run a loaded program: the point of no return.
    pub(crate) fn become_program(&mut self, task: &TaskRef, loaded: Loaded) {
        let process = task.process.clone();
        self.release_memory(task);
        let old_tid = task.tid();
        if task.tid() != process.pid {
            // The last thread takes over the process's id.
            self.services.registry.remove_task(task.tid());
            task.set_tid(process.pid);
            self.services.registry.add_task(task);
        }
        let closed = {
            let mut slot = task.resources.lock();
            let Some(resources) = slot.as_mut() else { return };
            let old = core::mem::replace(&mut resources.mm, Arc::new(loaded.mm));
            process.peak_pages.fetch_max(old.resident_pages(), Ordering::Relaxed);
            // Tables shared with other processes are this one's own from now on.
            if Arc::strong_count(&resources.files) > 1 {
                let copy = resources.files.lock().clone();
                resources.files = Arc::new(Lock::new(copy));
            }
            if Arc::strong_count(&resources.fs) > 1 {
                let copy = resources.fs.lock().clone();
                resources.fs = Arc::new(Lock::new(copy));
            }
            let closed = resources.files.lock().close_on_exec();
            (old, closed)
        };
        drop(closed);
        let actions = {
            let mut copy = process.actions.lock().lock().clone();
            copy.reset_for_exec();
            Arc::new(Lock::new(copy))
        };
        *process.actions.lock() = actions;
        {
            let mut signals = task.signals.lock();
            signals.stack = AltStack::default();
            signals.saved_mask = None;
        }
        process.timers.lock().clear_posix();
        process.exit_signal.store(SIGCHLD, Ordering::Relaxed);
        process.has_execed.store(true, Ordering::Relaxed);
        process.dumpable.store(u32::from(!loaded.is_secure), Ordering::Relaxed);
        if loaded.is_secure {
            task.parent_death_signal.store(0, Ordering::Relaxed);
        }
        *task.name.lock() = loaded.name;
        *task.creds.lock() = Arc::new(loaded.creds);
        *task.registers.lock() = Registers {
            rip: loaded.entry,
            rsp: loaded.stack,
            rflags: 0x202,
            mxcsr: 0x1f80,
            ..Registers::default()
        };
        *task.rseq.lock() = None;
        process.membarrier.store(0, Ordering::Relaxed);
        task.set_fs_base(0);
        task.gs_base.store(0, Ordering::Relaxed);
        self.set_fpu_image(task, initial_fpu(&self.options.fpu));
        self.trace_exec(task, old_tid);
    }
}
