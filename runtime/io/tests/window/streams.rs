// SPDX-License-Identifier: Apache-2.0
//! Streams of every kind, end to end over a real window.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    thread,
    time::Duration,
};

use crate::common::{
    Kernel, PATIENCE, Sandbox, TestStream, cancel, close, feed, input, noise, output, read,
    readable, specs, write,
};
use rustix::{fs::OFlags, io::Errno};
use trine_io::protocol::{Direction, Notice, Request, StreamKind};

fn errno(errno: Errno) -> u32 {
    errno.raw_os_error().unsigned_abs()
}

fn pipe() -> (File, File) {
    let (reader, writer) = std::io::pipe().expect("pipe");
    (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
}

/// A FIFO with both ends as the sandbox opens them: (path, reader, writer).
fn fifo(directory: &tempfile::TempDir) -> (std::path::PathBuf, File, File) {
    let path = directory.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("fifo");
    let nonblock = OFlags::NONBLOCK.bits() as i32;
    let reader = OpenOptions::new().read(true).custom_flags(nonblock).open(&path).expect("reader");
    let writer = OpenOptions::new().write(true).custom_flags(nonblock).open(&path).expect("writer");
    (path, reader, writer)
}

/// A kernel whose stream 1 is one end of the FIFO in a directory.
fn with_fifo(direction: Direction) -> (Sandbox, Kernel, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("directory");
    let (sandbox, kernel) = (Sandbox::start(), Kernel::new());
    let (_, reader, writer) = fifo(&directory);
    let (file, hold) = match direction {
        Direction::Out => (&writer, &reader),
        _ => (&reader, &writer),
    };
    let (file, hold) = (file.as_fd(), Some(hold.as_fd()));
    sandbox.attach(1, &kernel, &[TestStream { file, hold, direction, kind: StreamKind::Plain }]);
    (sandbox, kernel, directory)
}

#[test]
fn sixteen_mebibytes_each_way_with_a_slow_reader_arrive_whole() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (stdin, stdin_peer) = pipe();
    let (mut stdout_peer, stdout) = pipe();
    sandbox.attach(1, &kernel, &[input(stdin.as_fd()), output(stdout.as_fd())]);
    drop((stdin, stdout));

    let sent = noise(1, 16 << 20);
    let feeder = feed(stdin_peer, sent.clone());
    let slow = thread::spawn(move || {
        let mut received = Vec::new();
        let mut piece = vec![0; 300_000];
        loop {
            let count = stdout_peer.read(&mut piece).expect("read");
            if count == 0 {
                return received;
            }
            received.extend_from_slice(&piece[..count]);
            if received.len() % 7 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    loop {
        let piece = kernel.read(1, 200_000).expect("read");
        if piece.is_empty() {
            break;
        }
        let done = kernel.write(2, &piece);
        assert_eq!((done.errno, done.result), (0, piece.len() as u64));
    }
    kernel.submit(close(5, 2));
    assert_eq!(kernel.completion().errno, 0);

    feeder.join().expect("feeder");
    assert!(slow.join().expect("reader") == sent, "bytes differ");
    assert_eq!(kernel.read(2, 1), Err(errno(Errno::BADF)), "closed");
}

#[test]
fn many_requests_in_flight_complete_in_order() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (mut stdout_peer, stdout) = pipe();
    sandbox.attach(1, &kernel, &[output(stdout.as_fd())]);
    drop(stdout);

    let mut expected = Vec::new();
    for round in 0..200_u32 {
        for id in 0..64 {
            let mut request = write(id, 1, 64);
            request.data = id * 64;
            let line = [(round + id) as u8; 64];
            kernel.memory.write(0x10000 + id as usize * 64, &line).expect("in the window");
            expected.extend_from_slice(&line);
            kernel.put(&request.encode());
        }
        let tail = kernel.sq_tail;
        kernel.publish(tail);
        if round == 0 {
            assert!(readable(stdout_peer.as_fd(), PATIENCE));
        }
        let mut got = vec![0; 64 * 64];
        stdout_peer.read_exact(&mut got).expect("read");
        assert_eq!(got, expected[round as usize * 4096..]);
        for id in 0..64 {
            assert_eq!(kernel.completion().id, id);
        }
    }
}

#[test]
fn fifo_input_survives_writers_that_leave_and_ends_on_close_stream() {
    let (sandbox, mut kernel, fifo) = with_fifo(Direction::In);
    let path = fifo.path().join("fifo");

    for word in ["one", "two"] {
        std::fs::write(&path, word).expect("write and leave");
        assert_eq!(kernel.read(1, 100), Ok(word.as_bytes().to_vec()));
    }
    kernel.submit(read(9, 1, 100));
    assert!(kernel.completion_within(Duration::from_millis(100)).is_none(), "no end yet");

    // The writer is still there, and writes after the request to end.
    let mut late = OpenOptions::new().write(true).open(&path).expect("writer");
    sandbox.send(&Request::CloseStream { vm: 1, handle: 1 }, &[]);
    thread::sleep(Duration::from_millis(20));
    late.write_all(b"late").expect("write");
    assert_eq!(kernel.completion().result, 4);
    drop(late);
    assert_eq!(kernel.read(1, 100), Ok(vec![]));
    assert_eq!(kernel.read(1, 100), Ok(vec![]), "the end stays");
    // Idempotent.
    sandbox.send(&Request::CloseStream { vm: 1, handle: 1 }, &[]);
    assert_eq!(sandbox.detach(1, 1000), 0);
}

#[test]
fn close_stream_with_a_silent_lingering_writer_ends_the_input() {
    let (sandbox, mut kernel, fifo) = with_fifo(Direction::In);
    let path = fifo.path().join("fifo");
    let mut writer = OpenOptions::new().write(true).open(&path).expect("writer");
    writer.write_all(b"before").expect("write");
    sandbox.send(&Request::CloseStream { vm: 1, handle: 1 }, &[]);

    assert_eq!(kernel.read(1, 100), Ok(b"before".to_vec()));
    assert_eq!(kernel.read(1, 100), Ok(vec![]));
}

#[test]
fn fifo_output_waits_for_a_reader_that_restarts_and_ends_after_close() {
    let (_sandbox, mut kernel, fifo) = with_fifo(Direction::Out);
    let path = fifo.path().join("fifo");

    // A first reader comes, reads and leaves: no EPIPE.
    let mut first = File::open(&path).expect("reader");
    assert_eq!(kernel.write(1, b"one").errno, 0);
    let mut three = [0; 3];
    first.read_exact(&mut three).expect("read");
    drop(first);
    // More than the pipe holds, with nobody there: it waits.
    let big = noise(2, 200_000);
    kernel.memory.write(0x10000, &big).expect("in the window");
    kernel.submit(write(7, 1, big.len()));
    kernel.submit(close(8, 1));
    assert!(kernel.completion_within(Duration::from_millis(100)).is_none());
    let second = thread::spawn(move || {
        let mut all = Vec::new();
        File::open(&path).expect("reader").read_to_end(&mut all).expect("read to the end");
        all
    });
    assert_eq!(kernel.completion().result, 200_000);
    assert_eq!(kernel.completion().id, 8);
    assert!(second.join().expect("reader") == big, "bytes differ");
}

#[test]
fn last_bytes_of_a_fifo_wait_for_a_late_reader_after_detach() {
    let (sandbox, mut kernel, fifo) = with_fifo(Direction::Out);
    let path = fifo.path().join("fifo");
    assert_eq!(kernel.write(1, b"last words").errno, 0);
    assert_eq!(sandbox.detach(1, 1000), 0);

    thread::sleep(Duration::from_millis(100));
    // Non-blocking, or it would wait for a writer, who is gone; then the end must come.
    let nonblock = OFlags::NONBLOCK.bits() as i32;
    let mut late =
        OpenOptions::new().read(true).custom_flags(nonblock).open(&path).expect("reader");
    let mut all = String::new();
    late.read_to_string(&mut all).expect("read to the end");
    assert_eq!(all, "last words");
}

#[test]
fn detach_writes_what_was_submitted_and_counts_what_it_could_not() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (mut stdout_peer, stdout) = pipe();
    sandbox.attach(1, &kernel, &[output(stdout.as_fd())]);
    let big = noise(3, 1 << 20);
    kernel.memory.write(0x10000, &big).expect("in the window");
    kernel.submit(write(1, 1, big.len()));
    let reader = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        let mut all = vec![0; 1 << 20];
        stdout_peer.read_exact(&mut all).expect("read");
        (all, stdout_peer)
    });
    assert_eq!(sandbox.detach(1, 10_000), 0);
    let (all, stdout_peer) = reader.join().expect("reader");
    assert!(all == big, "bytes differ");

    // Nobody reads: the deadline holds, and the loss is told.
    let mut kernel = Kernel::new();
    sandbox.attach(2, &kernel, &[output(stdout.as_fd())]);
    kernel.submit(write(1, 1, 1 << 20));
    let lost = sandbox.detach(2, 50);
    assert!(lost > 0 && lost < 1 << 20, "lost {lost}");
    drop(stdout_peer);
}

