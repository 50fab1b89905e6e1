// SPDX-License-Identifier: Apache-2.0
//! The summary in `docs/compatibility.md`, made of the lists.  A run that passes shows that the lists
//! are true, so the summary is made of them and not of a run.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    list::{Case, Expected},
    source,
};
use crate::paths;

const BEGIN: &str = "<!-- begin: made by `trine-e2e compat --document` -->";
const END: &str = "<!-- end -->";

/// Writes the summary.
pub(crate) fn write() -> Result<()> {
    let file = file();
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    fs::write(&file, replace(&text, &summary()?)?)
        .with_context(|| format!("write {}", file.display()))
}

fn file() -> PathBuf {
    paths::root().join("docs/compatibility.md")
}

/// Puts the summary between the marks.
fn replace(text: &str, summary: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("docs/compatibility.md: no begin mark")?;
    let (_, after) = rest.split_once(END).context("docs/compatibility.md: no end mark")?;
    Ok(format!("{before}{BEGIN}\n{summary}{END}{after}"))
}

fn summary() -> Result<String> {
    let mut table = String::from(
        "\n| source | cases | must | known to fail | not run | must, of those that are run |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let mut failures = String::new();
    for source in source::ALL {
        let cases = source.cases()?;
        let count_fn = |is_fn: fn(&Case) -> bool| cases.iter().filter(|case| is_fn(case)).count();
        let must = count_fn(|case| case.expected == Expected::Must);
        let known = count_fn(|case| matches!(case.expected, Expected::KnownFail(_)));
        let applicable = must + known;
        let share = (must * 1000).checked_div(applicable).unwrap_or(0);
        writeln!(
            table,
            "| {} | {} | {must} | {known} | {} | {}.{} % |",
            source.title,
            cases.len(),
            cases.len() - applicable,
            share / 10,
            share % 10
        )?;
        for case in &cases {
            if let Expected::KnownFail(why) = &case.expected {
                writeln!(failures, "- {} `{}`: {why}", source.name, case.name)?;
            }
        }
    }
    if failures.is_empty() {
        failures.push_str("Nothing.\n");
    }
    Ok(format!("{table}\nKnown to fail:\n\n{failures}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_what_the_lists_say() {
        let text = fs::read_to_string(file()).unwrap();
        let right = replace(&text, &summary().unwrap()).unwrap();
        assert!(text == right, "run `trine-e2e compat --document`");
    }
}
