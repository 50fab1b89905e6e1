// SPDX-License-Identifier: Apache-2.0
//! /proc/[pid] and /proc/[pid]/task/[tid].

use alloc::{boxed::Box, format, sync::Arc, vec::Vec};
use core::{any::Any, sync::atomic::Ordering};

use super::{Shared, facts};
use crate::{
    Errno,
    fs::{
        FileRef, FsContext,
        dentry::Location,
        inode::{Inode, InodeRef},
        pseudo,
        types::{Attr, DirEntry, DirSink, FileType, OpenFlags},
    },
    process::{Process, TaskRef, access::may_access, creds::CAP_SYS_RESOURCE},
};

/// The process or thread that a directory is about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) shared: Arc<Shared>,
    pub(super) process: Arc<Process>,
    /// The thread, in its own directory.
    pub(super) thread: Option<TaskRef>,
}

/// Inode number of entry `index` of a process's or thread's directory.
pub(super) fn number(id: u32, index: u64) -> u64 {
    (u64::from(id) + 1) << 20 | index
}

type ReadFn = fn(&Subject) -> Result<Vec<u8>, Errno>;

/// An entry of the directory.
enum Entry {
    File(u32, ReadFn),
    /// A link with a text and a place.
    Link(ReadFn, fn(&Subject) -> Result<Location, Errno>),
    Fds(Fds),
    Tasks,
    Net,
    Comm,
    OomScoreAdj,
    Mem,
    Namespaces,
}

/// Which of the two descriptor directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fds {
    Links,
    Info,
}

fn fixed(text: &'static str) -> impl Fn(&Subject) -> Result<Vec<u8>, Errno> {
    move |_| Ok(text.as_bytes().to_vec())
}

const ENTRIES: &[(&str, Entry)] = &[
    ("auxv", Entry::File(0o400, facts::auxv)),
    ("cgroup", Entry::File(0o444, |_| Ok(b"0::/\n".to_vec()))),
    ("cmdline", Entry::File(0o444, facts::cmdline)),
    ("comm", Entry::Comm),
    ("coredump_filter", Entry::File(0o444, |_| Ok(b"00000033\n".to_vec()))),
    ("cwd", Entry::Link(|subject| subject.path(Subject::cwd), Subject::cwd)),
    ("environ", Entry::File(0o400, facts::environ)),
    ("exe", Entry::Link(|subject| subject.path(Subject::exe), Subject::exe)),
    ("fd", Entry::Fds(Fds::Links)),
    ("fdinfo", Entry::Fds(Fds::Info)),
    ("gid_map", Entry::File(0o444, |subject| fixed("         0          0 4294967295\n")(subject))),
    ("io", Entry::File(0o400, facts::io)),
    ("limits", Entry::File(0o444, facts::limits)),
    ("loginuid", Entry::File(0o444, |_| Ok(b"4294967295".to_vec()))),
    ("maps", Entry::File(0o444, facts::maps)),
    ("mem", Entry::Mem),
    ("mountinfo", Entry::File(0o444, facts::mountinfo)),
    ("mounts", Entry::File(0o444, facts::mounts)),
    ("net", Entry::Net),
    ("ns", Entry::Namespaces),
    ("oom_adj", Entry::File(0o444, facts::oom_adj)),
    ("oom_score", Entry::File(0o444, facts::oom_score)),
    ("oom_score_adj", Entry::OomScoreAdj),
    ("personality", Entry::File(0o400, facts::personality)),
    ("root", Entry::Link(|subject| subject.path(Subject::root), Subject::root)),
    ("setgroups", Entry::File(0o444, |_| Ok(b"allow\n".to_vec()))),
    ("smaps", Entry::File(0o444, facts::smaps)),
    ("smaps_rollup", Entry::File(0o444, facts::smaps_rollup)),
    ("stat", Entry::File(0o444, facts::stat)),
    ("statm", Entry::File(0o444, facts::statm)),
    ("status", Entry::File(0o444, facts::status)),
    ("task", Entry::Tasks),
    ("uid_map", Entry::File(0o444, |subject| fixed("         0          0 4294967295\n")(subject))),
    ("wchan", Entry::File(0o444, |_| Ok(b"0".to_vec()))),
];