#[test]
fn broken_pipe_and_full_device_are_errnos() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (stdout_peer, stdout) = pipe();
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    sandbox.attach(1, &kernel, &[output(stdout.as_fd()), output(full.as_fd())]);
    drop(stdout_peer);
    assert_eq!(kernel.write(1, b"x").errno, errno(Errno::PIPE));
    assert_eq!(kernel.write(2, b"x").errno, errno(Errno::NOSPC));
}

#[test]
fn regular_files_and_devices_that_cannot_be_watched_work() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let mut file = tempfile::tempfile().expect("file");
    let null = File::open("/dev/null").expect("/dev/null");
    sandbox.attach(1, &kernel, &[output(file.as_fd()), input(null.as_fd())]);
    let big = noise(4, 1 << 20);
    assert_eq!(kernel.write(1, &big).result, 1 << 20);
    assert_eq!(kernel.read(2, 10), Ok(vec![]));
    std::io::Seek::rewind(&mut file).expect("rewind");
    let mut all = Vec::new();
    file.read_to_end(&mut all).expect("read");
    assert!(all == big, "bytes differ");
}

#[test]
fn socket_streams_half_close_and_need_no_mode_change() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (ours, theirs) = UnixStream::pair().expect("pair");
    let stream = |direction| TestStream {
        file: theirs.as_fd(),
        hold: None,
        direction,
        kind: StreamKind::Socket,
    };
    sandbox.attach(1, &kernel, &[stream(Direction::In), stream(Direction::Out)]);
    (&ours).write_all(b"question").expect("write");
    ours.shutdown(std::net::Shutdown::Write).expect("half-close");
    assert_eq!(kernel.read(1, 100), Ok(b"question".to_vec()));
    assert_eq!(kernel.read(1, 100), Ok(vec![]));
    assert_eq!(kernel.write(2, b"answer").errno, 0);
    let mut answer = [0; 6];
    (&ours).read_exact(&mut answer).expect("read");
    let flags = rustix::fs::fcntl_getfl(&theirs).expect("flags");
    assert!(!flags.contains(OFlags::NONBLOCK), "the owner's mode is untouched");
}

