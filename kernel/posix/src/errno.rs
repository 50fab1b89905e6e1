// SPDX-License-Identifier: Apache-2.0
//! Linux error numbers (asm-generic/errno.h).

use core::fmt;

/// A Linux error number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// The name without the E, such as `NOENT`.
            pub fn name(self) -> &'static str {
                match self.0 { $($number => stringify!($name),)* _ => "E?" }
            }
        }
    };
}

errnos! {
    PERM = 1, "Operation not permitted.";
    NOENT = 2, "No such file or directory.";
    SRCH = 3, "No such process.";
    INTR = 4, "Interrupted system call.";
    IO = 5, "Input/output error.";
    NXIO = 6, "No such device or address.";
    TOO_BIG = 7, "Argument list too long.";
    NOEXEC = 8, "Exec format error.";
    BADF = 9, "Bad file descriptor.";
    CHILD = 10, "No child processes.";
    AGAIN = 11, "Resource temporarily unavailable.";
    NOMEM = 12, "Cannot allocate memory.";
    ACCES = 13, "Permission denied.";
    FAULT = 14, "Bad address.";
    NOTBLK = 15, "Block device required.";
    BUSY = 16, "Device or resource busy.";
    EXIST = 17, "File exists.";
    XDEV = 18, "Invalid cross-device link.";
    NODEV = 19, "No such device.";
    NOTDIR = 20, "Not a directory.";
    ISDIR = 21, "Is a directory.";
    INVAL = 22, "Invalid argument.";
    NFILE = 23, "Too many open files in system.";
    MFILE = 24, "Too many open files.";
    NOTTY = 25, "Inappropriate ioctl for device.";
    TXTBSY = 26, "Text file busy.";
    FBIG = 27, "File too large.";
    NOSPC = 28, "No space left on device.";
    SPIPE = 29, "Illegal seek.";
    ROFS = 30, "Read-only file system.";
    MLINK = 31, "Too many links.";
    PIPE = 32, "Broken pipe.";
    DOM = 33, "Numerical argument out of domain.";
    RANGE = 34, "Numerical result out of range.";
    DEADLK = 35, "Resource deadlock avoided.";
    NAMETOOLONG = 36, "File name too long.";
    NOLCK = 37, "No locks available.";
    NOSYS = 38, "Function not implemented.";
    NOTEMPTY = 39, "Directory not empty.";
    LOOP = 40, "Too many levels of symbolic links.";
    NOMSG = 42, "No message of desired type.";
    IDRM = 43, "Identifier removed.";
    CHRNG = 44, "Channel number out of range.";
    L2NSYNC = 45, "Level 2 not synchronized.";
    L3HLT = 46, "Level 3 halted.";
    L3RST = 47, "Level 3 reset.";
    LNRNG = 48, "Link number out of range.";
    UNATCH = 49, "Protocol driver not attached.";
    NOCSI = 50, "No CSI structure available.";
    L2HLT = 51, "Level 2 halted.";
    BADE = 52, "Invalid exchange.";
    BADR = 53, "Invalid request descriptor.";
    XFULL = 54, "Exchange full.";
    NOANO = 55, "No anode.";
    BADRQC = 56, "Invalid request code.";
    BADSLT = 57, "Invalid slot.";
    BFONT = 59, "Bad font file format.";
    NOSTR = 60, "Device not a stream.";
    NODATA = 61, "No data available.";
    TIME = 62, "Timer expired.";
    NOSR = 63, "Out of streams resources.";
    NONET = 64, "Machine is not on the network.";
    NOPKG = 65, "Package not installed.";
    REMOTE = 66, "Object is remote.";
    NOLINK = 67, "Link has been severed.";
    ADV = 68, "Advertise error.";
    SRMNT = 69, "Srmount error.";
    COMM = 70, "Communication error on send.";
    PROTO = 71, "Protocol error.";
    MULTIHOP = 72, "Multihop attempted.";
    DOTDOT = 73, "RFS specific error.";
    BADMSG = 74, "Bad message.";
    OVERFLOW = 75, "Value too large for defined data type.";
    NOTUNIQ = 76, "Name not unique on network.";
    BADFD = 77, "File descriptor in bad state.";
    REMCHG = 78, "Remote address changed.";
    LIBACC = 79, "Can not access a needed shared library.";
    LIBBAD = 80, "Accessing a corrupted shared library.";
    LIBSCN = 81, ".lib section in a.out corrupted.";
    LIBMAX = 82, "Attempting to link in too many shared libraries.";
    LIBEXEC = 83, "Cannot exec a shared library directly.";
    ILSEQ = 84, "Invalid or incomplete multibyte or wide character.";
    RESTART = 85, "Interrupted system call should be restarted.";
    STRPIPE = 86, "Streams pipe error.";
    USERS = 87, "Too many users.";
    NOTSOCK = 88, "Socket operation on non-socket.";
    DESTADDRREQ = 89, "Destination address required.";
    MSGSIZE = 90, "Message too long.";
    PROTOTYPE = 91, "Protocol wrong type for socket.";
    NOPROTOOPT = 92, "Protocol not available.";
    PROTONOSUPPORT = 93, "Protocol not supported.";
    SOCKTNOSUPPORT = 94, "Socket type not supported.";
    OPNOTSUPP = 95, "Operation not supported.";
    PFNOSUPPORT = 96, "Protocol family not supported.";
    AFNOSUPPORT = 97, "Address family not supported by protocol.";
    ADDRINUSE = 98, "Address already in use.";
    ADDRNOTAVAIL = 99, "Cannot assign requested address.";
    NETDOWN = 100, "Network is down.";
    NETUNREACH = 101, "Network is unreachable.";
    NETRESET = 102, "Network dropped connection on reset.";
    CONNABORTED = 103, "Software caused connection abort.";
    CONNRESET = 104, "Connection reset by peer.";
    NOBUFS = 105, "No buffer space available.";
    ISCONN = 106, "Transport endpoint is already connected.";
    NOTCONN = 107, "Transport endpoint is not connected.";
    SHUTDOWN = 108, "Cannot send after transport endpoint shutdown.";
    TOOMANYREFS = 109, "Too many references: cannot splice.";
    TIMEDOUT = 110, "Connection timed out.";
    CONNREFUSED = 111, "Connection refused.";
    HOSTDOWN = 112, "Host is down.";
    HOSTUNREACH = 113, "No route to host.";
    ALREADY = 114, "Operation already in progress.";
    INPROGRESS = 115, "Operation now in progress.";
    STALE = 116, "Stale file handle.";
    UCLEAN = 117, "Structure needs cleaning.";
    NOTNAM = 118, "Not a XENIX named type file.";
    NAVAIL = 119, "No XENIX semaphores available.";
    ISNAM = 120, "Is a named type file.";
    REMOTEIO = 121, "Remote I/O error.";
    DQUOT = 122, "Disk quota exceeded.";
    NOMEDIUM = 123, "No medium found.";
    MEDIUMTYPE = 124, "Wrong medium type.";
    CANCELED = 125, "Operation canceled.";
    NOKEY = 126, "Required key not available.";
    KEYEXPIRED = 127, "Key has expired.";
    KEYREVOKED = 128, "Key has been revoked.";
    KEYREJECTED = 129, "Key was rejected by service.";
    OWNERDEAD = 130, "Owner died.";
    NOTRECOVERABLE = 131, "State not recoverable.";
    RFKILL = 132, "Operation not possible due to RF-kill.";
}

impl Errno {
    /// An errno by number.
    #[cfg(test)]
    pub(crate) const fn of(number: u16) -> Self {
        Self(number)
    }

    /// No error that a program ever sees: the answer of a forwarded call is not there yet, and the
    /// system call is to be made again when it is ([`crate::forward`]).
    pub(crate) const PENDING: Self = Self(4095);

    /// An errno that the I/O server gave.
    pub(crate) fn from_host(number: u32) -> Self {
        match u16::try_from(number) {
            Ok(number @ 1..=133) => Self(number),
            _ => Self::IO,
        }
    }

    /// The number, positive.
    pub fn number(self) -> u32 {
        u32::from(self.0)
    }

    /// What a system call returns in RAX.
    pub fn to_result(self) -> u64 {
        (-i64::from(self.0)).cast_unsigned()
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
