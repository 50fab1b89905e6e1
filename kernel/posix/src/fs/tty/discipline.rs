// SPDX-License-Identifier: Apache-2.0
//! The line discipline: what happens to bytes between a terminal's two ends (N_TTY).
//!
//! ```text
//! far end --receive--> [editing, signals, echo] --input--> take (the process reads)
//!        <---output--- [CR/NL, tabs]            <--write-- (the process writes)
//! ```
//!
//! It is a pure state machine: no locks, no clock, no processes.

use alloc::{collections::VecDeque, vec::Vec};

use super::termios::{
    ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHONL, ICANON, ICRNL, IEXTEN, IGNCR, INLCR, ISIG, ISTRIP,
    IUTF8, IXANY, IXON, NOFLSH, OCRNL, ONLCR, ONLRET, ONOCR, OPOST, TABDLY, Termios, VEOF, VEOL,
    VEOL2, VERASE, VINTR, VKILL, VLNEXT, VMIN, VQUIT, VREPRINT, VSTART, VSTOP, VSUSP, VTIME,
    VWERASE, XTABS,
};
use crate::process::signal::{SIGINT, SIGQUIT, SIGTSTP};

/// Bytes of input that are kept.
pub(crate) const INPUT_MAX: usize = 4096;
/// Bytes of output that wait for the far end before writing blocks.
pub(crate) const OUTPUT_MAX: usize = 16384;

/// The state between the two ends.
#[derive(Debug, Default)]
pub(crate) struct Discipline {
    pub(super) termios: Termios,
    /// What can be read.
    input: VecDeque<u8>,
    /// Canonical mode: lengths of the complete lines in `input`.
    lines: VecDeque<usize>,
    /// Canonical mode: the line that is being edited.
    line: Vec<u8>,
    /// Where the line began on the screen.
    line_column: usize,
    /// What the far end has to show.
    output: VecDeque<u8>,
    column: usize,
    /// Output is stopped (^S).
    pub(super) stopped: bool,
    /// The next byte is taken literally (^V).
    literal: bool,
}

impl Discipline {
    fn is_canonical(&self) -> bool {
        self.termios.has_local(ICANON)
    }

    /// Changes the settings.
    pub(crate) fn set(&mut self, termios: Termios) {
        let (was, is) = (self.is_canonical(), termios.has_local(ICANON));
        self.termios = termios;
        if was && !is {
            self.lines.clear();
            self.input.extend(core::mem::take(&mut self.line));
        } else if is && !was && !self.input.is_empty() {
            self.lines.push_back(self.input.len());
        }
        if !self.termios.has_input(IXON) {
            self.stopped = false;
        }
    }

    /// Bytes of input that still fit.
    pub(crate) fn input_room(&self) -> usize {
        INPUT_MAX.saturating_sub(self.input.len() + self.line.len())
    }

