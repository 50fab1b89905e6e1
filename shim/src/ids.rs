// SPDX-License-Identifier: Apache-2.0
//! Names from outside, before they become parts of paths.

/// Longest id, in bytes, as in containerd.
const MAX_BYTES: usize = 76;

/// A name that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {id:?}: expected 1 to 76 of A-Z a-z 0-9 . _ + -, not starting with . or -")]
pub struct IdError {
    /// What it names.
    pub what: &'static str,
    /// The name.
    pub id: String,
}

/// Checks a name; `what` is for the message.
///
/// # Errors
/// [`IdError`].
pub fn check(what: &'static str, id: &str) -> Result<(), IdError> {
    let is_valid = (1..=MAX_BYTES).contains(&id.len())
        && !id.starts_with(['.', '-'])
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte));
    if is_valid { Ok(()) } else { Err(IdError { what, id: id.chars().take(100).collect() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_a_directory_are_refused() {
        for id in ["a", "0f3c", "web-1_2.x+y", &"a".repeat(76)] {
            assert_eq!(check("id", id), Ok(()), "{id}");
        }
        for id in ["", ".", "..", "../x", "a/b", "a\0", "a b", "é", "-x", &"a".repeat(77)] {
            assert!(check("id", id).is_err(), "{id}");
        }
    }
}
