// SPDX-License-Identifier: Apache-2.0
//! The engine decides as a straightforward reading of `docs/policy.md` does, for any policy and any
//! call; and no text makes the parser do anything but accept it or name a line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::{collection::vec, option, prelude::*, sample::select};
use trine_policy::{Action, Call, CallKind, Engine, Policy, layer::Layer};

/// A rule, as somebody would write it down.
#[derive(Clone, Debug)]
struct Written {
    calls: Vec<&'static str>,
    paths: Vec<&'static str>,
    addresses: Vec<&'static str>,
    ports: Vec<(u16, u16)>,
    names: Vec<&'static str>,
    containers: Vec<&'static str>,
    action: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Accept,
    Block(&'static str, u16),
    Log,
    Prefix(&'static str, &'static str),
    Address(&'static str),
}

const CALLS: &[&str] = &[
    "file",
    "file-stat",
    "file-read",
    "file-write",
    "net",
    "net-out",
    "net-in",
    "openat",
    "openat-read",
    "openat-write",
    "connect",
    "bind",
    "unlinkat",
    "stat",
    "socket",
];
const PATHS: &[&str] =
    &["/", "/**", "/a/*", "/a/**/c", "/*/b", "/a/?", "/a/b*", "/**/x/**", "/a", "/a/b/c"];
const ADDRESSES: &[&str] = &[
    "any",
    "loopback",
    "private",
    "public",
    "10.0.0.0/8",
    "10.1.2.3",
    "169.254.169.254",
    "::/0",
    "fd00::/8",
    "0.0.0.0/0",
    "127.0.0.1",
];
const NAMES: &[&str] = &["*", "*.example.com", "api.example.com", "a?i.example.com"];
const CONTAINERS: &[&str] = &["*", "web", "w*", "db"];

fn what() -> impl Strategy<Value = What> {
    select(vec![
        What::Accept,
        What::Block("EPERM", 1),
        What::Block("ENOENT", 2),
        What::Log,
        What::Prefix("/a", "/z"),
        What::Prefix("/a/b", "/"),
        What::Address("127.0.0.1:3128"),
    ])
}

fn list(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![2 => Just(Vec::new()), 1 => vec(select(of), 1..3)]
}

fn rule() -> impl Strategy<Value = Written> {
    let ports = prop_oneof![
        2 => Just(Vec::new()),
        1 => vec(select(vec![(80, 80), (0, 79), (1, 1024), (443, 500)]), 1..3),
    ];
    let matches = (list(PATHS), list(ADDRESSES), ports, list(NAMES), list(CONTAINERS));
    (vec(select(CALLS), 1..3), matches, what()).prop_map(
        |(calls, (paths, addresses, ports, names, containers), action)| Written {
            calls,
            paths,
            addresses,
            ports,
            names,
            containers,
            action,
        },
    )
}

#[derive(Clone, Debug)]
struct Asked {
    kind: CallKind,
    container: &'static str,
    path: Option<&'static str>,
    address: Option<SocketAddr>,
    names: Vec<String>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let path = select(vec!["/", "/a", "/a/b", "/a/b/c", "/a/x/y/c", "/b/b", "/x", "/q/x/r", "/ab"]);
    let ip = select(vec![
        "127.0.0.1",
        "0.0.0.0",
        "::",
        "::1",
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "64:ff9b::a01:203",
        "169.254.169.254",
        "8.8.8.8",
        "fd00::1",
        "2606:4700::1",
        "::169.254.169.254",
    ]);
    let address = (ip, select(vec![0_u16, 79, 80, 443, 1024, 65_535]));
    let address = address
        .prop_map(|(ip, port)| SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), port));
    let names = vec(select(vec!["api.example.com", "API.Example.com.", "example.com", "x"]), 0..3);
    let names = names.prop_map(|names| names.into_iter().map(str::to_owned).collect());
    let container = select(vec!["web", "db", ""]);
    (select(CallKind::ALL), container, option::of(path), option::of(address), names).prop_map(
        |(kind, container, path, address, names)| Asked { kind, container, path, address, names },
    )
}

