//! The files under `examples/` do what the documentation says they do. The conflist is what
//! `weir demo` plumbs its pods with, so tests/demo.rs tries that one.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{fs, process::Command};

#[test]
fn the_unit_starts_a_command_that_exists() {
    let unit = fs::read_to_string("examples/weir-agent.service").unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = start.split(' ');
    assert_eq!(words.next(), Some("/opt/cni/bin/weir"), "where `make install` puts it");
    // Arguments before --help are still checked.
    let help = Command::new(env!("CARGO_BIN_EXE_weir")).args(words).arg("--help").output().unwrap();
    assert!(help.status.success(), "{}", String::from_utf8_lossy(&help.stderr));
}
