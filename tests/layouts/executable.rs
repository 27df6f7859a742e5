//! The executable of the version with the other layout: all of Weir, built with the feature.

#[path = "../../src/main.rs"]
mod weir_main;

fn main() -> std::process::ExitCode {
    weir_main::main()
}