#[test]
fn borrowed_descriptor_gets_its_mode_back() {
    let sandbox = Sandbox::start();
    let kernel = Kernel::new();
    let (stdin, _peer) = pipe();
    let blocks = || !rustix::fs::fcntl_getfl(&stdin).expect("flags").contains(OFlags::NONBLOCK);
    sandbox.attach(1, &kernel, &[input(stdin.as_fd())]);
    assert!(!blocks());
    sandbox.detach(1, 100);
    let mut tries = 0;
    while !blocks() && tries < 200 {
        thread::sleep(Duration::from_millis(5));
        tries += 1;
    }
    assert!(blocks());
}

#[test]
fn terminal_carries_both_directions_and_a_hang_up_is_the_end() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).expect("pty");
    rustix::pty::grantpt(&master).expect("grant");
    rustix::pty::unlockpt(&master).expect("unlock");
    let name = rustix::pty::ptsname(&master, Vec::new()).expect("name");
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().expect("ascii"))
        .expect("slave");
    let mut raw = rustix::termios::tcgetattr(&slave).expect("attributes");
    raw.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &raw).expect("raw");
    sandbox.attach(1, &kernel, &[input(slave.as_fd()), output(slave.as_fd())]);

    rustix::io::write(&master, b"typed").expect("type");
    assert_eq!(kernel.read(1, 100), Ok(b"typed".to_vec()));
    assert_eq!(kernel.write(2, b"shown").errno, 0);
    let mut shown = [0; 5];
    rustix::io::read(&master, &mut shown).expect("read");
    assert_eq!(&shown, b"shown");
    drop(master);
    assert_eq!(kernel.read(1, 100), Ok(vec![]));
}

