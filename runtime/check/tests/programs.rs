// SPDX-License-Identifier: Apache-2.0
//! Checks of programs that are compiled here, and of Debian's.  Without a C compiler they are
//! skipped, and say so.
#![forbid(unsafe_code)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Bed, HELLO, names};
use trine_check::{
    CheckError, Checker, HostFiles, Report,
    calls::{self, Support},
};

fn check(program: &Path) -> Report {
    let mut checker = Checker::new(HostFiles);
    checker.program(program).expect("checked");
    checker.finish()
}

fn lacks(program: &Path) -> Vec<&'static str> {
    names(&check(program).lacking)
}

#[test]
fn the_table_knows_what_these_tests_take_for_granted() {
    for lacking in ["swapon", "io_uring_setup", "keyctl", "quotactl", "kexec_load"] {
        let number = trine_abi::names::number(lacking).expect("a name") as u32;
        assert!(matches!(calls::support(number), Support::None(_)), "{lacking} is there now");
    }
    assert_eq!(calls::support(0), Support::Full);
    assert_eq!((calls::name(0), calls::name(0xffff)), (Some("read"), None));
}

#[test]
fn plain_programs_lack_nothing() {
    let Some(bed) = Bed::new() else { return };
    for flags in [&[][..], &["-static"], &["-static-pie"], &["-no-pie"]] {
        let report = check(&bed.compile("hello", HELLO, flags));
        assert!(report.is_good(), "{flags:?}: {report:#?}");
        assert!(report.full.contains(&"write") && report.full.contains(&"exit_group"), "{flags:?}");
    }
}

#[test]
fn a_lacking_call_is_found_however_it_is_made() {
    let Some(bed) = Bed::new() else { return };
    let wrapper = "#include <sys/swap.h>\nint main(void) { return swapon(\"/x\", 0); }\n";
    let number = "#include <unistd.h>\nint main(void) { return syscall(425, 1, 0); }\n";
    let handed_on = "#include <unistd.h>\n\
        __attribute__((noinline)) static long make(int a, long number) {\n\
            return a ? syscall(number, 1, 2, 3) : 0;\n\
        }\n\
        int main(int argc, char **argv) { (void)argv; return make(argc, 250) + make(argc, 39); }\n";
    let chosen = "#include <unistd.h>\n\
        int main(int argc, char **argv) {\n\
            long number = 39;\n\
            if (argc > 2 && argv[2]) { number = 250; __asm__ volatile(\"\" : \"+r\"(number)); }\n\
            return syscall(number);\n\
        }\n";
    let own = "int main(void) {\n\
        long result;\n\
        __asm__ volatile(\"mov $179, %%eax\\n\\tsyscall\" : \"=a\"(result) : : \"rcx\", \"r11\",\n\
                         \"memory\");\n\
        return result != 0;\n\
        }\n";
    let stack = "long make(void);\n\
        __asm__(\"make: push $246\\n pop %rax\\n syscall\\n ret\\n\");\n\
        int main(void) { return make() != 0; }\n";
    for (name, source, expected) in [
        ("wrapper", wrapper, "swapon"),
        ("number", number, "io_uring_setup"),
        ("handed-on", handed_on, "keyctl"),
        ("chosen", chosen, "keyctl"),
        ("own", own, "quotactl"),
        ("stack", stack, "kexec_load"),
    ] {
        for flags in [&["-O2"][..], &["-O0"], &["-O2", "-static"], &["-O0", "-static", "-s"]] {
            let program = bed.compile(name, source, flags);
            let report = check(&program);
            assert_eq!(names(&report.lacking), [expected], "{name} {flags:?}: {report:#?}");
            let call = &report.lacking[0];
            assert!(call.needed_by.contains(&fs::canonicalize(&program).expect("a path")));
            assert!(!call.missing.is_empty());
        }
    }
}

#[test]
fn a_number_that_is_not_known_before_is_counted() {
    let Some(bed) = Bed::new() else { return };
    let source = "#include <stdlib.h>\n#include <unistd.h>\n\
        int main(int argc, char **argv) { return syscall(atoi(argv[argc - 1])); }\n";
    for flags in [&[][..], &["-static"]] {
        let program = bed.compile("unknown", source, flags);
        let report = check(&program);
        assert!(report.is_good(), "{flags:?}: {report:#?}");
        let path = fs::canonicalize(&program).expect("a path");
        let places = report.undetermined.iter().find(|code| code.path == path);
        let known = check(&bed.compile("hello", HELLO, flags));
        let own = known.undetermined.iter().find(|code| code.path.ends_with("hello"));
        let (places, own) = (places.map_or(0, |code| code.sites), own.map_or(0, |code| code.sites));
        assert_eq!(places, own + 1, "{flags:?}: {report:#?}");
    }
}

