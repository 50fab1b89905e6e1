// SPDX-License-Identifier: Apache-2.0
//! Rewriting of Debian's programs, seen through images and through other people's disassembler.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::text::{check, patched};
use elf::{ElfBytes, abi::PF_X, abi::PT_LOAD, endian::LittleEndian};
use trine_abi::text::{FileEntry, Header, MAGIC, PageEntry, TRAMPOLINE_BYTES, TRAMPOLINE_ORIGIN};
use trine_rootfs_builder::text::{self, Page, Rewrite};
use trine_rootfs_builder::{BuildReport, Quiet, WalkOptions, build_from_dir, erofs};

const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";
const LINKER: &str = "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const BUSYBOX: &str = "/bin/busybox";
const NODE: &str = "/usr/bin/node";
/// Debian's golang-1.19: programs that call the kernel themselves.
const GO: &str = "/usr/lib/go-1.19/bin/gofmt";

/// Reads a program of this host, or says that it is not there.
fn program(path: &str) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            common::skip(&format!("{path}: {error}"));
            None
        }
    }
}

/// Runs `objdump`: the text of each instruction by address.
fn disassemble(path: &Path) -> Option<BTreeMap<u64, String>> {
    let mut objdump = Command::new("objdump");
    let output = objdump.args(["-d", "-w", "--no-show-raw-insn"]).arg(path).output();
    let Ok(output) = output else {
        common::skip("objdump (Debian: binutils) cannot run");
        return None;
    };
    assert!(output.status.success(), "objdump {path:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let instruction = |line: &str| {
        let (address, text) = line.trim_start().split_once(":\t")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        // Without the symbol that it thinks is meant.
        let text = text.split(" <").next().unwrap_or_default();
        let words: Vec<_> = text.split_whitespace().collect();
        // Without symbols it writes addresses in another way.
        Some((address, words.join(" ").replace("jmp 0x", "jmp ")))
    };
    Some(text.lines().filter_map(instruction).collect())
}

/// Where a file's first byte would lie if all of it were mapped as its code is.
fn base(file: &[u8]) -> i64 {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).unwrap();
    let code = elf
        .segments()
        .unwrap()
        .iter()
        .find(|segment| segment.p_type == PT_LOAD && segment.p_flags & PF_X != 0);
    let code = code.unwrap();
    code.p_vaddr.cast_signed() - code.p_offset.cast_signed()
}

/// Compares a program and its rewritten copy, both disassembled; returns the share of its system
/// calls that are rewritten.
fn compare(path: &str) -> Option<f64> {
    let original = program(path)?;
    let rewrite = text::rewrite(&original);
    check(&original, &rewrite);
    let before = disassemble(Path::new(path))?;
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    fs::write(&copy, patched(&original, &rewrite)).unwrap();
    let after = disassemble(&copy)?;

    let base = base(&original);
    let address = |offset: u64| (base + offset.cast_signed()).cast_unsigned();
    let jump_to = |target: u64| format!("jmp {target:x}");
    let first = (base + rewrite.place).cast_unsigned();
    let calls: BTreeSet<_> =
        before.iter().filter(|(_, text)| *text == "syscall").map(|(at, _)| *at).collect();
    let mut changed = Vec::new();
    for site in &rewrite.sites {
        let at = address(site.offset);
        let trampoline = jump_to(first.wrapping_add(site.trampoline));
        match &site.hop {
            None => assert_eq!(after[&at], trampoline, "{at:x}"),
            Some(hop) => {
                assert_eq!(after[&at], jump_to(address(hop.offset)), "{at:x}");
                assert_eq!(after[&address(hop.offset)], trampoline, "{at:x}");
                changed.push(address(hop.gap.start)..address(hop.gap.end));
            }
        }
        changed.push(at..at + u64::from(site.length));
        let call = address(site.call);
        assert!(calls.contains(&call), "{call:x} is no syscall");
        assert_eq!(after[&call], "syscall");
    }
    let is_kept = |at: &u64| !changed.iter().any(|range| range.contains(at));
    let kept = |all: &BTreeMap<u64, String>| {
        let kept = all.iter().filter(|(at, _)| is_kept(at));
        kept.map(|(at, text)| (*at, text.clone())).collect::<Vec<_>>()
    };
    assert!(kept(&before) == kept(&after), "{path}: other instructions changed");
    let share = rewrite.sites.len() as f64 / calls.len() as f64;
    let hops = rewrite.sites.iter().filter(|site| site.hop.is_some()).count();
    println!(
        "{path}: {} calls, {} found, {} rewritten ({:.1} %, {hops} through padding), {} pages",
        calls.len(),
        rewrite.found,
        rewrite.sites.len(),
        100.0 * share,
        rewrite.pages.len()
    );
    for (site, text) in left(&before, &calls, &rewrite, address) {
        println!("  left at {site:x} after {text}");
    }
    Some(share)
}

