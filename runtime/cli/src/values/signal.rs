// SPDX-License-Identifier: Apache-2.0
//! Signals by name and number, as kill(1) takes them.

use anyhow::{Result, bail};

/// Linux x86-64 signal names by number, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const ALIASES: [(&str, u32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
const RT_MIN: u32 = 34;
const RT_MAX: u32 = 64;

/// Parses a signal: a number, or a name with or without `SIG`, in either case.
///
/// # Errors
/// If there is no such signal.
pub(crate) fn parse_signal(text: &str) -> Result<u32> {
    if let Ok(number) = text.parse::<u32>() {
        if (1..=RT_MAX).contains(&number) {
            return Ok(number);
        }
        bail!("signal {number} does not exist: signals are 1 to {RT_MAX}");
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return Ok(index as u32 + 1);
    }
    if let Some((_, number)) = ALIASES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    match real_time(name) {
        Some(number) => Ok(number),
        None => bail!("unknown signal {text:?}: give a name such as SIGTERM or a number"),
    }
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`.
fn real_time(name: &str) -> Option<u32> {
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        match offset.strip_prefix('+') {
            Some(digits) => RT_MIN.checked_add(digits.parse().ok()?)?,
            None if offset.is_empty() => RT_MIN,
            None => return None,
        }
    } else {
        let offset = name.strip_prefix("RTMAX")?;
        match offset.strip_prefix('-') {
            Some(digits) => RT_MAX.checked_sub(digits.parse().ok()?)?,
            None if offset.is_empty() => RT_MAX,
            None => return None,
        }
    };
    (RT_MIN..=RT_MAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_signal_by_name_or_number_agrees_with_linux() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("Hup", 1),
            ("SIGUSR1", 10),
            ("USR2", 12),
            ("CHLD", 17),
            ("WINCH", 28),
            ("SYS", 31),
            ("IOT", 6),
            ("POLL", 29),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse_signal(text).expect(text), number, "{text}");
        }
    }

    #[test]
    fn parse_signal_unknown_is_refused() {
        for text in ["0", "65", "-9", "", "SIG", "KILLED", "RTMIN+31", "RTMAX-31", "RTMIN3"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
