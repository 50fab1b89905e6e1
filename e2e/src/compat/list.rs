// SPDX-License-Identifier: Apache-2.0
//! The lists: one line a case.
//!
//! ```text
//! # a comment
//! NAME [fast] [SECONDSs] [Ncpus] must
//! NAME [fast] [SECONDSs] [Ncpus] known-fail: REASON
//! NAME n/a: REASON
//! ```

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, bail};

/// How long a case may take unless its line says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is expected of Trine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It does what runc does.
    Must,
    /// It does not, and this is why.
    KnownFail(String),
    /// The case is not run, and this is why.
    NotApplicable(String),
}

/// A case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) is_fast: bool,
    pub(crate) timeout: Duration,
    /// How many CPUs it needs.
    pub(crate) cpus: u32,
    pub(crate) expected: Expected,
}

impl Case {
    /// Whether it is run at all.
    pub(crate) fn is_run(&self) -> bool {
        !matches!(self.expected, Expected::NotApplicable(_))
    }
}

/// Reads a list.
pub(crate) fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut names = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let case = parse_line(line).with_context(|| format!("line {}: `{line}`", index + 1))?;
        if !names.insert(case.name.clone()) {
            bail!("line {}: {} is there twice", index + 1, case.name);
        }
        cases.push(case);
    }
    Ok(cases)
}

fn parse_line(line: &str) -> Result<Case> {
    let (name, mut rest) = line.split_once(char::is_whitespace).context("a name and no more")?;
    let mut case = Case {
        name: name.to_owned(),
        is_fast: false,
        timeout: TIMEOUT,
        cpus: 1,
        expected: Expected::Must,
    };
    loop {
        rest = rest.trim_start();
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match word {
            "fast" => case.is_fast = true,
            "must" if after.trim().is_empty() => return Ok(case),
            "known-fail:" => {
                case.expected = Expected::KnownFail(reason(after)?);
                return Ok(case);
            }
            "n/a:" => {
                case.expected = Expected::NotApplicable(reason(after)?);
                return Ok(case);
            }
            _ => {
                let number_fn = |unit| word.strip_suffix(unit).filter(|number| is_number(number));
                match (number_fn("cpus"), number_fn("s")) {
                    (Some(cpus), _) => case.cpus = cpus.parse()?,
                    (_, Some(seconds)) => case.timeout = Duration::from_secs(seconds.parse()?),
                    _ => bail!("`{word}` is none of fast, SECONDSs, Ncpus, must, known-fail:, n/a:"),
                }
            }
        }
        rest = after;
    }
}

fn reason(text: &str) -> Result<String> {
    let text = text.trim();
    if text.is_empty() {
        bail!("no reason given");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let cases =
            parse("# c\n\na must\nb fast 5s known-fail: not yet\nc n/a: no network\n").unwrap();
        assert_eq!(cases.len(), 3);
        assert_eq!((cases[0].is_fast, cases[0].timeout), (false, TIMEOUT));
        assert_eq!(cases[0].expected, Expected::Must);
        assert_eq!((cases[1].is_fast, cases[1].timeout.as_secs()), (true, 5));
        assert_eq!(cases[1].expected, Expected::KnownFail("not yet".to_owned()));
        assert!(!cases[2].is_run());
        assert_eq!((cases[0].cpus, parse("a 2cpus must").unwrap()[0].cpus), (1, 2));
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in ["a", "a maybe", "a must not", "a known-fail:", "a n/a:  ", "a 5x must"] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("a must\na must").is_err());
    }
}
