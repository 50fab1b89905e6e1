// SPDX-License-Identifier: Apache-2.0
//! What a VM uses, from the cgroup of its VMM, in the message that containerd expects on this kind
//! of host.  Another type of message would make the statistics of the whole node fail.

mod v1;
mod v2;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use containerd_shim_protos::protobuf::{Message, well_known_types::any::Any};

/// Collects the figures of cgroup directories, by controller; "" for cgroup v2.  `None` if there
/// are none.
pub fn collect(paths: &[(String, PathBuf)]) -> Option<Any> {
    let (_, first) = paths.first()?;
    if !first.is_dir() {
        return None;
    }
    if let Some((_, dir)) = paths.iter().find(|(controller, _)| controller.is_empty()) {
        return Some(any("io.containerd.cgroups.v2.Metrics", &v2::metrics(dir)));
    }
    let paths: HashMap<_, _> =
        paths.iter().map(|(controller, path)| (controller.as_str(), path.as_path())).collect();
    Some(any("io.containerd.cgroups.v1.Metrics", &v1::metrics(&paths)))
}

fn any(name: &str, message: &impl Message) -> Any {
    let value = message.write_to_bytes().expect("a message without required fields encodes");
    Any { type_url: name.to_owned(), value, ..Any::default() }
}

/// Reads a file with one number; "max" is the largest there is; `None` if it is not there.
fn number(dir: &Path, file: &str) -> Option<u64> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Reads a file of lines with a key and a number.
fn table(dir: &Path, file: &str) -> Table {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let rows = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    });
    Table(rows.collect())
}

/// Keys and numbers; a key that is not there is 0.
struct Table(HashMap<String, u64>);

impl Table {
    fn get(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collect_nothing_where_there_is_no_cgroup() {
        assert_eq!(collect(&[]), None);
        let gone = tempfile::tempdir().expect("a folder").path().join("gone");
        assert_eq!(collect(&[("memory".to_owned(), gone)]), None);
    }

    #[test]
    fn collect_names_the_message_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        for (controller, name) in
            [("", "io.containerd.cgroups.v2.Metrics"), ("cpu", "io.containerd.cgroups.v1.Metrics")]
        {
            let any = collect(&[(controller.to_owned(), dir.path().to_owned())]).unwrap();
            assert_eq!(any.type_url, name);
        }
    }
}
