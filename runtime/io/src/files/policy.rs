// SPDX-License-Identifier: Apache-2.0
//! What the policy is asked about a file call.
//!
//! A path is where the file is in the container *now*: the host's kernel tells where a descriptor is
//! below the volume's root.  So a file that was renamed is known by its new name, whatever the guest
//! says it is called.  A file with several names is known by the one that it was last found by.

use rustix::{
    fs::{CWD, OFlags},
    io::Errno,
};
use trine_abi::{
    file::{Create, Link, Rename, SetAttr},
    window::{Operation, Submission},
};
use trine_policy::{Action, Call, CallKind, rule::Pin};

use super::{Files, Refusal, Reply, arguments, node};
use crate::service::Context;

/// What a path ends in when its file has no name any more.
const DELETED: &[u8] = b" (deleted)";

/// What opening with these flags of open(2) is.
fn open_kind(flags: u32) -> CallKind {
    let reads = OFlags::from_bits_retain(flags) & OFlags::ACCMODE == OFlags::RDONLY;
    if reads { CallKind::OpenRead } else { CallKind::OpenWrite }
}

/// What the policy makes of a request.
pub(super) enum Permit {
    /// It is executed, perhaps for another node, and opens with these flags as well.
    Make {
        /// The request.
        request: Submission,
        /// Flags of open(2).
        flags: u32,
    },
    /// Attributes are changed, perhaps not all that it asks for.
    Change(SetAttr),
    /// It is answered with this.
    Done(Reply),
}

/// What the policy makes of a call about a node.
enum Permitted {
    /// It is made for this node, with these flags of open(2) as well.
    Node(u32, u32),
    Pinned(Pin),
}

impl Files {
    /// Where a node is in the container.
    fn path(&self, handle: u32) -> Result<Vec<u8>, Errno> {
        let node = self.handles.node(handle)?;
        let volume = self.volume(node.volume)?;
        let below = rustix::fs::readlinkat(CWD, node::own_path(&node.descriptor), Vec::new())?;
        let below = below.as_bytes();
        let has_no_name = || rustix::fs::fstat(&node.descriptor).is_ok_and(|s| s.st_nlink == 0);
        let below = below.strip_suffix(DELETED).filter(|_| has_no_name()).unwrap_or(below);
        let below = below.strip_prefix(b"/").unwrap_or(below);
        let mut path = volume.destination.clone();
        if !below.is_empty() {
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(below);
        }
        Ok(path)
    }

    fn child_path(&self, directory: u32, name: &[u8]) -> Result<Vec<u8>, Errno> {
        node::name(name)?;
        let mut path = self.path(directory)?;
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(path)
    }

    /// Asks about a path.
    fn ask(&self, context: &Context<'_>, kind: CallKind, path: &[u8]) -> Result<Action, Errno> {
        let call = Call { path: Some(path), ..Call::new(kind, "") };
        context.guard.decide(&call, &context.case)
    }

    /// Asks about looking a name up.
    pub(super) fn permit_step(
        &self,
        directory: u32,
        name: &[u8],
        context: &Context<'_>,
    ) -> Result<(), Errno> {
        if context.guard.cares_about(CallKind::Stat) {
            self.ask(context, CallKind::Stat, &self.child_path(directory, name)?)?;
        }
        Ok(())
    }

    /// Asks the policy about a request.
    pub(super) fn permit(
        &mut self,
        request: &Submission,
        context: &Context<'_>,
    ) -> Result<Permit, Refusal> {
        let kind = match request.operation {
            Operation::FileOpen => {
                open_kind(u32::try_from(request.argument).map_err(|_| Errno::INVAL)?)
            }
            Operation::FileAttr => CallKind::Stat,
            Operation::FileReadLink => CallKind::ReadLink,
            Operation::FileGetXattr | Operation::FileListXattr => CallKind::GetXattr,
            Operation::FileSetXattr => CallKind::SetXattr,
            Operation::FileSetAttr => return self.permit_attributes(request, context),
            Operation::FileCreate
            | Operation::FileLink
            | Operation::FileUnlink
            | Operation::FileRename => return self.permit_change(request, context),
            // What is open was decided about when it was opened.
            _ => return Ok(Permit::Make { request: *request, flags: 0 }),
        };
        Ok(match self.permit_node(kind, request.handle, context)? {
            Permitted::Node(handle, flags) => {
                Permit::Make { request: Submission { handle, ..*request }, flags }
            }
            Permitted::Pinned(Pin::Done) => Permit::Done(Reply::Result(0)),
            Permitted::Pinned(Pin::Bytes(bytes)) => Permit::Done(Reply::Bytes(
                // A list of names is not what an attribute's value is.
                if request.operation == Operation::FileListXattr { Vec::new() } else { bytes },
            )),
        })
    }

    /// Whether the policy has nothing to say about opening a node.
    pub(super) fn may_open_quietly(&self, node: u32, flags: u32, context: &Context<'_>) -> bool {
        let kind = open_kind(flags);
        if !context.guard.cares_about(kind) {
            return true;
        }
        let path = self.path(node);
        path.is_ok_and(|path| {
            let call = Call { path: Some(&path), ..Call::new(kind, "") };
            context.guard.accepts_quietly(&call)
        })
    }

