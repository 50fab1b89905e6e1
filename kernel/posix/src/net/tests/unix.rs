// SPDX-License-Identifier: Apache-2.0
//! AF_UNIX.

use super::Sockets;

const STREAM: u64 = 1;
const DGRAM: u64 = 2;
const SEQPACKET: u64 = 5;
const NONBLOCK: u64 = 0o4000;
const EAGAIN: i64 = -11;
const EPIPE: i64 = -32;
const ECONNRESET: i64 = -104;
const ECONNREFUSED: i64 = -111;
const IN: u16 = 0x41;
const OUT: u16 = 0x104;
const HUP: u16 = 0x10;
const RDHUP: u16 = 0x2000;
const PEEK: u64 = 2;
const TRUNC: u64 = 0x20;
const DONTWAIT: u64 = 0x40;
const WAITALL: u64 = 0x100;

#[test]
fn pair_streams_both_ways_and_ends() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(STREAM);
    assert_eq!(s.poll(a), OUT);
    assert_eq!(s.receive(a, 10, DONTWAIT), Err(EAGAIN));
    assert_eq!((s.send(b, b"hello ", 0), s.send(b, b"world", 0)), (6, 5));
    assert_eq!(s.poll(a), IN | OUT);
    assert_eq!(s.receive(a, 4, PEEK), Ok(b"hell".to_vec()));
    assert_eq!(s.receive(a, 100, 0), Ok(b"hello world".to_vec()));
    s.send(b, b"last", 0);
    s.close(b);
    assert_eq!(s.poll(a), IN | OUT | HUP | RDHUP);
    assert_eq!(s.receive(a, 100, 0), Ok(b"last".to_vec()));
    assert_eq!(s.receive(a, 100, 0), Ok(b"".to_vec()));
    assert_eq!(s.send(a, b"x", 0), EPIPE);
}

#[test]
fn unread_data_at_close_resets_the_peer() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(STREAM);
    s.send(a, b"never read", 0);
    s.close(b);
    assert_eq!(s.receive(a, 1, 0), Err(ECONNRESET));
    assert_eq!(s.receive(a, 1, 0), Ok(b"".to_vec()));
}

#[test]
fn blocked_reader_is_woken_and_waitall_waits_for_all() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(STREAM);
    let child = s.world.fork(&s.task.clone());
    let at = s.page + 8 * 65536;
    assert_eq!(s.call_as(&child, 45, &[a as u64, at, 6, WAITALL]), None);
    s.send(b, b"abc", 0);
    assert_eq!(Sockets::returned(&child), None);
    s.send(b, b"defgh", 0);
    assert_eq!(Sockets::returned(&child), Some(6));
    assert_eq!(s.world.peek::<6>(&child, at), *b"abcdef");
    assert_eq!(s.receive(a, 10, 0), Ok(b"gh".to_vec()));
}

#[test]
fn full_buffer_blocks_and_goes_on_as_it_is_read() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(STREAM);
    let child = s.world.fork(&s.task.clone());
    let large = s.world.map(&child, 1 << 20);
    assert_eq!(s.call_as(&child, 1, &[b as u64, large, 600_000]), None);
    let mut total = 0;
    while total < 600_000 {
        total += s.receive(a, 50_000, 0).expect("data").len();
    }
    assert_eq!((total, Sockets::returned(&child)), (600_000, Some(600_000)));
    assert_eq!(s.call(20, &[a as u64, 0, 0]), 0);
}

