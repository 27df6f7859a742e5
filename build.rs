//! Compiles the BPF object and generates its skeleton; names the map schema.

use std::{env, fs, hash::Hasher, path::Path, path::PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let multiarch = format!("/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH")?);
    let mut builder = SkeletonBuilder::new();
    let layout = layout();
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
    let args = args.into_iter().chain(layout);
    builder.source("bpf/weir.bpf.c").obj(out.join("weir.bpf.o")).clang_args(args);
    let clang = clang();
    builder.clang(&clang);
    builder.build_and_generate(out.join("weir.skel.rs"))?;

    println!(
        "cargo:rustc-env=WEIR_SCHEMA={:016x}",
        schema(layout, &["bpf/wire.h", "bpf/conn.h", "bpf/maps.h"])?
    );
    // A bench compiles a program of its own.
    println!("cargo:rustc-env=WEIR_CLANG={}", clang.display());
    println!("cargo:rustc-env=WEIR_LIBBPF_INCLUDE={}", env::var("DEP_BPF_INCLUDE")?);
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-changed=bpf");
    Ok(())
}

/// With the feature `other-layout`, the definition by which the maps have the layout of another version
/// than this.
fn layout() -> Option<&'static str> {
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

/// A name for the layout of everything that is pinned: maps of another layout are never opened.
fn schema(layout: Option<&str>, files: &[&str]) -> std::io::Result<u64> {
    // DefaultHasher::new() has fixed keys; a compiler that changes it costs one fresh set of maps.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(layout.unwrap_or_default().as_bytes());
    for file in files {
        hasher.write(&fs::read(file)?);
    }
    Ok(hasher.finish())
}
