// SPDX-License-Identifier: Apache-2.0
//! Sockets: in the pod's network namespace, so that its address, its routes and its loopback are
//! what the container has.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::BUSYBOX,
    pod::Pod,
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
        let script = "ip -o link | cut -d: -f2; wget -q -O- http://10.231.7.1/ || echo none";
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
            // All of it: what is unread when it closes would reset the connection.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                request.extend(byte);
            }
            let body = peer.ip().to_string();
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            Ok(body)
        });
        let url = format!("http://{}:{port}/", pod.outer());
        let mut run = pod.run(bed, &["--rm"], &format!("wget -q -O- {url}"));
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
