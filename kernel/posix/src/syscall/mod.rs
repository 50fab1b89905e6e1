// SPDX-License-Identifier: Apache-2.0
//! The system calls: the table, and one file per family.
//!
//! A call is a function of [`Cx`] and its typed arguments.  The type says how the register is read:
//! `i32` and `u32` take the low half, as Linux does for `int` arguments.

mod credentials;
mod descriptor;
mod directory;
mod event;
mod exec;
mod file;
pub mod futex;
mod inotify;
pub(crate) mod ipc;
mod kcmp;
mod limits;
mod memory;
mod mount;
mod mqueue;
mod numa;
mod path;
mod pidfd;
mod poll;
mod prctl;
mod process;
pub(crate) mod ptrace;
mod remote;
mod sched;
pub(crate) mod seccomp;
mod signal;
mod socket;
mod stat;
mod system;
mod time;
mod timer;
mod transfer;
mod wait;
mod xattr;

use self::ipc::{msg, sem, shm};
use trine_abi::names;

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
    // partial: no MAP_HUGETLB for files, no MAP_SYNC
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
    // partial: hints are accepted without effect; no MADV_HWPOISON and its kin
    28 madvise => memory::sys_madvise(u64, u64, u32);
    // partial: no SHM_HUGETLB
    29 shmget => shm::sys_shmget(i32, u64, u32);
    30 shmat => shm::sys_shmat(i32, u64, u32);
    31 shmctl => shm::sys_shmctl(i32, u32, u64);
    34 pause => signal::sys_pause();
    35 nanosleep => time::sys_nanosleep(u64, u64);
    36 getitimer => timer::sys_getitimer(u32, u64);
    37 alarm => timer::sys_alarm(u32);
    38 setitimer => timer::sys_setitimer(u32, u64, u64);
    39 getpid => process::sys_getpid();
    // partial: no namespaces
    56 clone => process::sys_clone(u64, u64, u64, u64, u64);
    57 fork => process::sys_fork();
    58 vfork => process::sys_vfork();
    59 execve => exec::sys_execve(u64, u64, u64);
    60 exit => process::sys_exit(i32);
    61 wait4 => wait::sys_wait4(i32, u64, u32, u64);
    62 kill => signal::sys_kill(i32, u32);
    63 uname => system::sys_uname(u64);
    64 semget => sem::sys_semget(i32, i32, u32);
    65 semop => sem::sys_semop(i32, u64, u64);
    66 semctl => sem::sys_semctl(i32, i32, u32, u64);
    67 shmdt => shm::sys_shmdt(u64);
    68 msgget => msg::sys_msgget(i32, u32);
    69 msgsnd => msg::sys_msgsnd(i32, u64, u64, u32);
    70 msgrcv => msg::sys_msgrcv(i32, u64, u64, i64, u32);
    71 msgctl => msg::sys_msgctl(i32, u32, u64);
    96 gettimeofday => time::sys_gettimeofday(u64, u64);
    97 getrlimit => limits::sys_getrlimit(u32, u64);
    // partial: times, faults and the largest resident set
    98 getrusage => limits::sys_getrusage(i32, u64);
    // partial: no load averages
    99 sysinfo => system::sys_sysinfo(u64);
    100 times => limits::sys_times(u64);
    // partial: no hardware breakpoints, PTRACE_PEEKSIGINFO or tracing of seccomp
    101 ptrace => ptrace::sys_ptrace(u64, i32, u64, u64);
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
    // partial: only PER_LINUX and PER_LINUX32, of which only the machine name is kept
    135 personality => system::sys_personality(u32);
    140 getpriority => sched::sys_getpriority(u32, i32);
    // partial: kept and reported; all threads take turns
    141 setpriority => sched::sys_setpriority(u32, i32, i32);
    // partial: kept and reported; all threads take turns
    142 sched_setparam => sched::sys_sched_setparam(i32, u64);
    143 sched_getparam => sched::sys_sched_getparam(i32, u64);
    // partial: kept and reported; all threads take turns
    144 sched_setscheduler => sched::sys_sched_setscheduler(i32, u32, u64);
    145 sched_getscheduler => sched::sys_sched_getscheduler(i32);
    146 sched_get_priority_max => sched::sys_sched_get_priority_max(u32);
    147 sched_get_priority_min => sched::sys_sched_get_priority_min(u32);
    148 sched_rr_get_interval => sched::sys_sched_rr_get_interval(i32, u64);
    // partial: the limit counts each call alone
    149 mlock => memory::sys_mlock(u64, u64);
    150 munlock => memory::sys_munlock(u64, u64);
    // partial: pages that come later are not brought in at once
    151 mlockall => memory::sys_mlockall(u32);
    152 munlockall => memory::sys_munlockall();
    // partial: no PR_SET_SYSCALL_USER_DISPATCH, PR_SCHED_CORE, PR_SET_MM_MAP
    157 prctl => prctl::sys_prctl(u32, u64, u64, u64, u64);
    // partial: base addresses only
    158 arch_prctl => prctl::sys_arch_prctl(u32, u64);
    // partial: RLIMIT_RSS, LOCKS, NICE and RTTIME have no effect
    160 setrlimit => limits::sys_setrlimit(u32, u64);
    159 adjtimex => time::sys_adjtimex(u64);
    // none: EPERM; the clock is the host's
    164 settimeofday => time::sys_settimeofday(u64, u64);
    // partial: ends the container
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
    220 semtimedop => sem::sys_semtimedop(i32, u64, u64, u64);
    222 timer_create => timer::sys_timer_create(u32, u64, u64);
    223 timer_settime => timer::sys_timer_settime(u32, u32, u64, u64);
    224 timer_gettime => timer::sys_timer_gettime(u32, u64);
    225 timer_getoverrun => timer::sys_timer_getoverrun(u32);
    226 timer_delete => timer::sys_timer_delete(u32);
    // none: EPERM; the clock is the host's
    227 clock_settime => time::sys_clock_settime(i32, u64);
    228 clock_gettime => time::sys_clock_gettime(i32, u64);
    229 clock_getres => time::sys_clock_getres(i32, u64);
    230 clock_nanosleep => time::sys_clock_nanosleep(i32, u32, u64, u64);
    231 exit_group => process::sys_exit_group(i32);
    234 tgkill => signal::sys_tgkill(i32, i32, u32);
    // partial: there is one node
    237 mbind => numa::sys_mbind(u64, u64, u32, u64, u64, u32);
    // partial: there is one node
    238 set_mempolicy => numa::sys_set_mempolicy(u32, u64, u64);
    239 get_mempolicy => numa::sys_get_mempolicy(u64, u64, u64, u64, u32);
    247 waitid => wait::sys_waitid(u32, i32, u64, u32, u64);
    // partial: kept and reported
    251 ioprio_set => sched::sys_ioprio_set(u32, i32, u32);
    252 ioprio_get => sched::sys_ioprio_get(u32, i32);
    // partial: there is one node
    256 migrate_pages => numa::sys_migrate_pages(i32, u64, u64, u64);
    // partial: no namespaces
    272 unshare => process::sys_unshare(u64);
    273 set_robust_list => futex::sys_set_robust_list(u64, u64);
    274 get_robust_list => futex::sys_get_robust_list(i32, u64, u64);
    // partial: there is one node
    279 move_pages => numa::sys_move_pages(i32, u64, u64, u64, u64, u32);
    297 rt_tgsigqueueinfo => signal::sys_rt_tgsigqueueinfo(i32, i32, u32, u64);
    // partial: RLIMIT_RSS, LOCKS, NICE and RTTIME have no effect
    302 prlimit64 => limits::sys_prlimit64(i32, u32, u64, u64);
    305 clock_adjtime => time::sys_clock_adjtime(i32, u64);
    // none: there is one set of namespaces
    308 setns => process::sys_setns(i32, u32);
    309 getcpu => sched::sys_getcpu(u64, u64);
    310 process_vm_readv => remote::sys_process_vm_readv(i32, u64, usize, u64, usize, u64);
    311 process_vm_writev => remote::sys_process_vm_writev(i32, u64, usize, u64, usize, u64);
    // partial: no KCMP_EPOLL_TFD
    312 kcmp => kcmp::sys_kcmp(i32, i32, u32, u64, u64);
    // partial: kept and reported; all threads take turns; no SCHED_DEADLINE
    314 sched_setattr => sched::sys_sched_setattr(i32, u64, u32);
    315 sched_getattr => sched::sys_sched_getattr(i32, u64, u32, u32);
    // partial: no user notification
    317 seccomp => seccomp::sys_seccomp(u32, u32, u64);
    318 getrandom => system::sys_getrandom(u64, u64, u32);
    322 execveat => exec::sys_execveat(i32, u64, u64, u64, u32);
    324 membarrier => sched::sys_membarrier(i32, u32);
    // partial: the limit counts each call alone
    325 mlock2 => memory::sys_mlock2(u64, u64, u32);
    // partial: without a key
    329 pkey_mprotect => memory::sys_pkey_mprotect(u64, u64, u32, i32);
    // none: ENOSPC; guests have no protection keys
    330 pkey_alloc => memory::sys_pkey_alloc(u32, u32);
    // none: guests have no protection keys
    331 pkey_free => memory::sys_pkey_free(i32);
    334 rseq => process::sys_rseq(u64, u32, u32, u32);
    424 pidfd_send_signal => pidfd::sys_pidfd_send_signal(i32, u32, u64, u32);
    // partial: no PIDFD_THREAD
    434 pidfd_open => pidfd::sys_pidfd_open(i32, u32);
    // partial: no namespaces, chosen thread ids or cgroups
    435 clone3 => process::sys_clone3(u64, u64);
    438 pidfd_getfd => pidfd::sys_pidfd_getfd(i32, i32, u32);
    // partial: hints only
    440 process_madvise => remote::sys_process_madvise(i32, u64, usize, u32, u32);
    449 futex_waitv => futex::sys_futex_waitv(u64, u32, u32, u64, u32);
}

