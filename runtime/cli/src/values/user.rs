// SPDX-License-Identifier: Apache-2.0
//! Who a process runs as.

use anyhow::{Context as _, Result, bail};

/// A user, its group and its other groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Home directory, if passwd knows the user.
    pub(crate) home: Option<String>,
}

/// Parses `UID[:GID]`.
///
/// # Errors
/// If either is not a number.
pub(crate) fn parse_numeric(text: &str) -> Result<(u32, Option<u32>)> {
    let (user, group) = split(text);
    let uid = user.parse().ok().with_context(|| {
        format!("user {user:?} is not a number: give UID[:GID], as in 1000:1000")
    })?;
    let gid = group.map(|group| {
        group.parse().ok().with_context(|| {
            format!("group {group:?} is not a number: give UID[:GID], as in 1000:1000")
        })
    });
    Ok((uid, gid.transpose()?))
}

/// Resolves `USER[:GROUP]`, each a name or a number, with the container's own passwd(5) and
/// group(5).  Without a group, the user's own and the supplementary ones count; a number that
/// passwd does not know is group 0.
///
/// # Errors
/// If a name is not in its file.
pub(crate) fn resolve(text: &str, passwd: &str, group_file: &str) -> Result<User> {
    let (user, group) = split(text);
    if user.is_empty() {
        bail!("user {text:?} has no name: give USER[:GROUP]");
    }
    let entry = passwd
        .lines()
        .filter_map(Account::parse)
        .find(|account| account.name == user || user.parse() == Ok(account.uid));
    let uid = match (&entry, user.parse()) {
        (_, Ok(uid)) => uid,
        (Some(account), _) => account.uid,
        (None, _) => bail!("user {user:?} is not in the container's /etc/passwd: give a number"),
    };
    let home = entry.as_ref().map(|account| account.home.to_owned());
    if let Some(group) = group {
        return Ok(User { uid, gid: group_id(group, group_file)?, groups: vec![], home });
    }
    let gid = entry.as_ref().map_or(0, |account| account.gid);
    let groups = entry.map_or(vec![], |account| groups_of(account.name, group_file));
    Ok(User { uid, gid, groups, home })
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)))
}

fn group_id(group: &str, group_file: &str) -> Result<u32> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    group_entries(group_file)
        .find_map(|(name, gid, _)| (name == group).then_some(gid))
        .with_context(|| {
            format!("group {group:?} is not in the container's /etc/group: give a number")
        })
}

fn groups_of(user: &str, group_file: &str) -> Vec<u32> {
    group_entries(group_file)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .collect()
}

fn group_entries(group_file: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group_file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid, members) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next());
        Some((name, gid.parse().ok()?, members.unwrap_or_default()))
    })
}

/// What a line of passwd(5) says.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else {
            return None;
        };
        Some(Self { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken line\nweb:x:33:44:,,,:/srv/web:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:44:\nlogs:x:50:someone,web\nstaff:x:51:webmaster\n";

    #[test]
    fn resolve_by_name_takes_own_and_supplementary_groups() {
        let user = resolve("web", PASSWD, GROUP).expect("known");
        let home = Some("/srv/web".to_owned());
        assert_eq!(user, User { uid: 33, gid: 44, groups: vec![50], home });
    }

    #[test]
    fn resolve_with_group_takes_that_group_alone() {
        let user = resolve("web:staff", PASSWD, GROUP).expect("known");
        assert_eq!((user.uid, user.gid, user.groups), (33, 51, vec![]));
        assert_eq!(resolve("web:7", PASSWD, GROUP).expect("known").gid, 7);
    }

    #[test]
    fn resolve_unknown_number_is_group_zero() {
        let user = resolve("1000", PASSWD, GROUP).expect("a number");
        assert_eq!(user, User { uid: 1000, ..User::default() });
    }

    #[test]
    fn resolve_unknown_name_is_refused_by_name() {
        for text in ["nobody", "web:nogroup", "", ":33"] {
            assert!(resolve(text, PASSWD, GROUP).is_err(), "{text:?}");
        }
    }

    #[test]
    fn parse_numeric_takes_numbers_only() {
        assert_eq!(parse_numeric("5").expect("number"), (5, None));
        assert_eq!(parse_numeric("5:6").expect("numbers"), (5, Some(6)));
        for text in ["", "root", "5:", "5:wheel", "-1"] {
            assert!(parse_numeric(text).is_err(), "{text:?}");
        }
    }
}
