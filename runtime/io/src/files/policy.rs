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
use trine_policy::{Action, Call, CallKind};

use super::{Files, Refusal, arguments, node};
use crate::service::Context;

/// What a path ends in when its file has no name any more.
const DELETED: &[u8] = b" (deleted)";

/// What opening with these flags of open(2) is.
fn open_kind(flags: u32) -> CallKind {
    let reads = OFlags::from_bits_retain(flags) & OFlags::ACCMODE == OFlags::RDONLY;
    if reads { CallKind::OpenRead } else { CallKind::OpenWrite }
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

    /// Asks about a path; returns another one to use instead, if the policy has one.
    fn ask(
        &self,
        context: &Context<'_>,
        kind: CallKind,
        path: &[u8],
    ) -> Result<Option<Vec<u8>>, Errno> {
        let call = Call { path: Some(path), ..Call::new(kind, "") };
        match context.guard.decide(&call)? {
            Action::RewritePath(path) => Ok(Some(path)),
            _ => Ok(None),
        }
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

    /// Asks the policy about a request; returns the request to execute.
    pub(super) fn permit(
        &mut self,
        request: &Submission,
        context: &Context<'_>,
    ) -> Result<Submission, Refusal> {
        let handle = request.handle;
        if request.operation == Operation::FileOpen {
            let flags = u32::try_from(request.argument).map_err(|_| Errno::INVAL)?;
            let handle = self.permit_open(handle, flags, context)?;
            return Ok(Submission { handle, ..*request });
        }
        let on_node = |kind: CallKind| (kind, handle);
        let (kind, node) = match request.operation {
            Operation::FileAttr => on_node(CallKind::Stat),
            Operation::FileReadLink => on_node(CallKind::ReadLink),
            Operation::FileGetXattr | Operation::FileListXattr => on_node(CallKind::GetXattr),
            Operation::FileSetXattr => on_node(CallKind::SetXattr),
            Operation::FileSetAttr
            | Operation::FileCreate
            | Operation::FileLink
            | Operation::FileUnlink
            | Operation::FileRename => {
                self.permit_change(request, context)?;
                return Ok(*request);
            }
            // What is open was decided about when it was opened.
            _ => return Ok(*request),
        };
        let handle = self.permit_node(kind, node, context)?;
        Ok(Submission { handle, ..*request })
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

    /// Asks about opening a node; returns the one to open.
    pub(super) fn permit_open(
        &mut self,
        node: u32,
        flags: u32,
        context: &Context<'_>,
    ) -> Result<u32, Errno> {
        self.permit_node(open_kind(flags), node, context)
    }

    fn permit_node(
        &mut self,
        kind: CallKind,
        node: u32,
        context: &Context<'_>,
    ) -> Result<u32, Errno> {
        if !context.guard.cares_about(kind) || self.handles.node(node).is_err() {
            return Ok(node);
        }
        let path = self.path(node)?;
        match self.ask(context, kind, &path)? {
            None => Ok(node),
            Some(instead) => self.find(&instead),
        }
    }

    fn permit_change(&self, request: &Submission, context: &Context<'_>) -> Result<(), Refusal> {
        let cares = |kind| context.guard.cares_about(kind);
        match request.operation {
            Operation::FileSetAttr => {
                let change: SetAttr = arguments(request, context)?;
                let kinds = [
                    (CallKind::Truncate, change.size.is_some()),
                    (CallKind::ChangeMode, change.mode.is_some()),
                    (CallKind::ChangeOwner, change.uid.is_some() || change.gid.is_some()),
                    (CallKind::SetTimes, change.atime.is_some() || change.mtime.is_some()),
                ];
                // An open file's size may be changed by who could open it.
                let is_node = self.handles.node(request.handle).is_ok();
                for (kind, changes) in kinds {
                    if changes && is_node && cares(kind) {
                        self.ask(context, kind, &self.path(request.handle)?)?;
                    }
                }
            }
            Operation::FileCreate => {
                let new: Create = arguments(request, context)?;
                let kind = match new.mode & 0o170_000 {
                    0o040_000 => CallKind::MakeDirectory,
                    0o120_000 => CallKind::SymbolicLink,
                    0o010_000 => CallKind::MakeNode,
                    _ => CallKind::Create,
                };
                if cares(kind) {
                    self.ask(context, kind, &self.child_path(request.handle, &new.name)?)?;
                }
            }
            Operation::FileLink if cares(CallKind::Link) => {
                let link: Link = arguments(request, context)?;
                self.ask(context, CallKind::Link, &self.path(request.handle)?)?;
                let path = self.child_path(link.directory, &link.name)?;
                self.ask(context, CallKind::Link, &path)?;
            }
            Operation::FileUnlink if cares(CallKind::Unlink) => {
                let path = self.child_path(request.handle, &context.input(request)?)?;
                self.ask(context, CallKind::Unlink, &path)?;
            }
            Operation::FileRename if cares(CallKind::Rename) => {
                let rename: Rename = arguments(request, context)?;
                for (directory, name) in
                    [(request.handle, &rename.old), (rename.directory, &rename.new)]
                {
                    self.ask(context, CallKind::Rename, &self.child_path(directory, name)?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The node of a path in the container, which the policy gave: of the volume that it is on.
    fn find(&mut self, path: &[u8]) -> Result<u32, Errno> {
        let (root, below) = self.volume_of(path).ok_or(Errno::NOENT)?;
        let mut at = root;
        for name in below.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            at = self.step(at, name)?.node;
        }
        Ok(at)
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