impl Subject {
    pub(super) fn new(
        shared: &Arc<Shared>,
        process: Arc<Process>,
        thread: Option<TaskRef>,
    ) -> Self {
        Self { shared: Arc::clone(shared), process, thread }
    }

    /// Its directory.
    pub(super) fn directory(self) -> InodeRef {
        Arc::new(Directory { subject: self })
    }

    /// Its id.
    pub(super) fn id(&self) -> u32 {
        self.thread.as_ref().map_or(self.process.pid, |task| task.tid())
    }

    /// A thread that stands for it.
    pub(super) fn task(&self) -> Result<TaskRef, Errno> {
        let task = self.thread.clone().or_else(|| self.process.any_thread());
        task.ok_or(Errno::NOENT)
    }

    /// What it uses as a file system.
    fn fs(&self) -> Result<FsContext, Errno> {
        let fs = self.task()?.fs().ok_or(Errno::NOENT)?;
        let fs = fs.lock();
        Ok(fs.clone())
    }

    /// Checks that the caller may look into it (ptrace(2), access mode checking).
    pub(super) fn check(&self) -> Result<(), Errno> {
        let Some(caller) = self.shared.services.current() else { return Ok(()) };
        if Arc::ptr_eq(&caller.process, &self.process) {
            return Ok(());
        }
        if may_access(&caller.creds(), true, &self.task()?) { Ok(()) } else { Err(Errno::ACCES) }
    }

    fn cwd(&self) -> Result<Location, Errno> {
        self.check()?;
        Ok(self.fs()?.cwd)
    }

    fn root(&self) -> Result<Location, Errno> {
        self.check()?;
        Ok(self.fs()?.root)
    }

    fn exe(&self) -> Result<Location, Errno> {
        self.check()?;
        let mm = self.task()?.mm().ok_or(Errno::NOENT)?;
        let exe = mm.exe.lock().clone().ok_or(Errno::NOENT)?;
        Ok(exe.location().clone())
    }

    /// The path of a place as the caller sees it.
    fn path(&self, place_fn: fn(&Self) -> Result<Location, Errno>) -> Result<Vec<u8>, Errno> {
        let place = place_fn(self)?;
        Ok(self.shown(&place))
    }

    /// A place as the caller sees it.
    pub(super) fn shown(&self, place: &Location) -> Vec<u8> {
        let caller = self.shared.services.current().and_then(|task| task.fs());
        match caller.map(|fs| fs.lock().clone()) {
            Some(fs) => fs.path(place),
            None => place.path_from(place).0,
        }
    }

    fn files(&self) -> Result<Vec<(i32, FileRef, bool)>, Errno> {
        self.check()?;
        let files = self.task()?.files().ok_or(Errno::NOENT)?;
        let files = files.lock();
        Ok(files.list())
    }

    fn file(&self, fd: i32) -> Result<FileRef, Errno> {
        self.check()?;
        let files = self.task()?.files().ok_or(Errno::NOENT)?;
        let file = files.lock().get(fd);
        file.map_err(|_| Errno::NOENT)
    }

    fn attr(&self, index: u64, kind: FileType, mode: u32) -> Attr {
        let mut attr = Attr::new(self.shared.device, number(self.id(), index), kind, mode);
        if let Ok(task) = self.task() {
            let creds = task.creds();
            (attr.uid, attr.gid) = (creds.euid, creds.egid);
        }
        let now = self.shared.services.now();
        (attr.atime, attr.mtime, attr.ctime) = (now, now, now);
        attr
    }

