// SPDX-License-Identifier: Apache-2.0
//! What is installed where.

use super::Root;

/// What is installed in most servers, and compilers.
pub(crate) const PROGRAMS: Root = Root {
    name: "compat-programs",
    memory: "2g",
    packages: &[
        "bash",
        "bc",
        "busybox-static",
        "coreutils",
        "diffutils",
        "file",
        "g++",
        "gawk",
        "gcc",
        "git",
        "gzip",
        "less",
        "libc6-dev",
        "make",
        "nginx-light",
        "nodejs",
        "openssh-client",
        "openssh-server",
        "openssl",
        "patch",
        "perl",
        "postgresql-15",
        "procps",
        "psmisc",
        "python3",
        "python3-numpy",
        "python3-pip",
        "python3-setuptools",
        "python3-venv",
        "python3-wheel",
        "redis-server",
        "sqlite3",
        "tmux",
        "unzip",
        "xz-utils",
        "zip",
        "zstd",
    ],
    setup: None,
};

/// Java.
pub(crate) const JAVA: Root = Root {
    name: "compat-java",
    memory: "2g",
    packages: &["openjdk-17-jdk-headless", "procps"],
    setup: None,
};

/// Go, with the sources and tests of its standard library.
pub(crate) const GO: Root = Root {
    name: "compat-go",
    memory: "3g",
    packages: &[
        "gcc",
        "git",
        "golang-1.19-go",
        "golang-1.19-src",
        "libc6-dev",
        "netbase",
        "procps",
        "tzdata",
    ],
    setup: None,
};

/// CPython's tests.
pub(crate) const CPYTHON: Root = Root {
    name: "compat-cpython",
    memory: "2g",
    packages: &[
        "binutils",
        "gcc",
        "libc6-dev",
        "libpython3.11-testsuite",
        "netbase",
        "python3",
        "python3-gdbm",
        "python3-venv",
        "tzdata",
    ],
    setup: None,
};

/// stress-ng.
pub(crate) const STRESS: Root =
    Root { name: "compat-stress", memory: "2g", packages: &["procps", "stress-ng"], setup: None };

/// Programs, and their own tests from their source packages.
pub(crate) const SUITES: Root = Root {
    name: "compat-suites",
    memory: "2g",
    packages: &[
        "busybox-static",
        "bzip2",
        "netbase",
        "nodejs",
        "perl",
        "postgresql-15",
        "procps",
        "redis-server",
        "tcl",
        "xz-utils",
    ],
    setup: Some(include_str!("../../../compat/setup/suites.sh")),
};

/// The Linux kernel's own tests.
pub(crate) const KSELFTEST: Root = Root {
    name: "compat-kselftest",
    memory: "1g",
    packages: &["bzip2", "libcap2-bin", "procps", "xz-utils"],
    setup: Some(include_str!("../../../compat/setup/kselftest.sh")),
};

/// What the benchmark runs, and what loads it.
pub(crate) const BENCH: Root = Root {
    name: "bench",
    memory: "1g",
    packages: &[
        "bash",
        "gcc",
        "git",
        "iperf3",
        "libc6-dev",
        "nginx-light",
        "nodejs",
        "openssl",
        "python3",
        "redis-server",
        "redis-tools",
        "wrk",
    ],
    setup: None,
};
