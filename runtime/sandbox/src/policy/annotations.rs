// SPDX-License-Identifier: Apache-2.0
//! Annotations that narrow a policy.

use std::collections::HashMap;

use trine_io::protocol::Narrowing;

use super::check_narrowing;
use crate::Error;

/// What the names of all annotations of the policy begin with.
const PREFIX: &str = "dev.trine.policy/";
/// Names of presets, with commas between them.
const PRESETS: &str = "dev.trine.policy/presets";
/// The text of a policy file.
const RULES: &str = "dev.trine.policy/rules";
/// Longest annotation, in bytes.
const BYTES_MAX: usize = 64 << 10;

/// Reads the annotations of a pod or container that narrow its policy; `None` if it has none.
///
/// # Errors
/// [`Error::Invalid`] if one is unknown, or would do more than narrow: what is not understood must
/// not be taken for permission.
pub fn narrowing(annotations: &HashMap<String, String>) -> Result<Option<Narrowing>, Error> {
    let mut narrowing = None;
    for (name, value) in annotations.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let refuse = |reason: String| Error::Invalid { what: format!("annotation {name}"), reason };
        if value.len() > BYTES_MAX {
            return Err(refuse(format!("it is longer than {BYTES_MAX} bytes")));
        }
        let made: &mut Narrowing = narrowing.get_or_insert_default();
        match &**name {
            PRESETS => {
                let presets = value.split(',').map(str::trim).filter(|preset| !preset.is_empty());
                made.presets = presets.map(str::to_owned).collect();
            }
            RULES => made.text = value.clone(),
            _ => return Err(refuse(format!("there are only {PRESETS} and {RULES}"))),
        }
    }
    if let Some(narrowing) = &narrowing {
        check_narrowing(narrowing)?;
    }
    Ok(narrowing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[(&str, &str)]) -> Result<Option<Narrowing>, Error> {
        narrowing(&list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn narrowing_reads_presets_and_rules_and_passes_over_others() {
        assert_eq!(of(&[("io.kubernetes.cri.container-type", "sandbox")]).expect("none"), None);
        let rules = "version = 1\n[[rule]]\ncalls = [\"net-in\"]\naction = \"block\"";
        let made = of(&[(PRESETS, "net-none, fs-read-only"), (RULES, rules)]).expect("valid");
        let made = made.expect("annotations");
        assert_eq!((made.presets.len(), &*made.text), (2, rules));
    }

    #[test]
    fn narrowing_refuses_what_it_does_not_know_and_what_would_widen() {
        let rewrite = "version = 1\n[[rule]]\ncalls = [\"openat\"]\naction = \"intercept\"\n\
                       rewrite = { path = \"/data/x\" }";
        let ask = "version = 1\n[[rule]]\ncalls = [\"net\"]\naction = \"intercept\"\n\
                   ask = { socket = \"/run/x\" }";
        for (name, value, expected) in [
            ("dev.trine.policy/preset", "net-none", "there are only"),
            (PRESETS, "net-nothing", "net-nothing"),
            (RULES, "version = 2", "annotation:1: version 2"),
            (RULES, rewrite, "annotation:2: rule \"rule-1\" intercepts"),
            (RULES, ask, "annotation:2: rule \"rule-1\" intercepts"),
            (RULES, &"#".repeat(BYTES_MAX + 1), "longer than"),
        ] {
            let error = of(&[(name, value)]).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