/// The calls that are not rewritten, with the instruction before each.
fn left(
    all: &BTreeMap<u64, String>,
    calls: &BTreeSet<u64>,
    rewrite: &Rewrite,
    address_fn: impl Fn(u64) -> u64,
) -> Vec<(u64, String)> {
    let done: BTreeSet<u64> = rewrite.sites.iter().map(|site| address_fn(site.call)).collect();
    let before = |call: &u64| {
        let mut texts: Vec<_> =
            all.range(..call).rev().take(3).map(|(_, text)| text.as_str()).collect();
        texts.reverse();
        texts.join("; ")
    };
    calls.difference(&done).map(|call| (*call, before(call))).collect()
}

#[test]
fn nearly_all_calls_of_the_c_library_are_rewritten() {
    let Some(share) = compare(LIBC) else { return };
    assert!(share >= 0.94, "{share}");
}

#[test]
fn nearly_all_calls_of_the_dynamic_linker_are_rewritten() {
    let Some(share) = compare(LINKER) else { return };
    assert!(share >= 0.86, "{share}");
}

#[test]
fn nearly_all_calls_of_a_static_program_are_rewritten() {
    let Some(share) = compare(BUSYBOX) else { return };
    assert!(share >= 0.95, "{share}");
}

#[test]
fn nearly_all_calls_of_a_go_program_are_rewritten() {
    let Some(share) = compare(GO) else { return };
    assert!(share >= 0.9, "{share}");
}

#[test]
fn a_program_of_100_megabytes_takes_a_moment() {
    let Some(file) = program(NODE) else { return };
    let start = Instant::now();
    let rewrite = text::rewrite(&file);
    let elapsed = start.elapsed();
    check(&file, &rewrite);
    println!("{NODE}: {} found, {} rewritten, {elapsed:?}", rewrite.found, rewrite.sites.len());
    assert!(elapsed.as_secs() < 10, "{elapsed:?}");
}

/// A copy of a program that is not relocated, which Linux runs: trampolines make the system call
/// themselves, and where it was is an instruction that no program survives.
fn runnable(original: &[u8], rewrite: &Rewrite) -> Vec<u8> {
    const HEADER: usize = 64;
    const SEGMENT: usize = 56;
    let mut file = patched(original, rewrite);
    for site in &rewrite.sites {
        file[site.call as usize..][..2].copy_from_slice(&[0x0f, 0x0b]);
    }
    file.resize(file.len().next_multiple_of(4096), 0);
    let offset = file.len() as u64;
    let address = (base(original) + rewrite.place).cast_unsigned();
    let mut trampolines = rewrite.trampolines.clone();
    for site in &rewrite.sites {
        let slot = &mut trampolines[site.trampoline as usize..][..TRAMPOLINE_BYTES as usize];
        let load = slot.windows(3).position(|bytes| bytes == [0x48, 0x8d, 0x0d]).unwrap();
        slot[load..load + 3].copy_from_slice(&[0x0f, 0x05, 0xe9]);
        let next = (rewrite.place + site.trampoline as i64) + load as i64 + 7;
        let distance = i32::try_from(site.call as i64 + 2 - next).unwrap();
        slot[load + 3..load + 7].copy_from_slice(&distance.to_le_bytes());
    }
    file.extend(&trampolines);
    // In place of a note, which nobody needs: the trampolines.
    let count = u16::from_le_bytes([file[56], file[57]]) as usize;
    let headers = (0..count).map(|index| HEADER + SEGMENT * index);
    let note = headers.clone().find(|at| file[*at..at + 4] == [4, 0, 0, 0]).unwrap();
    let size = trampolines.len() as u64;
    let mut header = [1_u32, 5].map(u32::to_le_bytes).concat();
    header.extend([offset, address, address, size, size, 4096].map(u64::to_le_bytes).concat());
    file[note..note + SEGMENT].copy_from_slice(&header);
    file
}

