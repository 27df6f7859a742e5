//! The programs by each compiler that Debian 12 has: all compile, the verifier takes all, and none takes
//! more of what the verifier allows than half.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
    process::Command,
};

use libbpf_rs::ObjectBuilder;
use weir::telemetry::pin;

use crate::kernel::Kernel;

/// Packages of Debian 12, by name; clang, without a number, is clang 14.
const COMPILERS: [&str; 3] = ["clang-14", "clang-16", "clang-19"];

/// Half of the instructions that the verifier processes before it gives up.
const MOST: u64 = 500_000;

/// What `make build` compiles with, warnings aside: `build.rs`, and what libbpf-cargo adds.
pub fn compile(compiler: &str, object: &Path) {
    let target = match std::env::consts::ARCH {
        "aarch64" => "-D__TARGET_ARCH_arm64",
        _ => "-D__TARGET_ARCH_x86",
    };
    let multiarch = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-mcpu=v3"])
        .args(["-I", &multiarch, "-I", env!("WEIR_LIBBPF_INCLUDE")])
        .args(["-fno-stack-protector", target, "-g", "-O2", "-target", "bpf"])
        .args(["-c", concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/weir.bpf.c"), "-o"])
        .arg(object)
        .output()
        .unwrap_or_else(|err| panic!("no {compiler} ({err}): install Debian's package {compiler}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler}: {said}");
}

/// The instructions that the verifier processed, by the kernel (fdinfo has them since Linux 5.16).
fn verified(program: BorrowedFd<'_>) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("verified_insns:"));
    line.unwrap_or_else(|| panic!("no verified_insns: {text}")).trim().parse().unwrap()
}

fn assert_below(who: &str, name: &str, program: BorrowedFd<'_>) {
    let instructions = verified(program);
    println!("{who} {name} {instructions}");
    assert!(instructions > 0, "{who} {name}");
    assert!(instructions <= MOST, "{name} by {who} takes {instructions} of at most {MOST}");
}

#[test]
fn what_each_compiler_makes_takes_less_than_half_of_what_the_verifier_allows() {
    let kernel = Kernel::new();
    for compiler in COMPILERS {
        let object = kernel.beside(&format!("{compiler}.o"));
        compile(compiler, &object);
        // No program and no map is pinned: all go with this value.
        let loaded = ObjectBuilder::default().open_file(&object).unwrap().load();
        fs::remove_file(&object).unwrap();
        let loaded = loaded.unwrap_or_else(|err| panic!("{compiler}: {err}"));
        let programs: Vec<_> = loaded.progs().collect();
        assert!(programs.len() >= 6, "{compiler}: {}", programs.len());
        for program in programs {
            assert_below(compiler, &program.name().to_string_lossy(), program.as_fd());
        }
    }
    // And what runs, which knows the bounds of the histograms.
    for name in ["weir_from_pod", "weir_to_pod", "weir_sweep", "weir_merge"] {
        let program = pin::program(&kernel.bpf_dir(), name).unwrap().unwrap();
        assert_below(env!("WEIR_CLANG"), name, program.as_fd());
    }
}
