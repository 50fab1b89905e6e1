// SPDX-License-Identifier: Apache-2.0
//! System calls on sockets.

mod unix;

use std::vec::Vec;

use crate::{process::TaskRef, testing::World};

/// A process and memory for its arguments.
struct Sockets {
    world: World,
    task: TaskRef,
    page: u64,
}

impl Sockets {
    fn new() -> Self {
        let (mut world, task) = World::with_init();
        let page = world.map(&task, 1 << 20);
        // SIGPIPE is ignored: or the process would end.
        world.poke(&task, page, &1_u64.to_le_bytes());
        assert_eq!(world.call(&task, 13, &[13, page, 0, 8]), Ok(0));
        Self { world, task, page }
    }

    /// Makes a call as `task`; the value as RAX has it.  `None` if it blocks.
    fn call_as(&mut self, task: &TaskRef, number: u64, args: &[u64]) -> Option<i64> {
        self.world.raw_call(task, number, args)
    }

    #[track_caller]
    fn call(&mut self, number: u64, args: &[u64]) -> i64 {
        let task = self.task.clone();
        self.call_as(&task, number, args).expect("the call blocks")
    }

    /// What a call that blocked has returned since.
    fn returned(task: &TaskRef) -> Option<i64> {
        task.run.lock().call.is_none().then(|| task.registers.lock().rax.cast_signed())
    }

    /// Puts bytes at one of 16 places.
    fn put(&self, place: u64, bytes: &[u8]) -> u64 {
        let at = self.page + place * 65536;
        self.world.poke(&self.task, at, bytes);
        at
    }

    fn bytes(&self, at: u64, count: usize) -> Vec<u8> {
        let mut bytes = std::vec![0; count];
        self.task.mm().expect("alive").read_bytes(at, &mut bytes).expect("readable");
        bytes
    }

    fn socket(&mut self, kind: u64) -> i64 {
        self.call(41, &[1, kind, 0])
    }

    fn pair(&mut self, kind: u64) -> (i64, i64) {
        let at = self.page;
        assert_eq!(self.call(53, &[1, kind, 0, at]), 0);
        let both = self.world.peek_u64(&self.task, at);
        ((both & 0xffff_ffff) as i64, (both >> 32) as i64)
    }

    /// Puts a `sockaddr_un` at place 1; returns where, and its length.
    fn address(&self, name: &[u8]) -> (u64, u64) {
        let bytes = [&1_u16.to_le_bytes(), name].concat();
        (self.put(1, &bytes), bytes.len() as u64)
    }

    fn bind(&mut self, fd: i64, name: &[u8]) -> i64 {
        let (at, bytes) = self.address(name);
        self.call(49, &[fd as u64, at, bytes])
    }

    fn connect(&mut self, fd: i64, name: &[u8]) -> i64 {
        let (at, bytes) = self.address(name);
        self.call(42, &[fd as u64, at, bytes])
    }

    fn send(&mut self, fd: i64, bytes: &[u8], flags: u64) -> i64 {
        let at = self.put(2, bytes);
        self.call(44, &[fd as u64, at, bytes.len() as u64, flags, 0, 0])
    }

    fn receive(&mut self, fd: i64, room: usize, flags: u64) -> Result<Vec<u8>, i64> {
        let at = self.page + 3 * 65536;
        let got = self.call(45, &[fd as u64, at, room as u64, flags, 0, 0]);
        if got < 0 { Err(got) } else { Ok(self.bytes(at, (got as usize).min(room))) }
    }

    /// Events of poll(2), without waiting.
    fn poll(&mut self, fd: i64) -> u16 {
        let at = self.put(4, &(fd as u64 & 0xffff_ffff | 0x2fff << 32).to_le_bytes());
        self.call(7, &[at, 1, 0]);
        (self.world.peek_u64(&self.task, at) >> 48) as u16
    }

    /// Lays out a `msghdr` at place 5; its control messages are at place 6.
    fn header(&self, bytes: (u64, usize), control: usize) -> u64 {
        let iov = self.put(7, &[bytes.0.to_le_bytes(), (bytes.1 as u64).to_le_bytes()].concat());
        let words = [0, 0, iov, 1, self.page + 6 * 65536, control as u64, 0];
        self.put(5, &words.map(u64::to_le_bytes).concat())
    }

    /// sendmsg with descriptors.
    fn send_files(&mut self, fd: i64, bytes: &[u8], files: &[i64]) -> i64 {
        let mut control = ((16 + files.len() * 4) as u64).to_le_bytes().to_vec();
        control.extend_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
        files.iter().for_each(|fd| control.extend_from_slice(&(*fd as i32).to_le_bytes()));
        self.put(6, &control);
        let at = self.put(2, bytes);
        let header = self.header((at, bytes.len()), control.len());
        self.call(46, &[fd as u64, header, 0])
    }

    /// recvmsg: the bytes, the control messages, the flags.
    fn receive_message(
        &mut self,
        fd: i64,
        room: usize,
        control: usize,
        flags: u64,
    ) -> Result<(Vec<u8>, Vec<u8>, u32), i64> {
        let at = self.page + 3 * 65536;
        let header = self.header((at, room), control);
        let got = self.call(47, &[fd as u64, header, flags]);
        if got < 0 {
            return Err(got);
        }
        let control = self.world.peek_u64(&self.task, header + 40);
        let shown = self.world.peek_u64(&self.task, header + 48) as u32;
        let control = self.bytes(self.page + 6 * 65536, control as usize);
        Ok((self.bytes(at, (got as usize).min(room)), control, shown))
    }

    fn close(&mut self, fd: i64) {
        assert_eq!(self.call(3, &[fd as u64]), 0);
    }
}