#[test]
fn of_a_library_only_what_is_reached_counts() {
    let Some(bed) = Bed::new() else { return };
    let library = "#include <sys/swap.h>\n#include <unistd.h>\n\
        static int hidden(void) { return swapon(\"/x\", 0); }\n\
        int swap(void) { return hidden(); }\n\
        int plain(void) { return getpid(); }\n";
    let path = bed.compile("libboth.so", library, &["-O0", "-shared", "-fPIC"]);
    let flags = ["-L", path.parent().and_then(Path::to_str).expect("a folder"), "-lboth"];
    let user = |name: &str, function: &str, more: &[&str]| {
        let source = format!("int {function}(void);\nint main(void) {{ return {function}(); }}\n");
        bed.compile(name, &source, &[&flags, more].concat())
    };
    let origin = "-Wl,-rpath,$ORIGIN";
    assert_eq!(lacks(&user("swaps", "swap", &[origin])), ["swapon"]);
    assert_eq!(lacks(&user("plain", "plain", &[origin])), [""; 0]);
    let report = check(&user("lost", "plain", &[]));
    assert!(report.notes.iter().any(|note| note.contains("libboth.so")), "{:?}", report.notes);
}

#[test]
fn what_cannot_start_is_refused() {
    let Some(bed) = Bed::new() else { return };
    let good = fs::read(bed.compile("good", HELLO, &["-static"])).expect("read");
    let changed = |name: &str, at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        bed.write(name, &file)
    };
    for (program, reason) in [
        (changed("arm", 18, &183_u16.to_le_bytes()), "64-bit ARM"),
        (changed("i386", 4, &[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0]), "32-bit x86"),
        (changed("damaged", 32, &(u64::MAX / 2).to_le_bytes()), "damaged"),
        (bed.compile("lost", HELLO, &["-Wl,--dynamic-linker=/no/such/ld.so"]), "/no/such/ld.so"),
        (bed.write("script", b"#! /no/such/sh -e\n"), "/no/such/sh"),
    ] {
        let report = check(&program);
        assert!(!report.is_good());
        let [refusal] = &report.refused[..] else { panic!("{report:#?}") };
        assert!(refusal.reason.contains(reason), "{refusal:?}");
    }
    let mut checker = Checker::new(HostFiles);
    let missing = checker.program(Path::new("/no/such/program"));
    assert!(matches!(missing, Err(CheckError::NotFound { .. })), "{missing:?}");
    let text = checker.program(&bed.write("text", b"just text\n"));
    assert!(matches!(text, Err(CheckError::NotAProgram { .. })), "{text:?}");
}

#[test]
fn any_bytes_behind_a_good_header_are_checked_or_refused() {
    let Some(bed) = Bed::new() else { return };
    let good = fs::read(bed.compile("good", HELLO, &[])).expect("read");
    let mut seed = 7_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for round in 0..200 {
        let mut file = good.clone();
        for _ in 0..1 + round % 20 {
            let at = 20 + random() % (file.len() - 20);
            file[at] = [0, 1, 0x7f, 0xff, random() as u8][random() % 5];
        }
        file.truncate(file.len() - random() % 3 * random() % file.len());
        if file.len() > 64 {
            check(&bed.write("changed", &file));
        }
    }
}

/// What a program really does is among what is found for it.
#[test]
fn what_programs_call_was_found_before() {
    let Some(bed) = Bed::new() else { return };
    let commands: [&[&str]; 4] = [
        &["/usr/bin/python3", "-c", "import os, socket, subprocess; subprocess.run(['true'])"],
        &["/bin/busybox", "ls", "-l", "/"],
        &["/bin/ls", "-l", "/"],
        &["/bin/bash", "-c", "echo $(ls / | wc -l)"],
    ];
    for command in commands {
        let program = Path::new(command[0]);
        let trace = bed.folder().join("trace");
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-e", "signal=none", "-o"]).arg(&trace).args(command);
        if !program.exists() || !strace.output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: {command:?} with strace does not run here");
            continue;
        }
        let report = check(program);
        let mut known = report.full.clone();
        known.extend(names(&report.partial));
        known.extend(names(&report.lacking));
        let lines = fs::read_to_string(&trace).expect("read");
        for line in lines.lines() {
            let Some((name, _)) = line.split_once('(') else { continue };
            // Names that strace has of its own.
            let name = match name {
                "fstatat64" | "newfstatat" => "newfstatat",
                name => name,
            };
            assert!(known.contains(&name), "{command:?} calls {name}, which was not found");
        }
        assert!(lines.lines().count() > 10, "{command:?}: {lines}");
    }
}

#[test]
fn debians_programs_lack_what_they_lack() {
    for (path, expected) in
        [("/bin/cat", Some(&[""; 0][..])), ("/bin/ls", Some(&[])), ("/sbin/swapon", None)]
    {
        if !Path::new(path).exists() {
            eprintln!("skipped: no {path}");
            continue;
        }
        let found = lacks(&PathBuf::from(path));
        match expected {
            Some(expected) => assert_eq!(found, expected, "{path}"),
            None => assert!(found.contains(&"swapon"), "{path}: {found:?}"),
        }
    }
}