/// Runs a program and its runnable copy with the same arguments; `$0` is the program.
fn runs_the_same(path: &str, arguments: &[&str]) {
    let Some(original) = program(path) else { return };
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join(Path::new(path).file_name().unwrap());
    fs::write(&copy, runnable(&original, &text::rewrite(&original))).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |program: &Path| {
        let name = program.to_str().unwrap();
        let arguments = arguments.iter().map(|argument| argument.replace("$0", name));
        let output = Command::new(program).args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).replace(name, path);
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned(), errors)
    };
    let (status, text, errors) = run(Path::new(path));
    assert!(status.success() && !text.is_empty(), "{path}: {errors}");
    assert_eq!(run(&copy), (status, text, errors));
}

#[test]
fn rewritten_shell_and_tools_do_the_same() {
    let script = "$0 ls -l /usr/bin | $0 md5sum; $0 find /etc -name passwd; cd /; pwd; $0 id -u;
        (exit 3); echo $?; $0 seq 20000 | $0 sort -rn | $0 head -n 2; $0 sleep 0.1 & wait;
        $0 timeout 1 $0 sleep 5; echo $?; trap 'echo caught' USR1; kill -USR1 $$;
        $0 dd if=/dev/zero bs=64k count=9 2>/dev/null | $0 gzip | $0 zcat | $0 wc -c;
        $0 stat -c %s /etc/passwd; $0 tar -c /etc/passwd 2>/dev/null | $0 tar -t; $0 nope";
    runs_the_same(BUSYBOX, &["sh", "-c", &format!("{script}; true")]);
}

#[test]
fn rewritten_go_program_does_the_same() {
    // The names of files that it would change.
    runs_the_same(GO, &["-l", "-r", "nil -> null", "/usr/share/go-1.19/src/net"]);
}

/// An image, read by hand.
struct Image {
    bytes: Vec<u8>,
    /// Where the file system ends.
    end: usize,
    report: BuildReport,
    path: PathBuf,
}

impl Image {
    fn of(root: &Path, path: &Path) -> Self {
        let file = File::create(path).unwrap();
        let report = build_from_dir(root, &file, &WalkOptions::default(), &Quiet).unwrap();
        let bytes = fs::read(path).unwrap();
        let blocks = u32::from_le_bytes(bytes[1024 + 36..1024 + 40].try_into().unwrap());
        Self { bytes, end: blocks as usize * 4096, report, path: path.into() }
    }

    fn blocks(&self, first: u32, count: u32) -> &[u8] {
        assert!(first as usize * 4096 > self.end);
        &self.bytes[first as usize * 4096..(first + count) as usize * 4096]
    }

    /// The rewritten text, by inode.
    fn texts(&self) -> BTreeMap<u64, Rewrite> {
        let mut rest = &self.bytes[self.end..];
        let mut take = |size: usize| rest.split_off(..size).unwrap();
        let header = Header::decode(take(Header::BYTES).try_into().unwrap());
        assert_eq!(header.magic, MAGIC);
        let mut entries = Vec::new();
        for _ in 0..header.files {
            entries.push(FileEntry::decode(take(FileEntry::BYTES).try_into().unwrap()));
        }
        assert!(entries.is_sorted_by(|a, b| a.inode < b.inode));
        let mut pages = Vec::new();
        for _ in 0..header.pages {
            pages.push(PageEntry::decode(take(PageEntry::BYTES).try_into().unwrap()));
        }
        let text = |entry: &FileEntry| {
            let range = entry.first_page as usize..(entry.first_page + entry.pages) as usize;
            let page = |page: &PageEntry| Page {
                number: page.page,
                bytes: Box::new(self.blocks(page.block, 1).try_into().unwrap()),
            };
            Rewrite {
                pages: pages[range].iter().map(page).collect(),
                trampolines: self.blocks(entry.trampoline_block, entry.trampoline_pages).into(),
                place: entry.trampolines,
                ..Rewrite::default()
            }
        };
        entries.iter().map(|entry| (entry.inode, text(entry))).collect()
    }

