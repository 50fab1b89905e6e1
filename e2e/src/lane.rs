// SPDX-License-Identifier: Apache-2.0
//! The standard-KVM lane: boots Debian's kernel in QEMU, whose TCG emulates a CPU with AMD-V, loads
//! the real `kvm-amd`, and runs the cases of [`crate::smoke`] on it with `trine run`.
//!
//! It needs no `/dev/kvm`, and it is the check that nothing was written for one kind of KVM alone.
//! It is slow, and says nothing of speed.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{self, shorten},
    images, packages, paths,
    smoke::{CASES, Case},
    suite::{self, Suite},
};

/// How long the whole lane may take, once for each repetition.
const PATIENCE: Duration = Duration::from_secs(900);
const MEMORY_MIB: u32 = 2048;
/// How long one case may take, in a VM in an emulated machine.
const CASE_SECONDS: u32 = 90;
const MODULES: &[&str] = &["irqbypass", "ccp", "kvm", "kvm-amd"];
const PROGRAMS: &[&str] = &["trine", "trine-vmm", "trine-io", "trine-kernel"];
/// The machine's CPUs, and those that VMs run on, as a mask: not the first one.  Whenever any CPU
/// loads floating-point state, QEMU clears IGNNE# in the flags of the first CPU from that CPU's
/// thread (`cpu_clear_ignne`), not atomically, and may so undo what the first CPU does with the same
/// word at that time: a VMRUN there then went on without nested paging (QEMU 7.2).
const CPUS: &str = "3";
const CPUS_OF_VMS: &str = "6";
/// Starts a line that the machine reports with.
const MARK: &str = "@lane ";

/// Fetches Debian's kernel, unless it is there.
pub(crate) fn prepare() -> Result<()> {
    kernel().map(drop)
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

fn kernel() -> Result<Kernel> {
    let folder = paths::cache().join("linux");
    if find(&folder.join("boot"), "vmlinuz-").is_err() {
        println!("fetching Debian's kernel for the standard-KVM lane");
        let package = packages::dependency("linux-image-amd64", "linux-image-")?;
        fs::create_dir_all(&folder)?;
        for file in packages::download(&[&package])? {
            packages::unpack(&file, &folder)?;
        }
    }
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| folder.join(path));
    let modules = modules.iter().find(|path| path.exists()).context("a kernel without modules")?;
    Ok(Kernel { image: find(&folder.join("boot"), "vmlinuz-")?, modules: modules.clone() })
}

fn find(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    paths.find(is_it).with_context(|| format!("no {prefix}* in {}", folder.display()))
}

/// Runs the lane, each case so many times; says whether all went well.
pub(crate) fn run(words: &[String], repeat: usize) -> Result<bool> {
    let mut suite = Suite::new("e2e-kvm", words.to_vec());
    let cases: Vec<&Case> = CASES.iter().filter(|case| suite.wants(case.name)).collect();
    let cases = cases.repeat(repeat);
    if cases.is_empty() {
        return Ok(suite::skip_all("e2e-kvm", "no case of that name"));
    }
    images::prepare()?;
    let kernel = kernel()?;
    let work = tempfile::Builder::new().prefix("trine-lane.").tempdir()?;
    let ram_disk = ram_disk(work.path(), &kernel, &cases)?;

    println!("booting Debian's kernel under QEMU, with an emulated AMD-V");
    let errors = work.path().join("qemu.log");
    let mut machine = start(&kernel, &ram_disk, &errors)?;
    let stdout = machine.stdout.take().context("QEMU's output")?;
    let lines = lines(stdout);
    let outcome = follow(&lines, &cases, &mut suite, PATIENCE * repeat as u32);
    machine.kill().ok();
    machine.wait().ok();
    outcome.with_context(|| complaints(&errors))?;
    Ok(suite.finish())
}

/// What QEMU wrote, but for the features of the CPU that it cannot emulate and we do not need.
fn complaints(errors: &Path) -> String {
    let text = fs::read_to_string(errors).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.contains("TCG doesn't support requested feature"));
    format!("the lane failed (QEMU said {:?})", lines.collect::<Vec<_>>().join("; "))
}

