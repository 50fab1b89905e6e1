// SPDX-License-Identifier: Apache-2.0
//! The command line, in the syntax of Go's `flag` package, which is what containerd speaks:
//! `-name value`, `-name=value`, one dash or two, then the action as a word.

use std::{ffi::OsString, path::PathBuf};

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Make sure that the pod has a server, print its address.
    Start,
    /// Clean up after a container whose server is gone.
    Delete,
    /// Be the server; the listener is standard input.
    Serve,
    /// Print the version.
    Version,
    /// Print what the runtime can do, for containerd.
    Info,
    /// Nothing was asked.
    #[default]
    None,
}

/// The parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// What is to be done.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// containerd's main socket.
    pub address: String,
    /// containerd's program, for `publish`; unused, events go over ttrpc.
    pub publish_binary: String,
    /// Directory of the container; the working directory if it is not given.
    pub bundle: Option<PathBuf>,
    /// Socket that the server listens on, for its own removal of it.
    pub socket: Option<PathBuf>,
    /// Log more.
    pub debug: bool,
}

/// A command line that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// A flag that does not exist.
    #[error(
        "unknown flag -{0}, expected -namespace, -id, -address, -publish-binary, -bundle, -debug, -socket, -info or -version"
    )]
    Unknown(String),
    /// A flag without its value.
    #[error("flag -{0} needs a value")]
    NoValue(String),
    /// A switch with a value that is neither true nor false.
    #[error("flag -{name} is true or false, not {value:?}")]
    NotBool {
        /// The switch.
        name: String,
        /// What was given.
        value: String,
    },
    /// An action that does not exist.
    #[error("unknown action {0:?}, expected \"start\" or \"delete\"")]
    UnknownAction(String),
    /// Bytes that are not UTF-8.
    #[error("argument {0:?} is not UTF-8")]
    NotUtf8(OsString),
}

impl Flags {
    /// Parses the arguments that follow the program's name.
    ///
    /// # Errors
    /// [`FlagError`]; for `delete`, unknown flags are passed over, so that a newer containerd can
    /// clean up.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, FlagError> {
        let mut arguments = arguments
            .into_iter()
            .map(|argument| argument.into_string().map_err(FlagError::NotUtf8))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .peekable();
        let mut flags = Self::default();
        let mut unknown = None;
        let mut word = None;

        while let Some(argument) = arguments.next() {
            let Some(flag) = flag_name(&argument) else {
                word.get_or_insert(argument);
                continue;
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" | "v" | "version" | "info" | "serve" => {
                    flags.switch(name, inline.as_deref())?;
                }
                "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" => {
                    let value = inline.or_else(|| arguments.next());
                    flags.set(name, value.ok_or_else(|| FlagError::NoValue(name.to_owned()))?);
                }
                _ => {
                    unknown.get_or_insert_with(|| name.to_owned());
                    // Whether it takes a value is anyone's guess: what cannot be an action is one.
                    if inline.is_none() {
                        arguments.next_if(|next| {
                            flag_name(next).is_none() && named_action(next).is_none()
                        });
                    }
                }
            }
        }

        if let (Some(word), Action::None) = (word, flags.action) {
            flags.action = named_action(&word).ok_or(FlagError::UnknownAction(word))?;
        }
        match unknown {
            Some(name) if flags.action != Action::Delete => Err(FlagError::Unknown(name)),
            _ => Ok(flags),
        }
    }

    fn switch(&mut self, name: &str, value: Option<&str>) -> Result<(), FlagError> {
        // The spellings of Go's strconv.ParseBool.
        let is_on = match value {
            None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
            Some(other) => {
                let (name, value) = (name.to_owned(), other.to_owned());
                return Err(FlagError::NotBool { name, value });
            }
        };
        match name {
            "debug" => self.debug = is_on,
            "serve" if is_on => self.action = Action::Serve,
            "info" if is_on => self.action = Action::Info,
            "v" | "version" if is_on => self.action = Action::Version,
            _ => {}
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: String) {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value,
            "bundle" => self.bundle = Some(PathBuf::from(value)),
            "socket" => self.socket = Some(PathBuf::from(value)),
            _ => {}
        }
    }
}

/// Returns a flag without its dashes.
fn flag_name(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    (!name.is_empty()).then_some(name)
}

fn named_action(word: &str) -> Option<Action> {
    match word {
        "start" => Some(Action::Start),
        "delete" => Some(Action::Delete),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_of_containerd_parse() {
        let flags = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock \
             -publish-binary /usr/bin/containerd -id abc -debug start",
        )
        .unwrap();
        assert_eq!(flags.action, Action::Start);
        assert_eq!((&*flags.namespace, &*flags.id, flags.debug), ("k8s.io", "abc", true));
        assert_eq!(flags.address, "/run/containerd/containerd.sock");
        assert_eq!(flags.publish_binary, "/usr/bin/containerd");

        let flags = parse("--namespace=n -id=x --bundle /b -debug=false delete").unwrap();
        assert_eq!((flags.action, flags.debug), (Action::Delete, false));
        assert_eq!(flags.bundle, Some(PathBuf::from("/b")));
    }

    #[test]
    fn flags_choose_the_action() {
        for (line, action) in [
            ("", Action::None),
            ("-v", Action::Version),
            ("-version", Action::Version),
            ("-info", Action::Info),
            ("-info=false", Action::None),
            ("-serve -socket /s -id a", Action::Serve),
        ] {
            assert_eq!(parse(line).unwrap().action, action, "{line}");
        }
    }

    #[test]
    fn flags_unknown_is_fatal_except_for_delete() {
        assert_eq!(parse("-id a -new 1 start"), Err(FlagError::Unknown("new".to_owned())));
        for line in ["-id a -new 1 delete", "-new=1 -id a delete", "-id a -new delete"] {
            let flags = parse(line).unwrap();
            assert_eq!((flags.action, &*flags.id), (Action::Delete, "a"), "{line}");
        }
    }

    #[test]
    fn flags_faults_are_named() {
        assert_eq!(parse("-id"), Err(FlagError::NoValue("id".to_owned())));
        assert_eq!(parse("stop"), Err(FlagError::UnknownAction("stop".to_owned())));
        let (name, value) = ("debug".to_owned(), "2".to_owned());
        assert_eq!(parse("-debug=2"), Err(FlagError::NotBool { name, value }));
    }
}
