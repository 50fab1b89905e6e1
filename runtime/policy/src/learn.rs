// SPDX-License-Identifier: Apache-2.0
//! The smallest policy that allows what a log has.
//!
//! Everything that was accepted is allowed, by what it was, and nothing else: paths and addresses
//! are those of the log.  One exception: what was made and written may be truncated.  Addresses with DNS names are allowed by name.  Directories of which many
//! files were used can be allowed whole ([`Learnt::policy`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
};

use crate::{CallKind, audit::Line};

/// What a call was about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    /// Nothing, as for `socket`.
    Nothing,
    Path(String),
    /// A DNS name, and the port.
    Name(String, Option<u16>),
    Address(std::net::IpAddr, Option<u16>),
}

/// What was learnt from a log.
#[derive(Clone, Debug, Default)]
pub struct Learnt {
    /// For each object, the calls about it.
    calls: BTreeMap<Object, BTreeSet<CallKind>>,
    /// Lines of calls.
    pub lines: usize,
    /// Lines that were no calls, or calls that were not accepted.
    pub passed_over: usize,
    /// Lines whose path is not text or has `*` or `?` in it: no pattern stands for it alone.
    pub unwritable: usize,
}

impl Learnt {
    /// Takes a line of a log; with `with_denied` also of calls that were blocked.
    pub fn take(&mut self, line: &str, with_denied: bool) {
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            self.passed_over += usize::from(!line.trim().is_empty());
            return;
        };
        let kind = match (&*line.call, line.writes) {
            ("openat", true) => Some(CallKind::OpenWrite),
            ("openat", false) => Some(CallKind::OpenRead),
            (name, _) => CallKind::ALL.iter().copied().find(|kind| kind.name() == name),
        };
        let Some(kind) = kind.filter(|_| with_denied || line.action != "block") else {
            self.passed_over += 1;
            return;
        };
        if line.path.as_deref().is_some_and(|path| path.contains(['\u{fffd}', '*', '?'])) {
            self.unwritable += 1;
            return;
        }
        self.lines += 1;
        for object in objects(kind, &line) {
            self.calls.entry(object).or_default().insert(kind);
        }
    }

    /// The policy file.  Where more than `wildcards` names of one directory were used in the same
    /// way, the whole directory may be; `None`: never.
    pub fn policy(&self, wildcards: Option<usize>) -> String {
        let mut by_calls: BTreeMap<BTreeSet<CallKind>, Vec<&Object>> = BTreeMap::new();
        for (object, calls) in &self.calls {
            let mut calls = calls.clone();
            // The next time the file is there, and making it is emptying it.
            if calls.contains(&CallKind::Create) && calls.contains(&CallKind::OpenWrite) {
                calls.insert(CallKind::Truncate);
            }
            by_calls.entry(calls).or_default().push(object);
        }
        let mut text = "version = 1\ndefault = \"block\"\n".to_owned();
        for (calls, objects) in by_calls {
            let calls = words(&calls);
            let paths = paths(&objects, wildcards);
            if objects.contains(&&Object::Nothing) {
                rule(&mut text, &calls, &[]);
            }
            if !paths.is_empty() {
                rule(&mut text, &calls, &[("paths", paths)]);
            }
            for (port, names) in by_port(&objects, |object| match object {
                Object::Name(name, port) => Some((quote(name), *port)),
                _ => None,
            }) {
                rule(&mut text, &calls, &[("names", names), ("ports", port)]);
            }
            for (port, addresses) in by_port(&objects, |object| match object {
                Object::Address(address, port) => Some((quote(&address.to_string()), *port)),
                _ => None,
            }) {
                rule(&mut text, &calls, &[("addresses", addresses), ("ports", port)]);
            }
        }
        text
    }
}

fn objects(kind: CallKind, line: &Line) -> Vec<Object> {
    if let Some(path) = &line.path {
        return vec![Object::Path(path.clone())];
    }
    let Some(address) = line.address.as_ref().and_then(|text| text.parse::<SocketAddr>().ok())
    else {
        return vec![Object::Nothing];
    };
    // The port of a peer that connects says nothing, nor one that the host chooses.
    let chosen = kind == CallKind::Accept || (kind == CallKind::Bind && address.port() == 0);
    let port = (!chosen).then(|| address.port());
    match kind {
        CallKind::Connect | CallKind::SendTo if !line.names.is_empty() => {
            line.names.iter().map(|name| Object::Name(name.clone(), port)).collect()
        }
        _ => vec![Object::Address(address.ip(), port)],
    }
}

/// Calls by name.
fn words(calls: &BTreeSet<CallKind>) -> Vec<String> {
    let both = calls.contains(&CallKind::OpenRead) && calls.contains(&CallKind::OpenWrite);
    let word = |kind: &CallKind| match kind {
        CallKind::OpenRead if !both => Some(quote("openat-read")),
        CallKind::OpenWrite if !both => Some(quote("openat-write")),
        CallKind::OpenWrite => None,
        kind => Some(quote(kind.name())),
    };
    calls.iter().filter_map(word).collect()
}

/// The paths of a rule, with directories in place of many of their files.
fn paths(objects: &[&Object], wildcards: Option<usize>) -> Vec<String> {
    let mut by_directory: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for object in objects {
        if let Object::Path(path) = object {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            by_directory.entry(directory).or_default().push(path);
        }
    }
    let mut paths = Vec::new();
    for (directory, files) in by_directory {
        if wildcards.is_some_and(|most| files.len() > most) {
            paths.push(quote(&format!("{directory}/*")));
        } else {
            paths.extend(files.iter().map(|path| quote(path)));
        }
    }
    paths
}

