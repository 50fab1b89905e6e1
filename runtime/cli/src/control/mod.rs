// SPDX-License-Identifier: Apache-2.0
//! How a command talks to the process that holds a container: frames of a [`trine_link::Link`] over
//! the container's control socket.
//!
//! ```text
//! command                              holder
//!  REQUEST {Request}               ->
//!                                  <-  REPLY {Reply}
//!
//!  REQUEST Exec                    ->
//!  PROCESS {abi Spawn} + 3 streams ->
//!                                  <-  REPLY Started
//!                                  <-  REPLY Exited      (unless detached)
//!
//!  REQUEST Process                 ->
//!                                  <-  PROCESS {abi Spawn}: the first process, as a template
//! ```
//!
//! A supervisor gets its container over the same kind of link, on its standard input:
//!
//! ```text
//!  REQUEST Hold + image, 3 streams ->
//!  CONFIG {abi Configure}          ->
//!  PROCESS {abi Spawn}             ->
//!                                  <-  REPLY Held
//! ```

mod client;
mod messages;
mod server;

pub(crate) use self::{
    client::{Client, receive_reply},
    messages::{
        CONFIG, PROCESS, ProcessRow, REPLY, REQUEST, RemoteError, Reply, Request, Status,
        decode_config, decode_process, encode_config, encode_process, receive, send_json,
    },
    server::{reply_of, serve},
};
