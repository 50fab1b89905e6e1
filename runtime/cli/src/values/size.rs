// SPDX-License-Identifier: Apache-2.0
//! Amounts of memory.

use anyhow::{Context as _, Result, bail};

/// Parses a number of bytes with an optional unit: `b`, `k`, `m`, `g` or `t`, in powers of 1024,
/// upper or lower case, with an optional `b` or `ib` after it.
///
/// # Errors
/// If it is not such a number, or does not fit.
pub(crate) fn parse_bytes(text: &str) -> Result<u64> {
    const HINT: &str = "give a whole number with a unit, such as 512m or 2g";
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    if digits.is_empty() {
        bail!("size {text:?} is not a number: {HINT}");
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => bail!("size {text:?} has unknown unit {unit:?}: {HINT}"),
    };
    let number: u64 = digits.parse().ok().with_context(|| too_large(text))?;
    number.checked_mul(1 << shift).with_context(|| too_large(text))
}

fn too_large(text: &str) -> String {
    format!("size {text:?} is too large: give less than 16 exbibytes")
}

/// Formats bytes with one decimal and a binary unit.
pub(crate) fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_bytes_with_units_multiplies() {
        for (text, bytes) in [
            ("0", 0),
            ("7", 7),
            ("7b", 7),
            ("1k", 1 << 10),
            ("256m", 256 << 20),
            ("256M", 256 << 20),
            ("256MiB", 256 << 20),
            ("2g", 2 << 30),
            ("1TB", 1 << 40),
        ] {
            assert_eq!(parse_bytes(text).expect(text), bytes);
        }
    }

    #[test]
    fn parse_bytes_of_nonsense_names_it() {
        for text in ["", "m", "-1", "1.5g", "12x", "99999999999999999999", "18014398509481984k"] {
            let error = parse_bytes(text).expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn format_bytes_picks_the_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 << 10, "1.5 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 30, "3.0 GiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}
