// SPDX-License-Identifier: Apache-2.0
//! What ioctl(2) does with a terminal (ioctl_tty(2)).

use alloc::sync::Arc;

use super::{
    Tty,
    termios::{TERMIO_BYTES, TERMIOS_BYTES, TERMIOS2_BYTES},
};
use crate::{Errno, fs::file::IoctlMemory, process::creds::CAP_SYS_ADMIN};

pub(crate) const TCGETS: u32 = 0x5401;
pub(crate) const TCSETS: u32 = 0x5402;
pub(crate) const TCSETSW: u32 = 0x5403;
pub(crate) const TCSETSF: u32 = 0x5404;
pub(crate) const TCGETA: u32 = 0x5405;
pub(crate) const TCSETA: u32 = 0x5406;
pub(crate) const TCSETAW: u32 = 0x5407;
pub(crate) const TCSETAF: u32 = 0x5408;
pub(crate) const TCSBRK: u32 = 0x5409;
pub(crate) const TCXONC: u32 = 0x540a;
pub(crate) const TCFLSH: u32 = 0x540b;
pub(crate) const TIOCEXCL: u32 = 0x540c;
pub(crate) const TIOCNXCL: u32 = 0x540d;
pub(crate) const TIOCSCTTY: u32 = 0x540e;
pub(crate) const TIOCGPGRP: u32 = 0x540f;
pub(crate) const TIOCSPGRP: u32 = 0x5410;
pub(crate) const TIOCOUTQ: u32 = 0x5411;
pub(crate) const TIOCSTI: u32 = 0x5412;
pub(crate) const TIOCGWINSZ: u32 = 0x5413;
pub(crate) const TIOCSWINSZ: u32 = 0x5414;
pub(crate) const FIONREAD: u32 = 0x541b;
pub(crate) const TIOCPKT: u32 = 0x5420;
pub(crate) const TIOCNOTTY: u32 = 0x5422;
pub(crate) const TIOCSETD: u32 = 0x5423;
pub(crate) const TIOCGETD: u32 = 0x5424;
pub(crate) const TCSBRKP: u32 = 0x5425;
pub(crate) const TIOCGSID: u32 = 0x5429;
pub(crate) const TCGETS2: u32 = 0x802c_542a;
pub(crate) const TCSETS2: u32 = 0x402c_542b;
pub(crate) const TCSETSW2: u32 = 0x402c_542c;
pub(crate) const TCSETSF2: u32 = 0x402c_542d;
pub(crate) const TIOCGLCKTRMIOS: u32 = 0x5456;
pub(crate) const TIOCSLCKTRMIOS: u32 = 0x5457;
pub(crate) const TIOCGPTN: u32 = 0x8004_5430;
pub(crate) const TIOCSPTLCK: u32 = 0x4004_5431;
pub(crate) const TIOCGPKT: u32 = 0x8004_5438;
pub(crate) const TIOCGPTLCK: u32 = 0x8004_5439;
pub(crate) const TIOCGEXCL: u32 = 0x8004_5440;

/// Whether a command changes the terminal, which a background process may not just do.
pub(crate) fn is_change(command: u32) -> bool {
    matches!(
        command,
        TCSETS
            | TCSETSW
            | TCSETSF
            | TCSETA
            | TCSETAW
            | TCSETAF
            | TCSETS2
            | TCSETSW2
            | TCSETSF2
            | TCSBRK
            | TCSBRKP
            | TCXONC
            | TCFLSH
            | TIOCSPGRP
            | TIOCSETD
    )
}

