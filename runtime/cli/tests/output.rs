// SPDX-License-Identifier: Apache-2.0
//! What `trine` prints for other programs.
#![forbid(unsafe_code)]

mod bench;

use bench::Bench;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn version_has_the_lines_of_runc() {
    let bench = Bench::new();
    let said = bench.run("--version");
    let lines: Vec<_> = said.stdout.lines().collect();
    assert_eq!(lines, [&format!("trine version {}", env!("CARGO_PKG_VERSION")), "spec: 1.2.1"]);
    assert_eq!(bench.run("-v").stdout, said.stdout);
}

#[test]
fn features_are_of_the_oci_form() {
    let features = json(&Bench::new().run("features").stdout);
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert!(features["linux"]["namespaces"].as_array().expect("a list").contains(&"pid".into()));
}

#[test]
fn spec_writes_a_bundle_that_create_reads() {
    let bench = Bench::new();
    bench.make_directory("b");
    assert_eq!(bench.run("spec --bundle b").code, 0);
    let spec = json(&std::fs::read_to_string(bench.path("b/config.json")).expect("written"));
    assert_eq!(spec["process"]["args"], Value::from(vec!["sh"]));
    bench.refused("spec --bundle b", 1, "config.json exists");
    // It is read: what is missing is the root file system.
    bench.refused("create --bundle b c1", 1, "b/rootfs");
}

#[test]
fn list_and_ps_of_nothing_are_empty() {
    let bench = Bench::new();
    assert_eq!(json(&bench.run("list --format json").stdout), Value::Array(vec![]));
    assert!(bench.run("list").stdout.starts_with("ID "));
    assert!(json(&bench.run("ps --format json").stdout).is_array());
    assert_eq!(bench.run("list -q").stdout, "");
}

#[test]
fn image_built_from_a_directory_is_listed_and_removed() {
    let bench = Bench::new();
    bench.write("root/bin/file", "contents");
    let built = json(&bench.run("image build root -t small:1 --json").stdout);
    let digest = built["digest"].as_str().expect("a digest");
    // There is no program in it.
    assert_eq!(built["system_calls"]["found"], 0);
    assert_eq!(built["system_calls"]["rewritten"], 0);
    let listed = json(&bench.run("image ls --json").stdout);
    assert_eq!(listed[0]["digest"], digest);
    assert_eq!(listed[0]["names"], Value::from(vec!["small:1"]));
    assert_eq!(listed[0]["in_use"], false);

    // The name is known now, so what is missing is the command.
    bench.refused("run small:1", 125, "no command given");
    let said = bench.run("image rm small:1");
    assert!(
        said.stdout.contains("removed name small:1") && said.stdout.contains(digest),
        "{said:?}"
    );
    assert_eq!(json(&bench.run("image ls --json").stdout), Value::Array(vec![]));
}

#[test]
fn image_prune_keeps_the_named() {
    let bench = Bench::new();
    bench.write("one/file", "one");
    bench.write("two/file", "two");
    assert_eq!(bench.run("image build one -t one").code, 0);
    assert_eq!(bench.run("image build two").code, 0);
    let freed = json(&bench.run("image prune --json").stdout);
    assert!(freed["freed_bytes"].as_u64().expect("a number") > 0);
    let left = json(&bench.run("image ls --json").stdout);
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    assert_eq!(left[0]["names"][0], "one");
}

#[test]
fn doctor_grades_every_finding_and_exits_accordingly() {
    let said = Bench::new().run("doctor --json");
    let findings = json(&said.stdout);
    let findings = findings.as_array().expect("a list");
    let grades: Vec<_> = findings.iter().map(|finding| finding["grade"].as_str()).collect();
    assert!(grades.iter().all(|grade| matches!(grade, Some("ok" | "warn" | "fail"))), "{grades:?}");
    assert_eq!(said.code, i32::from(grades.contains(&Some("fail"))));
    for finding in findings {
        let is_ok = finding["grade"] == "ok";
        assert_eq!(finding["remedy"].is_null(), is_ok, "{finding}");
    }
    for name in ["kvm", "openat2", "landlock", "cgroups", "image cache", "programs"] {
        assert!(findings.iter().any(|finding| finding["name"] == name), "{name}");
    }
}

#[test]
fn check_says_what_a_program_lacks_and_exits_accordingly() {
    let bench = Bench::new();
    let said = bench.run("check /bin/true");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let last = said.stdout.lines().last().unwrap_or_default();
    assert!(last.starts_with("1 program: nothing is lacking ("), "{}", said.stdout);

    bench.write("script", "#!/no/such/interpreter\n");
    let said = bench.run("check --json script");
    assert_eq!((said.code, said.stderr.as_str()), (1, ""));
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(report["refused"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!((&report["lacking"], &report["programs"]), (&serde_json::json!([]), &1.into()));
}

#[test]
fn help_of_every_command_is_on_stdout() {
    let bench = Bench::new();
    for command in [
        "",
        "run",
        "create",
        "start",
        "state",
        "kill",
        "delete",
        "exec",
        "list",
        "ps",
        "pause",
        "resume",
        "update",
        "spec",
        "features",
        "image",
        "image build",
        "check",
        "doctor",
        "completion",
    ] {
        let said = bench.run(&format!("{command} --help"));
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{command}");
        assert!(said.stdout.contains("Usage: trine"), "{command}: {}", said.stdout);
    }
}

#[test]
fn completions_know_the_commands() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let said = bench.run(&format!("completion {shell}"));
        assert_eq!(said.code, 0);
        assert!(
            said.stdout.contains("doctor") && said.stdout.contains("console-socket"),
            "{shell}"
        );
    }
}