#[test]
fn listen_connect_accept() {
    let mut s = Sockets::new();
    for name in [&b"/bin/sock"[..], b"\0abstract"] {
        let listener = s.socket(STREAM | NONBLOCK);
        let client = s.socket(STREAM);
        let refused = if name[0] == 0 { ECONNREFUSED } else { -2 };
        assert_eq!(s.connect(client, name), refused);
        assert_eq!(s.bind(listener, name), 0);
        assert_eq!(s.bind(client, name), -98);
        assert_eq!(s.connect(client, name), ECONNREFUSED);
        assert_eq!(s.call(50, &[listener as u64, 5]), 0);
        assert_eq!(s.call(43, &[listener as u64, 0, 0]), EAGAIN);
        assert_eq!(s.connect(client, name), 0);
        assert_eq!(s.poll(listener), IN);
        // Data may be there before it is accepted.
        assert_eq!(s.send(client, b"early", 0), 5);
        let server = s.call(43, &[listener as u64, 0, 0]);
        assert_eq!(s.receive(server, 10, 0), Ok(b"early".to_vec()));
        // The peer's name.
        let (at, length) = (s.page + 9 * 65536, s.put(10, &100_u32.to_le_bytes()));
        assert_eq!(s.call(52, &[client as u64, at, length]), 0);
        let bytes = s.world.peek_u64(&s.task, length) as u32 as usize;
        let path = [&[1, 0][..], name, if name[0] == 0 { &b""[..] } else { b"\0" }].concat();
        assert_eq!(s.bytes(at, bytes), path);
        // Who it is.
        s.put(10, &12_u32.to_le_bytes());
        assert_eq!(s.call(55, &[server as u64, 1, 17, at, length]), 0);
        assert_eq!(s.bytes(at, 4), 1_u32.to_le_bytes());
        assert_eq!(s.connect(server, name), -106, "connected already");
        s.close(listener);
        s.close(client);
        s.close(server);
    }
    // The path stays, and nobody is there.
    let client = s.socket(STREAM);
    assert_eq!(s.connect(client, b"/bin/sock"), ECONNREFUSED);
}

#[test]
fn full_backlog_blocks_connect() {
    let mut s = Sockets::new();
    let listener = s.socket(STREAM);
    assert_eq!(s.bind(listener, b"\0full"), 0);
    assert_eq!(s.call(50, &[listener as u64, 0]), 0);
    let first = s.socket(STREAM);
    assert_eq!(s.connect(first, b"\0full"), 0);
    let second = s.socket(STREAM | NONBLOCK);
    assert_eq!(s.connect(second, b"\0full"), EAGAIN);
    let child = s.world.fork(&s.task.clone());
    let third = s.call_as(&child, 41, &[1, STREAM, 0]).expect("made");
    let (at, bytes) = s.address(b"\0full");
    // The child's memory is its own copy from before.
    s.world.poke(&child, at, &[b"\x01\0".as_slice(), b"\0full"].concat());
    assert_eq!(s.call_as(&child, 42, &[third as u64, at, bytes]), None);
    assert!(s.call(43, &[listener as u64, 0, 0]) >= 0);
    assert_eq!(Sockets::returned(&child), Some(0));
    // Closing the listener resets who was not accepted.
    s.close(listener);
    assert_eq!(s.call_as(&child, 3, &[listener as u64]), Some(0));
    let room = s.page + 8 * 65536;
    assert_eq!(s.call_as(&child, 45, &[third as u64, room, 1]), Some(ECONNRESET));
}

#[test]
fn datagrams_keep_boundaries_and_tell_their_sender() {
    let mut s = Sockets::new();
    let (server, client) = (s.socket(DGRAM), s.socket(DGRAM));
    assert_eq!(s.bind(server, b"\0server"), 0);
    // Made-up name.
    assert_eq!(s.bind(client, b""), 0);
    let (to, to_bytes) = s.address(b"\0server");
    let at = s.put(2, b"datagram");
    assert_eq!(s.call(44, &[client as u64, at, 8, 0, to, to_bytes]), 8);
    assert_eq!(s.call(44, &[client as u64, at, 0, 0, to, to_bytes]), 0);
    let (from, length) = (s.page + 9 * 65536, s.put(10, &100_u32.to_le_bytes()));
    let room = s.page + 3 * 65536;
    assert_eq!(s.call(45, &[server as u64, room, 3, PEEK | TRUNC, from, length]), 8);
    assert_eq!(s.call(45, &[server as u64, room, 3, 0, from, length]), 3);
    let bytes = s.world.peek_u64(&s.task, length) as u32 as usize;
    assert_eq!((bytes, &s.bytes(from, 3)[..]), (8, &[1, 0, 0][..]));
    assert_eq!(s.receive(server, 3, 0), Ok(b"".to_vec()));
    assert_eq!(s.receive(server, 3, DONTWAIT), Err(EAGAIN));
    // A connected socket hears its peer only.
    let other = s.socket(DGRAM);
    assert_eq!(s.connect(client, b"\0server"), 0);
    assert_eq!(s.connect(server, &s.bytes(from, bytes)[2..]), 0);
    assert_eq!(s.connect(other, b"\0server"), -1);
    s.close(server);
    assert_eq!(s.send(client, b"x", 0), ECONNREFUSED);
}

