// SPDX-License-Identifier: Apache-2.0
//! Links the kernel as a freestanding program at its place in the guest's direct map.

fn main() {
    println!("cargo:rerun-if-changed=kernel.ld");
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel.ld");
    // The last of -static-pie (from crt-static) and -no-pie wins: the code is position-independent
    // and linked at a fixed address all the same, which needs no relocation at load time.
    for argument in [
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,noexecstack",
        "-Wl,--gc-sections",
        "-Wl,--no-eh-frame-hdr",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
}