fn toml(rules: &[Written], default_blocks: bool) -> String {
    let mut text = "version = 1\n".to_owned();
    if default_blocks {
        text.push_str("default = \"block\"\n");
    }
    for rule in rules {
        text.push_str("[[rule]]\n");
        for (key, list) in [
            ("calls", &rule.calls),
            ("paths", &rule.paths),
            ("addresses", &rule.addresses),
            ("names", &rule.names),
            ("containers", &rule.containers),
        ] {
            text.push_str(&format!("{key} = {list:?}\n"));
        }
        let ports: Vec<_> = rule.ports.iter().map(|(a, b)| format!("\"{a}-{b}\"")).collect();
        text.push_str(&format!("ports = [{}]\n", ports.join(", ")));
        text.push_str(&match rule.action {
            What::Accept => "action = \"accept\"\n".to_owned(),
            What::Log => "action = \"log\"\n".to_owned(),
            What::Block(errno, _) => format!("action = \"block\"\nerrno = \"{errno}\"\n"),
            What::Prefix(prefix, to) => format!(
                "action = \"intercept\"\nrewrite = {{ prefix = \"{prefix}\", path = \"{to}\" }}\n"
            ),
            What::Address(to) => {
                format!("action = \"intercept\"\nrewrite = {{ address = \"{to}\" }}\n")
            }
        });
    }
    text
}

/// Glob matching by trying everything.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if glob(rest, text) => true,
        (Some((b'*', _)), Some((_, after))) => glob(pattern, after),
        (Some((b'?', rest)), Some((_, after))) => glob(rest, after),
        (Some((a, rest)), Some((b, after))) if a == b => glob(rest, after),
        _ => false,
    }
}

fn path_glob(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) if path_glob(rest, path) => true,
        (Some((&"**", _)), Some((_, after))) => path_glob(pattern, after),
        (Some((first, rest)), Some((name, after))) => {
            *first != "**" && glob(first.as_bytes(), name.as_bytes()) && path_glob(rest, after)
        }
        _ => false,
    }
}

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|name| !name.is_empty()).collect()
}

/// IPv4 in whatever form; the unspecified address is loopback, but not for bind.
fn plain(ip: IpAddr, binds: bool) -> IpAddr {
    let last = |v6: std::net::Ipv6Addr| {
        let octets = v6.octets();
        IpAddr::V4(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]))
    };
    let ip = match ip {
        IpAddr::V6(v6) => match v6.to_string() {
            text if text.starts_with("::ffff:") || text.starts_with("64:ff9b::") => last(v6),
            text if text.starts_with("::") && text.len() > 4 => last(v6),
            _ => ip,
        },
        v4 => v4,
    };
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() && !binds => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() && !binds => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Of the addresses that the test uses.
fn in_range(range: &str, ip: IpAddr) -> bool {
    let text = ip.to_string();
    let is_private = ["127.", "10.", "169.254.", "0.0.0.0", "::", "fd00"]
        .iter()
        .any(|start| text.starts_with(start));
    match range {
        "any" => true,
        "loopback" => text == "127.0.0.1" || text == "::1",
        "private" => is_private,
        "public" => !is_private,
        "10.0.0.0/8" => text.starts_with("10."),
        "fd00::/8" => text.starts_with("fd00"),
        "0.0.0.0/0" => ip.is_ipv4(),
        // IPv4 addresses are a part of the IPv6 space.
        "::/0" => true,
        exact => text == exact,
    }
}

fn covers(word: &str, kind: CallKind) -> bool {
    match word {
        "openat-read" => kind == CallKind::OpenRead,
        "openat-write" => kind == CallKind::OpenWrite,
        word => word == kind.name() || kind.groups().contains(&word),
    }
}

fn matches(rule: &Written, call: &Asked) -> bool {
    let ip = call.address.map(|at| plain(at.ip(), call.kind == CallKind::Bind));
    let name = |name: &String| name.trim_end_matches('.').to_lowercase();
    rule.calls.iter().any(|word| covers(word, call.kind))
        && (rule.paths.is_empty()
            || call.path.is_some_and(|path| {
                let path = components(path);
                rule.paths.iter().any(|pattern| path_glob(&components(pattern), &path))
            }))
        && (rule.addresses.is_empty()
            || ip.is_some_and(|ip| rule.addresses.iter().any(|range| in_range(range, ip))))
        && (rule.ports.is_empty()
            || call.address.is_some_and(|address| {
                rule.ports.iter().any(|(a, b)| *a <= address.port() && address.port() <= *b)
            }))
        && (rule.names.is_empty()
            || call.names.iter().any(|known| {
                rule.names.iter().any(|pattern| glob(pattern.as_bytes(), name(known).as_bytes()))
            }))
        && (rule.containers.is_empty()
            || rule.containers.iter().any(|p| glob(p.as_bytes(), call.container.as_bytes())))
}

