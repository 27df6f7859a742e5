//! Compiles the BPF object and generates its skeleton; names the map schema.

use std::{env, path::Path, path::PathBuf};

use libbpf_cargo::SkeletonBuilder;

#[path = "src/telemetry/layout.rs"]
mod layout;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let multiarch = format!("/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH")?);
    let mut builder = SkeletonBuilder::new();
    let definition = definition();
    let args = [
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-parameter",
        // Compare-and-swap and exchange are instructions from v3 on (Linux 5.12).
        "-mcpu=v3",
        "-I",
        &multiarch,
    ];
    let args = args.into_iter().chain(definition);
    builder.source("bpf/weir.bpf.c").obj(out.join("weir.bpf.o")).clang_args(args);
    let clang = clang();
    builder.clang(&clang);
    builder.build_and_generate(out.join("weir.skel.rs"))?;

    println!(
        "cargo:rustc-env=WEIR_SCHEMA={:016x}",
        layout::name(Path::new("bpf"), definition.unwrap_or_default())?
    );
    // A bench compiles a program of its own.
    println!("cargo:rustc-env=WEIR_CLANG={}", clang.display());
    println!("cargo:rustc-env=WEIR_LIBBPF_INCLUDE={}", env::var("DEP_BPF_INCLUDE")?);
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed=src/telemetry/layout.rs");
    Ok(())
}

/// With the feature `other-layout`, the definition by which the maps have the layout of another version
/// than this.
fn definition() -> Option<&'static str> {
    env::var_os("CARGO_FEATURE_OTHER_LAYOUT").map(|_| "-DWEIR_OTHER_LAYOUT")
}

/// `$CLANG`, else the unversioned name, else the newest suffixed one that Debian 12 has.
fn clang() -> PathBuf {
    if let Some(named) = env::var_os("CLANG") {
        return named.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    ["clang", "clang-19", "clang-16", "clang-14"]
        .iter()
        .find_map(|name| {
            env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
        })
        .unwrap_or_else(|| Path::new("clang").to_path_buf())
}
