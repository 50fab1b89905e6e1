// SPDX-License-Identifier: Apache-2.0
//! A decider: a program that listens on a Unix socket and is asked about calls, in JSON, an object
//! a line (`docs/policy.md` has the protocol).
//!
//! It may answer in any order.  Whatever it does (be slow, answer nonsense, go away) the worst is
//! that questions have no answer; a connection that fails is made anew for the next question.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use trine_policy::{
    case::{Question, Verdict},
    errno,
};

use super::asker::{AnswerFn, Asked};

/// Longest line of an answer, in bytes.
const LINE_MAX: u64 = 64 << 10;
/// Most questions that are waited for; the oldest is given up for a new one.
const OPEN_MAX: usize = 1024;
/// How long a decider may take to read a question.
const PATIENCE: Duration = Duration::from_secs(2);

/// A question as it is written.
#[derive(Serialize)]
struct Line<'a> {
    id: u64,
    pod: &'a str,
    container: &'a str,
    rule: &'a str,
    call: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    writes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    /// Instead, if the path is not text: two paths must not look alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    names: &'a [String],
}

/// An answer as it is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    id: u64,
    decision: Decision,
    errno: Option<String>,
    path: Option<String>,
    address: Option<std::net::SocketAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Accept,
    Block,
    Rewrite,
    Next,
}

/// The questions that were written and not answered: their VM and number.
type Open = Mutex<BTreeMap<u64, (u32, u64)>>;

fn lock(open: &Open) -> MutexGuard<'_, BTreeMap<u64, (u32, u64)>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Connection {
    stream: UnixStream,
    open: Arc<Open>,
    is_over: Arc<AtomicBool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Asks the program at `path` until the pod is gone.
pub(super) fn serve(
    pod: &str,
    path: &Path,
    questions: &Receiver<Asked>,
    answer_fn: &Arc<AnswerFn>,
) {
    let mut connection: Option<Connection> = None;
    for (asked, id) in questions.iter().zip(1..) {
        let line = line(pod, id, &asked.question);
        connection = connection.filter(|current| !current.is_over.load(Ordering::Acquire));
        // Once more over a new connection: the old one may have ended without our knowing.
        for is_last in [false, true] {
            let current = match connection.take().map_or_else(|| connect(path, answer_fn), Ok) {
                Ok(current) => connection.insert(current),
                Err(error) => {
                    let reason = format!("cannot connect to {}: {error}", path.display());
                    answer_fn(asked.vm, asked.number, Verdict::None(reason));
                    break;
                }
            };
            if current.write(id, &asked, &line) {
                break;
            }
            connection = None;
            if is_last {
                let reason = format!("{} does not read questions", path.display());
                answer_fn(asked.vm, asked.number, Verdict::None(reason));
            }
        }
    }
}

impl Connection {
    /// Writes a question; false if that failed, and nobody has been told.
    fn write(&self, id: u64, asked: &Asked, line: &[u8]) -> bool {
        {
            let mut open = lock(&self.open);
            while open.len() >= OPEN_MAX {
                open.pop_first();
            }
            open.insert(id, (asked.vm, asked.number));
        }
        (&self.stream).write_all(line).is_ok() || lock(&self.open).remove(&id).is_none()
    }
}

fn line(pod: &str, id: u64, question: &Question) -> Vec<u8> {
    let path = question.path.as_deref().map(str::from_utf8);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = Line {
        id,
        pod,
        container: &question.container,
        rule: &question.rule,
        call: &question.call,
        writes: question.writes,
        path: path.and_then(Result::ok),
        path_hex: path
            .is_some_and(|path| path.is_err())
            .then(|| hex(question.path.as_deref().unwrap_or_default())),
        address: question.address.map(|address| address.to_string()),
        names: &question.names,
    };
    let mut line = serde_json::to_vec(&line).unwrap_or_default();
    line.push(b'\n');
    line
}

fn connect(path: &Path, answer_fn: &Arc<AnswerFn>) -> std::io::Result<Connection> {
    let stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let reading = stream.try_clone()?;
    let (open, is_over) = (Arc::new(Open::default()), Arc::new(AtomicBool::new(false)));
    let (asked, ends, answer_fn) = (Arc::clone(&open), Arc::clone(&is_over), Arc::clone(answer_fn));
    thread::Builder::new().name("policy-answers".to_owned()).spawn(move || {
        read(reading, &asked, &*answer_fn);
        ends.store(true, Ordering::Release);
        // What this connection was asked has no answer any more.
        for (vm, number) in std::mem::take(&mut *lock(&asked)).into_values() {
            answer_fn(vm, number, Verdict::None("the decider closed its connection".to_owned()));
        }
    })?;
    Ok(Connection { stream, open, is_over })
}