/// What the page says happens: the action, the rule, and which rules logged.
fn naive(rules: &[Written], default_blocks: bool, call: &Asked) -> (Action, Option<usize>, usize) {
    let mut logged = 0;
    for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| matches(rule, call)) {
        let action = match rule.action {
            What::Log => {
                logged += 1;
                continue;
            }
            What::Accept => Action::Accept,
            What::Block(_, errno) => Action::Block(errno),
            What::Address(to) => Action::RewriteAddress(to.parse().expect("an address")),
            What::Prefix(prefix, to) => {
                let path = call.path.unwrap_or_default();
                let below = path == prefix || path.starts_with(&format!("{prefix}/"));
                if !below {
                    continue;
                }
                let to = if to == "/" { "" } else { to };
                Action::RewritePath(path.replacen(prefix, to, 1).into_bytes())
            }
        };
        return (action, Some(index), logged);
    }
    (if default_blocks { Action::Block(1) } else { Action::Accept }, None, logged)
}

fn call(asked: &Asked) -> Call<'_> {
    Call {
        path: asked.path.map(str::as_bytes),
        address: asked.address,
        names: &asked.names,
        ..Call::new(asked.kind, asked.container)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn engine_decides_as_the_page_says(
        rules in vec(rule(), 0..8),
        default_blocks: bool,
        asked in vec(asked(), 1..12),
    ) {
        let text = toml(&rules, default_blocks);
        let engine = Engine::new(&Policy::parse("p", &text).expect(&text));
        for asked in &asked {
            let decision = engine.decide(&call(asked));
            let (action, rule, logged) = naive(&rules, default_blocks, asked);
            let id = rule.map(|index| format!("rule-{}", index + 1));
            prop_assert_eq!(&decision.action, &action, "{:?} by\n{}", asked, text);
            prop_assert_eq!(decision.rule, id.as_deref(), "{:?} by\n{}", asked, text);
            prop_assert_eq!(decision.logged_by.len(), logged);
            let changes = action != Action::Accept || decision.log;
            prop_assert!(!changes || engine.cares_about(asked.kind));
        }
    }

    /// Whatever an annotation says, what the pod's policy blocks stays blocked, and what is
    /// accepted is accepted by both.
    #[test]
    fn narrowing_never_widens(
        base in vec(rule(), 0..6),
        default_blocks: bool,
        narrow in vec(rule(), 0..6),
        asked in vec(asked(), 1..12),
    ) {
        let narrow: Vec<_> = narrow
            .into_iter()
            .filter(|rule| matches!(rule.action, What::Accept | What::Block(..) | What::Log))
            .collect();
        let base = Policy::parse("p", &toml(&base, default_blocks)).expect("a policy");
        let narrow = Policy::narrowing("n", "n:", &toml(&narrow, false), &[]).expect("a policy");
        let alone = Engine::new(&base);
        let other = Engine::new(&narrow);
        let layers = [&base, &narrow].map(|policy| std::sync::Arc::new(Layer::new(policy)));
        let both = Engine::of_layers(0, layers.to_vec());
        for asked in &asked {
            let call = call(asked);
            let (first, second) = (alone.decide(&call).action, other.decide(&call).action);
            let found = both.decide(&call).action;
            match (&first, &second) {
                (Action::Block(_), _) => prop_assert_eq!(&found, &first),
                (_, Action::Block(_)) => prop_assert_eq!(&found, &second),
                // What the call is changed to may still be blocked.
                _ => prop_assert!(found == first || matches!(found, Action::Block(_))),
            }
        }
    }

    #[test]
    fn parser_takes_any_text(text in "\\PC{0,200}", rest in "[a-z=\\[\\]\"{} \n0-9-]{0,200}") {
        for text in [&text, &format!("version = 1\n[[rule]]\n{rest}")] {
            if let Err(error) = Policy::parse("p", text) {
                prop_assert!(error.line >= 1);
                prop_assert!(!error.reason.is_empty());
            }
        }
    }
}
