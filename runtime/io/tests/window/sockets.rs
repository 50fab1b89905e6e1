// SPDX-License-Identifier: Apache-2.0
//! Forwarded sockets against real ones of this process.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::BorrowedFd,
    time::Duration,
};

use trine_abi::{
    socket::{
        Accepted, CREDIT_BYTES, DatagramHead, Dump, EVENT_BYTES, EVENT_PART, EventHead, EventKind,
        STATE_CONNECTED, STATE_ENDED, STATE_ERROR, STATE_WRITABLE, pack_open,
    },
    window::{Completion, DATA, Operation, SMALL_BYTES, Submission},
};

use trine_io::protocol::{Notice, Request};
use trine_link::Link;
use trine_policy::case::Verdict;

use crate::common::{Kernel, PATIENCE, Random, Sandbox, noise};

const EVENTS_ID: u32 = 60;
const EVENTS_DATA: u32 = 30 * SMALL_BYTES;
const EVENTS_BYTES: u32 = 4 * SMALL_BYTES;
const EBADF: u32 = 9;
const EINVAL: u32 = 22;
const ENOPROTOOPT: u32 = 92;
const EAFNOSUPPORT: u32 = 97;
const EINPROGRESS: u32 = 115;

/// An event with its payload.
type Event = (EventHead, Vec<u8>);

/// A guest with sockets.
struct Guest {
    sandbox: Sandbox,
    kernel: Kernel,
    events: Vec<Event>,
    asking: bool,
}

fn request(operation: Operation, handle: u32, argument: u64, input: usize) -> Submission {
    let bytes = SMALL_BYTES.min(if input == 0 { SMALL_BYTES } else { input as u32 });
    Submission { operation, id: 0, handle, bytes, data: 0, input: input as u32, argument }
}

fn encode(address: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(address) = address else { panic!("not an IPv4 address") };
    let mut bytes = vec![2, 0];
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes.extend_from_slice(&address.ip().octets());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

impl Guest {
    fn new() -> Self {
        Self::over(Sandbox::start())
    }

    fn with_policy(policy: &str) -> Self {
        let (link, theirs) = Link::pair().expect("socket pair");
        std::thread::spawn(move || {
            let enter_fn = |_: Option<BorrowedFd<'_>>| Ok::<(), std::io::Error>(());
            trine_io::serve(Link::from_descriptor(theirs), enter_fn, |_| Ok(()))
        });
        Self::over(Sandbox::with_policy(link, Some(policy), &[]))
    }

    fn over(sandbox: Sandbox) -> Self {
        let kernel = Kernel::new();
        sandbox.attach(1, &kernel, &[]);
        Self { sandbox, kernel, events: Vec::new(), asking: false }
    }

    fn take_events(&mut self, completion: &Completion) {
        self.asking = false;
        let mut page = vec![0; completion.result as usize];
        self.kernel.memory.read(DATA + EVENTS_DATA as usize, &mut page).expect("in the window");
        let mut rest = &page[..];
        while let Some((head, after)) = rest.split_first_chunk::<EVENT_BYTES>() {
            let head = EventHead::decode(head).expect("an event");
            let (payload, after) = after.split_at(head.bytes as usize);
            self.events.push((head, payload.to_vec()));
            rest = after;
        }
    }

    /// Submits a request and waits for its completion; events that come meanwhile are kept.
    fn submit(&mut self, request: Submission) -> Completion {
        self.kernel.submit(request);
        loop {
            let completion = self.kernel.completion();
            if completion.id == request.id {
                return completion;
            }
            self.take_events(&completion);
        }
    }

    fn call(&mut self, operation: Operation, handle: u32, argument: u64) -> Result<u64, u32> {
        let done = self.submit(request(operation, handle, argument, 0));
        if done.errno == 0 { Ok(done.result) } else { Err(done.errno) }
    }

    fn call_with(
        &mut self,
        operation: Operation,
        handle: u32,
        argument: u64,
        input: &[u8],
    ) -> Result<Vec<u8>, u32> {
        let request = self.kernel.carry(operation, handle, argument, input);
        let done = self.submit(request);
        self.kernel.answer(&done)
    }

    /// The next event.
    fn event(&mut self) -> Event {
        self.event_within(PATIENCE).expect("an event in time")
    }

    fn event_within(&mut self, patience: Duration) -> Option<Event> {
        while self.events.is_empty() {
            if !self.asking {
                self.asking = true;
                self.kernel.submit(Submission {
                    id: EVENTS_ID,
                    data: EVENTS_DATA,
                    bytes: EVENTS_BYTES,
                    ..request(Operation::SocketEvents, 0, 0, 0)
                });
            }
            let completion = self.kernel.completion_within(patience)?;
            self.take_events(&completion);
        }
        Some(self.events.remove(0))
    }

    /// Waits for a state with these bits; returns the errno.
    fn state(&mut self, handle: u32, bits: u32) -> u32 {
        loop {
            let (head, payload) = self.event();
            let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().expect("4"));
            if (head.handle, head.kind) == (handle, EventKind::State) && word(0) & bits == bits {
                return word(4);
            }
        }
    }

    fn open(&mut self, kind: u32) -> u32 {
        let argument = pack_open(2, kind, 0);
        self.call(Operation::SocketOpen, 0, argument).expect("a socket") as u32
    }

    fn connect(&mut self, to: SocketAddr) -> u32 {
        let socket = self.open(1);
        match self.call_with(Operation::SocketConnect, socket, 0, &encode(to)) {
            Ok(_) => {}
            Err(EINPROGRESS) => assert_eq!(self.state(socket, STATE_CONNECTED), 0),
            Err(errno) => panic!("connect: errno {errno}"),
        }
        socket
    }

    fn send(&mut self, socket: u32, epoch: u32, bytes: &[u8]) -> Completion {
        self.kernel.memory.write(DATA, bytes).expect("in the window");
        let mut request = request(Operation::SocketSend, socket, u64::from(epoch) << 32, 0);
        request.bytes = bytes.len() as u32;
        self.submit(request)
    }
}

