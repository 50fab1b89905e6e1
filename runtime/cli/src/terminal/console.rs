// SPDX-License-Identifier: Apache-2.0
//! `--console-socket`: handing a terminal to the caller.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::failure::WithRemedy as _;

/// What runc sends beside the descriptor: the name of the file it is.
const NAME: &[u8] = b"/dev/ptmx";

/// Sends a terminal's master to whoever listens at `socket`, as runc does.
///
/// # Errors
/// If nobody listens there.
pub(crate) fn send_master(socket: &Path, master: &OwnedFd) -> Result<()> {
    let context = || format!("cannot send the terminal to console socket {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(context).remedy("listen there first")?;
    let descriptors = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&stream, &[IoSlice::new(NAME)], &mut control, SendFlags::NOSIGNAL)
        .with_context(context)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _, os::unix::net::UnixListener, thread};

    use super::*;
    use crate::terminal::Pty;

    #[test]
    fn send_master_arrives_as_a_working_terminal() {
        let scratch = tempfile::TempDir::new().expect("scratch directory");
        let path = scratch.path().join("console");
        let listener = UnixListener::bind(&path).expect("bind");
        let Pty { master, slave } = Pty::open(None).expect("pty");
        let sender = thread::spawn(move || send_master(&path, &master));
        let (stream, _) = listener.accept().expect("accept");

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        let received = rustix::net::recvmsg(
            &stream,
            &mut [std::io::IoSliceMut::new(&mut name)],
            &mut control,
            rustix::net::RecvFlags::CMSG_CLOEXEC,
        )
        .expect("receive");
        sender.join().expect("sender").expect("sent");

        assert_eq!(&name[..received.bytes], b"/dev/ptmx");
        let got = control.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        let master = File::from(got.expect("a descriptor"));
        File::from(slave).write_all(b"hello\n").expect("write");
        let mut bytes = [0; 6];
        std::io::Read::read_exact(&mut &master, &mut bytes).expect("read");
        assert_eq!(&bytes, b"hello\n");
    }

    #[test]
    fn send_master_without_listener_names_the_socket() {
        let pty = Pty::open(None).expect("pty");
        let error = send_master(Path::new("/nowhere/console"), &pty.master).expect_err("nobody");
        let line = crate::failure::one_line(&error);
        assert!(
            line.contains("/nowhere/console") && line.ends_with("listen there first"),
            "{line}"
        );
    }
}