impl Tty {
    pub(super) fn ioctl(
        self: &Arc<Self>,
        command: u32,
        memory: &mut IoctlMemory<'_>,
        master: bool,
    ) -> Result<u64, Errno> {
        if !master && self.state.lock().master_gone {
            return Err(Errno::IO);
        }
        match command {
            TCGETS => {
                let termios = self.state.lock().discipline.termios.encode();
                memory.write_from(&termios[..TERMIOS_BYTES])?;
            }
            TCGETS2 => {
                let termios = self.state.lock().discipline.termios.encode();
                memory.write_from(&termios)?;
            }
            TCSETS | TCSETSW | TCSETSF => {
                let mut bytes = [0; TERMIOS_BYTES];
                memory.read_to(&mut bytes)?;
                self.set_termios(&bytes, command == TCSETSF);
            }
            TCSETS2 | TCSETSW2 | TCSETSF2 => {
                let mut bytes = [0; TERMIOS2_BYTES];
                memory.read_to(&mut bytes)?;
                self.set_termios(&bytes, command == TCSETSF2);
            }
            TCGETA => {
                let old = self.state.lock().discipline.termios.encode_old();
                memory.write_from(&old)?;
            }
            TCSETA | TCSETAW | TCSETAF => {
                let mut old = [0; TERMIO_BYTES];
                memory.read_to(&mut old)?;
                let bytes = self.state.lock().discipline.termios.decode_old(&old).encode();
                self.set_termios(&bytes, command == TCSETAF);
            }
            // Nothing is locked, and only who administrates the system could do it.
            TIOCGLCKTRMIOS => memory.write_from(&[0; TERMIOS_BYTES])?,
            TIOCSLCKTRMIOS => return Err(Errno::PERM),
            TIOCGWINSZ => {
                let size = self.state.lock().size;
                let mut bytes = [0; 8];
                for (at, value) in size.into_iter().enumerate() {
                    bytes[at * 2..at * 2 + 2].copy_from_slice(&value.to_le_bytes());
                }
                memory.write_from(&bytes)?;
            }
            TIOCSWINSZ => {
                let mut bytes = [0; 8];
                memory.read_to(&mut bytes)?;
                let value = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                let size = [value(0), value(2), value(4), value(6)];
                self.set_size(&mut self.state.lock(), size);
            }
            FIONREAD if !master => {
                let bytes = self.state.lock().discipline.available();
                memory.write_int(bytes as i32)?;
            }
            FIONREAD | TIOCOUTQ => {
                let bytes = self.state.lock().discipline.output().len();
                memory.write_int(bytes as i32)?;
            }
            TCFLSH => self.flush(memory.argument)?,
            TCXONC => {
                match memory.argument {
                    0 => self.state.lock().discipline.stopped = true,
                    1 => self.state.lock().discipline.stopped = false,
                    2 | 3 => {}
                    _ => return Err(Errno::INVAL),
                }
                self.pump();
                self.wait.wake_all();
            }
            TCSBRK | TCSBRKP => self.pump(),
            TIOCSTI => return Err(Errno::IO),
            TIOCGETD => memory.write_int(0)?,
            TIOCSETD => {
                if memory.read_int()? != 0 {
                    return Err(Errno::INVAL);
                }
            }
            TIOCEXCL => self.state.lock().exclusive = true,
            TIOCNXCL => self.state.lock().exclusive = false,
            TIOCGEXCL => {
                let exclusive = self.state.lock().exclusive;
                memory.write_int(exclusive.into())?;
            }
            TIOCSCTTY => self.set_controlling(memory.argument)?,
            TIOCNOTTY => self.drop_controlling()?,
            TIOCGPGRP => {
                self.check_session(master)?;
                let foreground = self.state.lock().foreground;
                memory.write_int(foreground.cast_signed())?;
            }
            TIOCSPGRP => self.set_foreground(memory.read_int()?)?,
            TIOCGSID => {
                self.check_session(master)?;
                let session = self.state.lock().session;
                memory.write_int(session.cast_signed())?;
            }
            TIOCGPTN if master => memory.write_int(self.index.cast_signed())?,
            TIOCSPTLCK if master => {
                let locked = memory.read_int()? != 0;
                self.state.lock().locked = locked;
            }
            TIOCGPTLCK if master => {
                let locked = self.state.lock().locked;
                memory.write_int(locked.into())?;
            }
            TIOCPKT if master => {
                let packet = memory.read_int()? != 0;
                self.state.lock().packet = packet;
            }
            TIOCGPKT if master => {
                let packet = self.state.lock().packet;
                memory.write_int(packet.into())?;
            }
            _ => return Err(Errno::NOTTY),
        }
        Ok(0)
    }

    fn set_termios(&self, bytes: &[u8], flush: bool) {
        let mut state = self.state.lock();
        if flush {
            state.discipline.flush_input();
        }
        let termios = state.discipline.termios.decode(bytes);
        state.discipline.set(termios);
        drop(state);
        self.pump();
        self.wait.wake_all();
    }

    fn flush(&self, what: u64) -> Result<(), Errno> {
        if what > 2 {
            return Err(Errno::INVAL);
        }
        let mut state = self.state.lock();
        if what != 1 {
            state.discipline.flush_input();
        }
        if what != 0 {
            state.discipline.output().clear();
        }
        drop(state);
        self.wait.wake_all();
        self.master_wait.wake_all();
        Ok(())
    }

    /// Whether the caller's session is the one that the terminal controls.
    fn check_session(&self, master: bool) -> Result<(), Errno> {
        let task = self.services.current().ok_or(Errno::NOTTY)?;
        let session = self.state.lock().session;
        if master || (session != 0 && session == task.process.sid()) {
            Ok(())
        } else {
            Err(Errno::NOTTY)
        }
    }

    fn set_controlling(self: &Arc<Self>, steal: u64) -> Result<(), Errno> {
        let task = self.services.current().ok_or(Errno::PERM)?;
        let process = &task.process;
        let session = self.state.lock().session;
        if session == process.sid() && super::of_process(process).is_some() {
            return Ok(());
        }
        if process.sid() != process.pid || process.terminal.lock().is_some() {
            return Err(Errno::PERM);
        }
        if session != 0 {
            if steal != 1 || !task.creds().has_cap(CAP_SYS_ADMIN) {
                return Err(Errno::PERM);
            }
            for other in self.services.registry.processes() {
                if other.sid() == session {
                    let before = other.terminal.lock().take();
                    drop(before);
                }
            }
        }
        self.control(process);
        Ok(())
    }

    fn drop_controlling(self: &Arc<Self>) -> Result<(), Errno> {
        let task = self.services.current().ok_or(Errno::NOTTY)?;
        let process = &task.process;
        let own = super::of_process(process).is_some_and(|tty| Arc::ptr_eq(&tty, self));
        if !own {
            return Err(Errno::NOTTY);
        }
        let before = process.terminal.lock().take();
        drop(before);
        if process.sid() == process.pid {
            self.leader_gone();
            for other in self.services.registry.processes() {
                if other.sid() == process.sid() {
                    let before = other.terminal.lock().take();
                    drop(before);
                }
            }
        }
        Ok(())
    }

    fn set_foreground(&self, group: i32) -> Result<(), Errno> {
        self.check_session(false)?;
        let group = u32::try_from(group).map_err(|_| Errno::INVAL)?;
        let session = self.state.lock().session;
        let members = self.services.registry.processes();
        let Some(member) = members.iter().find(|process| process.pgid() == group) else {
            return Err(Errno::SRCH);
        };
        if member.sid() != session {
            return Err(Errno::PERM);
        }
        self.state.lock().foreground = group;
        Ok(())
    }
}