#[test]
fn stream_connects_sends_receives_and_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut guest = Guest::new();
    let socket = guest.connect(listener.local_addr().expect("address"));
    let (mut peer, _) = listener.accept().expect("accepted");
    assert_eq!(guest.send(socket, 0, b"hello").result, 5);
    let mut got = [0; 5];
    peer.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"hello");
    peer.write_all(b"world").expect("write");
    let (head, payload) = guest.event();
    assert_eq!((head.handle, head.kind, &payload[..]), (socket, EventKind::Data, &b"world"[..]));
    drop(peer);
    guest.state(socket, STATE_ENDED);
    assert_eq!(guest.call(Operation::SocketClose, socket, 0), Ok(0));
    assert_eq!(guest.call(Operation::SocketClose, socket, 0), Err(EBADF));
}

#[test]
fn refused_connection_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let mut guest = Guest::new();
    let socket = guest.open(1);
    let connected = guest.call_with(Operation::SocketConnect, socket, 0, &encode(address));
    let errno = match connected {
        Err(EINPROGRESS) => guest.state(socket, STATE_ERROR),
        Err(errno) => errno,
        Ok(_) => panic!("connected to nobody"),
    };
    assert_eq!(errno, 111);
}

#[test]
fn full_socket_takes_nothing_out_of_order() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut guest = Guest::new();
    let socket = guest.connect(listener.local_addr().expect("address"));
    let (mut peer, _) = listener.accept().expect("accepted");
    let data = noise(7, SMALL_BYTES as usize);
    let mut sent = Vec::new();
    let short = loop {
        let done = guest.send(socket, 0, &data);
        sent.extend_from_slice(&data[..done.result as usize]);
        if done.result < data.len() as u64 {
            break done;
        }
    };
    assert_eq!(short.errno, 0);
    // What was under way behind it is not taken, even if there is room by now.
    let mut got = vec![0; sent.len()];
    peer.read_exact(&mut got).expect("read");
    assert_eq!(guest.send(socket, 0, b"late").result, 0);
    guest.state(socket, STATE_WRITABLE);
    assert_eq!(guest.send(socket, 1, b"again").result, 5);
    let mut rest = [0; 5];
    peer.read_exact(&mut rest).expect("read");
    assert_eq!((got == sent, &rest), (true, b"again"));
}