// Files, paths, descriptors, waiting for them.
table! { file_table:
    0 read => file::sys_read(i32, u64, usize);
    1 write => file::sys_write(i32, u64, usize);
    2 open => path::sys_open(u64, u32, u32);
    3 close => descriptor::sys_close(i32);
    4 stat => path::sys_stat(u64, u64);
    5 fstat => path::sys_fstat(i32, u64);
    6 lstat => path::sys_lstat(u64, u64);
    7 poll => poll::sys_poll(u64, u64, i32);
    8 lseek => file::sys_lseek(i32, i64, u32);
    // partial: terminals, pipes, sockets and the general ones
    16 ioctl => descriptor::sys_ioctl(i32, u32, u64);
    17 pread64 => file::sys_pread64(i32, u64, usize, i64);
    18 pwrite64 => file::sys_pwrite64(i32, u64, usize, i64);
    19 readv => file::sys_readv(i32, u64, usize);
    20 writev => file::sys_writev(i32, u64, usize);
    21 access => path::sys_access(u64, u32);
    22 pipe => descriptor::sys_pipe(u64);
    23 select => poll::sys_select(i32, u64, u64, u64, u64);
    32 dup => descriptor::sys_dup(i32);
    33 dup2 => descriptor::sys_dup2(i32, i32);
    40 sendfile => file::sys_sendfile(i32, i32, u64, usize);
    // partial: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK for interfaces and routes
    41 socket => socket::sys_socket(u32, u32, u32);
    42 connect => socket::sys_connect(i32, u64, u32);
    43 accept => socket::sys_accept(i32, u64, u64);
    44 sendto => socket::sys_sendto(i32, u64, usize, u32, u64, u32);
    45 recvfrom => socket::sys_recvfrom(i32, u64, usize, u32, u64, u64);
    46 sendmsg => socket::sys_sendmsg(i32, u64, u32);
    47 recvmsg => socket::sys_recvmsg(i32, u64, u32);
    48 shutdown => socket::sys_shutdown(i32, u32);
    49 bind => socket::sys_bind(i32, u64, u32);
    50 listen => socket::sys_listen(i32, i32);
    51 getsockname => socket::sys_getsockname(i32, u64, u64);
    52 getpeername => socket::sys_getpeername(i32, u64, u64);
    53 socketpair => socket::sys_socketpair(u32, u32, u32, u64);
    // partial: the options that programs use
    54 setsockopt => socket::sys_setsockopt(i32, u32, u32, u64, i32);
    // partial: the options that programs use
    55 getsockopt => socket::sys_getsockopt(i32, u32, u32, u64, u64);
    // partial: no leases; no F_NOTIFY
    72 fcntl => descriptor::sys_fcntl(i32, u32, u64);
    73 flock => descriptor::sys_flock(i32, u32);
    74 fsync => file::sys_fsync(i32);
    75 fdatasync => file::sys_fdatasync(i32);
    76 truncate => file::sys_truncate(u64, i64);
    77 ftruncate => file::sys_ftruncate(i32, i64);
    78 getdents => directory::sys_getdents(i32, u64, u32);
    79 getcwd => path::sys_getcwd(u64, usize);
    80 chdir => path::sys_chdir(u64);
    81 fchdir => path::sys_fchdir(i32);
    82 rename => directory::sys_rename(u64, u64);
    83 mkdir => directory::sys_mkdir(u64, u32);
    84 rmdir => directory::sys_rmdir(u64);
    85 creat => path::sys_creat(u64, u32);
    86 link => directory::sys_link(u64, u64);
    87 unlink => directory::sys_unlink(u64);
    88 symlink => directory::sys_symlink(u64, u64);
    89 readlink => path::sys_readlink(u64, u64, i32);
    90 chmod => path::sys_chmod(u64, u32);
    91 fchmod => path::sys_fchmod(i32, u32);
    92 chown => path::sys_chown(u64, u32, u32);
    93 fchown => path::sys_fchown(i32, u32, u32);
    94 lchown => path::sys_lchown(u64, u32, u32);
    95 umask => path::sys_umask(u32);
    132 utime => path::sys_utime(u64, u64);
    133 mknod => directory::sys_mknod(u64, u32, u64);
    137 statfs => path::sys_statfs(u64, u64);
    138 fstatfs => path::sys_fstatfs(i32, u64);
    161 chroot => path::sys_chroot(u64);
    162 sync => file::sys_sync();
    // partial: the kinds that containers mount; no MS_MOVE, no propagation
    165 mount => mount::sys_mount(u64, u64, u64, u64, u64);
    166 umount2 => mount::sys_umount2(u64, u32);
    187 readahead => file::sys_readahead(i32, i64, usize);
    188 setxattr => xattr::sys_setxattr(u64, u64, u64, usize, u32);
    189 lsetxattr => xattr::sys_lsetxattr(u64, u64, u64, usize, u32);
    190 fsetxattr => xattr::sys_fsetxattr(i32, u64, u64, usize, u32);
    191 getxattr => xattr::sys_getxattr(u64, u64, u64, usize);
    192 lgetxattr => xattr::sys_lgetxattr(u64, u64, u64, usize);
    193 fgetxattr => xattr::sys_fgetxattr(i32, u64, u64, usize);
    194 listxattr => xattr::sys_listxattr(u64, u64, usize);
    195 llistxattr => xattr::sys_llistxattr(u64, u64, usize);
    196 flistxattr => xattr::sys_flistxattr(i32, u64, usize);
    197 removexattr => xattr::sys_removexattr(u64, u64);
    198 lremovexattr => xattr::sys_lremovexattr(u64, u64);
    199 fremovexattr => xattr::sys_fremovexattr(i32, u64);
    213 epoll_create => event::sys_epoll_create(i32);
    217 getdents64 => directory::sys_getdents64(i32, u64, u32);
    221 fadvise64 => file::sys_fadvise64(i32, i64, i64, u32);
    232 epoll_wait => event::sys_epoll_wait(i32, u64, i32, i32);
    233 epoll_ctl => event::sys_epoll_ctl(i32, u32, i32, u64);
    235 utimes => path::sys_utimes(u64, u64);
    240 mq_open => mqueue::sys_mq_open(u64, u32, u32, u64);
    241 mq_unlink => mqueue::sys_mq_unlink(u64);
    242 mq_timedsend => mqueue::sys_mq_timedsend(i32, u64, u64, u32, u64);
    243 mq_timedreceive => mqueue::sys_mq_timedreceive(i32, u64, u64, u64, u64);
    // partial: no SIGEV_THREAD
    244 mq_notify => mqueue::sys_mq_notify(i32, u64);
    245 mq_getsetattr => mqueue::sys_mq_getsetattr(i32, u64, u64);
    253 inotify_init => inotify::sys_inotify_init();
    254 inotify_add_watch => inotify::sys_inotify_add_watch(i32, u64, u32);
    255 inotify_rm_watch => inotify::sys_inotify_rm_watch(i32, i32);
    257 openat => path::sys_openat(i32, u64, u32, u32);
    258 mkdirat => directory::sys_mkdirat(i32, u64, u32);
    259 mknodat => directory::sys_mknodat(i32, u64, u32, u64);
    260 fchownat => path::sys_fchownat(i32, u64, u32, u32, u32);
    261 futimesat => path::sys_futimesat(i32, u64, u64);
    262 newfstatat => path::sys_newfstatat(i32, u64, u64, u32);
    263 unlinkat => directory::sys_unlinkat(i32, u64, u32);
    264 renameat => directory::sys_renameat(i32, u64, i32, u64);
    265 linkat => directory::sys_linkat(i32, u64, i32, u64, u32);
    266 symlinkat => directory::sys_symlinkat(u64, i32, u64);
    267 readlinkat => path::sys_readlinkat(i32, u64, u64, i32);
    268 fchmodat => path::sys_fchmodat(i32, u64, u32);
    269 faccessat => path::sys_faccessat(i32, u64, u32);
    270 pselect6 => poll::sys_pselect6(i32, u64, u64, u64, u64, u64);
    271 ppoll => poll::sys_ppoll(u64, u64, u64, u64, u64);
    // partial: data is copied
    275 splice => file::sys_splice(i32, u64, i32, u64, usize, u32);
    // partial: data is copied
    276 tee => file::sys_tee(i32, i32, usize, u32);
    277 sync_file_range => file::sys_sync_file_range(i32, i64, i64, u32);
    // partial: data is copied
    278 vmsplice => file::sys_vmsplice(i32, u64, usize, u32);
    280 utimensat => path::sys_utimensat(i32, u64, u64, u32);
    281 epoll_pwait => event::sys_epoll_pwait(i32, u64, i32, i32, u64, u64);
    282 signalfd => event::sys_signalfd(i32, u64, u64);
    283 timerfd_create => event::sys_timerfd_create(u32, u32);
    284 eventfd => event::sys_eventfd(u32);
    // partial: no collapsing, inserting or unsharing of ranges
    285 fallocate => file::sys_fallocate(i32, u32, i64, i64);
    286 timerfd_settime => event::sys_timerfd_settime(i32, u32, u64, u64);
    287 timerfd_gettime => event::sys_timerfd_gettime(i32, u64);
    288 accept4 => socket::sys_accept4(i32, u64, u64, u32);
    289 signalfd4 => event::sys_signalfd4(i32, u64, u64, u32);
    290 eventfd2 => event::sys_eventfd2(u32, u32);
    291 epoll_create1 => event::sys_epoll_create1(u32);
    292 dup3 => descriptor::sys_dup3(i32, i32, u32);
    // partial: no O_DIRECT
    293 pipe2 => descriptor::sys_pipe2(u64, u32);
    294 inotify_init1 => inotify::sys_inotify_init1(u32);
    295 preadv => file::sys_preadv(i32, u64, usize, i64);
    296 pwritev => file::sys_pwritev(i32, u64, usize, i64);
    299 recvmmsg => socket::sys_recvmmsg(i32, u64, u32, u32, u64);
    306 syncfs => file::sys_syncfs(i32);
    307 sendmmsg => socket::sys_sendmmsg(i32, u64, u32, u32);
    316 renameat2 => directory::sys_renameat2(i32, u64, i32, u64, u32);
    319 memfd_create => path::sys_memfd_create(u64, u32);
    326 copy_file_range => file::sys_copy_file_range(i32, u64, i32, u64, usize, u32);
    // partial: no RWF_NOWAIT
    327 preadv2 => file::sys_preadv2(i32, u64, usize, i64, u64, u32);
    // partial: no RWF_NOWAIT
    328 pwritev2 => file::sys_pwritev2(i32, u64, usize, i64, u64, u32);
    // partial: no creation time
    332 statx => path::sys_statx(i32, u64, u32, u32, u64);
    // none: ENOSYS, as where it is turned off
    425 io_uring_setup => mount::sys_not_here();
    436 close_range => descriptor::sys_close_range(u32, u32, u32);
    437 openat2 => path::sys_openat2(i32, u64, u64, usize);
    439 faccessat2 => path::sys_faccessat2(i32, u64, u32, u32);
    441 epoll_pwait2 => event::sys_epoll_pwait2(i32, u64, i32, u64, u64, u64);
    452 fchmodat2 => path::sys_fchmodat2(i32, u64, u32, u32);
}

/// Makes a system call; what is not in the tables is ENOSYS, and logged once.
pub(crate) fn dispatch(cx: &mut Cx<'_>, number: u64, arguments: [u64; 6]) -> SysResult {
    if let Some(result) = file_table(cx, number, arguments) {
        return result;
    }
    if let Some(result) = process_table(cx, number, arguments) {
        return result;
    }
    cx.kernel.note_unknown_call(number, names::of(number));
    Err(Errno::NOSYS.into())
}
