//! The programs by one compiler or another, and what a kernel's verifier says of them.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
    process::Command,
};

use libbpf_rs::{ObjectBuilder, libbpf_sys::bpf_insn};

/// Packages of Debian 12, by name; clang, without a number, is clang 14.
pub const COMPILERS: [&str; 3] = ["clang-14", "clang-16", "clang-19"];

/// Half of the instructions that the verifier processes before it gives up.
pub const MOST: u64 = 500_000;

/// `MAX_BPF_STACK`: what the frames of a chain of calls may take together.
pub const STACK: usize = 512;

/// What a kernel made of a program.
#[derive(Debug)]
pub struct Verified {
    pub name: String,
    /// Instructions that the verifier processed.
    pub instructions: u64,
    /// Bytes of stack of the longest chain of calls, as Linux 6.1 counts: each frame in steps of 32.
    pub stack: usize,
}

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

/// The object's programs, loaded into the running kernel and let go again: none is pinned.
pub fn load(object: &Path) -> Vec<Verified> {
    let loaded = ObjectBuilder::default().open_file(object).unwrap().load();
    let loaded = loaded.unwrap_or_else(|err| panic!("{}: {err}", object.display()));
    let of = |program: libbpf_rs::Program<'_>| Verified {
        name: program.name().to_string_lossy().into_owned(),
        instructions: instructions(program.as_fd()),
        stack: stack(program.insns()),
    };
    loaded.progs().map(of).collect()
}

/// The instructions that the verifier processed, by the kernel (fdinfo has them since Linux 5.16).
pub fn instructions(program: BorrowedFd<'_>) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("verified_insns:"));
    line.unwrap_or_else(|| panic!("no verified_insns: {text}")).trim().parse().unwrap()
}

/// A function's own frame, in bytes, and where what it calls begins.
#[derive(Debug, Default)]
struct Frame {
    depth: usize,
    calls: Vec<usize>,
}

/// The stack of the longest chain of calls from a program's first instruction, in bytes.
fn stack(program: &[bpf_insn]) -> usize {
    let called = |at: usize, one: &bpf_insn| {
        let (call, callback) = (one.code == 0x85 && one.src_reg() == 1, one.code == 0x18);
        (call || callback && one.src_reg() == 4)
            .then(|| at.checked_add_signed(one.imm as isize).unwrap() + 1)
    };
    let mut frames: BTreeMap<usize, Frame> =
        program.iter().enumerate().filter_map(|(at, one)| called(at, one)).map(frame).collect();
    frames.insert(0, Frame::default());
    for (at, one) in program.iter().enumerate() {
        let (_, frame) = frames.range_mut(..=at).next_back().unwrap();
        frame.calls.extend(called(at, one));
        frame.depth = frame.depth.max(reach(one, at.checked_sub(1).map(|at| &program[at])));
    }
    longest(&frames, 0)
}

fn frame(start: usize) -> (usize, Frame) {
    (start, Frame::default())
}

/// How far below the frame's top, which is r10, an instruction reaches, by its own offset or as the sum
/// that follows a copy of r10.
fn reach(one: &bpf_insn, before: Option<&bpf_insn>) -> usize {
    let below = |offset: i64| usize::try_from(-offset).unwrap_or(0);
    let base = match one.code & 7 {
        1 => one.src_reg(),
        2 | 3 => one.dst_reg(),
        7 if one.code == 0x07 => {
            let copied = before.is_some_and(|before| {
                before.code == 0xbf && before.src_reg() == 10 && before.dst_reg() == one.dst_reg()
            });
            return if copied { below(one.imm.into()) } else { 0 };
        }
        _ => return 0,
    };
    if base == 10 { below(one.off.into()) } else { 0 }
}

fn longest(frames: &BTreeMap<usize, Frame>, start: usize) -> usize {
    let frame = &frames[&start];
    let deepest = frame.calls.iter().map(|call| longest(frames, *call)).max();
    frame.depth.max(1).next_multiple_of(32) + deepest.unwrap_or(0)
}
