// SPDX-License-Identifier: Apache-2.0
//! /proc (proc(5)), as far as programs read it.
//!
//! | module | what |
//! | --- | --- |
//! | this one | the root: static files, and a directory for each process |
//! | [`process`] | the directory of a process or thread |
//! | [`memory`] | /proc/[pid]/mem |
//! | [`facts`] | what the files of a process say |
//! | [`system`] | files of the whole system, and /proc/sys |

mod facts;
mod memory;
pub(crate) mod process;
mod system;

use alloc::{
    format,
    sync::{Arc, Weak},
};
use core::any::Any;

use self::process::Subject;
use crate::{
    Errno,
    fs::{
        context::FsContext,
        inode::{FileSystem, Inode, InodeRef},
        mount::Vfs,
        pseudo::{self, Numbers, PseudoFs},
        types::{Attr, DirEntry, DirSink, FileType},
    },
    services::ServicesRef,
};

const PROC_MAGIC: u64 = 0x9fa0;
/// Cursors of processes lie above those of the static entries.
const PROCESSES: u64 = 1 << 20;

/// What all inodes of one /proc share.
#[derive(Debug)]
struct Shared {
    services: ServicesRef,
    vfs: Weak<Vfs>,
    device: u64,
}

/// Makes a /proc; returns it and its root.
pub(super) fn new(context: &FsContext, device: u64) -> (Arc<dyn FileSystem>, InodeRef) {
    let shared = Arc::new(Shared {
        services: Arc::clone(&context.vfs.services),
        vfs: Arc::downgrade(&context.vfs),
        device,
    });
    let fixed = fixed(&shared);
    let fs = PseudoFs { name: "proc", magic: PROC_MAGIC, device };
    (Arc::new(fs), Arc::new(Root { shared, fixed }))
}

fn fixed(shared: &Arc<Shared>) -> InodeRef {
    let mut numbers = Numbers::new(shared.device, 1);
    let mut entries = system::entries(shared, &mut numbers);
    let services = Arc::clone(&shared.services);
    let own = move || {
        let task = services.current().ok_or(Errno::NOENT)?;
        Ok(format!("{}", task.process.pid).into_bytes())
    };
    entries.push(("self", pseudo::link(numbers.link(), own, None)));
    let services = Arc::clone(&shared.services);
    let thread = move || {
        let task = services.current().ok_or(Errno::NOENT)?;
        Ok(format!("{}/task/{}", task.process.pid, task.tid()).into_bytes())
    };
    entries.push(("thread-self", pseudo::link(numbers.link(), thread, None)));
    let mounts = || Ok(b"self/mounts".to_vec());
    entries.push(("mounts", pseudo::link(numbers.link(), mounts, None)));
    let net = || Ok(b"self/net".to_vec());
    entries.push(("net", pseudo::link(numbers.link(), net, None)));
    pseudo::directory(Attr::new(shared.device, 1, FileType::Directory, 0o555), entries)
}

#[derive(Debug)]
struct Root {
    shared: Arc<Shared>,
    fixed: InodeRef,
}

/// A process or thread id as a name.
fn parse_id(name: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(name).ok()?;
    let canonical = text.starts_with(|first: char| ('1'..='9').contains(&first));
    text.parse().ok().filter(|_| canonical)
}

impl Inode for Root {
    fn attr(&self) -> Attr {
        Attr::new(self.shared.device, 1, FileType::Directory, 0o555)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_stable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        let Some(id) = parse_id(name) else { return self.fixed.lookup(name) };
        let registry = &self.shared.services.registry;
        // A thread's directory can be looked up too, though it is not listed.
        let process = match registry.process(id) {
            Some(process) => process,
            None => registry.task(id).ok_or(Errno::NOENT)?.process.clone(),
        };
        Ok(Subject::new(&self.shared, process, None).directory())
    }

    fn read_dir(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        if cursor < PROCESSES {
            let mut full = false;
            self.fixed.read_dir(cursor, &mut |entry| {
                let taken = sink(entry);
                full |= !taken;
                taken
            })?;
            if full {
                return Ok(());
            }
        }
        let from = cursor.saturating_sub(PROCESSES);
        for process in self.shared.services.registry.processes() {
            let pid = u64::from(process.pid);
            if pid < from {
                continue;
            }
            let name = format!("{pid}");
            let entry = DirEntry {
                ino: process::number(process.pid, 0),
                next: PROCESSES + pid + 1,
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