#[test]
fn credit_bounds_what_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut guest = Guest::new();
    let socket = guest.connect(listener.local_addr().expect("address"));
    let (mut peer, _) = listener.accept().expect("accepted");
    let data = noise(8, 2 * CREDIT_BYTES as usize);
    let copy = data.clone();
    let writer = std::thread::spawn(move || peer.write_all(&copy).map(|()| peer));
    let mut got = Vec::new();
    while got.len() < CREDIT_BYTES as usize {
        got.extend(guest.event().1);
    }
    assert_eq!(got.len(), CREDIT_BYTES as usize);
    assert!(guest.event_within(Duration::from_millis(50)).is_none());
    assert_eq!(guest.call(Operation::SocketCredit, socket, CREDIT_BYTES.into()), Ok(0));
    while got.len() < data.len() {
        got.extend(guest.event().1);
    }
    assert!(got == data);
    writer.join().expect("joined").expect("written");
}

#[test]
fn listener_tells_of_connections_with_addresses() {
    let mut guest = Guest::new();
    let listener = guest.open(1);
    let any = encode("127.0.0.1:0".parse().expect("address"));
    let name = guest.call_with(Operation::SocketBind, listener, 0, &any).expect("bound");
    let port = u16::from_be_bytes([name[2], name[3]]);
    assert_eq!(guest.call(Operation::SocketListen, listener, 5), Ok(0));
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let (head, payload) = guest.event();
    assert_eq!((head.handle, head.kind), (listener, EventKind::Accepted));
    let accepted = Accepted::decode(&payload).expect("a connection");
    assert_eq!(accepted.peer, encode(client.local_addr().expect("address")));
    assert_eq!(accepted.own, name);
    client.write_all(b"hi").expect("write");
    let (head, payload) = guest.event();
    assert_eq!((head.handle, &payload[..]), (accepted.handle, &b"hi"[..]));
    assert_eq!(guest.send(accepted.handle, 0, b"ho").result, 2);
    let mut got = [0; 2];
    client.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"ho");
}

#[test]
fn datagrams_of_all_sizes_keep_their_boundaries() {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let to = encode(peer.local_addr().expect("address"));
    let mut guest = Guest::new();
    let socket = guest.open(2);
    let any = encode("127.0.0.1:0".parse().expect("address"));
    guest.call_with(Operation::SocketBind, socket, 0, &any).expect("bound");
    let mut back = None;
    for size in [0, 1, 1400, 8000] {
        let data = noise(size as u64 + 1, size);
        let head = DatagramHead { address: to.clone(), bytes: size as u32, ..Default::default() };
        let input = [head.encode(), data.clone()].concat();
        guest.call_with(Operation::SocketSend, socket, 0, &input).expect("sent");
        let mut room = vec![0; 70_000];
        let (got, from) = peer.recv_from(&mut room).expect("received");
        assert_eq!(room[..got], data);
        back = Some(from);
    }
    for size in [0, 5, 60_000, 65_000] {
        let data = noise(size as u64, size);
        peer.send_to(&data, back.expect("an address")).expect("sent");
        let mut whole = Vec::new();
        loop {
            let (head, payload) = guest.event();
            assert_eq!(head.kind, EventKind::Datagram);
            whole.extend(payload);
            if head.flags & EVENT_PART == 0 {
                break;
            }
        }
        let (head, rest) = DatagramHead::split(&whole).expect("a datagram");
        assert_eq!((head.address, rest), (to.clone(), &data[..]));
        guest.call(Operation::SocketCredit, socket, size as u64 + 256).expect("credit");
    }
}

#[test]
fn what_a_guest_must_not_have_is_refused() {
    let mut guest = Guest::new();
    // Raw, packet, netlink, Unix and vsock sockets; SCTP.
    for (family, kind, protocol) in
        [(2, 3, 1), (17, 3, 0), (16, 3, 0), (1, 1, 0), (40, 1, 0), (2, 1, 132), (2, 0x801, 0)]
    {
        let argument = pack_open(family, kind, protocol);
        assert!(guest.call(Operation::SocketOpen, 0, argument).is_err(), "{family} {kind}");
    }
    let socket = guest.open(1);
    for address in [&b""[..], b"\x02", &[2, 0, 0, 80, 127, 0, 0, 1], &[1, 0, b'/', b'x', 0]] {
        for operation in [Operation::SocketBind, Operation::SocketConnect] {
            let errno = guest.call_with(operation, socket, 0, address).expect_err("refused");
            assert!(matches!(errno, EINVAL | EAFNOSUPPORT), "errno {errno}");
        }
    }
    for (level, option) in [(1_u64, 25_u64), (1, 36), (0, 19), (6, 31), (41, 75)] {
        let argument = level << 32 | option;
        let set = guest.call_with(Operation::SocketSetOption, socket, argument, &[1, 0, 0, 0]);
        assert_eq!(set, Err(ENOPROTOOPT));
    }
    assert!(guest.call(Operation::SocketIoctl, socket, 0x8914).is_err());
    let dump = Dump { kind: 16, family: 0, skip: 0 };
    assert!(guest.call(Operation::NetworkDump, 0, dump.pack()).is_err());
    let links = Dump { kind: 18, family: 0, skip: 0 };
    assert!(guest.call(Operation::NetworkDump, 0, links.pack()).is_ok_and(|bytes| bytes > 32));
}

