// SPDX-License-Identifier: Apache-2.0
//! How errors are said.

/// The error and its causes on one line.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let chain = format!("{error:#}");
    chain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The last line that a program wrote to its standard error that says something, cut to a bearable
/// length; the exit status alone if there is none.
pub(crate) fn last_words(status: impl std::fmt::Display, stderr: &[u8]) -> String {
    const MAX_CHARS: usize = 300;
    let text = String::from_utf8_lossy(stderr);
    match text.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => format!("{status}: {}", line.chars().take(MAX_CHARS).collect::<String>()),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_joins_causes_and_lines() {
        let error = anyhow::anyhow!("first\n  second").context("cannot try");

        assert_eq!(one_line(&error), "cannot try: first second");
    }

    #[test]
    fn last_words_skips_empty_lines() {
        assert_eq!(last_words("status 1", b"a\nb\n\n"), "status 1: b");
        assert_eq!(last_words("status 1", b" \n"), "status 1");
    }
}
