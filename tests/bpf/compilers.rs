//! The programs by each compiler that Debian 12 has: all compile, the verifier takes all, and none takes
//! more of what the verifier allows than half.

use std::{fs, os::fd::AsFd};

use weir::telemetry::pin;

use crate::{
    kernel::Kernel,
    program,
    verified::{COMPILERS, MOST, STACK, compile, instructions, load},
};

fn assert_below(who: &str, name: &str, instructions: u64) {
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
        let programs = load(&object);
        fs::remove_file(&object).unwrap();
        assert!(programs.len() >= 6, "{compiler}: {}", programs.len());
        for program in &programs {
            assert_below(compiler, &program.name, program.instructions);
        }
        // Newer kernels than the oldest round frames to less: what passes here may not load there.
        let stack = programs.iter().map(|program| program.stack).max();
        println!("{compiler} {stack:?}");
        assert!(stack > Some(STACK / 2) && stack <= Some(STACK), "{compiler}: {programs:?}");
    }
    // And what runs, which knows the bounds of the histograms.
    for name in ["weir_from_pod", "weir_to_pod", "weir_sweep", "weir_merge"] {
        let program = pin::program(&kernel.bpf_dir(), name).unwrap().unwrap();
        assert_below(env!("WEIR_CLANG"), name, instructions(program.as_fd()));
    }
}

/// They are of the same headers, and run when nobody looks for that.
#[test]
fn what_the_benches_bring_compiles_and_loads() {
    // For the namespaces: nothing of it is seen elsewhere.
    let _kernel = Kernel::new();
    for source in ["datapath/floor.bpf.c", "events/events.bpf.c"] {
        let loaded = program::load(source).unwrap_or_else(|err| panic!("{source}: {err}"));
        assert!(loaded.progs().count() > 0, "{source}");
    }
}
