// SPDX-License-Identifier: Apache-2.0
//! What a confined process is left with, and what happens when it tries more.
//!
//! The program runs itself once for each case.  Needs root, as confinement does.
#![expect(unsafe_code, reason = "tries forbidden system calls")]

use std::{
    env, fs,
    io::{Read, Write},
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::{Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use trine_jail::Landlock;

const SIGSYS: i32 = 31;

/// What a try must come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Works,
    Fails(i32),
    Killed,
}

use Wanted::{Fails, Killed, Works};

type Try = (&'static str, Wanted, fn() -> i64);

fn call(number: i64, a: i64, b: i64, c: i64, d: i64) -> i64 {
    // SAFETY: at worst the call changes this process, which exists for this one try.
    let result = unsafe { libc::syscall(number, a, b, c, d, 0, 0) };
    if result == -1 {
        return -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    result
}

fn map(protection: i32) -> i64 {
    let flags = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: an anonymous mapping where there is none.
    let result = unsafe {
        libc::syscall(libc::SYS_mmap, 0, 4096, i64::from(protection), flags, -1_i64, 0_i64)
    };
    if result > 0 { 0 } else { result }
}

/// Opens a path as the I/O process opens files.
fn open2(path: &std::ffi::CStr) -> i64 {
    let how = [libc::O_PATH as u64, 0, 0];
    let result = call(libc::SYS_openat2, -100, path.as_ptr() as i64, how.as_ptr() as i64, 24);
    if result > 0 { 0 } else { result }
}

/// What both processes may and may not do.
const TRIES: &[Try] = &[
    ("a thread", Works, || thread::spawn(|| 0).join().expect("joined")),
    ("memory", Works, || i64::from(vec![1_u8; 50 << 20].iter().all(|&byte| byte == 0))),
    ("a signal to itself", Works, || {
        let pid = i64::from(std::process::id());
        call(libc::SYS_tgkill, pid, call(libc::SYS_gettid, 0, 0, 0, 0), 0, 0)
    }),
    ("a pipe it has", Works, || i64::from(std::io::stdout().flush().is_err())),
    ("a file of the host", Fails(libc::ENOENT), || {
        let error = fs::File::open("/etc/passwd").expect_err("no files");
        -i64::from(error.raw_os_error().expect("an errno"))
    }),
    ("a raw open", Killed, || call(libc::SYS_open, c"/etc/passwd".as_ptr() as i64, 0, 0, 0)),
    ("a socket within the host", Killed, || call(libc::SYS_socket, 1, 1, 0, 0)),
    ("a netlink socket", Killed, || call(libc::SYS_socket, 16, 3, 0, 0)),
    ("a packet socket", Killed, || call(libc::SYS_socket, 17, 3, 0, 0)),
    ("a pair of sockets", Killed, || call(libc::SYS_socketpair, 1, 1, 0, 0)),
    ("execve", Killed, || call(libc::SYS_execve, c"/bin/sh".as_ptr() as i64, 0, 0, 0)),
    ("fork", Killed, || call(libc::SYS_fork, 0, 0, 0, 0)),
    ("a process by clone", Killed, || call(libc::SYS_clone, 17, 0, 0, 0)),
    ("clone3", Fails(libc::ENOSYS), || call(libc::SYS_clone3, 0, 0, 0, 0)),
    ("executable memory", Killed, || map(libc::PROT_READ | libc::PROT_EXEC)),
    ("plain memory", Works, || map(libc::PROT_READ | libc::PROT_WRITE)),
    ("mprotect to executable", Killed, || call(libc::SYS_mprotect, 0, 4096, 5, 0)),
    ("a signal to init", Killed, || call(libc::SYS_tgkill, 1, 1, 0, 0)),
    ("kill", Killed, || call(libc::SYS_kill, 1, 0, 0, 0)),
    ("ptrace", Killed, || call(libc::SYS_ptrace, 0, 0, 0, 0)),
    ("process_vm_readv", Killed, || call(libc::SYS_process_vm_readv, 1, 0, 0, 0)),
    ("mount", Killed, || call(libc::SYS_mount, 0, 0, 0, 0)),
    ("unshare", Killed, || call(libc::SYS_unshare, libc::CLONE_NEWUSER.into(), 0, 0, 0)),
    ("setns", Killed, || call(libc::SYS_setns, 0, 0, 0, 0)),
    ("chroot", Killed, || call(libc::SYS_chroot, c"..".as_ptr() as i64, 0, 0, 0)),
    ("bpf", Killed, || call(libc::SYS_bpf, 0, 0, 0, 0)),
    ("keyctl", Killed, || call(libc::SYS_keyctl, 0, 0, 0, 0)),
    ("io_uring", Killed, || call(libc::SYS_io_uring_setup, 1, 0, 0, 0)),
    ("perf_event_open", Killed, || call(libc::SYS_perf_event_open, 0, 0, 0, 0)),
    ("TIOCSTI", Killed, || call(libc::SYS_ioctl, 0, 0x5412, 0, 0)),
    ("F_SETOWN", Killed, || call(libc::SYS_fcntl, 0, 8, 1, 0)),
    ("setuid", Killed, || call(libc::SYS_setuid, 0, 0, 0, 0)),
    ("PR_SET_DUMPABLE", Killed, || call(libc::SYS_prctl, 4, 1, 0, 0)),
];

const VMM_TRIES: &[Try] = &[
    ("a socket", Killed, || call(libc::SYS_socket, 2, 1, 0, 0)),
    ("connect", Killed, || call(libc::SYS_connect, 0, 0, 0, 0)),
    ("setsockopt", Killed, || call(libc::SYS_setsockopt, 0, 6, 1, 0)),
    ("openat2", Killed, || open2(c"/")),
    ("a list of extended attributes", Killed, || call(libc::SYS_listxattr, 0, 0, 0, 0)),
    ("FIONREAD", Killed, || call(libc::SYS_ioctl, 0, 0x541b, 0, 0)),
    ("a KVM ioctl on something else", Fails(libc::ENOTTY), || {
        call(libc::SYS_ioctl, 0, 0xae00, 0, 0)
    }),
];

const IO_TRIES: &[Try] = &[
    ("sleep", Works, || {
        thread::sleep(Duration::from_millis(1));
        0
    }),
    ("a socket", Works, || i64::from(call(libc::SYS_socket, 2, 1, 0, 0) < 0)),
    ("a raw socket", Fails(libc::EPERM), || call(libc::SYS_socket, 2, 3, 1, 0)),
    ("connect on something else", Fails(libc::ENOTSOCK), || call(libc::SYS_connect, 0, 0, 0, 0)),
    ("an option of a level it has", Fails(libc::ENOTSOCK), || {
        call(libc::SYS_setsockopt, 0, 6, 1, 0)
    }),
    ("an option of another level", Killed, || call(libc::SYS_setsockopt, 0, 263, 1, 0)),
    ("another option of another level", Killed, || call(libc::SYS_getsockopt, 0, 263, 1, 0)),
    ("a KVM ioctl", Killed, || call(libc::SYS_ioctl, 0, 0xae00, 0, 0)),
    ("a host path", Fails(libc::ENOENT), || open2(c"/etc/passwd")),
    ("a descriptor that it has", Works, || open2(c"0")),
    ("what is above its descriptors", Fails(libc::ENOENT), || open2(c"../status")),
    ("what is further above", Fails(libc::ENOENT), || open2(c"../../cmdline")),
    ("a device node", Killed, || {
        call(libc::SYS_mknodat, -100, c"x".as_ptr() as i64, libc::S_IFCHR.into(), 0x103)
    }),
    ("F_SETLEASE", Killed, || call(libc::SYS_fcntl, 0, 1024, 0, 0)),
];

fn tries(process: &str) -> impl Iterator<Item = &'static Try> {
    TRIES.iter().chain(if process == "vmm" { VMM_TRIES } else { IO_TRIES })
}

fn confine(process: &str) -> Duration {
    trine_jail::begin().expect("begun");
    let start = Instant::now();
    match process {
        "vmm" => trine_jail::vmm::confine(Landlock::BestEffort).expect("confined"),
        "io" => trine_jail::io::confine(Landlock::BestEffort).expect("confined"),
        other => panic!("process {other}"),
    }
    start.elapsed()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--try", process, name] => {
            confine(process);
            let (_, _, try_fn) = tries(process).find(|(n, ..)| n == name).expect("a try");
            let result = try_fn();
            println!("{result}");
            ExitCode::SUCCESS
        }
        [_, "--posture", process] => {
            let took = confine(process);
            // Until standard input ends; the VMM may not even sleep.
            let waiting = thread::spawn(thread::park);
            println!("{}", took.as_micros());
            let _ = std::io::stdin().read(&mut [0]);
            drop(waiting);
            ExitCode::SUCCESS
        }
        [_, "--late", process] => {
            // A thread from before the filter is under it, too.
            trine_jail::begin().expect("begun");
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let early = thread::spawn(move || {
                wait.recv().expect("go");
                call(libc::SYS_socket, 16, 3, 0, 0)
            });
            match *process {
                "vmm" => trine_jail::vmm::install_filter().expect("installed"),
                _ => trine_jail::io::filter().install().expect("installed"),
            }
            go.send(()).expect("sent");
            early.join().expect("joined");
            ExitCode::SUCCESS
        }
        _ => test(),
    }
}