#[test]
fn cancel_completes_both_and_the_handle_goes_on() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (stdin, mut peer) = pipe();
    sandbox.attach(1, &kernel, &[input(stdin.as_fd())]);
    kernel.submit(read(3, 1, 10));
    kernel.submit(cancel(4, 3));
    let done = kernel.completion();
    assert_eq!((done.id, done.errno), (3, errno(Errno::CANCELED)));
    let done = kernel.completion();
    assert_eq!((done.id, done.errno), (4, 0));
    // Of nothing, of itself, and of nonsense.
    for (target, wanted) in [(3, 0), (4, errno(Errno::INVAL)), (64, errno(Errno::INVAL))] {
        kernel.submit(cancel(4, target));
        assert_eq!(kernel.completion().errno, wanted);
    }
    peer.write_all(b"go on").expect("write");
    assert_eq!(kernel.read(1, 10), Ok(b"go on".to_vec()));
}

#[test]
fn cancelled_write_tells_what_it_had_written() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (mut peer, stdout) = pipe();
    sandbox.attach(1, &kernel, &[output(stdout.as_fd())]);
    kernel.submit(write(3, 1, 1 << 20));
    assert!(readable(peer.as_fd(), PATIENCE));
    thread::sleep(Duration::from_millis(20));
    kernel.submit(cancel(4, 3));
    let done = kernel.completion();
    assert_eq!((done.id, done.errno), (3, errno(Errno::CANCELED)));
    let mut written = vec![0; done.result as usize];
    peer.read_exact(&mut written).expect("exactly that many bytes");
    assert!(!readable(peer.as_fd(), Duration::ZERO));
}

#[test]
fn wrong_direction_and_unknown_handle_are_ebadf() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (stdin, _peer) = pipe();
    sandbox.attach(1, &kernel, &[input(stdin.as_fd())]);
    assert_eq!(kernel.write(1, b"x").errno, errno(Errno::BADF));
    assert_eq!(kernel.read(2, 1), Err(errno(Errno::BADF)));
    kernel.submit(close(1, u32::MAX));
    assert_eq!(kernel.completion().errno, errno(Errno::BADF));
}

#[test]
fn added_stream_is_there_when_its_answer_is() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    sandbox.attach(1, &kernel, &[]);
    for round in 0..100_u32 {
        let (stdin, peer) = pipe();
        let mut files = Vec::new();
        let streams = specs(round + 1, &[input(stdin.as_fd())], &mut files);
        sandbox.send(&Request::AddStreams { vm: 1, ticket: round, streams }, &files);
        assert_eq!(sandbox.notice(), Notice::Added { vm: 1, ticket: round });
        feed(peer, b"hello".to_vec()).join().expect("feed");
        assert_eq!(kernel.read(round + 1, 10), Ok(b"hello".to_vec()));
    }
}

#[test]
fn stream_closed_by_the_sandbox_takes_what_was_submitted_before() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    sandbox.attach(1, &kernel, &[]);
    for handle in 1..=200 {
        let (mut peer, stdout) = pipe();
        let mut files = Vec::new();
        let streams = specs(handle, &[output(stdout.as_fd())], &mut files);
        sandbox.send(&Request::AddStreams { vm: 1, ticket: 0, streams }, &files);
        sandbox.notice();
        drop(stdout);
        kernel.submit(write(5, handle, 10));
        sandbox.send(&Request::CloseStream { vm: 1, handle }, &[]);
        assert_eq!(kernel.completion().result, 10);
        let mut all = Vec::new();
        peer.read_to_end(&mut all).expect("read to the end");
        assert_eq!(all.len(), 10);
    }
}

#[test]
fn removed_stream_answers_what_waits_and_is_gone() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (stdin, mut peer) = pipe();
    sandbox.attach(1, &kernel, &[input(stdin.as_fd())]);
    drop(stdin);
    kernel.submit(read(3, 1, 10));
    assert!(kernel.completion_within(Duration::from_millis(50)).is_none());
    for _ in 0..2 {
        sandbox.send(&Request::RemoveStream { vm: 1, handle: 1 }, &[]);
    }
    let done = kernel.completion();
    assert_eq!((done.id, done.errno), (3, errno(Errno::CANCELED)));
    assert_eq!(kernel.read(1, 1), Err(errno(Errno::BADF)));
    assert!(peer.write_all(b"x").is_err(), "its reader is gone");
}

#[test]
fn doorbell_is_rung_only_for_a_server_that_sleeps() {
    let sandbox = Sandbox::start();
    let mut kernel = Kernel::new();
    let (mut peer, stdout) = pipe();
    sandbox.attach(1, &kernel, &[output(stdout.as_fd())]);
    thread::sleep(Duration::from_millis(50));
    kernel.submit(write(0, 1, 1));
    assert_eq!(kernel.completion().errno, 0);
    assert_eq!(kernel.doorbells, 1, "it slept");
    peer.read_exact(&mut [0]).expect("read");
}