#[test]
fn garbage_does_no_harm() {
    let mut guest = Guest::new();
    let mut random = Random(0x7121);
    let sockets: Vec<u32> = (0..4).map(|at| guest.open(1 + at % 2)).collect();
    let operations: Vec<Operation> = Operation::ALL
        .iter()
        .copied()
        .filter(|operation| *operation as u16 >= 64 && *operation != Operation::SocketEvents)
        .collect();
    for _ in 0..4000 {
        let operation = operations[random.next() as usize % operations.len()];
        let handle = sockets[random.next() as usize % 4] ^ u32::from(random.one_in(8));
        let input = noise(random.next() | 1, random.next() as usize % 64);
        let argument = if random.one_in(2) { random.next() } else { random.next() % 4 };
        // Whatever the answer is, there is one.  Nothing leaves this host: addresses are noise.
        if operation == Operation::SocketConnect {
            continue;
        }
        let _ = guest.call_with(operation, handle, argument, &input);
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let socket = guest.connect(listener.local_addr().expect("address"));
    assert_eq!(guest.send(socket, 0, b"alive").result, 5);
}

#[test]
fn policy_decides_about_addresses_and_rewrites_them() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("address");
    let policy = format!(
        r#"
        version = 1
        default = "accept"

        [[rule]]
        id = "redirect"
        calls = ["connect"]
        addresses = ["10.9.8.7/32"]
        action = "intercept"
        rewrite = {{ address = "{address}" }}

        [[rule]]
        id = "no-metadata"
        calls = ["net-out"]
        addresses = ["169.254.169.254/32"]
        action = "block"
        errno = "EACCES"
        "#
    );
    let mut guest = Guest::with_policy(&policy);
    let metadata: SocketAddr = "169.254.169.254:80".parse().expect("address");
    let socket = guest.open(1);
    let refused = guest.call_with(Operation::SocketConnect, socket, 0, &encode(metadata));
    assert_eq!(refused, Err(13));
    let datagram = guest.open(2);
    let head = DatagramHead { address: encode(metadata), ..Default::default() };
    let refused = guest.call_with(Operation::SocketSend, datagram, 0, &head.encode());
    assert_eq!(refused, Err(13));
    // The same address in IPv6 clothes.
    let argument = pack_open(10, 1, 0);
    let six = guest.call(Operation::SocketOpen, 0, argument).expect("a socket") as u32;
    let mut mapped = vec![0; 28];
    mapped[..4].copy_from_slice(&[10, 0, 0, 80]);
    mapped[18..24].copy_from_slice(&[0xff, 0xff, 169, 254, 169, 254]);
    assert_eq!(guest.call_with(Operation::SocketConnect, six, 0, &mapped), Err(13));
    let elsewhere: SocketAddr = "10.9.8.7:1234".parse().expect("address");
    let socket = guest.connect(elsewhere);
    let (mut peer, _) = listener.accept().expect("accepted");
    assert_eq!(guest.send(socket, 0, b"here").result, 4);
    let mut got = [0; 4];
    peer.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"here");
}

const ASK: &str = r#"
    version = 1
    [[rule]]
    id = "guests"
    calls = ["accept4"]
    action = "intercept"
    ask = { socket = "/run/decider", deadline-ms = 20000 }
    "#;

