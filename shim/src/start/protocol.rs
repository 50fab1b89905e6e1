// SPDX-License-Identifier: Apache-2.0
//! What containerd says to `start`, and what it wants to hear.
//!
//! | containerd | standard input | answer |
//! | --- | --- | --- |
//! | 1.6 to 2.2 | `Any` with the runtime's options, or nothing | the address as text, which all of them take |
//! | 2.3 and later | `BootstrapParams`, the options among the extensions | `BootstrapResult` |
//!
//! An `Any` parses as `BootstrapParams` too, with its type in place of the id: hence what is meant
//! is decided by whether id and namespace are those of the command line.

use std::path::{Path, PathBuf};

use containerd_shim_protos::{
    TASK_API_VERSION,
    bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel},
    protobuf::{CodedInputStream, EnumOrUnknown, Message, well_known_types::any::Any},
};

use crate::{
    config::{Config, ConfigError},
    log::Level,
};

/// Where `config_body` is said to come from.
const BODY_PATH: &str = "the runtime's options in containerd's configuration";

/// What containerd asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Answer with [`BootstrapResult`].
    pub is_bootstrap: bool,
    /// Where events go; `None` = `TTRPC_ADDRESS`.
    pub ttrpc_address: Option<String>,
    /// Where the socket is to be.
    pub socket_dir: Option<PathBuf>,
    /// What to log.
    pub log_level: Option<Level>,
    /// The runtime's options.
    pub options: Options,
}

/// `runtimeoptions.v1.Options`, which is what containerd makes of the `options` table of a runtime
/// that is not runc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `ConfigPath`.
    pub config_path: Option<PathBuf>,
    /// The table as TOML, from containerd 1.7 on and without `ConfigPath`.
    pub config_body: Option<String>,
}

impl Request {
    /// Parses standard input; what is not understood counts as no options.
    pub fn parse(stdin: &[u8], id: &str, namespace: &str) -> Self {
        let params = BootstrapParams::parse_from_bytes(stdin).ok().filter(|params| {
            params.instance_id == id && params.namespace == namespace && !id.is_empty()
        });
        match params {
            Some(params) => Self::from_params(&params),
            None => Self {
                options: Any::parse_from_bytes(stdin)
                    .map(|any| Options::from_any(&any))
                    .unwrap_or_default(),
                ..Self::default()
            },
        }
    }

    fn from_params(params: &BootstrapParams) -> Self {
        let options = params
            .extensions
            .iter()
            .filter_map(|extension| extension.value.as_ref())
            .map(Options::from_any)
            .find(|options| *options != Options::default());
        let socket_dir = params.socket_dir.as_deref().filter(|dir| !dir.is_empty());
        Self {
            is_bootstrap: true,
            ttrpc_address: Some(params.containerd_ttrpc_address.clone())
                .filter(|address| !address.is_empty()),
            socket_dir: socket_dir.map(PathBuf::from),
            log_level: Some(level(params.log_level)),
            options: options.unwrap_or_default(),
        }
    }

    /// Formats the answer.
    pub fn reply(&self, address: &str) -> Vec<u8> {
        if !self.is_bootstrap {
            return address.as_bytes().to_vec();
        }
        let result = BootstrapResult {
            version: TASK_API_VERSION,
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..BootstrapResult::default()
        };
        result.write_to_bytes().expect("a message of two short strings always encodes")
    }
}

impl Options {
    /// Reads the options out of an `Any`; another type has none for us.
    pub fn from_any(any: &Any) -> Self {
        if !any.type_url.ends_with("runtimeoptions.v1.Options") {
            return Self::default();
        }
        Self::decode(&any.value).unwrap_or_default()
    }

    /// The message is `{string type_url = 1; string config_path = 2; bytes config_body = 3;}`, of
    /// which no crate has bindings.
    fn decode(message: &[u8]) -> Option<Self> {
        const CONFIG_PATH: u32 = 2 << 3 | 2;
        const CONFIG_BODY: u32 = 3 << 3 | 2;

        let mut input = CodedInputStream::from_bytes(message);
        let mut options = Self::default();
        while let Some(tag) = input.read_raw_tag_or_eof().ok()? {
            match tag {
                CONFIG_PATH => {
                    options.config_path = Some(PathBuf::from(input.read_string().ok()?));
                }
                CONFIG_BODY => {
                    options.config_body = Some(String::from_utf8(input.read_bytes().ok()?).ok()?);
                }
                _ if tag & 7 == 2 => drop(input.read_bytes().ok()?),
                _ => return None,
            }
        }
        options.config_path = options.config_path.filter(|path| !path.as_os_str().is_empty());
        options.config_body = options.config_body.filter(|body| !body.is_empty());
        Some(options)
    }

