// SPDX-License-Identifier: Apache-2.0
//! The system calls: the table, and one file per family.
//!
//! A call is a function of [`Cx`] and its typed arguments.  The type says how the register is read:
//! `i32` and `u32` take the low half, as Linux does for `int` arguments.

mod credentials;
mod exec;
pub mod futex;
mod limits;
mod memory;
pub mod names;
mod prctl;
mod process;
mod sched;
mod signal;
mod system;
mod time;
mod timer;
mod wait;

use crate::{
    Errno,
    cx::{Cx, SysResult},
};

/// An argument register as a type.
trait Argument {
    fn from_register(register: u64) -> Self;
}

impl Argument for u64 {
    fn from_register(register: u64) -> Self {
        register
    }
}

impl Argument for i64 {
    fn from_register(register: u64) -> Self {
        register.cast_signed()
    }
}

impl Argument for usize {
    fn from_register(register: u64) -> Self {
        register as Self
    }
}

impl Argument for u32 {
    fn from_register(register: u64) -> Self {
        register as Self
    }
}

impl Argument for i32 {
    fn from_register(register: u64) -> Self {
        (register as u32).cast_signed()
    }
}

/// Makes `fn $table(cx, number, arguments) -> Option<SysResult>` from lines
/// `NUMBER NAME => module::function(types...);`.
macro_rules! table {
    ($table:ident: $($number:literal $name:ident => $module:ident::$function:ident($($kind:ty),*);)*) => {
        $(const _: () = assert!(names::is($number, stringify!($name)));)*

        fn $table(cx: &mut Cx<'_>, number: u64, arguments: [u64; 6]) -> Option<SysResult> {
            Some(match number {
                $($number => {
                    let mut registers = arguments.into_iter();
                    let _ = &mut registers;
                    $module::$function(
                        cx,
                        $(<$kind as Argument>::from_register(registers.next().unwrap_or(0))),*
                    )
                })*
                _ => return None,
            })
        }
    };
}