/// Connections wait for somebody's answer, and hold up nobody.
#[test]
fn connections_wait_for_an_answer_and_hold_up_nothing() {
    let mut guest = Guest::with_policy(ASK);
    let listener = guest.open(1);
    let any = encode("127.0.0.1:0".parse().expect("address"));
    let name = guest.call_with(Operation::SocketBind, listener, 0, &any).expect("bound");
    let port = u16::from_be_bytes([name[2], name[3]]);
    assert_eq!(guest.call(Operation::SocketListen, listener, 5), Ok(0));
    let clients = [(); 2].map(|()| TcpStream::connect(("127.0.0.1", port)).expect("connected"));
    // Nothing is accepted as long as nobody answers; other calls are.
    assert!(guest.event_within(Duration::from_millis(50)).is_none());
    guest.open(1);
    let ports = clients.each_ref().map(|client| client.local_addr().expect("address").port());
    for _ in 0..2 {
        let Notice::Ask { vm: 1, question, what, .. } = guest.sandbox.notice() else {
            panic!("not a question");
        };
        let from = what.address.expect("an address").port();
        let verdict = if from == ports[0] { Verdict::Block(1) } else { Verdict::Accept };
        guest.sandbox.send(&Request::Verdict { vm: 1, question, verdict }, &[]);
    }
    let (head, payload) = guest.event();
    assert_eq!((head.handle, head.kind), (listener, EventKind::Accepted));
    let accepted = Accepted::decode(&payload).expect("a connection");
    let peer = encode(clients[1].local_addr().expect("address"));
    assert_eq!(accepted.peer, peer, "the other one was refused");
    let mut refused = &clients[0];
    assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)), "closed");
}

#[test]
fn connections_have_a_budget_of_bytes_both_ways() {
    let policy = r#"
        version = 1
        [[rule]]
        id = "little"
        calls = ["connect"]
        action = "accept"
        limit = { bytes = 12 }
        "#;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut guest = Guest::with_policy(policy);
    let socket = guest.connect(listener.local_addr().expect("address"));
    let (mut peer, _) = listener.accept().expect("accepted");
    assert_eq!(guest.send(socket, 0, b"hello").result, 5);
    peer.write_all(b"abcd").expect("write");
    assert_eq!(guest.event().1, b"abcd");
    // Three bytes are left.
    let done = guest.send(socket, 0, b"world");
    assert_eq!((done.errno, done.result), (0, 3));
    guest.state(socket, STATE_WRITABLE);
    assert_eq!(guest.send(socket, 1, b"ld").errno, 122);
    let mut got = [0; 8];
    peer.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"hellowor");
    peer.write_all(b"more").expect("write");
    assert_eq!(guest.state(socket, STATE_ERROR | STATE_ENDED), 122);
    // The container's other connections are under the same rule.
    let second = guest.open(1);
    let address = encode(listener.local_addr().expect("address"));
    assert_eq!(guest.call_with(Operation::SocketConnect, second, 0, &address), Err(122));
}

/// An answer for `www.example.org`: this address.
fn dns_answer(address: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    message.extend_from_slice(b"\x03www\x07example\x03org\x00\x00\x01\x00\x01");
    message.extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04");
    message.extend_from_slice(&address);
    message
}

/// A guest cannot give an address a name by sending itself an answer.
#[test]
fn names_come_from_servers_that_were_asked_only() {
    let policy = r#"
        version = 1
        default = "block"
        [[rule]]
        calls = ["socket", "bind", "sendto"]
        action = "accept"
        [[rule]]
        calls = ["connect"]
        names = ["www.example.org"]
        action = "accept"
        "#;
    let Ok(server) = UdpSocket::bind("127.0.0.53:53") else {
        // Somebody on this host has the port.
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = encode(listener.local_addr().expect("address"));
    let mut guest = Guest::with_policy(policy);
    let datagrams = guest.open(2);
    let any = encode("127.0.0.1:0".parse().expect("address"));
    let name = guest.call_with(Operation::SocketBind, datagrams, 0, &any).expect("bound");
    let port = u16::from_be_bytes([name[2], name[3]]);
    let tell = |guest: &mut Guest| {
        server.send_to(&dns_answer([127, 0, 0, 1]), ("127.0.0.1", port)).expect("sent");
        assert_eq!(guest.event().0.kind, EventKind::Datagram);
    };
    tell(&mut guest);
    let socket = guest.open(1);
    let connected = guest.call_with(Operation::SocketConnect, socket, 0, &address);
    assert_eq!(connected, Err(1), "nobody was asked");
    let head = DatagramHead {
        address: encode(server.local_addr().expect("address")),
        ..Default::default()
    };
    let mut question = head.encode();
    question.extend_from_slice(b"?");
    guest.call_with(Operation::SocketSend, datagrams, 0, &question).expect("sent");
    tell(&mut guest);
    guest.connect(listener.local_addr().expect("address"));
}