fn run(arguments: &[&str]) -> (ExitStatus, String) {
    let output = Command::new(env::current_exe().expect("own path"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("run");
    (output.status, String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn test() -> ExitCode {
    // SAFETY: no arguments, and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: confinement needs root");
        return ExitCode::SUCCESS;
    }
    for process in ["vmm", "io"] {
        for (name, wanted, _) in tries(process) {
            let (status, result) = run(&["--try", process, name]);
            let found = match (status.signal(), result.parse::<i64>()) {
                (Some(SIGSYS), _) => Some(Killed),
                (None, Ok(0)) => Some(Works),
                (None, Ok(errno @ ..0)) => Some(Fails(-errno as i32)),
                _ => None,
            };
            assert_eq!(found, Some(*wanted), "{process}: {name}: {status}, {result:?}");
        }
        let (status, _) = run(&["--late", process]);
        assert_eq!(status.signal(), Some(SIGSYS), "{process}: a thread from before the filter");
        posture(process);
    }
    println!("test confine ... ok");
    ExitCode::SUCCESS
}

/// Looks at a confined process from outside, each thread of it.
fn posture(process: &str) {
    let leaked = fs::File::open("/etc/passwd").expect("a file");
    // Inheritable, as a careless parent would leave it.
    rustix::io::fcntl_setfd(leaked.as_fd(), rustix::io::FdFlags::empty()).expect("flags");
    let mut child = Command::new(env::current_exe().expect("own path"))
        .args(["--posture", process])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line");
    let took: u64 = line.trim().parse().expect("microseconds");

    let root = format!("/proc/{}", child.id());
    let threads: Vec<_> = fs::read_dir(format!("{root}/task")).expect("threads").collect();
    assert!(threads.len() >= 2, "{process}: {} threads", threads.len());
    for task in threads {
        let status = task.expect("thread").path().join("status");
        let status = fs::read_to_string(status).expect("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim_start_matches(':').trim().to_owned()
        };
        let none = "0000000000000000";
        // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, NET_BIND_SERVICE
        let kept = if process == "io" { "000000000000041f" } else { none };
        for (set, wanted) in [
            ("CapInh", none),
            ("CapPrm", kept),
            ("CapEff", kept),
            ("CapBnd", none),
            ("CapAmb", none),
        ] {
            assert_eq!(field(set), wanted, "{process}: {set}");
        }
        assert_eq!(field("NoNewPrivs"), "1", "{process}");
        assert_eq!(field("Seccomp"), "2", "{process}");
        assert_eq!(field("Groups"), "", "{process}");
        let umask = if process == "io" { "0000" } else { "0077" };
        assert_eq!(field("Umask"), umask, "{process}");
    }
    let files: Vec<_> = fs::read_dir(format!("{root}/fd")).expect("files").collect();
    assert_eq!(files.len(), 3, "{process}: only the standard streams");
    let listed: Vec<_> = fs::read_dir(format!("{root}/root/")).expect("root").collect();
    assert!(listed.is_empty(), "{process}: {listed:?} in the root");
    assert!(fs::write(format!("{root}/root/x"), "x").is_err(), "{process}: the root is read-only");
    let limits = fs::read_to_string(format!("{root}/limits")).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("core");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{process}: {core}");
    let stat = fs::read_to_string(format!("{root}/stat")).expect("stat");
    let session = stat.rsplit(')').next().expect("fields").split_whitespace().nth(3);
    assert_eq!(session, Some(&*child.id().to_string()), "{process}: a session of its own");
    drop(child.stdin.take());
    assert!(child.wait().expect("ended").success());
    println!("{process}: confined in {took} us");
}
