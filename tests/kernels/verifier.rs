//! What the verifier of a kernel says of the programs by each compiler, for `tests/kernels/matrix`:
//!
//! ```text
//! verifier compile DIR      DIR/clang-14.o and so on, which have to be there already for
//! verifier load DIR         which says what the running kernel makes of them, a line each
//! ```
//!
//! Exits other than by 0 if an object can't be compiled or loaded, or takes more than half of what
//! the verifier allows.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "as in the tests that it belongs to"
)]

#[path = "../bpf/verified.rs"]
mod verified;

use std::path::Path;

use verified::{COMPILERS, MOST, STACK, compile, load};

fn main() {
    let words: Vec<_> = std::env::args().collect();
    let [_, verb, dir] = &words[..] else { panic!("usage: verifier compile|load DIR") };
    for compiler in COMPILERS {
        let object = Path::new(dir).join(format!("{compiler}.o"));
        match &verb[..] {
            "compile" => compile(compiler, &object),
            "load" => tell(compiler, &object),
            _ => panic!("no such word: {verb}"),
        }
    }
}

fn tell(compiler: &str, object: &Path) {
    for program in load(object) {
        let verified::Verified { name, instructions, stack } = program;
        println!("{compiler}: {name}: {instructions} instructions, {stack} bytes of stack");
        assert!(instructions <= MOST, "more than half of what is allowed");
        assert!(stack <= STACK, "more than Linux 6.1 has");
    }
}