    fn inode(&self, index: usize, entry: &'static Entry) -> InodeRef {
        let number = index as u64 + 1;
        let file = |mode| self.attr(number, FileType::Regular, mode);
        let subject = self.clone();
        match entry {
            Entry::File(mode, read) => {
                let checked = *mode == 0o400;
                pseudo::file(file(*mode), move || {
                    if checked {
                        subject.check()?;
                    }
                    read(&subject)
                })
            }
            Entry::Link(text, jump) => {
                let other = self.clone();
                let jump = move || jump(&other);
                let attr = self.attr(number, FileType::Symlink, 0o777);
                pseudo::link(attr, move || text(&subject), Some(Box::new(jump)))
            }
            Entry::Namespaces => namespaces(&subject),
            Entry::Mem => Arc::new(super::memory::MemInode::new(file(0o600), subject)),
            Entry::Fds(which) => Arc::new(FdDirectory { subject, which: *which }),
            Entry::Tasks => Arc::new(TaskDirectory { subject }),
            Entry::Net => super::system::net(&self.shared),
            Entry::Comm => {
                let other = self.clone();
                let read = move || facts::comm(&subject);
                pseudo::writable(file(0o644), read, move |name| facts::set_comm(&other, name))
            }
            Entry::OomScoreAdj => {
                let other = self.clone();
                let read = move || {
                    let value = subject.process.oom_score_adj.load(Ordering::Relaxed);
                    Ok(format!("{value}\n").into_bytes())
                };
                pseudo::writable(file(0o644), read, move |text| other.set_oom_score_adj(text))
            }
        }
    }

    /// Sets how likely the process is to end when memory is short.
    fn set_oom_score_adj(&self, text: &[u8]) -> Result<(), Errno> {
        let text = core::str::from_utf8(text).map_err(|_| Errno::INVAL)?;
        let value: i32 = text.trim().parse().map_err(|_| Errno::INVAL)?;
        if !(-1000..=1000).contains(&value) {
            return Err(Errno::INVAL);
        }
        let caller = self.shared.services.current().map(|task| task.creds());
        let privileged = caller.is_none_or(|creds| creds.has_cap(CAP_SYS_RESOURCE));
        if value < self.process.oom_score_adj.load(Ordering::Relaxed) && !privileged {
            return Err(Errno::ACCES);
        }
        self.process.oom_score_adj.store(value, Ordering::Relaxed);
        Ok(())
    }
}

/// /proc/[pid]/ns: links that name the one set of namespaces.
fn namespaces(subject: &Subject) -> InodeRef {
    const KINDS: [&str; 10] = [
        "cgroup",
        "ipc",
        "mnt",
        "net",
        "pid",
        "pid_for_children",
        "time",
        "time_for_children",
        "user",
        "uts",
    ];
    /// First of the inode numbers that Linux gives the initial namespaces.
    const FIRST: u64 = 0xefff_fff0;
    let links = KINDS.iter().zip(0..).map(|(name, index)| {
        let kind = name.strip_suffix("_for_children").unwrap_or(name);
        let number = FIRST + KINDS.iter().position(|other| *other == kind).unwrap_or(0) as u64;
        let attr = subject.attr(1100 + index, FileType::Symlink, 0o777);
        let other = subject.clone();
        let text = move || {
            other.check()?;
            Ok(format!("{kind}:[{number}]").into_bytes())
        };
        (*name, pseudo::link(attr, text, None))
    });
    pseudo::directory(subject.attr(1099, FileType::Directory, 0o511), links.collect())
}

#[derive(Debug)]
struct Directory {
    subject: Subject,
}

impl Inode for Directory {
    fn attr(&self) -> Attr {
        self.subject.attr(0, FileType::Directory, 0o555)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_stable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        let at = ENTRIES.iter().position(|(entry, _)| entry.as_bytes() == name);
        let (index, entry) =
            at.and_then(|at| Some((at, &ENTRIES.get(at)?.1))).ok_or(Errno::NOENT)?;
        if matches!(entry, Entry::Tasks) && self.subject.thread.is_some() {
            return Err(Errno::NOENT);
        }
        Ok(self.subject.inode(index, entry))
    }

    fn read_dir(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let skip = cursor.saturating_sub(2) as usize;
        for (index, (name, entry)) in ENTRIES.iter().enumerate().skip(skip) {
            let kind = match entry {
                Entry::Link(..) => FileType::Symlink,
                Entry::Fds(_) | Entry::Tasks | Entry::Net | Entry::Namespaces => {
                    FileType::Directory
                }
                _ => FileType::Regular,
            };
            let next = index as u64 + 3;
            let ino = number(self.subject.id(), index as u64 + 1);
            if matches!(entry, Entry::Tasks) && self.subject.thread.is_some() {
                continue;
            }
            if !sink(DirEntry { ino, next, kind, name: name.as_bytes() }) {
                break;
            }
        }
        Ok(())
    }
}

