// SPDX-License-Identifier: Apache-2.0
//! The table of system calls in `docs/compatibility.md`, and the one of `trine check`, made from the
//! kernel's own table.
//!
//! A call that is in the table is there in full, unless the line before it says `// partial:` or
//! `// none:` and why.  A call that is not in the table is not there.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, anyhow, bail};

const NAMES: &str = "kernel/abi/src/names.rs";
const TABLE: &str = "kernel/posix/src/syscall/mod.rs";
const PAGE: &str = "docs/compatibility.md";
const LIST: &str = "runtime/check/src/calls/table.rs";
const BEGIN: &str = "<!-- begin: made by `trine-tools calls` -->";
const END: &str = "<!-- end -->";
/// First number of the second list of names.
const NEW_START: u32 = 424;

/// How much of a call there is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Support {
    Full,
    Partial(String),
    None(String),
}

/// Writes both tables.
pub(crate) fn write() -> Result<bool> {
    for (path, old, new) in outputs()? {
        if new != old {
            fs::write(path, new).with_context(|| format!("cannot write {path}"))?;
        }
    }
    Ok(true)
}

/// Tells which files have another table than they should.
pub(crate) fn check() -> Result<Vec<String>> {
    let old = outputs()?.into_iter().filter(|(_, old, new)| old != new);
    let fault = |(path, ..): (&str, String, String)| {
        format!("{path}: the table of system calls is old, run `cargo run -p trine-tools calls`")
    };
    Ok(old.map(fault).collect())
}

/// Files with what they have, and what they should have.
fn outputs() -> Result<[(&'static str, String, String); 2]> {
    let read = |path| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let (names, table) = (names(&read(NAMES)?)?, table(&read(TABLE)?)?);
    let page = read(PAGE)?;
    let new = replace(&page, &render(&names, &table))?;
    Ok([(PAGE, page, new), (LIST, read(LIST)?, list(&table))])
}

/// The page with another section.
fn replace(page: &str, section: &str) -> Result<String> {
    let missing = || anyhow!("{PAGE} has no line {BEGIN:?} with {END:?} after it");
    let start = page.find(BEGIN).ok_or_else(missing)? + BEGIN.len();
    let end = start + page[start..].find(END).ok_or_else(missing)?;
    Ok(format!("{}\n\n{section}\n{}", &page[..start], &page[end..]))
}

/// All calls by number.
fn names(source: &str) -> Result<BTreeMap<u32, String>> {
    let list = |marker: &str| -> Result<Vec<String>> {
        let start = source.find(marker).with_context(|| format!("{NAMES} has no {marker}"))?;
        let end = start + source[start..].find("];").context("a list does not end")?;
        let lines = source[start..end].lines().map(str::trim);
        let names = lines.filter_map(|line| line.strip_prefix('"')?.strip_suffix("\","));
        Ok(names.map(str::to_owned).collect())
    };
    let old = list("const OLD")?.into_iter().zip(0..);
    let new = list("const NEW")?.into_iter().zip(NEW_START..);
    Ok(old.chain(new).map(|(name, number)| (number, name)).collect())
}

/// What the kernel has, by number.
fn table(source: &str) -> Result<BTreeMap<u32, Support>> {
    let mut calls = BTreeMap::new();
    let mut note = None;
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("// ") {
            note = match comment.split_once(": ") {
                Some(("partial", why)) => Some(Support::Partial(why.to_owned())),
                Some(("none", why)) => Some(Support::None(why.to_owned())),
                _ => None,
            };
            continue;
        }
        let call = line.split_once(" => ").and_then(|(left, _)| {
            let (number, name) = left.split_once(' ')?;
            Some((number.parse::<u32>().ok()?, name))
        });
        match (call, note.take()) {
            (Some((number, _)), note) => {
                calls.insert(number, note.unwrap_or(Support::Full));
            }
            (None, Some(note)) => bail!("{TABLE}: no call follows {note:?}"),
            (None, None) => {}
        }
    }
    Ok(calls)
}