    /// Loads the configuration that the options name.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load_config(&self) -> Result<Config, ConfigError> {
        match (&self.config_path, &self.config_body) {
            (Some(path), _) => Config::load(Some(path)),
            (None, Some(body)) => Config::parse(body, Path::new(BODY_PATH)),
            (None, None) => Config::load(None),
        }
    }
}

/// Maps the open scale of containerd, where higher is graver, to ours.
fn level(level: EnumOrUnknown<LogLevel>) -> Level {
    match level.value() {
        ..=-4 => Level::Debug,
        -3..=3 => Level::Info,
        4..=7 => Level::Warn,
        8.. => Level::Error,
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::{bootstrap_api::Extension, protobuf::MessageField};

    use super::*;

    /// What containerd 1.6.20 wrote for `options.ConfigPath = "/etc/trine/config.toml"`.
    const RECORDED_OPTIONS: &[u8] =
        b"\x0a\x19runtimeoptions.v1.Options\x12\x18\x12\x16/etc/trine/config.toml";

    fn options_any(message: &[u8]) -> Any {
        Any {
            type_url: "runtimeoptions.v1.Options".to_owned(),
            value: message.to_vec(),
            ..Any::default()
        }
    }

    fn params(id: &str, namespace: &str) -> BootstrapParams {
        let options = options_any(b"\x12\x06/x.cfg");
        BootstrapParams {
            instance_id: id.to_owned(),
            namespace: namespace.to_owned(),
            log_level: EnumOrUnknown::new(LogLevel::LOG_LEVEL_DEBUG),
            containerd_ttrpc_address: "/run/c.ttrpc".to_owned(),
            extensions: vec![Extension {
                value: MessageField::some(options),
                ..Extension::default()
            }],
            socket_dir: Some("/run/s".to_owned()),
            ..BootstrapParams::default()
        }
    }

    #[test]
    fn legacy_input_answers_with_the_bare_address() {
        for stdin in [&b""[..], RECORDED_OPTIONS, b"\xff\xff garbage"] {
            let request = Request::parse(stdin, "c1", "default");
            assert!(!request.is_bootstrap);
            assert_eq!(request.reply("unix:///s"), b"unix:///s");
        }
        let request = Request::parse(RECORDED_OPTIONS, "c1", "default");
        assert_eq!(request.options.config_path, Some(PathBuf::from("/etc/trine/config.toml")));
    }

    #[test]
    fn options_that_look_like_an_identity_are_still_options() {
        // The type URL sits where BootstrapParams has the id.
        let request = Request::parse(RECORDED_OPTIONS, "runtimeoptions.v1.Options", "default");
        assert!(!request.is_bootstrap);
    }

    #[test]
    fn bootstrap_is_told_by_identity() {
        let stdin = params("c1", "k8s.io").write_to_bytes().unwrap();
        let request = Request::parse(&stdin, "c1", "k8s.io");
        assert_eq!(
            request,
            Request {
                is_bootstrap: true,
                ttrpc_address: Some("/run/c.ttrpc".to_owned()),
                socket_dir: Some(PathBuf::from("/run/s")),
                log_level: Some(Level::Debug),
                options: Options { config_path: Some(PathBuf::from("/x.cfg")), config_body: None },
            }
        );
        let reply = BootstrapResult::parse_from_bytes(&request.reply("unix:///s")).unwrap();
        assert_eq!((reply.version, &*reply.address, &*reply.protocol), (3, "unix:///s", "ttrpc"));

        for (id, namespace) in [("c2", "k8s.io"), ("c1", "default")] {
            assert!(!Request::parse(&stdin, id, namespace).is_bootstrap);
        }
    }

    #[test]
    fn options_body_is_a_configuration() {
        let options = Options::from_any(&options_any(b"\x1a\x12log_level = 'warn'"));
        assert_eq!(options.load_config().unwrap().log_level, Level::Warn);
        let options = Options::from_any(&options_any(b"\x1a\x05x = 1"));
        let error = options.load_config().unwrap_err().to_string();
        assert!(error.contains("options in containerd's configuration line 1"), "{error}");
    }

    #[test]
    fn options_of_other_runtimes_are_not_ours() {
        let any =
            Any { type_url: "containerd.runc.v1.Options".to_owned(), ..options_any(b"\x12\x01x") };
        assert_eq!(Options::from_any(&any), Options::default());
        assert_eq!(Options::from_any(&options_any(b"\x12\x7f")), Options::default());
    }
}
