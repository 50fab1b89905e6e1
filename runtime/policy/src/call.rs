// SPDX-License-Identifier: Apache-2.0
//! Calls and their groups.

use std::net::SocketAddr;

macro_rules! calls {
    ($($(#[$doc:meta])* $kind:ident = $name:literal in [$($group:literal),*],)*) => {
        /// A kind of forwarded call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum CallKind {
            $($(#[$doc])* $kind,)*
        }

        impl CallKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its Linux name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// The groups that it is in.
            pub fn groups(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($group),*],)* }
            }
        }
    };
}

calls! {
    /// Looking a name up and reading attributes.
    Stat = "stat" in ["file", "file-stat"],
    /// Opening a file or directory for reading.
    OpenRead = "openat" in ["file", "file-read"],
    /// Opening a file for writing, or for both.
    OpenWrite = "openat" in ["file", "file-write"],
    /// Making a regular file.
    Create = "creat" in ["file", "file-write"],
    /// Reading a symbolic link.
    ReadLink = "readlinkat" in ["file", "file-stat"],
    /// Making a directory.
    MakeDirectory = "mkdirat" in ["file", "file-write"],
    /// Making a FIFO.
    MakeNode = "mknodat" in ["file", "file-write"],
    /// Making a symbolic link.
    SymbolicLink = "symlinkat" in ["file", "file-write"],
    /// Giving a file one more name; the path is the new name.
    Link = "linkat" in ["file", "file-write"],
    /// Removing a name.
    Unlink = "unlinkat" in ["file", "file-write"],
    /// Renaming; asked for the old name and for the new one.
    Rename = "renameat2" in ["file", "file-write"],
    /// Changing permission bits.
    ChangeMode = "fchmodat" in ["file", "file-write"],
    /// Changing the owner.
    ChangeOwner = "fchownat" in ["file", "file-write"],
    /// Changing times.
    SetTimes = "utimensat" in ["file", "file-write"],
    /// Changing the size by name.
    Truncate = "truncate" in ["file", "file-write"],
    /// Reading extended attributes.
    GetXattr = "getxattr" in ["file", "file-stat"],
    /// Setting or removing extended attributes.
    SetXattr = "setxattr" in ["file", "file-write"],
    /// Making a socket.
    Socket = "socket" in ["net"],
    /// Connecting, and setting the target of a datagram socket.
    Connect = "connect" in ["net", "net-out"],
    /// Sending a datagram to an address.
    SendTo = "sendto" in ["net", "net-out"],
    /// Taking a local address.
    Bind = "bind" in ["net", "net-in"],
    /// Waiting for connections.
    Listen = "listen" in ["net", "net-in"],
    /// Taking a connection; the address is the peer's.
    Accept = "accept4" in ["net", "net-in"],
}

impl CallKind {
    /// Whether it is about a file.
    pub fn is_file(self) -> bool {
        self.groups().contains(&"file")
    }

    /// Whether it can be made for another path.
    pub fn can_rewrite_path(self) -> bool {
        matches!(
            self,
            Self::OpenRead | Self::OpenWrite | Self::Stat | Self::ReadLink | Self::GetXattr
        )
    }

    /// Whether it can be made for another address.
    pub fn can_rewrite_address(self) -> bool {
        matches!(self, Self::Connect | Self::SendTo | Self::Bind)
    }

    /// Whether it can be said to be done without being done.
    pub fn can_be_pinned(self) -> bool {
        matches!(
            self,
            Self::Link
                | Self::Unlink
                | Self::Rename
                | Self::ChangeMode
                | Self::ChangeOwner
                | Self::SetTimes
                | Self::Truncate
                | Self::SetXattr
                | Self::SendTo
        )
    }

    /// Whether its result is bytes that can be given in its place.
    pub fn has_bytes(self) -> bool {
        matches!(self, Self::ReadLink | Self::GetXattr)
    }

    /// Whether bytes are moved by it or by what it opens.
    pub fn moves_bytes(self) -> bool {
        matches!(
            self,
            Self::OpenRead | Self::OpenWrite | Self::Connect | Self::SendTo | Self::Accept
        )
    }
}

/// Names of all groups, and of parts of calls.
pub const GROUPS: &[&str] = &[
    "file",
    "file-stat",
    "file-read",
    "file-write",
    "net",
    "net-out",
    "net-in",
    "openat-read",
    "openat-write",
];

/// One call, with the arguments that the host can vouch for.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What it is.
    pub kind: CallKind,
    /// The container that makes it.
    pub container: &'a str,
    /// A file's path in the container.
    pub path: Option<&'a [u8]>,
    /// A socket's address.
    pub address: Option<SocketAddr>,
    /// DNS names that the address was resolved from, as far as that was seen.
    pub names: &'a [String],
}

impl<'a> Call<'a> {
    /// A call without arguments.
    pub fn new(kind: CallKind, container: &'a str) -> Self {
        Self { kind, container, path: None, address: None, names: &[] }
    }
}

/// The set of calls that a word of a policy means: a call's name, or a group's.
pub(crate) fn of_word(word: &str) -> Option<u32> {
    let mut set = 0;
    for &kind in CallKind::ALL {
        let is_part = matches!(
            (kind, word),
            (CallKind::OpenRead, "openat-read") | (CallKind::OpenWrite, "openat-write")
        );
        if kind.name() == word || kind.groups().contains(&word) || is_part {
            set |= 1 << kind as u32;
        }
    }
    (set != 0).then_some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_calls_and_groups() {
        assert_eq!(of_word("openat"), Some(1 << 1 | 1 << 2));
        assert_eq!(of_word("connect"), Some(1 << CallKind::Connect as u32));
        assert_eq!(of_word("ptrace"), None);
        for group in GROUPS {
            assert!(of_word(group).is_some(), "{group}");
        }
        assert!(CallKind::ALL.len() <= 32);
    }
}
