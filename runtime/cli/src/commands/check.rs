// SPDX-License-Identifier: Apache-2.0
//! `check`: what a program or an image needs that is not there.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use trine_check::{CheckError, Checker, Files, HostFiles, ImageFiles, Report, report::Call};

use crate::{
    args::CheckArgs,
    context::Context,
    failure::{self, WithRemedy as _},
    images::{self, Images},
    output,
};

/// Exit status if something is lacking.
const LACKING: u8 = 1;
/// Programs that are named before the rest is counted.
const NAMED_MAX: usize = 4;

/// `trine check`; returns the exit status.
///
/// # Errors
/// If there is no such image or program, or it cannot be read.
pub(crate) fn check(context: &Context, arguments: &CheckArgs) -> Result<u8> {
    let subject = &arguments.subject;
    let report = if is_program(subject) {
        if !arguments.programs.is_empty() {
            bail!("{} is a program: --program is for images", subject.display());
        }
        programs(Checker::new(HostFiles), std::slice::from_ref(subject))?
    } else {
        let files = ImageFiles::open(image(context, subject)?)?;
        let mut checker = Checker::new(files);
        if arguments.programs.is_empty() {
            checker.image()?;
            checker.finish()
        } else {
            programs(checker, &arguments.programs)?
        }
    };
    if arguments.json {
        output::print_json(&report)?;
    } else {
        output::print(&describe(&report))?;
    }
    Ok(if report.is_good() { 0 } else { LACKING })
}

fn programs<F: Files>(mut checker: Checker<F>, paths: &[PathBuf]) -> Result<Report> {
    for path in paths {
        checker.program(path)?;
    }
    Ok(checker.finish())
}

/// Whether a path is a file that Linux would execute.
fn is_program(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && (head == *b"\x7fELF" || head.starts_with(b"#!"))
}

/// Finds or makes the image.
fn image(context: &Context, subject: &Path) -> Result<File> {
    let images = Images::open(&context.images)?;
    if let Some(name) = subject.to_str()
        && let Some(image) = images.find(name)?
    {
        return Ok(image.file);
    }
    if !subject.exists() {
        return Err(CheckError::NotFound { path: subject.to_owned() })
            .with_context(|| format!("no image {:?}", subject.display().to_string()))
            .remedy("`trine image ls` lists the images; else give a path");
    }
    let image = if subject.is_dir() && !images::is_layout(subject) {
        images.of_directory(subject)?
    } else {
        images.import(subject, None)?
    };
    Ok(image.file)
}

/// The report for people.
fn describe(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        // Paths of an image may be anything.
        text.push_str(&failure::flatten(&words));
        text.push('\n');
    };
    for refusal in &report.refused {
        line(format!("refused: {}: {}", refusal.path.display(), refusal.reason));
    }
    for (word, calls) in [("lacking", &report.lacking), ("in part", &report.partial)] {
        for call in calls {
            line(format!("{word}: {}", describe_call(call, report.programs)));
        }
    }
    for note in &report.notes {
        line(format!("note: {note}"));
    }
    let sites: usize = report.undetermined.iter().map(|code| code.sites).sum();
    if sites > 0 {
        let files: BTreeSet<_> = report.undetermined.iter().map(|code| code.path.clone()).collect();
        line(format!("note: the calls of {sites} places could not be told, in {}", list(&files)));
    }
    let verdict = if report.is_good() { "nothing is lacking" } else { "something is lacking" };
    line(format!(
        "{}: {verdict} ({} calls in full, {} in part, {} lacking)",
        count(report.programs, "program"),
        report.full.len(),
        report.partial.len(),
        report.lacking.len()
    ));
    text
}

fn describe_call(call: &Call, programs: usize) -> String {
    let text = format!("{} ({}): {}", call.name, call.number, call.missing);
    // With one program, it is that one.
    if programs == 1 { text } else { format!("{text}; {}", list(&call.needed_by)) }
}

/// Some paths, and how many more.
fn list(paths: &BTreeSet<PathBuf>) -> String {
    let shown: Vec<_> =
        paths.iter().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
    match paths.len().saturating_sub(NAMED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