    /// Inode numbers by name.
    fn numbers(&self) -> BTreeMap<String, u64> {
        let reader = erofs::Reader::open(File::open(&self.path).unwrap()).unwrap();
        let entries = reader.entries(&reader.root().unwrap()).unwrap();
        let name = |name: Vec<u8>| String::from_utf8(name).unwrap();
        entries.into_iter().map(|(bytes, node)| (name(bytes), node.number())).collect()
    }
}

#[test]
fn images_carry_the_rewritten_text_behind_the_file_system() {
    let (Some(libc), Some(busybox)) = (program(LIBC), program(BUSYBOX)) else { return };
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    common::write(&root.join("libc"), &libc);
    common::write(&root.join("same"), &libc);
    fs::hard_link(root.join("libc"), root.join("link")).unwrap();
    common::write(&root.join("busybox"), &busybox);
    common::write(&root.join("cut"), &libc[..100_000]);
    common::write(&root.join("text"), "mov $1,%eax");
    let image = Image::of(&root, &dir.path().join("image"));
    let again = Image::of(&root, &dir.path().join("again"));
    assert!(image.bytes == again.bytes, "two builds differ");
    assert_eq!(image.report, again.report);
    common::fsck(&image.path);

    let (numbers, texts) = (image.numbers(), image.texts());
    assert_eq!(numbers["libc"], numbers["link"]);
    let expected = BTreeSet::from(["libc", "same", "busybox"].map(|name| numbers[name]));
    assert_eq!(texts.keys().copied().collect::<BTreeSet<_>>(), expected);
    let mut total = (0, 0);
    for (name, bytes) in [("busybox", &busybox), ("libc", &libc), ("same", &libc)] {
        let rewrite = text::rewrite(bytes);
        let found = &texts[&numbers[name]];
        assert!(found.pages == rewrite.pages && found.trampolines == rewrite.trampolines);
        assert_eq!(found.place, rewrite.place);
        if name != "same" {
            total = (total.0 + rewrite.found, total.1 + rewrite.sites.len() as u64);
        }
        // As the kernel does, without what the builder knows: from a trampoline to its site.
        for (index, bytes) in found.trampolines.chunks(TRAMPOLINE_BYTES as usize).enumerate() {
            let Some(origin) = bytes[TRAMPOLINE_ORIGIN as usize..].first_chunk() else { panic!() };
            if *bytes == [0xcc; TRAMPOLINE_BYTES as usize] {
                continue;
            }
            let at = found.place + index as i64 * TRAMPOLINE_BYTES.cast_signed();
            let site = at + i64::from(i32::from_le_bytes(*origin));
            let offset = u64::try_from(site).unwrap();
            assert_eq!(rewrite.sites.iter().filter(|site| site.offset == offset).count(), 1);
        }
    }
    assert_eq!((image.report.calls_found, image.report.calls_rewritten), total);
    // The second copy of the C library takes no room here either.
    let bytes = |rewrite: &Rewrite| rewrite.pages.len() * 4096 + rewrite.trampolines.len();
    let text: usize = ["libc", "busybox"].iter().map(|name| bytes(&texts[&numbers[*name]])).sum();
    assert!(image.bytes.len() - image.end <= text + 2 * 4096);
}

#[test]
fn images_without_calls_end_with_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    common::write(&dir.path().join("root/file"), common::noise(1, 10_000));
    let image = Image::of(&dir.path().join("root"), &dir.path().join("image"));
    assert_eq!(image.bytes.len(), image.end);
    assert_eq!((image.report.calls_found, image.report.calls_rewritten), (0, 0));
}

#[test]
fn text_of_sparse_files_is_rewritten_too() {
    let Some(libc) = program(LIBC) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root/libc");
    common::write(&path, &libc);
    // As a copy that makes holes of zeros would be.
    File::options().write(true).open(&path).unwrap().set_len(64 << 20).unwrap();
    let image = Image::of(&dir.path().join("root"), &dir.path().join("image"));
    assert!(image.report.hole_bytes > 60 << 20, "{:?}", image.report);
    let found = &image.texts()[&image.numbers()["libc"]];
    assert_eq!(found.pages, text::rewrite(&libc).pages);
}
