// SPDX-License-Identifier: Apache-2.0
//! Terminal settings (termios(3)), as the kernel's ABI has them.

pub(super) const ICRNL: u32 = 0o400;
pub(super) const INLCR: u32 = 0o100;
pub(super) const IGNCR: u32 = 0o200;
pub(super) const ISTRIP: u32 = 0o40;
pub(super) const IXON: u32 = 0o2000;
pub(super) const IXANY: u32 = 0o4000;
pub(super) const IUTF8: u32 = 0o40000;

pub(super) const OPOST: u32 = 1;
pub(super) const ONLCR: u32 = 4;
pub(super) const OCRNL: u32 = 0o10;
pub(super) const ONOCR: u32 = 0o20;
pub(super) const ONLRET: u32 = 0o40;
pub(super) const TABDLY: u32 = 0o14000;
pub(super) const XTABS: u32 = 0o14000;

pub(super) const ISIG: u32 = 1;
pub(super) const ICANON: u32 = 2;
pub(super) const ECHO: u32 = 0o10;
pub(super) const ECHOE: u32 = 0o20;
pub(super) const ECHOK: u32 = 0o40;
pub(super) const ECHONL: u32 = 0o100;
pub(super) const NOFLSH: u32 = 0o200;
pub(super) const TOSTOP: u32 = 0o400;
pub(super) const ECHOCTL: u32 = 0o1000;
pub(super) const ECHOKE: u32 = 0o4000;
pub(super) const IEXTEN: u32 = 0o100000;

pub(super) const VINTR: usize = 0;
pub(super) const VQUIT: usize = 1;
pub(super) const VERASE: usize = 2;
pub(super) const VKILL: usize = 3;
pub(super) const VEOF: usize = 4;
pub(super) const VTIME: usize = 5;
pub(super) const VMIN: usize = 6;
pub(super) const VSTART: usize = 8;
pub(super) const VSTOP: usize = 9;
pub(super) const VSUSP: usize = 10;
pub(super) const VEOL: usize = 11;
pub(super) const VREPRINT: usize = 12;
pub(super) const VWERASE: usize = 14;
pub(super) const VLNEXT: usize = 15;
pub(super) const VEOL2: usize = 16;

/// Control characters.
const NCCS: usize = 19;
/// Bytes of `struct termios`.
pub(super) const TERMIOS_BYTES: usize = 36;
/// `struct termio`, of System V.
pub(super) const TERMIO_BYTES: usize = 18;
/// Bytes of `struct termios2`.
pub(super) const TERMIOS2_BYTES: usize = 44;

/// Terminal settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Termios {
    pub(super) iflag: u32,
    pub(super) oflag: u32,
    pub(super) cflag: u32,
    pub(super) lflag: u32,
    pub(super) line: u8,
    pub(super) cc: [u8; NCCS],
    pub(super) speeds: [u32; 2],
}

impl Default for Termios {
    /// What Linux gives a new terminal.
    fn default() -> Self {
        let mut cc = [0; NCCS];
        cc[..17].copy_from_slice(&[
            3, 0x1c, 0x7f, 0x15, 4, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0xf, 0x17, 0x16, 0,
        ]);
        Self {
            iflag: ICRNL | IXON,
            oflag: OPOST | ONLCR,
            cflag: 0xbf,
            lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
            line: 0,
            cc,
            speeds: [38400; 2],
        }
    }
}

impl Termios {
    /// As `struct termios2`, which begins with `struct termios`.
    pub(super) fn encode(&self) -> [u8; TERMIOS2_BYTES] {
        let mut bytes = [0; TERMIOS2_BYTES];
        let flags = [self.iflag, self.oflag, self.cflag, self.lflag];
        for (at, flag) in flags.into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&flag.to_le_bytes());
        }
        bytes[16] = self.line;
        bytes[17..36].copy_from_slice(&self.cc);
        bytes[36..40].copy_from_slice(&self.speeds[0].to_le_bytes());
        bytes[40..44].copy_from_slice(&self.speeds[1].to_le_bytes());
        bytes
    }

    /// From `struct termios` or `struct termios2`; speeds that are not there stay.
    pub(super) fn decode(&self, bytes: &[u8]) -> Self {
        let word =
            |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mut cc = self.cc;
        if let Some(new) = bytes.get(17..36) {
            cc.copy_from_slice(new);
        }
        Self {
            iflag: word(0).unwrap_or(self.iflag),
            oflag: word(4).unwrap_or(self.oflag),
            cflag: word(8).unwrap_or(self.cflag),
            lflag: word(12).unwrap_or(self.lflag),
            line: bytes.get(16).copied().unwrap_or(self.line),
            cc,
            speeds: [word(36).unwrap_or(self.speeds[0]), word(40).unwrap_or(self.speeds[1])],
        }
    }

    /// As `struct termio`: half of each flag word, and the first eight characters.
    pub(super) fn encode_old(&self) -> [u8; TERMIO_BYTES] {
        let mut bytes = [0; TERMIO_BYTES];
        let flags = [self.iflag, self.oflag, self.cflag, self.lflag];
        for (at, flag) in flags.into_iter().enumerate() {
            bytes[at * 2..at * 2 + 2].copy_from_slice(&(flag as u16).to_le_bytes());
        }
        bytes[8] = self.line;
        bytes[9..17].copy_from_slice(&self.cc[..8]);
        bytes
    }

    /// From `struct termio`; what it does not hold stays.
    pub(super) fn decode_old(&self, bytes: &[u8; TERMIO_BYTES]) -> Self {
        let merge = |flag: u32, at: usize| {
            flag & 0xffff_0000 | u32::from(u16::from_le_bytes([bytes[at * 2], bytes[at * 2 + 1]]))
        };
        let mut cc = self.cc;
        cc[..8].copy_from_slice(&bytes[9..17]);
        Self {
            iflag: merge(self.iflag, 0),
            oflag: merge(self.oflag, 1),
            cflag: merge(self.cflag, 2),
            lflag: merge(self.lflag, 3),
            line: bytes[8],
            cc,
            speeds: self.speeds,
        }
    }

    pub(super) fn has_local(&self, flag: u32) -> bool {
        self.lflag & flag != 0
    }

    pub(super) fn has_input(&self, flag: u32) -> bool {
        self.iflag & flag != 0
    }

    pub(super) fn has_output(&self, flag: u32) -> bool {
        self.oflag & flag != 0
    }

    /// Whether `byte` is this control character; 0 disables one.
    pub(super) fn is(&self, byte: u8, which: usize) -> bool {
        byte != 0 && self.cc[which] == byte
    }
}