/// The table as source code.
fn list(calls: &BTreeMap<u32, Support>) -> String {
    let mut text = "// SPDX-License-Identifier: Apache-2.0\n\
                    //! What the kernel has, by number; made by `trine-tools calls`.\n\n\
                    use super::Support;\n\n\
                    /// In order of the numbers.\n\
                    pub(super) const CALLS: &[(u32, Support)] = &[\n"
        .to_owned();
    for (number, support) in calls {
        let support = match support {
            Support::Full => "Support::Full".to_owned(),
            Support::Partial(why) => format!("Support::Partial({why:?})"),
            Support::None(why) => format!("Support::None({why:?})"),
        };
        let line = format!("    ({number}, {support}),\n");
        // As rustfmt breaks what is too long.
        if line.len() > 101 {
            let call = line.trim().trim_matches(['(', ')', ',']);
            let (number, support) = call.split_once(", ").unwrap_or((call, ""));
            text.push_str(&format!("    (\n        {number},\n        {support}),\n    ),\n"));
        } else {
            text.push_str(&line);
        }
    }
    text + "];\n"
}

fn render(names: &BTreeMap<u32, String>, calls: &BTreeMap<u32, Support>) -> String {
    let absent = Support::None(String::new());
    let all = names.iter().filter(|(_, name)| *name != "unknown");
    let all: Vec<_> =
        all.map(|(number, name)| (number, name, calls.get(number).unwrap_or(&absent))).collect();
    let count = |kind: fn(&Support) -> bool| all.iter().filter(|(_, _, s)| kind(s)).count();
    let mut text = format!(
        "Of the {} system calls of Linux on x86-64, {} are there in full, {} in part, and {} are not;\n\
         these fail with ENOSYS, and the first use of each is logged, unless the table says otherwise.\n\n\
         | number | call | support | what is missing |\n| --- | --- | --- | --- |\n",
        all.len(),
        count(|support| *support == Support::Full),
        count(|support| matches!(support, Support::Partial(_))),
        count(|support| matches!(support, Support::None(_))),
    );
    for (number, name, support) in all {
        let (word, why) = match support {
            Support::Full => ("full", ""),
            Support::Partial(why) => ("partial", why.as_str()),
            Support::None(why) => ("none", why.as_str()),
        };
        text.push_str(&format!("| {number} | {name} | {word} | {why} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES_SOURCE: &str = "const OLD: [&str; 2] = [\n    \"read\",\n    \"write\",\n];\n\
                                const NEW: [&str; 1] = [\n    \"pidfd_send_signal\",\n];\n";
    const TABLE_SOURCE: &str = "table! { t:\n    // partial: no seeking\n    0 read => a::b(i32);\n\
                                    424 pidfd_send_signal => c::d();\n}\n";

    #[test]
    fn table_says_full_partial_and_none() {
        let names = names(NAMES_SOURCE).unwrap();
        let calls = table(TABLE_SOURCE).unwrap();
        let text = render(&names, &calls);
        assert!(
            text.starts_with("Of the 3 system calls of Linux on x86-64, 1 are there in full, 1 in")
        );
        assert!(text.contains("| 0 | read | partial | no seeking |\n"), "{text}");
        assert!(text.contains("| 1 | write | none |  |\n"), "{text}");
        assert!(text.contains("| 424 | pidfd_send_signal | full |  |\n"), "{text}");
    }

    #[test]
    fn list_has_what_the_kernel_has_in_order() {
        let long = "x".repeat(80);
        let source = format!("{TABLE_SOURCE}// none: {long}\n5 fstat => a::c();\n");
        let text = list(&table(&source).unwrap());
        let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("pub")).collect();
        assert_eq!(lines[1], "    (0, Support::Partial(\"no seeking\")),");
        assert_eq!(
            lines[2..5],
            ["    (", "        5,", &format!("        Support::None({long:?}),")]
        );
        assert_eq!(lines[6], "    (424, Support::Full),");
        assert_eq!(lines[7], "];");
    }

    #[test]
    fn note_without_a_call_is_an_error() {
        let error = table("// none: nothing\nfn other() {}\n").unwrap_err();
        assert!(error.to_string().contains("no call follows"), "{error}");
    }

    #[test]
    fn replace_keeps_other_sections() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n<!-- begin: x -->\n{END}\n");
        let new = replace(&page, "new").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n\nnew\n{END}\nb\n<!-- begin: x -->\n{END}\n"));
        assert_eq!(replace(&new, "new").unwrap(), new);
        assert!(replace("nothing", "new").is_err());
    }
}
