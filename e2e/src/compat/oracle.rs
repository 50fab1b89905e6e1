// SPDX-License-Identifier: Apache-2.0
//! What runc did, kept: asking it takes as long as asking Trine, and it does not change.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    engine::{Engine as _, Outcome, Runc},
    list::Case,
    roots::{self, Root},
    source::Source,
};
use crate::{images::write_hex, paths};

/// runc, and what it did before.
#[derive(Debug)]
pub(crate) struct Oracle {
    runc: Runc,
    asks_again: bool,
    root: Root,
}

impl Oracle {
    pub(crate) fn new(runc: Runc, asks_again: bool, root: Root) -> Result<Self> {
        Ok(Self { runc, asks_again, root })
    }

    /// What runc does with a case, given so much time.
    pub(crate) fn ask(
        &self,
        source: Source,
        case: &Case,
        command: &[String],
        timeout: Duration,
    ) -> Result<Outcome> {
        let file = self.file(source, case, command)?;
        if !self.asks_again
            && let Some(outcome) = fs::read(&file).ok().and_then(|text| read(&text))
        {
            return Ok(outcome);
        }
        let outcome = self.runc.run(command, timeout, case.cpus)?;
        if outcome.status.is_none() {
            // It may have been the host's load.
            return Ok(outcome);
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(&file, write(&outcome).to_string())
            .with_context(|| format!("write {}", file.display()))?;
        Ok(outcome)
    }

    /// Its name says what was run where: another command is another question.
    fn file(&self, source: Source, case: &Case, command: &[String]) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        hash.update(roots::stamp(self.root)?);
        hash.update(case.timeout.as_secs().to_le_bytes());
        for word in command {
            hash.update(word);
            hash.update([0]);
        }
        let hash = write_hex(&hash.finalize()[..8]);
        let name = format!("{}-{hash}.json", case.name.replace('/', "-"));
        Ok(paths::cache().join("compat/oracle").join(source.name).join(name))
    }
}

fn write(outcome: &Outcome) -> Value {
    let Outcome { status, stdout, stderr, seconds } = outcome;
    json!({ "status": status, "stdout": stdout, "stderr": stderr, "seconds": seconds })
}

fn read(text: &[u8]) -> Option<Outcome> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let status = match value.get("status")? {
        Value::Null => None,
        number => Some(i32::try_from(number.as_i64()?).ok()?),
    };
    let text_fn = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    Some(Outcome {
        status,
        stdout: text_fn("stdout")?,
        stderr: text_fn("stderr")?,
        seconds: value.get("seconds")?.as_f64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_written() {
        for status in [Some(3), None] {
            let outcome =
                Outcome { status, stdout: "a\n".to_owned(), stderr: "\"".to_owned(), seconds: 1.5 };
            let again = read(write(&outcome).to_string().as_bytes()).unwrap();
            assert_eq!(format!("{again:?}"), format!("{outcome:?}"));
        }
        assert!(read(b"{}").is_none());
    }
}