// Processes, memory, signals, time.
table! { process_table:
    9 mmap => memory::sys_mmap(u64, u64, u32, u32, i32, u64);
    10 mprotect => memory::sys_mprotect(u64, u64, u32);
    11 munmap => memory::sys_munmap(u64, u64);
    12 brk => memory::sys_brk(u64);
    13 rt_sigaction => signal::sys_rt_sigaction(u32, u64, u64, u64);
    14 rt_sigprocmask => signal::sys_rt_sigprocmask(u32, u64, u64, u64);
    15 rt_sigreturn => signal::sys_rt_sigreturn();
    24 sched_yield => sched::sys_sched_yield();
    25 mremap => memory::sys_mremap(u64, u64, u64, u32, u64);
    26 msync => memory::sys_msync(u64, u64, u32);
    27 mincore => memory::sys_mincore(u64, u64, u64);
    28 madvise => memory::sys_madvise(u64, u64, u32);
    34 pause => signal::sys_pause();
    35 nanosleep => time::sys_nanosleep(u64, u64);
    36 getitimer => timer::sys_getitimer(u32, u64);
    37 alarm => timer::sys_alarm(u32);
    38 setitimer => timer::sys_setitimer(u32, u64, u64);
    39 getpid => process::sys_getpid();
    56 clone => process::sys_clone(u64, u64, u64, u64, u64);
    57 fork => process::sys_fork();
    58 vfork => process::sys_vfork();
    59 execve => exec::sys_execve(u64, u64, u64);
    60 exit => process::sys_exit(i32);
    61 wait4 => wait::sys_wait4(i32, u64, u32, u64);
    62 kill => signal::sys_kill(i32, u32);
    63 uname => system::sys_uname(u64);
    96 gettimeofday => time::sys_gettimeofday(u64, u64);
    97 getrlimit => limits::sys_getrlimit(u32, u64);
    98 getrusage => limits::sys_getrusage(i32, u64);
    99 sysinfo => system::sys_sysinfo(u64);
    100 times => limits::sys_times(u64);
    102 getuid => credentials::sys_getuid();
    104 getgid => credentials::sys_getgid();
    105 setuid => credentials::sys_setuid(u32);
    106 setgid => credentials::sys_setgid(u32);
    107 geteuid => credentials::sys_geteuid();
    108 getegid => credentials::sys_getegid();
    109 setpgid => process::sys_setpgid(i32, i32);
    110 getppid => process::sys_getppid();
    111 getpgrp => process::sys_getpgrp();
    112 setsid => process::sys_setsid();
    113 setreuid => credentials::sys_setreuid(u32, u32);
    114 setregid => credentials::sys_setregid(u32, u32);
    115 getgroups => credentials::sys_getgroups(i32, u64);
    116 setgroups => credentials::sys_setgroups(i32, u64);
    117 setresuid => credentials::sys_setresuid(u32, u32, u32);
    118 getresuid => credentials::sys_getresuid(u64, u64, u64);
    119 setresgid => credentials::sys_setresgid(u32, u32, u32);
    120 getresgid => credentials::sys_getresgid(u64, u64, u64);
    121 getpgid => process::sys_getpgid(i32);
    122 setfsuid => credentials::sys_setfsuid(u32);
    123 setfsgid => credentials::sys_setfsgid(u32);
    124 getsid => process::sys_getsid(i32);
    125 capget => credentials::sys_capget(u64, u64);
    126 capset => credentials::sys_capset(u64, u64);
    127 rt_sigpending => signal::sys_rt_sigpending(u64, u64);
    128 rt_sigtimedwait => signal::sys_rt_sigtimedwait(u64, u64, u64, u64);
    129 rt_sigqueueinfo => signal::sys_rt_sigqueueinfo(i32, u32, u64);
    130 rt_sigsuspend => signal::sys_rt_sigsuspend(u64, u64);
    131 sigaltstack => signal::sys_sigaltstack(u64, u64);
    135 personality => system::sys_personality(u32);
    140 getpriority => sched::sys_getpriority(u32, i32);
    141 setpriority => sched::sys_setpriority(u32, i32, i32);
    142 sched_setparam => sched::sys_sched_setparam(i32, u64);
    143 sched_getparam => sched::sys_sched_getparam(i32, u64);
    144 sched_setscheduler => sched::sys_sched_setscheduler(i32, u32, u64);
    145 sched_getscheduler => sched::sys_sched_getscheduler(i32);
    146 sched_get_priority_max => sched::sys_sched_get_priority_max(u32);
    147 sched_get_priority_min => sched::sys_sched_get_priority_min(u32);
    148 sched_rr_get_interval => sched::sys_sched_rr_get_interval(i32, u64);
    149 mlock => memory::sys_mlock(u64, u64);
    150 munlock => memory::sys_mlock(u64, u64);
    151 mlockall => memory::sys_mlockall(u32);
    152 munlockall => memory::sys_munlockall();
    157 prctl => prctl::sys_prctl(u32, u64, u64, u64, u64);
    158 arch_prctl => prctl::sys_arch_prctl(u32, u64);
    160 setrlimit => limits::sys_setrlimit(u32, u64);
    164 settimeofday => time::sys_settimeofday(u64, u64);
    169 reboot => system::sys_reboot(u32, u32, u32, u64);
    170 sethostname => system::sys_sethostname(u64, u64);
    171 setdomainname => system::sys_setdomainname(u64, u64);
    186 gettid => process::sys_gettid();
    200 tkill => signal::sys_tkill(i32, u32);
    201 time => time::sys_time(u64);
    202 futex => futex::sys_futex(u64, u32, u32, u64, u64, u32);
    203 sched_setaffinity => sched::sys_sched_setaffinity(i32, u32, u64);
    204 sched_getaffinity => sched::sys_sched_getaffinity(i32, u32, u64);
    218 set_tid_address => process::sys_set_tid_address(u64);
    219 restart_syscall => signal::sys_restart_syscall();
    222 timer_create => timer::sys_timer_create(u32, u64, u64);
    223 timer_settime => timer::sys_timer_settime(u32, u32, u64, u64);
    224 timer_gettime => timer::sys_timer_gettime(u32, u64);
    225 timer_getoverrun => timer::sys_timer_getoverrun(u32);
    226 timer_delete => timer::sys_timer_delete(u32);
    227 clock_settime => time::sys_clock_settime(i32, u64);
    228 clock_gettime => time::sys_clock_gettime(i32, u64);
    229 clock_getres => time::sys_clock_getres(i32, u64);
    230 clock_nanosleep => time::sys_clock_nanosleep(i32, u32, u64, u64);
    231 exit_group => process::sys_exit_group(i32);
    234 tgkill => signal::sys_tgkill(i32, i32, u32);
    247 waitid => wait::sys_waitid(u32, i32, u64, u32, u64);
    273 set_robust_list => futex::sys_set_robust_list(u64, u64);
    274 get_robust_list => futex::sys_get_robust_list(i32, u64, u64);
    297 rt_tgsigqueueinfo => signal::sys_rt_tgsigqueueinfo(i32, i32, u32, u64);
    302 prlimit64 => limits::sys_prlimit64(i32, u32, u64, u64);
    309 getcpu => sched::sys_getcpu(u64, u64);
    318 getrandom => system::sys_getrandom(u64, u64, u32);
    322 execveat => exec::sys_execveat(i32, u64, u64, u64, u32);
    324 membarrier => sched::sys_membarrier(i32, u32);
    334 rseq => process::sys_rseq();
    435 clone3 => process::sys_clone3(u64, u64);
}

/// Makes a system call; what is not in the tables is ENOSYS, and logged once.
pub(crate) fn dispatch(cx: &mut Cx<'_>, number: u64, arguments: [u64; 6]) -> SysResult {
    if let Some(result) = process_table(cx, number, arguments) {
        return result;
    }
    cx.kernel.note_unknown_call(number, names::of(number));
    Err(Errno::NOSYS.into())
}
