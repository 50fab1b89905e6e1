// SPDX-License-Identifier: Apache-2.0
//! Which files are worth a look: a file that has just been copied is read again only if it is a
//! program with bytes that look like a system call.

use memchr::memmem::Finder;

use super::plan::SYSCALL;

/// Bytes before a `syscall` that [`is_likely`] looks at.
const BEFORE: usize = 6;
/// What ELF64 files for x86-64 begin with, and where the machine stands.
const MAGIC: [u8; 6] = *b"\x7fELF\x02\x01";
const MACHINE: std::ops::Range<usize> = 18..20;
const X86_64: [u8; 2] = 62_u16.to_le_bytes();

/// Sees a file pass in pieces.
#[derive(Debug)]
pub(crate) struct Scan {
    finder: Finder<'static>,
    /// The last bytes of what passed.
    tail: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Program,
    Suspect,
    Other,
}

impl Scan {
    pub(crate) fn new() -> Self {
        Self { finder: Finder::new(&SYSCALL), tail: Vec::new(), state: State::Start }
    }

    /// Takes the next bytes; the first piece has the file's head.
    pub(crate) fn piece(&mut self, piece: &[u8]) {
        if self.state == State::Start {
            let is_program = piece.starts_with(&MAGIC) && piece.get(MACHINE) == Some(&X86_64);
            self.state = if is_program { State::Program } else { State::Other };
        }
        if self.state != State::Program {
            return;
        }
        // What lies on both sides of the border, each call with all bytes before it.
        self.tail.extend(&piece[..piece.len().min(BEFORE + SYSCALL.len())]);
        if has_call(&self.finder, &self.tail) || has_call(&self.finder, piece) {
            self.state = State::Suspect;
        }
        let last = piece.len().saturating_sub(BEFORE + SYSCALL.len());
        if last > 0 {
            self.tail.clear();
            self.tail.extend(&piece[last..]);
        }
        let beyond = self.tail.len().saturating_sub(BEFORE + SYSCALL.len());
        self.tail.drain(..beyond);
    }

    /// Whether a file that has passed is to be looked at.
    pub(crate) fn is_suspect(&self) -> bool {
        self.state == State::Suspect
    }
}

fn has_call(finder: &Finder<'_>, bytes: &[u8]) -> bool {
    let mut calls = finder.find_iter(bytes);
    calls.any(|at| at.checked_sub(BEFORE).is_some_and(|start| is_likely(&bytes[start..at])))
}

/// Whether bytes before a `syscall` look like an instruction that sets EAX to a constant or from a
/// register: every program with system calls has one such place.
fn is_likely(before: &[u8]) -> bool {
    let &[c7, b8_or_c0, .., code, operands] = before else { return false };
    let sets_constant = b8_or_c0 == 0xb8 || (c7, b8_or_c0) == (0xc7, 0xc0);
    let sets_register = match code {
        0x31 | 0x33 => operands == 0xc0,
        0x89 => operands & 0xc7 == 0xc0,
        0x8b => operands & 0xf8 == 0xc0,
        _ => false,
    };
    sets_constant || sets_register
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(code: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.resize(18, 0);
        file.extend(X86_64);
        file.resize(100, 0x90);
        file.extend(code);
        file.resize(200, 0x90);
        file
    }

    fn is_suspect(file: &[u8], piece_bytes: usize) -> bool {
        let mut scan = Scan::new();
        // The head is never cut.
        let (head, rest) = file.split_at(64.max(piece_bytes).min(file.len()));
        scan.piece(head);
        rest.chunks(piece_bytes).for_each(|piece| scan.piece(piece));
        scan.is_suspect()
    }

    #[test]
    fn calls_are_seen_however_the_file_is_cut() {
        let exit = program(&[0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05]);
        let read = program(&[0x31, 0xc0, 0x0f, 0x05]);
        let go = program(&[0x48, 0xc7, 0xc0, 1, 0, 0, 0, 0x0f, 0x05]);
        let bytes_only = program(&[0x0f, 0x0f, 0x05, 0x05]);
        for piece_bytes in 1..200 {
            assert!(is_suspect(&exit, piece_bytes), "{piece_bytes}");
            assert!(is_suspect(&read, piece_bytes), "{piece_bytes}");
            assert!(is_suspect(&go, piece_bytes), "{piece_bytes}");
            assert!(!is_suspect(&bytes_only, piece_bytes), "{piece_bytes}");
        }
    }

    #[test]
    fn only_programs_for_this_machine_are_looked_at() {
        let mut file = program(&[0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05]);
        file[18] = 183;
        assert!(!is_suspect(&file, 200));
        file[18] = 62;
        assert!(is_suspect(&file, 200));
        file[0] = 0;
        assert!(!is_suspect(&file, 200));
        assert!(!is_suspect(b"", 1));
    }
}
