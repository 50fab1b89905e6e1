// SPDX-License-Identifier: Apache-2.0
//! Makes the server a process of its own, that outlives containerd.

use std::{
    fs::{self, File},
    io,
};

use rustix::fs::Mode;

/// Where a process's rank among the victims of the kernel's out-of-memory killer is.
const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
const OOM_SCORE_ADJ_MAX: i32 = 1000;

/// Leaves containerd's session and gives up its streams; standard input was the listener.
pub(super) fn detach() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // It fails if the process leads a group already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    raise_oom_score();
    Ok(())
}

/// The server is to go before containerd, whose rank it has, and after containers.
fn raise_oom_score() {
    let score = fs::read_to_string(OOM_SCORE_ADJ).ok();
    if let Some(score) = score.and_then(|text| text.trim().parse::<i32>().ok()) {
        let raised = OOM_SCORE_ADJ_MAX.min(score + 1);
        // Best effort: it makes a difference only when the host runs out of memory.
        let _ = fs::write(OOM_SCORE_ADJ, raised.to_string());
    }
}