/// The process whose directory an inode is: such a directory, opened, is a process descriptor to
/// pidfd_send_signal(2), and older than those.
pub(crate) fn of_inode(inode: &dyn Inode) -> Option<Arc<Process>> {
    let subject = &inode.as_any().downcast_ref::<Directory>()?.subject;
    subject.thread.is_none().then(|| Arc::clone(&subject.process))
}

/// /proc/[pid]/fd and /proc/[pid]/fdinfo.
#[derive(Debug)]
struct FdDirectory {
    subject: Subject,
    which: Fds,
}

impl FdDirectory {
    fn index(&self, fd: i32) -> u64 {
        let base = if self.which == Fds::Links { 1 << 10 } else { 1 << 19 };
        base + fd as u64
    }
}

impl Inode for FdDirectory {
    fn attr(&self) -> Attr {
        let index = if self.which == Fds::Links { 1000 } else { 1001 };
        self.subject.attr(index, FileType::Directory, 0o500)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_stable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        let zero = (name == b"0").then_some(0);
        let fd = zero.or_else(|| super::parse_id(name)).ok_or(Errno::NOENT)?.cast_signed();
        let file = self.subject.file(fd)?;
        let subject = self.subject.clone();
        let index = self.index(fd);
        if self.which == Fds::Info {
            let attr = subject.attr(index, FileType::Regular, 0o400);
            return Ok(pseudo::file(attr, move || facts::fdinfo(&subject.file(fd)?)));
        }
        let flags = file.flags();
        let read = if flags.reads() { 0o500 } else { 0o100 };
        let write = if flags.writes() { 0o300 } else { 0o100 };
        let attr = subject.attr(index, FileType::Symlink, read | write);
        let other = subject.clone();
        let text = move || {
            let file = subject.file(fd)?;
            Ok(subject.shown(file.location()))
        };
        let jump = move || Ok(other.file(fd)?.location().clone());
        Ok(pseudo::link(attr, text, Some(Box::new(jump))))
    }

    fn read_dir(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        for (fd, _, _) in self.subject.files()? {
            if (fd as u64) + 2 < cursor {
                continue;
            }
            let name = format!("{fd}");
            let kind = if self.which == Fds::Links { FileType::Symlink } else { FileType::Regular };
            let entry = DirEntry {
                ino: number(self.subject.id(), self.index(fd)),
                next: fd as u64 + 3,
                kind,
                name: name.as_bytes(),
            };
            if !sink(entry) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn crate::fs::file::FileOps>>, Errno> {
        self.subject.check()?;
        Ok(None)
    }
}

/// /proc/[pid]/task.
#[derive(Debug)]
struct TaskDirectory {
    subject: Subject,
}

impl Inode for TaskDirectory {
    fn attr(&self) -> Attr {
        let links = self.subject.process.threads.lock().len() as u32 + 2;
        Attr { links, ..self.subject.attr(1002, FileType::Directory, 0o555) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_stable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        let tid = super::parse_id(name).ok_or(Errno::NOENT)?;
        let threads = self.subject.process.threads.lock().clone();
        let task = threads.into_iter().find(|task| task.tid() == tid).ok_or(Errno::NOENT)?;
        let process = Arc::clone(&self.subject.process);
        Ok(Subject::new(&self.subject.shared, process, Some(task)).directory())
    }

    fn read_dir(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let threads = self.subject.process.threads.lock().clone();
        let mut ids: Vec<u32> = threads.iter().map(|task| task.tid()).collect();
        ids.sort_unstable();
        for tid in ids {
            if u64::from(tid) + 2 < cursor {
                continue;
            }
            let name = format!("{tid}");
            let entry = DirEntry {
                ino: number(tid, 0),
                next: u64::from(tid) + 3,
                kind: FileType::Directory,
                name: name.as_bytes(),
            };
            if !sink(entry) {
                break;
            }
        }
        Ok(())
    }
}