/// Makes the initial RAM disk: programs, images, and a script that runs the cases.
fn ram_disk(work: &Path, kernel: &Kernel, cases: &[&Case]) -> Result<PathBuf> {
    let root = work.join("root");
    for folder in ["bin", "dev", "proc", "sys", "run", "tmp", "var/lib/trine", "modules", "new"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(images::BUSYBOX.rootfs().join("bin/busybox"), root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh"))?;
    for name in PROGRAMS {
        let program = paths::programs().join(name);
        fs::copy(&program, root.join("bin").join(name))
            .with_context(|| format!("copy {} (run make build)", program.display()))?;
    }
    for name in MODULES {
        let find = ["-name", &format!("{name}.ko")];
        let found = command::must(
            Command::new("find").arg(&kernel.modules).args(find),
            Duration::from_secs(60),
        )?;
        let file = found.lines().next().with_context(|| format!("no module {name}"))?;
        fs::copy(file, root.join("modules").join(format!("{name}.ko")))?;
    }
    for image in images::ALL {
        let mut build = Command::new(paths::trine());
        build.arg("--images").arg(root.join("var/lib/trine/images"));
        build.args(["image", "build", "--tag", image.name]).arg(image.archive());
        command::must(&mut build, Duration::from_secs(120))?;
    }
    write_script(&root.join("init"), INIT)?;
    write_script(&root.join("cases"), &script(cases))?;

    let ram_disk = work.join("ram-disk");
    let pack = r#"cd "$1" && find . | cpio -o -H newc --quiet > "$2""#;
    let mut pack_command = Command::new("bash");
    pack_command.args(["-o", "pipefail", "-c", pack, "pack"]).arg(&root).arg(&ram_disk);
    command::must(&mut pack_command, Duration::from_secs(120))?;
    Ok(ram_disk)
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The first program.  It moves everything to a file system that is not the kernel's first one,
/// because nothing can change its root from there.
const INIT: &str = r#"#!/bin/sh
bin=/bin/busybox
$bin mount -t tmpfs -o size=80% tmpfs /new
$bin cp -a /bin /cases /modules /run /tmp /var /new/
$bin mkdir /new/dev /new/proc /new/sys
exec $bin switch_root /new /cases
"#;

/// The second one: loads KVM, and reports each case as lines of hexadecimal digits.
fn script(cases: &[&Case]) -> String {
    let mut script = format!(
        r#"#!/bin/sh
/bin/busybox mkdir -p /usr/bin /sbin
/bin/busybox --install -s /usr/bin
export PATH=/bin:/usr/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /dev/shm /dev/pts /root
mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for m in {modules}; do insmod /modules/$m.ko; done
ip link set lo up 2>/dev/null
stty -opost 2>/dev/null
hex() {{ head -c 4000 "$1" | xxd -p | tr -d '\n'; }}
report() {{
  name=$1; shift
  beside timeout -s KILL {CASE_SECONDS} "$@" > /tmp/out 2> /tmp/err < /dev/null
  status=$?
  echo "{MARK}$name $status out=$(hex /tmp/out) err=$(hex /tmp/err)"
}}
mkdir -p /beside/volume /beside/canary; echo secret > /beside/canary/secret
cat > /bin/beside << 'END'
#!/bin/sh
look() {{ stat -c '%n %i %f %u %s %X %Y %Z' /beside/canary /beside/canary/*; }}
before=$(look); "$@"; status=$?
[ "$before" = "$(look)" ] && exit $status
echo the host tree beside the volume was read or changed; exit 99
END
chmod 755 /bin/beside
[ -e /dev/kvm ] && echo "{MARK}ready"
# One VM through it all: KVM patches the kernel's code (static keys) when the first VM is made and
# when the last one ends, and now and then QEMU runs the breakpoint of a patched place for ever.
taskset {CPUS_OF_VMS} trine run {image} /bin/sleep 100000 > /dev/null 2>&1 < /dev/null &
"#,
        modules = MODULES.join(" "),
        image = images::BUSYBOX.name,
    );
    for case in cases {
        let (name, vcpus, image) = (case.name, case.vcpus, case.image.name);
        let volume = if case.has_volume { "-v /beside/volume:/data " } else { "" };
        script += &format!(
            "report {name} taskset {CPUS_OF_VMS} trine run --cpus {vcpus} {volume}{image}"
        );
        for word in case.command {
            script += &format!(" {}", quote(word));
        }
        script.push('\n');
    }
    script + &format!("echo '{MARK}done'\npoweroff -f\n")
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn start(kernel: &Kernel, ram_disk: &Path, errors: &Path) -> Result<Child> {
    let memory = MEMORY_MIB.to_string();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-smp", CPUS, "-m", &memory])
        .args(["-cpu", "EPYC,+svm,+npt", "-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(ram_disk)
        .args(["-append", "console=ttyS0 quiet panic=1 mitigations=off nokaslr tsc=reliable"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(errors)?);
    qemu.spawn().context("run qemu-system-x86_64 (make setup installs it)")
}

/// Reads lines in a thread, so that the reader can have a deadline.
fn lines(stdout: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Follows what the machine says until it is done.
fn follow(
    lines: &Receiver<String>,
    cases: &[&Case],
    suite: &mut Suite,
    patience: Duration,
) -> Result<()> {
    let start = Instant::now();
    let mut last = Instant::now();
    let mut noise = Vec::new();
    let mut is_ready = false;
    let mut reported = 0;
    loop {
        let line = match lines.recv_timeout(patience.saturating_sub(start.elapsed())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                bail!("not done after {} s: {}", patience.as_secs(), noise.join("\n"));
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // The firmware and the kernel write to the same line before us.
        let Some(report) = line.split(MARK).nth(1) else {
            noise.push(line);
            continue;
        };
        match report {
            "ready" => is_ready = true,
            "done" => break,
            report => {
                let seconds = last.elapsed().as_secs_f64();
                judge(report, cases, suite, seconds);
                reported += 1;
            }
        }
        last = Instant::now();
    }
    if !is_ready {
        bail!("the machine has no /dev/kvm: {}", shorten(&noise.join("\n")));
    }
    if reported < cases.len() {
        let log = shorten(&noise.join("\n"));
        suite.fail("the machine", &format!("ended after {reported} cases: {log}"));
    }
    Ok(())
}

/// Judges one line: `NAME STATUS out=HEX err=HEX`.
fn judge(report: &str, cases: &[&Case], suite: &mut Suite, seconds: f64) {
    let mut words = report.split(' ');
    let name = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.parse().ok()).unwrap_or(-1);
    let text = |word: Option<&str>, key: &str| {
        word.and_then(|word| word.strip_prefix(key)).map(decode).unwrap_or_default()
    };
    let stdout = text(words.next(), "out=");
    let stderr = text(words.next(), "err=");
    let Some(case) = cases.iter().find(|case| case.name == name) else {
        return suite.fail(name, "reported, but no such case");
    };
    if status == case.status && stdout.trim_end() == case.stdout {
        suite.pass(name, &format!("{seconds:.1} s"));
    } else {
        let why = format!(
            "exit status {status} instead of {}, printed {stdout:?} instead of {:?}, stderr {:?}",
            case.status,
            case.stdout,
            shorten(&stderr),
        );
        suite.fail(name, &why);
    }
}

fn decode(hex: &str) -> String {
    let digits: Vec<char> = hex.chars().collect();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).ok())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judge_needs_status_and_output() {
        let cases: Vec<&Case> = CASES.iter().filter(|case| case.name == "hello").collect();
        for (report, is_good) in [
            ("hello 0 out=68656c6c6f0a err=", true),
            ("hello 1 out=68656c6c6f0a err=", false),
            ("hello 0 out= err=6e6f", false),
            ("hello", false),
            ("other 0 out= err=", false),
        ] {
            let mut suite = Suite::new("x", Vec::new());
            judge(report, &cases, &mut suite, 0.0);
            assert_eq!(suite.finish(), is_good, "{report}");
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        let output =
            command::run(Command::new("sh").args(["-c", "printf %s \"$1\"", "x"]).arg("a"));
        assert_eq!(output.unwrap().stdout, "a");
        let script = format!("printf %s {}", quote("it's $HOME \"x\""));
        let output = command::run(Command::new("sh").args(["-c", &script])).unwrap();
        assert_eq!(output.stdout, "it's $HOME \"x\"");
    }
}