    /// Takes a byte from the far end; returns the signal that it stands for.
    pub(crate) fn receive(&mut self, byte: u8) -> Option<u32> {
        let termios = self.termios;
        let mut byte = if termios.has_input(ISTRIP) { byte & 0x7f } else { byte };
        if core::mem::take(&mut self.literal) {
            self.keep(byte);
            return None;
        }
        if termios.has_input(IXON) {
            if termios.is(byte, VSTOP) {
                self.stopped = !(termios.is(byte, VSTART) && self.stopped);
                return None;
            }
            if termios.is(byte, VSTART) {
                self.stopped = false;
                return None;
            }
            if self.stopped && termios.has_input(IXANY) {
                self.stopped = false;
            }
        }
        if termios.has_local(ISIG) {
            let signals = [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)];
            if let Some((_, signal)) =
                signals.into_iter().find(|(which, _)| termios.is(byte, *which))
            {
                if !termios.has_local(NOFLSH) {
                    self.flush_input();
                    self.output.clear();
                }
                self.stopped = false;
                self.echo(byte);
                return Some(signal);
            }
        }
        match byte {
            b'\r' if termios.has_input(IGNCR) => return None,
            b'\r' if termios.has_input(ICRNL) => byte = b'\n',
            b'\n' if termios.has_input(INLCR) => byte = b'\r',
            _ => {}
        }
        if !self.is_canonical() {
            if self.input.len() < INPUT_MAX {
                self.echo(byte);
                self.input.push_back(byte);
            }
            return None;
        }
        self.edit(byte);
        None
    }

    fn edit(&mut self, byte: u8) {
        let termios = self.termios;
        let extended = termios.has_local(IEXTEN);
        if termios.is(byte, VERASE) {
            self.erase_one();
        } else if extended && termios.is(byte, VWERASE) {
            while self.line.last().is_some_and(|byte| !is_word(*byte)) {
                self.erase_one();
            }
            while self.line.last().is_some_and(|byte| is_word(*byte)) {
                self.erase_one();
            }
        } else if termios.is(byte, VKILL) {
            if termios.has_local(ECHOKE) && termios.has_local(ECHOE) {
                while !self.line.is_empty() {
                    self.erase_one();
                }
            } else {
                self.line.clear();
                self.echo(byte);
                if termios.has_local(ECHOK) && termios.has_local(ECHO) {
                    self.put(b'\n');
                }
            }
        } else if extended && termios.is(byte, VLNEXT) {
            self.literal = true;
            if termios.has_local(ECHO) && termios.has_local(ECHOCTL) {
                self.put(b'^');
                self.put(8);
            }
        } else if extended && termios.is(byte, VREPRINT) {
            if termios.has_local(ECHO) {
                self.echo(byte);
                self.put(b'\n');
                for byte in self.line.clone() {
                    self.echo(byte);
                }
            }
        } else if termios.is(byte, VEOF) {
            self.end_line();
        } else if byte == b'\n' {
            if termios.has_local(ECHO | ECHONL) {
                self.put(b'\n');
            }
            self.line.push(b'\n');
            self.end_line();
        } else if termios.is(byte, VEOL) || (extended && termios.is(byte, VEOL2)) {
            self.echo(byte);
            self.line.push(byte);
            self.end_line();
        } else {
            self.keep(byte);
        }
    }

    /// Keeps a byte that has no meaning; one place is left for the end of the line.
    fn keep(&mut self, byte: u8) {
        if self.input_room() <= 1 {
            if self.termios.has_local(ECHO) {
                self.output.push_back(7);
            }
            return;
        }
        if self.line.is_empty() {
            self.line_column = self.column;
        }
        self.echo(byte);
        if self.is_canonical() {
            self.line.push(byte);
        } else {
            self.input.push_back(byte);
        }
    }

    fn end_line(&mut self) {
        self.lines.push_back(self.line.len());
        self.input.extend(core::mem::take(&mut self.line));
    }

    fn is_shown_as_control(&self, byte: u8) -> bool {
        (byte < 0x20 && byte != b'\t' && byte != b'\n') || byte == 0x7f
    }

    fn erase_one(&mut self) {
        let Some(mut byte) = self.line.pop() else { return };
        if self.termios.has_input(IUTF8) {
            while byte & 0xc0 == 0x80 {
                match self.line.pop() {
                    Some(before) => byte = before,
                    None => break,
                }
            }
        }
        if !self.termios.has_local(ECHO) {
            return;
        }
        if !self.termios.has_local(ECHOE) {
            let erase = self.termios.cc[VERASE];
            self.echo(erase);
            return;
        }
        let width = match byte {
            b'\t' => {
                // Where the cursor was before the tab.
                let before = self.line.iter().fold(self.line_column, |column, byte| match byte {
                    b'\t' => column / 8 * 8 + 8,
                    byte if self.is_shown_as_control(*byte) => column + 2,
                    _ => column + 1,
                });
                self.column.saturating_sub(before)
            }
            byte if self.is_shown_as_control(byte) => {
                if self.termios.has_local(ECHOCTL) {
                    2
                } else {
                    0
                }
            }
            _ => 1,
        };
        for _ in 0..width {
            if byte == b'\t' {
                self.put(8);
            } else {
                for byte in [8, b' ', 8] {
                    self.put(byte);
                }
            }
        }
    }

    fn echo(&mut self, byte: u8) {
        if !self.termios.has_local(ECHO) {
            return;
        }
        if self.is_shown_as_control(byte) && self.termios.has_local(ECHOCTL) {
            self.put(b'^');
            self.put(byte ^ 0x40);
        } else {
            self.put(byte);
        }
    }

    /// Puts a byte out, as output processing has it.
    fn put(&mut self, byte: u8) {
        let termios = self.termios;
        if !termios.has_output(OPOST) {
            self.output.push_back(byte);
            return;
        }
        match byte {
            b'\n' => {
                if termios.has_output(ONLCR) {
                    self.output.push_back(b'\r');
                }
                if termios.has_output(ONLCR | ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' if termios.has_output(ONOCR) && self.column == 0 => {}
            b'\r' => {
                let shown = if termios.has_output(OCRNL) { b'\n' } else { b'\r' };
                self.column = 0;
                self.output.push_back(shown);
            }
            b'\t' => {
                let width = 8 - self.column % 8;
                self.column += width;
                if termios.oflag & TABDLY == XTABS {
                    self.output.extend(core::iter::repeat_n(b' ', width));
                } else {
                    self.output.push_back(b'\t');
                }
            }
            8 => {
                self.column = self.column.saturating_sub(1);
                self.output.push_back(8);
            }
            byte => {
                // A continuation byte of UTF-8 does not move the cursor.
                let moves = byte >= 0x20 && !(termios.has_input(IUTF8) && byte & 0xc0 == 0x80);
                self.column += usize::from(moves);
                self.output.push_back(byte);
            }
        }
    }

    /// Whether the process may write now.
    pub(crate) fn can_write(&self) -> bool {
        !self.stopped && self.output.len() < OUTPUT_MAX
    }

    /// Takes a byte from the process.
    pub(crate) fn write(&mut self, byte: u8) {
        self.put(byte);
    }

    /// What the far end has to show.
    pub(crate) fn output(&mut self) -> &mut VecDeque<u8> {
        &mut self.output
    }

    /// How many bytes a read of `room` bytes gets now; `None`: it has to wait.  `elapsed`: the time
    /// of VTIME is over.
    pub(crate) fn readable(&self, room: usize, elapsed: bool) -> Option<usize> {
        if self.is_canonical() {
            return self.lines.front().map(|line| (*line).min(room));
        }
        let have = self.input.len().min(room);
        let (min, time) = (usize::from(self.termios.cc[VMIN]), self.termios.cc[VTIME]);
        let enough = match (min, time) {
            (0, 0) => true,
            (0, _) => have > 0 || elapsed,
            (_, 0) => have >= min.min(room),
            (_, _) => have >= min.min(room) || (have > 0 && elapsed),
        };
        enough.then_some(have)
    }

    /// How long a read waits: VTIME in nanoseconds, if it counts now.
    pub(crate) fn wait_ns(&self) -> Option<u64> {
        let (min, time) = (self.termios.cc[VMIN], u64::from(self.termios.cc[VTIME]));
        let counts = !self.is_canonical() && time > 0 && (min == 0 || !self.input.is_empty());
        counts.then_some(time * 100_000_000)
    }

    /// Bytes that a read would find (FIONREAD).
    pub(crate) fn available(&self) -> usize {
        if self.is_canonical() { self.lines.iter().sum() } else { self.input.len() }
    }

    /// Whether poll finds input.
    pub(crate) fn has_input(&self) -> bool {
        if self.is_canonical() {
            return !self.lines.is_empty();
        }
        let (min, time) = (usize::from(self.termios.cc[VMIN]), self.termios.cc[VTIME]);
        self.input.len() >= if time == 0 { min.max(1) } else { 1 }
    }

    /// The input from the front on.
    pub(crate) fn peek(&mut self, bytes: usize) -> &[u8] {
        &self.input.make_contiguous()[..bytes]
    }

    /// Takes input out that was read.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.input.drain(..bytes);
        if let Some(line) = self.lines.front_mut() {
            *line -= bytes;
            if *line == 0 {
                self.lines.pop_front();
            }
        }
    }

    /// Drops all input.
    pub(crate) fn flush_input(&mut self) {
        self.input.clear();
        self.lines.clear();
        self.line.clear();
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(tty: &mut Discipline, bytes: &[u8]) -> Vec<u32> {
        bytes.iter().filter_map(|&byte| tty.receive(byte)).collect()
    }

    fn shown(tty: &mut Discipline) -> Vec<u8> {
        tty.output().drain(..).collect()
    }

    fn read(tty: &mut Discipline, room: usize) -> Option<Vec<u8>> {
        let bytes = tty.readable(room, false)?;
        let got = tty.peek(bytes).to_vec();
        tty.take(bytes);
        Some(got)
    }

    #[test]
    fn canonical_table_of_input_echo_and_line() {
        type Row = (&'static [u8], &'static [u8], Option<&'static [u8]>);
        let table: [Row; 10] = [
            (b"ab\r", b"ab\r\n", Some(b"ab\n")),
            (b"ab\x7fc\n", b"ab\x08 \x08c\r\n", Some(b"ac\n")),
            (b"\x7f\n", b"\r\n", Some(b"\n")),
            (b"ls foo\x17x\n", b"ls foo\x08 \x08\x08 \x08\x08 \x08x\r\n", Some(b"ls x\n")),
            (b"ab\x15c\n", b"ab\x08 \x08\x08 \x08c\r\n", Some(b"c\n")),
            (b"\x01\n", b"^A\r\n", Some(b"\x01\n")),
            (b"a\x16\x03\n", b"a^\x08^C\r\n", Some(b"a\x03\n")),
            (b"a\x04", b"a", Some(b"a")),
            (b"a\x12", b"a^R\r\na", None),
            (b"a\tb\x7f\x7f\n", b"a\tb\x08 \x08\x08\x08\x08\x08\x08\x08\x08\r\n", Some(b"a\n")),
        ];
        for (input, echo, line) in table {
            let mut tty = Discipline::default();
            assert!(feed(&mut tty, input).is_empty());
            assert_eq!(shown(&mut tty), echo, "echo of {}", input.escape_ascii());
            let got = read(&mut tty, 100);
            assert_eq!(got.as_deref(), line, "line of {}", input.escape_ascii());
        }
    }

    #[test]
    fn end_of_file_on_an_empty_line_reads_nothing_once() {
        let mut tty = Discipline::default();
        feed(&mut tty, b"\x04x\n");
        assert_eq!(read(&mut tty, 10), Some(Vec::new()));
        assert_eq!(read(&mut tty, 1), Some(b"x".to_vec()));
        assert_eq!(read(&mut tty, 10), Some(b"\n".to_vec()));
        assert_eq!(read(&mut tty, 10), None);
    }

    #[test]
    fn signals_flush_input_and_echo() {
        let mut tty = Discipline::default();
        assert_eq!(feed(&mut tty, b"abc\x03"), [SIGINT]);
        assert_eq!(feed(&mut tty, b"\x1c\x1a"), [SIGQUIT, SIGTSTP]);
        assert!(shown(&mut tty).ends_with(b"^Z"));
        feed(&mut tty, b"\n");
        assert_eq!(read(&mut tty, 10), Some(b"\n".to_vec()));
    }

    #[test]
    fn raw_mode_minimum_and_time() {
        let mut tty = Discipline::default();
        let mut raw = tty.termios;
        raw.lflag = 0;
        raw.iflag = 0;
        raw.oflag = 0;
        raw.cc[VMIN] = 2;
        tty.set(raw);
        feed(&mut tty, b"\x03");
        assert_eq!(tty.readable(10, false), None);
        assert_eq!(tty.readable(1, false), Some(1));
        feed(&mut tty, b"\r");
        assert_eq!(read(&mut tty, 10), Some(b"\x03\r".to_vec()));
        raw.cc[VMIN] = 0;
        tty.set(raw);
        assert_eq!(tty.readable(10, false), Some(0));
        raw.cc[VTIME] = 1;
        tty.set(raw);
        assert_eq!((tty.readable(10, false), tty.readable(10, true)), (None, Some(0)));
        assert_eq!(tty.wait_ns(), Some(100_000_000));
        raw.cc[VMIN] = 3;
        tty.set(raw);
        assert_eq!(tty.wait_ns(), None);
        feed(&mut tty, b"x");
        assert_eq!((tty.readable(10, false), tty.readable(10, true)), (None, Some(1)));
    }

    #[test]
    fn switching_modes_keeps_what_was_typed() {
        let mut tty = Discipline::default();
        feed(&mut tty, b"half");
        let canonical = tty.termios;
        let mut raw = canonical;
        raw.lflag &= !ICANON;
        tty.set(raw);
        assert_eq!(tty.available(), 4);
        tty.set(canonical);
        assert_eq!(read(&mut tty, 10), Some(b"half".to_vec()));
    }

    #[test]
    fn a_full_line_rings_the_bell_and_still_ends() {
        let mut tty = Discipline::default();
        feed(&mut tty, &[b'x'; INPUT_MAX + 10]);
        assert!(shown(&mut tty).ends_with(&[7]));
        feed(&mut tty, b"\n");
        assert_eq!(read(&mut tty, 8192).map(|line| line.len()), Some(INPUT_MAX));
    }

    #[test]
    fn output_stops_and_starts() {
        let mut tty = Discipline::default();
        feed(&mut tty, b"\x13");
        assert!(!tty.can_write());
        feed(&mut tty, b"\x11");
        assert!(tty.can_write());
        for byte in b"a\nb" {
            tty.write(*byte);
        }
        assert_eq!(shown(&mut tty), b"a\r\nb");
    }
}
