// SPDX-License-Identifier: Apache-2.0
//! Wrong command lines: one line on stderr, exit status 2.

use std::{io::Write as _, process::ExitCode};

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::failure;

const WRONG_USAGE: u8 = 2;

/// Prints help if that was asked for, else what is wrong with the command line.
pub(crate) fn report(error: &Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe is not worth a word.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    print(&one_line(error));
    ExitCode::from(WRONG_USAGE)
}

/// Says that there is no command; returns the exit status.
pub(crate) fn missing_command() -> u8 {
    print("no command given: see `trine --help`");
    WRONG_USAGE
}

fn print(line: &str) {
    // If stderr is gone, the exit status has to do.
    let _ = writeln!(std::io::stderr(), "trine: {line}");
}

/// Takes the first paragraph of clap's message, and adds what it suggests.
fn one_line(error: &Error) -> String {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) {
        return format!("a command is missing: see `{}`", help_command(error, &text));
    }
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let what = failure::flatten(paragraph.strip_prefix("error: ").unwrap_or(paragraph));
    let suggestion = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand]
        .into_iter()
        .find_map(|kind| match error.get(kind)? {
            ContextValue::String(suggested) => Some(suggested.clone()),
            ContextValue::Strings(suggested) => suggested.first().cloned(),
            _ => None,
        });
    match suggestion {
        Some(suggested) => format!("{what}: did you mean `{suggested}`?"),
        None => format!("{what}: see `{}`", help_command(error, &text)),
    }
}

/// Finds the command whose help explains the error, from the usage that clap prints with it.
fn help_command(error: &Error, text: &str) -> String {
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: "));
    let usage = usage.map(str::to_owned).or_else(|| match error.get(ContextKind::Usage)? {
        ContextValue::StyledStr(usage) => {
            usage.to_string().lines().next()?.strip_prefix("Usage: ").map(str::to_owned)
        }
        _ => None,
    });
    let words = usage.unwrap_or_else(|| "trine".to_owned());
    let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
    let command: Vec<_> = words.split(' ').take_while(is_word).collect();
    format!("{} --help", command.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn line(arguments: &[&str]) -> String {
        one_line(&Cli::try_parse_from(arguments).expect_err("wrong usage"))
    }

    #[test]
    fn one_line_names_the_argument_and_the_help() {
        assert_eq!(
            line(&["trine", "run", "--bogus", "x"]),
            "unexpected argument '--bogus' found: see `trine run --help`"
        );
        assert_eq!(
            line(&["trine", "delete", "--forc", "x"]),
            "unexpected argument '--forc' found: did you mean `--force`?"
        );
        assert!(line(&["trine", "strat", "x"]).contains("'strat'"));
        assert_eq!(line(&["trine", "image"]), "a command is missing: see `trine image --help`");
        let missing = line(&["trine", "start"]);
        assert!(missing.contains("<ID>") && missing.ends_with("see `trine start --help`"));
        let bad = line(&["trine", "run", "--timeout", "0", "x"]);
        assert!(bad.contains("'0'") && bad.contains("1 or more"), "{bad}");
    }

    #[test]
    fn one_line_never_has_two() {
        for arguments in [
            &["trine", "frobnicate"][..],
            &["trine", "run"],
            &["trine", "create", "a", "b"],
            &["trine", "--log-format", "xml", "list"],
            &["trine", "exec"],
            &["trine", "run", "--cpus", "many", "x"],
        ] {
            let line = line(arguments);
            assert!(!line.contains('\n') && !line.is_empty(), "{arguments:?}: {line}");
        }
    }
}