/// Reads answers until the connection ends, or says something that is no line of JSON.
fn read(stream: UnixStream, open: &Open, answer_fn: &AnswerFn) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(read) if read > 0 && line.ends_with(b"\n") => {}
            _ => return,
        }
        let Ok(answer) = serde_json::from_slice::<Answer>(&line) else { return };
        let asked = lock(open).remove(&answer.id);
        if let Some((vm, number)) = asked {
            answer_fn(vm, number, verdict(answer));
        }
    }
}

fn verdict(answer: Answer) -> Verdict {
    let nonsense = |what: &str| Verdict::None(format!("the decider's answer has {what}"));
    match (answer.decision, answer.path, answer.address) {
        (Decision::Accept, None, None) => Verdict::Accept,
        (Decision::Next, None, None) => Verdict::Next,
        (Decision::Block, None, None) => match answer.errno.as_deref() {
            None => Verdict::Block(1),
            Some(name) => errno::number(name).map_or(nonsense("an unknown errno"), Verdict::Block),
        },
        (Decision::Rewrite, Some(path), None) => Verdict::RewritePath(path.into_bytes()),
        (Decision::Rewrite, None, Some(address)) => Verdict::RewriteAddress(address),
        _ => nonsense("a decision and parts that do not go together"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixListener,
        sync::mpsc::{self, SyncSender},
    };

    use super::*;

    fn question(path: &[u8]) -> Question {
        Question {
            rule: "ask".into(),
            container: "c".into(),
            call: "openat".into(),
            writes: false,
            path: Some(path.to_vec()),
            address: None,
            names: Vec::new(),
        }
    }

    type Verdicts = Receiver<(u32, u64, Verdict)>;

    /// A decider's listener, questions to it, and what came of them.
    fn start() -> (tempfile::TempDir, UnixListener, SyncSender<Asked>, Verdicts) {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("decider");
        let listener = UnixListener::bind(&path).expect("bound");
        let (sender, questions) = mpsc::sync_channel(8);
        let (told, verdicts) = mpsc::channel();
        let answer_fn: Arc<AnswerFn> = Arc::new(move |vm, number, verdict| {
            let _ = told.send((vm, number, verdict));
        });
        thread::spawn(move || serve("pod", &path, &questions, &answer_fn));
        (folder, listener, sender, verdicts)
    }

    fn ask(sender: &SyncSender<Asked>, number: u64, path: &[u8]) {
        sender.send(Asked { vm: 1, number, question: question(path) }).expect("sent");
    }

    fn next(verdicts: &Verdicts) -> (u64, Verdict) {
        let (_, number, verdict) = verdicts.recv_timeout(Duration::from_secs(10)).expect("one");
        (number, verdict)
    }

    #[test]
    fn answers_come_in_any_order_and_nonsense_is_none() {
        let (_folder, listener, sender, verdicts) = start();
        for (number, path) in [(10, &b"/a"[..]), (11, b"/\xff"), (12, b"/c"), (13, b"/d")] {
            ask(&sender, number, path);
        }
        let (stream, _) = listener.accept().expect("a connection");
        let mut lines = BufReader::new(stream.try_clone().expect("cloned")).lines();
        let lines: Vec<_> = (0..4).map(|_| lines.next().expect("a line").expect("read")).collect();
        assert_eq!(
            lines[0],
            "{\"id\":1,\"pod\":\"pod\",\"container\":\"c\",\"rule\":\"ask\",\"call\":\"openat\",\
             \"path\":\"/a\"}"
        );
        assert!(lines[1].contains("\"path_hex\":\"2fff\""), "{}", lines[1]);
        let answers = "{\"id\":99,\"decision\":\"accept\"}\n\
                       {\"id\":3,\"decision\":\"block\",\"errno\":\"EACCES\"}\n\
                       {\"id\":1,\"decision\":\"rewrite\",\"path\":\"/b\"}\n\
                       {\"id\":2,\"decision\":\"block\",\"errno\":\"EWHAT\"}\nnonsense\n";
        (&stream).write_all(answers.as_bytes()).expect("written");
        assert_eq!(next(&verdicts), (12, Verdict::Block(13)));
        assert_eq!(next(&verdicts), (10, Verdict::RewritePath(b"/b".to_vec())));
        assert!(matches!(next(&verdicts), (11, Verdict::None(_))));
        // The connection is given up, with what was asked over it.
        assert!(matches!(next(&verdicts), (13, Verdict::None(_))));
    }

    #[test]
    fn a_decider_that_goes_away_is_asked_again_when_it_is_back() {
        let (_folder, listener, sender, verdicts) = start();
        ask(&sender, 1, b"/a");
        let (stream, _) = listener.accept().expect("a connection");
        // It goes away with the question: one that was not read yet is asked again by itself.
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("a line");
        assert!(matches!(next(&verdicts), (1, Verdict::None(_))));
        ask(&sender, 2, b"/b");
        let (stream, _) = listener.accept().expect("another connection");
        (&stream).write_all(b"{\"id\":2,\"decision\":\"next\"}\n").expect("written");
        assert_eq!(next(&verdicts), (2, Verdict::Next));
    }
}
