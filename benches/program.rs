//! Programs that a bench brings with it.

use std::{env, fs, path::Path, process::Command};

use libbpf_rs::{Object, ObjectBuilder};

/// Compiles a file below benches/ as build.rs compiles Weir's, whose headers it may include, and loads it.
pub fn load(source: &str) -> Result<Object, Box<dyn std::error::Error + Send + Sync>> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = env::temp_dir().join(format!("weir-bench-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let to = dir.join("program.bpf.o");
    let compiled = compile(&tree.join("benches").join(source), &tree.join("bpf"), &to);
    let loaded = compiled.and_then(|()| Ok(ObjectBuilder::default().open_file(&to)?.load()?));
    fs::remove_dir_all(&dir)?;
    loaded
}

fn compile(
    source: &Path,
    headers: &Path,
    to: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let multiarch = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let output = Command::new(env!("WEIR_CLANG"))
        .args(["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-I", env!("WEIR_LIBBPF_INCLUDE")])
        .args(["-I", &multiarch, "-I"])
        .arg(headers)
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(to)
        .output()
        .map_err(|err| format!("{}: {err}", env!("WEIR_CLANG")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}