/// Groups what `part_fn` picks by the sets of ports that they are used with.
fn by_port(
    objects: &[&Object],
    part_fn: impl Fn(&Object) -> Option<(String, Option<u16>)>,
) -> Vec<(Vec<String>, Vec<String>)> {
    let mut ports: BTreeMap<String, BTreeSet<Option<u16>>> = BTreeMap::new();
    for (text, port) in objects.iter().filter_map(|object| part_fn(object)) {
        ports.entry(text).or_default().insert(port);
    }
    let mut groups: BTreeMap<BTreeSet<Option<u16>>, Vec<String>> = BTreeMap::new();
    for (text, ports) in ports {
        groups.entry(ports).or_default().push(text);
    }
    let written = |ports: BTreeSet<Option<u16>>| match ports.contains(&None) {
        true => Vec::new(),
        false => ports.into_iter().flatten().map(|port| port.to_string()).collect(),
    };
    groups.into_iter().map(|(ports, texts)| (written(ports), texts)).collect()
}

fn rule(text: &mut String, calls: &[String], lists: &[(&str, Vec<String>)]) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n[[rule]]\ncalls = [{}]", calls.join(", "));
    for (key, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
        let _ = match list.len() {
            1..=3 => writeln!(text, "{key} = [{}]", list.join(", ")),
            _ => writeln!(text, "{key} = [\n    {},\n]", list.join(",\n    ")),
        };
    }
    text.push_str("action = \"accept\"\n");
}

/// A TOML string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Call, Engine, Policy, audit::Audit};

    fn learn(calls: &[Call<'_>]) -> Learnt {
        let engine = Engine::new(&Policy::accept_all());
        let mut audit = Audit::recording("pod");
        let mut learnt = Learnt::default();
        for call in calls {
            if let Some(line) = audit.line(call, &engine.decide(call)) {
                learnt.take(&line, false);
            }
        }
        learnt
    }

    fn file(kind: CallKind, path: &str) -> Call<'_> {
        Call { path: Some(path.as_bytes()), ..Call::new(kind, "c") }
    }

    fn net<'a>(kind: CallKind, address: &str, names: &'a [String]) -> Call<'a> {
        Call { address: Some(address.parse().expect(address)), names, ..Call::new(kind, "c") }
    }

    fn allows(text: &str, call: &Call<'_>) -> bool {
        let engine = Engine::new(&Policy::parse("learnt", text).expect(text));
        engine.decide(call).action == Action::Accept
    }

    #[test]
    fn policy_allows_what_was_done_and_nothing_else() {
        let names = ["api.example.com".to_owned()];
        let done = [
            file(CallKind::Stat, "/data/a \"b\""),
            file(CallKind::OpenRead, "/data/a \"b\""),
            file(CallKind::OpenWrite, "/data/log"),
            Call::new(CallKind::Socket, "c"),
            net(CallKind::Connect, "93.184.216.34:443", &names),
            net(CallKind::Connect, "10.0.0.1:53", &[]),
            net(CallKind::Bind, "0.0.0.0:8080", &[]),
            net(CallKind::Accept, "10.0.0.9:40000", &[]),
        ];
        let text = learn(&done).policy(None);
        for call in &done {
            assert!(allows(&text, call), "{call:?} in {text}");
        }
        for other in [
            file(CallKind::OpenWrite, "/data/a \"b\""),
            file(CallKind::OpenRead, "/data/log"),
            file(CallKind::OpenRead, "/data/other"),
            file(CallKind::Unlink, "/data/log"),
            net(CallKind::Connect, "93.184.216.34:443", &[]),
            net(CallKind::Connect, "93.184.216.34:80", &names),
            net(CallKind::Connect, "10.0.0.2:53", &[]),
            net(CallKind::Bind, "0.0.0.0:8081", &[]),
            net(CallKind::Accept, "10.0.0.8:40000", &[]),
        ] {
            assert!(!allows(&text, &other), "{other:?} in {text}");
        }
        // Another address of the same name, and another port of the same peer.
        assert!(allows(&text, &net(CallKind::Connect, "93.184.216.35:443", &names)));
        assert!(allows(&text, &net(CallKind::Accept, "10.0.0.9:1", &[])));
    }

    #[test]
    fn policy_takes_whole_directories_only_if_told_to() {
        let paths: Vec<_> = (0..20).map(|number| format!("/data/d/{number}")).collect();
        let calls: Vec<_> = paths.iter().map(|path| file(CallKind::OpenRead, path)).collect();
        let learnt = learn(&calls);
        let other = file(CallKind::OpenRead, "/data/d/20");
        assert!(!allows(&learnt.policy(None), &other));
        let text = learnt.policy(Some(16));
        assert!(allows(&text, &other) && text.contains("/data/d/*"));
        assert!(!allows(&text, &file(CallKind::OpenRead, "/data/d/20/x")));
        assert!(!allows(&text, &file(CallKind::OpenWrite, "/data/d/20")));
    }

    #[test]
    fn take_passes_over_denials_events_and_what_is_no_text() {
        let mut learnt = Learnt::default();
        let line = |action: &str, path: &str| {
            format!(
                "{{\"time\":\"1\",\"pod\":\"p\",\"container\":\"c\",\"call\":\"unlinkat\",\
                 \"action\":\"{action}\",\"path\":\"{path}\"}}"
            )
        };
        learnt.take(&line("block", "/data/a"), false);
        learnt.take("{\"time\":\"1\",\"pod\":\"p\",\"event\":\"policy-reloaded\"}", false);
        learnt.take(&line("accept", "/data/\u{fffd}"), false);
        assert_eq!((learnt.passed_over, learnt.unwritable), (2, 1));
        assert!(!learnt.policy(None).contains("rule"));
        learnt.take(&line("block", "/data/a"), true);
        assert!(allows(&learnt.policy(None), &file(CallKind::Unlink, "/data/a")));
    }
}