    fn permit_node(
        &mut self,
        kind: CallKind,
        node: u32,
        context: &Context<'_>,
    ) -> Result<Permitted, Errno> {
        if !context.guard.cares_about(kind) || self.handles.node(node).is_err() {
            return Ok(Permitted::Node(node, 0));
        }
        let path = self.path(node)?;
        Ok(match self.ask(context, kind, &path)? {
            Action::RewritePath(instead) => Permitted::Node(self.find(&instead)?, 0),
            Action::AddFlags(flags) => Permitted::Node(node, flags),
            Action::Pin(pin) => Permitted::Pinned(pin),
            _ => Permitted::Node(node, 0),
        })
    }

    /// Asks about each attribute that is to be changed.
    fn permit_attributes(
        &self,
        request: &Submission,
        context: &Context<'_>,
    ) -> Result<Permit, Refusal> {
        let mut change: SetAttr = arguments(context)?;
        // An open file's size may be changed by who could open it.
        if self.handles.node(request.handle).is_err() {
            return Ok(Permit::Change(change));
        }
        let kinds = [
            (CallKind::Truncate, change.size.is_some()),
            (CallKind::ChangeMode, change.mode.is_some()),
            (CallKind::ChangeOwner, change.uid.is_some() || change.gid.is_some()),
            (CallKind::SetTimes, change.atime.is_some() || change.mtime.is_some()),
        ];
        for (kind, changes) in kinds {
            if !changes || !context.guard.cares_about(kind) {
                continue;
            }
            let action = self.ask(context, kind, &self.path(request.handle)?)?;
            if matches!(action, Action::Pin(_)) {
                match kind {
                    CallKind::Truncate => change.size = None,
                    CallKind::ChangeMode => change.mode = None,
                    CallKind::ChangeOwner => (change.uid, change.gid) = (None, None),
                    _ => (change.atime, change.mtime) = (None, None),
                }
            }
        }
        Ok(Permit::Change(change))
    }

    fn permit_change(
        &self,
        request: &Submission,
        context: &Context<'_>,
    ) -> Result<Permit, Refusal> {
        let mut is_pinned = false;
        let mut ask = |kind: CallKind, path_fn: &dyn Fn() -> Result<Vec<u8>, Errno>| {
            if context.guard.cares_about(kind) {
                is_pinned |= matches!(self.ask(context, kind, &path_fn()?)?, Action::Pin(_));
            }
            Ok::<(), Errno>(())
        };
        let directory = request.handle;
        match request.operation {
            Operation::FileCreate => {
                let new: Create = arguments(context)?;
                let kind = match new.mode & 0o170_000 {
                    0o040_000 => CallKind::MakeDirectory,
                    0o120_000 => CallKind::SymbolicLink,
                    0o010_000 => CallKind::MakeNode,
                    _ => CallKind::Create,
                };
                ask(kind, &|| self.child_path(directory, &new.name))?;
            }
            Operation::FileLink => {
                let link: Link = arguments(context)?;
                ask(CallKind::Link, &|| self.path(request.handle))?;
                ask(CallKind::Link, &|| self.child_path(link.directory, &link.name))?;
            }
            Operation::FileUnlink => {
                ask(CallKind::Unlink, &|| self.child_path(directory, &context.input))?;
            }
            _ => {
                let rename: Rename = arguments(context)?;
                ask(CallKind::Rename, &|| self.child_path(directory, &rename.old))?;
                ask(CallKind::Rename, &|| self.child_path(rename.directory, &rename.new))?;
            }
        }
        Ok(match is_pinned {
            true => Permit::Done(Reply::Result(0)),
            false => Permit::Make { request: *request, flags: 0 },
        })
    }

    /// The node of a path in the container, which the policy gave: of the volume that it is on.
    fn find(&mut self, path: &[u8]) -> Result<u32, Errno> {
        let (root, below) = self.volume_of(path).ok_or(Errno::NOENT)?;
        let mut at = root;
        for name in below.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            at = self.step(at, name)?.node;
            self.borrowed.push(at);
        }
        Ok(at)
    }

    /// Forgets the nodes that [`Self::find`] found.
    pub(super) fn give_back_borrowed(&mut self) {
        for node in std::mem::take(&mut self.borrowed) {
            self.handles.forget(node, 1);
        }
    }

    /// The root of the volume that a path is on, and the path below it: the longest that fits.
    fn volume_of<'a>(&self, path: &'a [u8]) -> Option<(u32, &'a [u8])> {
        let below = |destination: &[u8]| {
            let end = destination.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
            let rest = path.strip_prefix(destination.get(..end)?)?;
            (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
        };
        let fits = self.volumes.iter().zip(trine_abi::file::FIRST_VOLUME..);
        fits.filter_map(|(volume, root)| below(&volume.destination).map(|rest| (root, rest)))
            .min_by_key(|(_, rest)| rest.len())
    }
}
