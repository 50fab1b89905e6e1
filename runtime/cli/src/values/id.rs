// SPDX-License-Identifier: Apache-2.0
//! Container ids.  An id becomes a directory name, so what it may contain is checked before use.

use anyhow::{Context as _, Result, bail};
use rustix::rand::{GetRandomFlags, getrandom};

/// Longest id, as containerd has it.
const MAX_LENGTH: usize = 76;

/// Checks an id.
///
/// # Errors
/// If it is empty, too long, or has characters that an id may not have.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
    if id.is_empty() || id.len() > MAX_LENGTH {
        bail!("container id {id:?} has {} characters: use 1 to {MAX_LENGTH}", id.len());
    }
    if !id.chars().all(is_allowed) || id == "." || id == ".." || id.starts_with('-') {
        bail!("container id {id:?} is not valid: use letters, digits, and _ . + - after the first");
    }
    Ok(())
}

/// Makes up an id.
///
/// # Errors
/// If the host has no randomness.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 6];
    getrandom(&mut bytes[..], GetRandomFlags::empty()).context("cannot read random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_id_accepts_what_runc_and_containerd_use() {
        let longest = "f".repeat(76);
        for id in ["a", "A_1.b+c-d", "..a", longest.as_str()] {
            check_id(id).expect(id);
        }
    }

    #[test]
    fn check_id_that_would_leave_the_directory_is_refused() {
        let too_long = "f".repeat(77);
        for id in ["", ".", "..", "a/b", "/a", "../a", "a b", "é", "a\0", "-f", too_long.as_str()]
        {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn random_id_is_valid_and_differs() {
        let (one, two) = (random_id().expect("id"), random_id().expect("id"));
        check_id(&one).expect("valid");
        assert_eq!(one.len(), 12);
        assert_ne!(one, two);
    }
}
