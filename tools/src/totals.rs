// SPDX-License-Identifier: Apache-2.0
//! The sum of what several test programs counted.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Prints `N passed, N failed, N skipped`; says whether something passed and nothing failed.
pub(crate) fn print(logs: &[PathBuf]) -> Result<bool> {
    let mut sum = Counts::default();
    for log in logs {
        let text = fs::read(log).with_context(|| format!("read {}", log.display()))?;
        let counts = count(&String::from_utf8_lossy(&text));
        sum.passed += counts.passed;
        sum.failed += counts.failed;
        sum.skipped += counts.skipped;
    }
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    Ok(sum.failed == 0 && sum.passed > 0)
}

/// Adds up the lines `test result: ok. N passed; N failed; N ignored; ...` of the Rust test harness
/// and `suite NAME: N passed, N failed, N skipped` of ours.
fn count(log: &str) -> Counts {
    let mut sum = Counts::default();
    for line in log.lines() {
        let is_result = line.starts_with("test result: ") || line.starts_with("suite ");
        if !is_result {
            continue;
        }
        let words: Vec<&str> =
            line.split([' ', ';', ',', '.']).filter(|it| !it.is_empty()).collect();
        for pair in words.windows(2) {
            let number = pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed" => sum.passed += number,
                "failed" => sum.failed += number,
                "ignored" | "skipped" => sum.skipped += number,
                _ => {}
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_both_harnesses_are_added() {
        let log = "running 3 tests\ntest a ... ok\n\
                   test result: ok. 2 passed; 1 failed; 4 ignored; 0 measured; 9 filtered out\n\
                   suite e2e-ctr: 10 passed, 0 failed, 5 skipped\n\
                   7 passed, 0 failed, 0 skipped\n";
        assert_eq!(count(log), Counts { passed: 12, failed: 1, skipped: 9 });
    }
}