#[test]
fn packets_keep_boundaries_and_end() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(SEQPACKET);
    s.send(a, b"one", 0);
    s.send(a, b"two", 0);
    let (bytes, _, flags) = s.receive_message(b, 2, 0, 0).expect("a packet");
    assert_eq!((&bytes[..], flags), (&b"on"[..], 0x20));
    assert_eq!(s.receive(b, 10, 0), Ok(b"two".to_vec()));
    s.close(a);
    assert_eq!(s.receive(b, 10, 0), Ok(b"".to_vec()));
}

#[test]
fn shutdown_ends_one_direction() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(STREAM);
    assert_eq!(s.call(48, &[a as u64, 1]), 0);
    assert_eq!(s.send(a, b"x", 0), EPIPE);
    assert_eq!(s.poll(b), IN | OUT | RDHUP);
    assert_eq!(s.receive(b, 1, 0), Ok(b"".to_vec()));
    assert_eq!(s.send(b, b"back", 0), 4);
    assert_eq!(s.receive(a, 10, 0), Ok(b"back".to_vec()));
    let fresh = s.socket(STREAM);
    assert_eq!(s.call(48, &[fresh as u64, 1]), -107);
}

#[test]
fn rights_pass_files_and_mark_boundaries() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(STREAM);
    let (c, d) = s.pair(STREAM);
    s.send(a, b"before", 0);
    assert_eq!(s.send_files(a, b"with", &[c]), 4);
    s.send(a, b"after", 0);
    s.close(c);
    let (bytes, control, flags) = s.receive_message(b, 100, 64, 0x4000_0000).expect("data");
    assert_eq!(&bytes[..], b"beforewith");
    assert_eq!(flags, 0x4000_0000);
    assert_eq!((control.len(), &control[..4]), (24, &20_u32.to_le_bytes()[..]));
    let fd = i64::from(i32::from_le_bytes([control[16], control[17], control[18], control[19]]));
    assert_eq!(s.call(72, &[fd as u64, 1]), 1, "MSG_CMSG_CLOEXEC");
    s.send(d, b"hi", 0);
    assert_eq!(s.receive(fd, 10, 0), Ok(b"hi".to_vec()));
    assert_eq!(s.receive(b, 100, 0), Ok(b"after".to_vec()));
    // Nobody looks at the control messages: the file is closed.
    assert_eq!(s.send_files(a, b"x", &[fd]), 1);
    s.close(fd);
    let (_, control, flags) = s.receive_message(b, 100, 0, 0).expect("data");
    assert_eq!((control.len(), flags), (0, 8));
    assert_eq!(s.receive(d, 1, 0), Ok(b"".to_vec()), "its other end sees the end");
}

#[test]
fn cycles_of_sockets_in_messages_are_collected() {
    let mut s = Sockets::new();
    let net = s.world.context().vfs.net.clone();
    let live = |_: &Sockets| String::from_utf8(net.unix_table()).expect("text").lines().count() - 1;
    for _ in 0..50 {
        // Each end lies in the other's queue.
        let (a, b) = s.pair(STREAM);
        assert_eq!(s.send_files(a, b"x", &[a, b]), 1);
        assert_eq!(s.send_files(b, b"x", &[b]), 1);
        s.close(a);
        s.close(b);
        assert!(live(&s) <= 40, "they are collected as more are sent");
    }
    let other = s.socket(STREAM);
    s.close(other);
    assert_eq!(live(&s), 0, "and whenever a socket is closed");
    // One that can still be received is not.
    let (a, b) = s.pair(DGRAM);
    let (c, d) = s.pair(STREAM);
    assert_eq!(s.send_files(c, b"x", &[d]), 1);
    assert_eq!(s.send_files(a, b"x", &[d]), 1);
    s.close(d);
    s.close(c);
    let (e, f) = s.pair(STREAM);
    s.close(e);
    s.close(f);
    let (_, control, _) = s.receive_message(b, 10, 64, 0).expect("data");
    let fd = i64::from(i32::from_le_bytes([control[16], control[17], control[18], control[19]]));
    assert_eq!(s.receive(fd, 10, 0), Ok(b"x".to_vec()));
}

