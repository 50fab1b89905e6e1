// SPDX-License-Identifier: Apache-2.0
//! Sockets: in the pod's network namespace, so that its address, its routes and its loopback are
//! what the container has.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{self, Command},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::BUSYBOX,
    suite::Suite,
};

/// A TCP server and client of one container, and a Unix one.
const LOOPBACK: &str = "\
    echo answer | nc -l -p 4000 > /tmp/got & \
    for i in 1 2 3 4 5 6 7 8 9; do \
      grep -q :0FA0 /proc/net/tcp /proc/net/tcp6 && break; sleep 0.1; \
    done; \
    echo question | nc 127.0.0.1 4000; wait; cat /tmp/got";

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("net-loopback", || bed.sh(BUSYBOX, LOOPBACK)?.expect("answer\nquestion").map(drop));
    suite.case("net-fresh-namespace-has-loopback-only", || {
        let script = "ip -o link | cut -d: -f2; wget -T 2 -q -O- http://10.231.7.1/ || echo none";
        bed.sh(BUSYBOX, script)?.expect(" lo\nnone").map(drop)
    });
    suite.case("net-web-server-answers-the-host", || {
        let pod = Pod::new(1)?;
        let script = "mkdir /www; echo it works > /www/index.html; exec httpd -f -p 80 -h /www";
        let id = pod.detach(bed, script)?;
        let url = format!("http://{}/index.html", pod.inner());
        let get = || Command::new("curl").args(["-s", "--max-time", "5", &url]).output();
        command::until("the web server answers", PATIENCE, || {
            Ok(get().context("run curl")?.stdout == b"it works\n")
        })?;
        for _ in 0..20 {
            let output = get().context("run curl")?;
            ensure!(output.stdout == b"it works\n", "curl: {output:?}");
        }
        bed.remove(&id)
    });
    suite.case("net-container-connects-out", || {
        let pod = Pod::new(2)?;
        let listener = TcpListener::bind((pod.outer(), 0)).context("listen on the host")?;
        let port = listener.local_addr()?.port();
        let server = thread::spawn(move || -> Result<String> {
            let (mut stream, peer) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut request = [0; 4];
            stream.read_exact(&mut request)?;
            let body = peer.ip().to_string();
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            Ok(body)
        });
        let url = format!("http://{}:{port}/", pod.outer());
        let mut run = pod.run(bed, &["--rm"], &format!("wget -T 5 -q -O- {url}"));
        let output = command::run(&mut run)?.expect(&pod.inner())?;
        let Ok(seen) = server.join() else { bail!("the server failed, the client: {output}") };
        ensure!(seen? == pod.inner(), "the host saw another address");
        Ok(())
    });
    suite.case("net-containers-of-a-pod-share-localhost", || {
        let pod = Pod::new(3)?;
        let id =
            pod.detach(bed, "mkdir /www; echo shared > /www/x; exec httpd -f -p 8080 -h /www")?;
        let script = "for i in 1 2 3 4 5 6 7 8 9; do \
                        wget -q -O- http://127.0.0.1:8080/x && exit 0; sleep 0.3; \
                      done; exit 1";
        command::run(&mut pod.run(bed, &["--rm"], script))?.expect("shared")?;
        bed.remove(&id)
    });
    suite.case("net-interfaces-are-the-pod's", || {
        let pod = Pod::new(4)?;
        let script = "ip -o -4 addr show eth0 | awk '{print $4}'; ip route | head -1 | cut -d' ' -f1-3; \
                      ifconfig eth0 | grep -c RUNNING; grep -c eth0 /proc/net/dev";
        let expected = format!("{}/24\ndefault via {}\n1\n1", pod.inner(), pod.outer());
        command::run(&mut pod.run(bed, &["--rm"], script))?.expect(&expected).map(drop)
    });
}

/// A network namespace with an interface whose other end is on the host.
struct Pod {
    name: String,
    number: u8,
}

impl Pod {
    fn new(number: u8) -> Result<Self> {
        let pod = Self { name: format!("te{}x{number}", process::id() % 100_000), number };
        let name = &pod.name;
        let (inner, outer) = (pod.inner(), pod.outer());
        for line in [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name eth0 netns {name}"),
            format!("addr add {outer}/24 dev {name}"),
            format!("link set {name} up"),
            format!("-n {name} addr add {inner}/24 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} route add default via {outer}"),
        ] {
            command::must(Command::new("ip").args(line.split(' ')), PATIENCE)
                .context("make a network namespace (Debian package iproute2)")?;
        }
        Ok(pod)
    }

    /// The address in the namespace.
    fn inner(&self) -> String {
        format!("10.231.{}.2", self.number)
    }

    /// The address of the host's end.
    fn outer(&self) -> String {
        format!("10.231.{}.1", self.number)
    }

    fn run(&self, bed: &Bed, flags: &[&str], script: &str) -> Command {
        let namespace = format!("network:/run/netns/{}", self.name);
        let mut flags = flags.to_vec();
        flags.extend(["--with-ns", &namespace]);
        bed.ctr_run(&flags, BUSYBOX, &bed.id("pod"), &["/bin/sh", "-c", script])
    }

    fn detach(&self, bed: &Bed, script: &str) -> Result<String> {
        let mut run = self.run(bed, &["--detach", "--null-io"], script);
        // The id comes right before the command.
        let words: Vec<_> =
            run.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let id = words.len().checked_sub(4).and_then(|at| words.get(at)).cloned();
        command::must(&mut run, PATIENCE)?;
        id.context("the id among the arguments of ctr")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The interface goes with its other end.
        command::run(Command::new("ip").args(["link", "delete", &self.name])).ok();
        command::run(Command::new("ip").args(["netns", "delete", &self.name])).ok();
    }
}
