// SPDX-License-Identifier: Apache-2.0
//! What is read as a whole: requests, messages of a guest's kernel, policies, programs.
#![forbid(unsafe_code)]

use trine_abi::{
    control::{Command, Event},
    file::{
        Allocate, Attr, Create, Created, Forget, Found, Link, Lock, Opened, Rename, Seek, SetAttr,
        SetXattr, Space, Walk, Walked, Wire,
    },
    socket::{Accepted, DatagramHead, EventHead},
    window::{SUBMISSION_BYTES, Submission},
};
use trine_fuzz::fuzz;
use trine_policy::{Action, Call, CallKind, Engine, Policy};
use trine_rootfs_builder::text;

/// What was decoded is encoded to the same bytes.
fn round_trip<T: Wire>(bytes: &[u8]) {
    if let Ok(value) = T::decode(bytes) {
        assert_eq!(value.encode(), bytes, "{}", std::any::type_name::<T>());
    }
}

#[test]
fn requests_decode_to_what_encodes_the_same() {
    fuzz("request_decode", |bytes| {
        round_trip::<Allocate>(bytes);
        round_trip::<Attr>(bytes);
        round_trip::<Create>(bytes);
        round_trip::<Created>(bytes);
        round_trip::<Forget>(bytes);
        round_trip::<Found>(bytes);
        round_trip::<Link>(bytes);
        round_trip::<Lock>(bytes);
        round_trip::<Opened>(bytes);
        round_trip::<Rename>(bytes);
        round_trip::<Seek>(bytes);
        round_trip::<SetAttr>(bytes);
        round_trip::<SetXattr>(bytes);
        round_trip::<Space>(bytes);
        round_trip::<Walk>(bytes);
        round_trip::<Walked>(bytes);
        let _ = Accepted::decode(bytes);
        let _ = DatagramHead::split(bytes);
        if let Some(head) = bytes.first_chunk() {
            let _ = EventHead::decode(head);
        }
        for entry in bytes.as_chunks::<SUBMISSION_BYTES>().0 {
            if let Ok(request) = Submission::check(entry) {
                assert_eq!(&request.encode(), entry);
            }
        }
    });
}

#[test]
fn control_messages_decode_to_what_encodes_the_same() {
    fuzz("control_decode", |bytes| {
        if let Ok(event) = Event::decode(bytes) {
            assert_eq!(event.encode(), bytes);
        }
        if let Ok(command) = Command::decode(bytes) {
            assert_eq!(command.encode(), bytes);
        }
    });
}

#[test]
fn policies_are_refused_or_decide() {
    fuzz("policy_parse", |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let policy = match Policy::parse("fuzz", text) {
            Ok(policy) => policy,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        };
        let engine = Engine::new(&policy);
        let address = "[::ffff:10.0.0.1]:80".parse().ok();
        for (kind, path, address) in [
            (CallKind::OpenRead, Some(b"/data/a/../b.key".as_slice()), None),
            (CallKind::Stat, Some(b"/\xff\xfe".as_slice()), None),
            (CallKind::Connect, None, address),
            (CallKind::Bind, None, "0.0.0.0:0".parse().ok()),
        ] {
            let call = Call { path, address, ..Call::new(kind, "c") };
            let first = engine.decide(&call);
            assert_eq!(first, engine.decide(&call), "the same call, another decision");
            if let Action::Block(errno) = first.action {
                assert!((1..4096).contains(&errno), "errno {errno}");
            }
        }
    });
}

#[test]
fn programs_are_rewritten_where_they_say_that_code_is() {
    let mut sites = 0;
    fuzz("text_rewrite", |bytes| {
        let rewrite = text::rewrite(bytes);
        sites += rewrite.sites.len();
        assert_eq!(rewrite, text::rewrite(bytes), "the same program, another result");
        assert!(rewrite.found >= rewrite.sites.len() as u64);
        let mut changed: Vec<_> = rewrite
            .sites
            .iter()
            .flat_map(|site| {
                let head = site.offset..site.offset + u64::from(site.length);
                assert_eq!(bytes[site.call as usize..][..2], [0x0f, 0x05]);
                assert!(head.end <= site.call);
                [Some(head), site.hop.as_ref().map(|hop| hop.gap.clone())]
            })
            .flatten()
            .collect();
        changed.sort_by_key(|range| range.start);
        changed.dedup();
        assert!(changed.is_sorted_by(|a, b| a.end <= b.start), "{changed:?}");
        for page in &rewrite.pages {
            let start = u64::from(page.number) * page.bytes.len() as u64;
            for (offset, new) in (start..).zip(page.bytes.iter()) {
                let old = bytes.get(offset as usize).copied().unwrap_or_default();
                let is_changed = changed.iter().any(|range| range.contains(&offset));
                assert!(old == *new || is_changed, "byte {offset}");
            }
        }
    });
    assert!(sites > 0, "nothing is ever rewritten");
}
