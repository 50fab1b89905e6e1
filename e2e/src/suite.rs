// SPDX-License-Identifier: Apache-2.0
//! Runs cases, prints one line for each, and counts.

use std::{
    fmt,
    io::{IsTerminal as _, stdout},
    time::Instant,
};

use anyhow::Result;

/// A set of cases under one name.
#[derive(Debug)]
pub(crate) struct Suite {
    name: String,
    words: Vec<String>,
    passed: u32,
    failed: Vec<String>,
    skipped: u32,
    on_failure: OnFailure,
}

/// What is done after a case that failed, so that the next ones do not find its leavings.
pub(crate) struct OnFailure(pub(crate) Box<dyn Fn()>);

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFailure")
    }
}

impl Suite {
    /// A suite that runs the cases whose names contain one of the words, or all if there are none.
    pub(crate) fn new(name: &str, words: Vec<String>) -> Self {
        let on_failure = OnFailure(Box::new(|| {}));
        Self { name: name.to_owned(), words, passed: 0, failed: Vec::new(), skipped: 0, on_failure }
    }

    /// Sets what is done after a case that failed.
    pub(crate) fn on_failure(&mut self, clean_up_fn: impl Fn() + 'static) {
        self.on_failure = OnFailure(Box::new(clean_up_fn));
    }

    /// Says whether a case is among those to run.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| case.contains(word.as_str()))
    }

    /// Runs a case and prints how it went.
    pub(crate) fn case(&mut self, case: &str, run_fn: impl FnOnce() -> Result<()>) {
        if !self.wants(case) {
            return;
        }
        let start = Instant::now();
        let outcome = run_fn();
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => self.pass(case, &format!("{seconds:.2} s")),
            Err(error) => {
                self.fail(case, &format!("{error:#}"));
                (self.on_failure.0)();
            }
        }
    }

    /// Counts a case that passed.
    pub(crate) fn pass(&mut self, case: &str, note: &str) {
        self.passed += 1;
        println!("{} {case} ({note})", paint("ok  ", "32"));
    }

    /// Counts a case that failed.
    pub(crate) fn fail(&mut self, case: &str, why: &str) {
        self.failed.push(case.to_owned());
        println!("{} {case}: {why}", paint("FAIL", "31"));
    }

    /// Counts a case that was not run, and says why.
    pub(crate) fn skip(&mut self, case: &str, why: &str) {
        if self.wants(case) {
            self.skipped += 1;
            println!("{} {case}: {why}", paint("skip", "33"));
        }
    }

    /// Prints the totals; says whether nothing failed and something ran.
    pub(crate) fn finish(self) -> bool {
        let Self { name, passed, failed, skipped, .. } = &self;
        if !failed.is_empty() {
            println!("failed: {}", failed.join(", "));
        }
        println!("suite {name}: {passed} passed, {} failed, {skipped} skipped", failed.len());
        failed.is_empty() && *passed > 0
    }
}

/// Counts a whole suite as skipped, loudly.
pub(crate) fn skip_all(name: &str, why: &str) -> bool {
    println!("{}", paint(&format!("SKIPPED: {name}: {why}"), "33"));
    println!("suite {name}: 0 passed, 0 failed, 1 skipped");
    true
}

/// Colours a text, on a terminal.
pub(crate) fn paint(text: &str, code: &str) -> String {
    if stdout().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn suite_counts_and_selects() {
        let mut suite = Suite::new("x", vec!["a".to_owned()]);
        suite.case("ab", || Ok(()));
        suite.case("c", || bail!("not wanted"));
        assert_eq!((suite.passed, suite.failed.len()), (1, 0));
        suite.case("a", || bail!("no"));
        suite.skip("a2", "why");
        assert_eq!((suite.failed.len(), suite.skipped), (1, 1));
        assert!(!suite.finish());
    }
}