#[test]
fn a_long_chain_of_sockets_in_messages_does_not_overflow_the_stack() {
    let mut s = Sockets::new();
    let (mut a, mut b) = s.pair(DGRAM);
    for _ in 0..2000 {
        let (c, d) = s.pair(DGRAM);
        assert_eq!(s.send_files(c, b"x", &[a, b]), 1);
        s.close(a);
        s.close(b);
        (a, b) = (c, d);
    }
    s.close(a);
    s.close(b);
    let table = s.world.context().vfs.net.unix_table();
    assert_eq!(String::from_utf8(table).expect("text").lines().count(), 1);
}

#[test]
fn credentials_come_with_messages_if_asked_for() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(STREAM);
    let at = s.put(2, &1_u32.to_le_bytes());
    assert_eq!(s.call(54, &[b as u64, 1, 16, at, 4]), 0);
    s.send(a, b"me", 0);
    let (_, control, _) = s.receive_message(b, 10, 64, 0).expect("data");
    assert_eq!((control.len(), control[12], control[16]), (32, 2, 1));
    // Somebody else is claimed: only with the privilege to.
    let mut claim = 28_u64.to_le_bytes().to_vec();
    claim.extend_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
    claim.extend_from_slice(&[77_u32, 5, 6].map(u32::to_le_bytes).concat());
    s.put(6, &claim);
    let at = s.put(2, b"y");
    let header = s.header((at, 1), 28);
    assert_eq!(s.call(46, &[a as u64, header, 0]), 1);
    let (_, control, _) = s.receive_message(b, 10, 64, 0).expect("data");
    assert_eq!(control[16], 77);
    s.call(105, &[1000]);
    s.put(6, &claim);
    let header = s.header((at, 1), 28);
    assert_eq!(s.call(46, &[a as u64, header, 0]), -1);
}

#[test]
fn time_outs_end_a_wait() {
    let mut s = Sockets::new();
    let (a, _b) = s.pair(STREAM);
    let at = s.put(2, &[0_u64.to_le_bytes(), 50_000_u64.to_le_bytes()].concat());
    assert_eq!(s.call(54, &[a as u64, 1, 20, at, 16]), 0);
    let task = s.task.clone();
    let room = s.page;
    assert_eq!(s.call_as(&task, 45, &[a as u64, room, 1]), None);
    crate::testing::pass_ns(51_000_000);
    s.world.kernel.tick();
    s.world.run();
    assert_eq!(Sockets::returned(&task), Some(EAGAIN));
}

#[test]
fn many_messages_in_one_call() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(DGRAM);
    let data = s.put(2, b"0123456789");
    let mut vector = [0; 128];
    for (index, length) in [3_u64, 5].into_iter().enumerate() {
        let at = 11 * 65536 + index as u64 * 16;
        s.world.poke(&s.task, s.page + at, &[data.to_le_bytes(), length.to_le_bytes()].concat());
        let iov = [(s.page + at).to_le_bytes(), 1_u64.to_le_bytes()].concat();
        vector[index * 64 + 16..index * 64 + 32].copy_from_slice(&iov);
    }
    let at = s.put(12, &vector);
    assert_eq!(s.call(307, &[a as u64, at, 2, 0]), 2);
    assert_eq!(s.world.peek_u64(&s.task, at + 64 + 56) as u32, 5);
    assert_eq!(s.call(299, &[b as u64, at, 2, DONTWAIT, 0]), 2);
    assert_eq!(s.world.peek_u64(&s.task, at + 56) as u32, 3);
    assert_eq!(s.call(299, &[b as u64, at, 2, DONTWAIT, 0]), EAGAIN);
}

#[test]
fn edges_come_per_message() {
    let mut s = Sockets::new();
    let (a, b) = s.pair(STREAM);
    let set = s.call(291, &[0]);
    let at = s.put(13, &[0; 12]);
    s.world.poke(&s.task, at, &(1_u32 | 1 << 31).to_le_bytes());
    assert_eq!(s.call(233, &[set as u64, 1, a as u64, at]), 0);
    let wait = |s: &mut Sockets| s.call(232, &[set as u64, at, 8, 0]);
    assert_eq!(wait(&mut s), 0);
    s.send(b, b"1", 0);
    assert_eq!((wait(&mut s), wait(&mut s)), (1, 0));
    s.send(b, b"2", 0);
    assert_eq!((wait(&mut s), wait(&mut s)), (1, 0));
    s.close(b);
    assert_eq!((wait(&mut s), wait(&mut s)), (1, 0));
}
