// SPDX-License-Identifier: Apache-2.0
//! The two forms in which an OCI spec names a cgroup.

use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Turns `/a/b` or `slice:prefix:name` into a path below the root of the cgroup tree.
pub(super) fn parse(name: &str) -> Result<PathBuf, Error> {
    let refuse = |reason: &str| Error::Invalid {
        what: format!("cgroup {name:?}"),
        reason: format!("{reason}; use a path such as /pods/x, or slice:prefix:name"),
    };
    let relative = match name.split(':').collect::<Vec<_>>()[..] {
        [path] => PathBuf::from(path.trim_start_matches('/')),
        [slice, prefix, scope] => {
            let unit = match (prefix, scope.ends_with(".slice")) {
                (_, true) => scope.to_owned(),
                ("", false) => format!("{scope}.scope"),
                (prefix, false) => format!("{prefix}-{scope}.scope"),
            };
            if scope.is_empty() || scope.contains('/') || prefix.contains('/') {
                return Err(refuse("its unit name is empty or has a slash"));
            }
            expand_slice(slice).ok_or_else(|| refuse("its slice is not a unit name"))?.join(unit)
        }
        _ => return Err(refuse("it is neither a path nor three parts")),
    };
    if relative.as_os_str().is_empty() {
        return Err(refuse("it is the root of the tree"));
    }
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(refuse("it has a part that is not a name"));
    }
    if name.contains('\0') {
        return Err(refuse("it has a NUL byte"));
    }
    Ok(relative)
}

/// `a-b.slice` lies in `a.slice`, as in systemd.slice(5).
fn expand_slice(slice: &str) -> Option<PathBuf> {
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    if stem.is_empty() || stem.contains('/') || stem.split('-').any(str::is_empty) {
        return None;
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    let names = ends.filter_map(|end| stem.get(..end));
    Some(names.fold(PathBuf::new(), |path, name| path.join(Path::new(&format!("{name}.slice")))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_both_forms_returns_the_path() {
        let cases = [
            ("/default/x", "default/x"),
            ("x", "x"),
            ("system.slice:trine:c1", "system.slice/trine-c1.scope"),
            (":trine:c1", "system.slice/trine-c1.scope"),
            ("-.slice:trine:c1", "trine-c1.scope"),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/\
                 cri-containerd-abc.scope",
            ),
            ("a.slice::b.slice", "a.slice/b.slice"),
        ];
        for (name, path) in cases {
            assert_eq!(parse(name).expect(name), Path::new(path), "{name}");
        }
    }

    #[test]
    fn parse_what_would_leave_the_tree_is_refused() {
        for name in [
            "",
            "/",
            "/a/../b",
            "..",
            "a:b",
            "a:b:c:d",
            "x:y:z",
            "a--b.slice:p:n",
            "a.slice:p:",
            "../x.slice:p:n",
            "a.slice:p/..:n",
            "a.slice:p:../../n",
            "/a\0b",
        ] {
            assert!(matches!(parse(name), Err(Error::Invalid { .. })), "{name:?}");
        }
    }
}
