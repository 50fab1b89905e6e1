// SPDX-License-Identifier: Apache-2.0
//! Path patterns.
//!
//! | pattern | matches |
//! | --- | --- |
//! | `?` | one byte that is not `/` |
//! | `*` | any bytes that are not `/` |
//! | `**` as a component | any components, also none |
//! | anything else | itself |

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    components: Vec<Component>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Component {
    /// Any number of components.
    Any,
    /// One component: bytes, `?` and `*`.
    One(Vec<u8>),
}

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// It would match nothing.
    #[error("pattern {0:?} is not an absolute path")]
    NotAbsolute(String),
    /// `**` is only a whole component.
    #[error("pattern {0:?} has \"**\" inside a component; write \"/**\" or \"/**/\"")]
    Stars(String),
    /// Paths are compared without them.
    #[error("pattern {0:?} has a \".\" or \"..\" component")]
    Dots(String),
}

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`GlobError`].
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        if !pattern.starts_with('/') {
            return Err(GlobError::NotAbsolute(pattern.to_owned()));
        }
        let mut components = Vec::new();
        for component in pattern.split('/').filter(|component| !component.is_empty()) {
            match component {
                "**" => components.push(Component::Any),
                "." | ".." => return Err(GlobError::Dots(pattern.to_owned())),
                text if text.contains("**") => return Err(GlobError::Stars(pattern.to_owned())),
                text => components.push(Component::One(text.as_bytes().to_vec())),
            }
        }
        Ok(Self { components })
    }

    /// A path that matches.
    pub fn example(&self) -> Vec<u8> {
        let mut path = Vec::new();
        for component in &self.components {
            path.push(b'/');
            match component {
                Component::Any => path.push(b'x'),
                Component::One(pattern) => path.extend(example(pattern)),
            }
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    /// Whether an absolute path without `.`, `..` and empty components matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> =
            path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
        matches_all(&self.components, &names)
    }
}

/// Matches with one point to return to: the last `**`, since an earlier one can take no more than
/// it has.
fn matches_all(pattern: &[Component], names: &[&[u8]]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut back = None;
    loop {
        match pattern.get(p) {
            Some(Component::Any) => {
                back = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(Component::One(text)) if n < names.len() && matches_one(text, names[n]) => {
                p += 1;
                n += 1;
                continue;
            }
            None if n == names.len() => return true,
            _ => {}
        }
        match back {
            Some((after, from)) if from < names.len() => {
                (p, n) = (after, from + 1);
                back = Some((after, from + 1));
            }
            _ => return false,
        }
    }
}

/// A name that matches a pattern of one component.
pub(crate) fn example(pattern: &[u8]) -> Vec<u8> {
    pattern.iter().map(|byte| if matches!(byte, b'*' | b'?') { b'x' } else { *byte }).collect()
}

/// Matches one component, or a name with `*` and `?`.
pub(crate) fn matches_one(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut back = None;
    loop {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(&byte) if n < name.len() && (byte == b'?' || byte == name[n]) => {
                p += 1;
                n += 1;
                continue;
            }
            None if n == name.len() => return true,
            _ => {}
        }
        match back {
            Some((after, from)) if from < name.len() => {
                (p, n) = (after, from + 1);
                back = Some((after, from + 1));
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_whole_components() {
        let cases = [
            ("/data", "/data", true),
            ("/data", "/data/x", false),
            ("/data/**", "/data", true),
            ("/data/**", "/data/a/b", true),
            ("/data/*", "/data/a/b", false),
            ("/data/*.key", "/data/a.key", true),
            ("/data/**/*.key", "/data/x/y/a.key", true),
            ("/data/**/*.key", "/data/a.key", true),
            ("/**/b/**/d", "/a/b/b/c/d", true),
            ("/**/b/**/d", "/a/b/c", false),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", false),
            ("/**", "/", true),
        ];
        for (pattern, path, expected) in cases {
            let glob = Glob::new(pattern).expect(pattern);
            assert_eq!(glob.matches(path.as_bytes()), expected, "{pattern} {path}");
        }
        for bad in ["data", "/a/../b", "/a**"] {
            assert!(Glob::new(bad).is_err(), "{bad}");
        }
    }

    /// What the matcher must do, by trying everything.
    fn naive(pattern: &[Component], names: &[&[u8]]) -> bool {
        match pattern.split_first() {
            None => names.is_empty(),
            Some((Component::Any, rest)) => {
                (0..=names.len()).any(|skip| naive(rest, &names[skip..]))
            }
            Some((Component::One(text), rest)) => {
                !names.is_empty() && naive_one(text, names[0]) && naive(rest, &names[1..])
            }
        }
    }

    fn naive_one(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|skip| naive_one(rest, &name[skip..])),
            Some((byte, rest)) => {
                !name.is_empty()
                    && (*byte == b'?' || *byte == name[0])
                    && naive_one(rest, &name[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn matcher_is_as_the_naive_one(
            pattern in "(/(\\*\\*|[ab*?]{1,3})){0,5}",
            path in "(/[ab]{1,3}){0,6}",
        ) {
            if let Ok(glob) = Glob::new(&pattern) {
                let names: Vec<&[u8]> =
                    path.as_bytes().split(|&b| b == b'/').filter(|n| !n.is_empty()).collect();
                prop_assert_eq!(glob.matches(path.as_bytes()), naive(&glob.components, &names));
            }
        }
    }
}
