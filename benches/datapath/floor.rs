//! The floor: what look-ups alone cost, by programs that do nothing else.

use std::{
    env,
    fmt::Write,
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use libbpf_rs::ObjectBuilder;
use weir::telemetry::sys::{Skb, test_run};

use crate::{
    Result,
    frame::{ACK, tcp, v4},
    runs::{SINGLE, WARM, median},
};

const PROGRAMS: [(&str, &str); 5] = [
    ("floor_nothing", "a program that does nothing"),
    ("floor_pod", "the pod's bytes"),
    ("floor_conn", "and the connection looked up"),
    ("floor_request", "and 460 bytes copied, one clock read"),
    ("floor_response", "or 120 bytes, a counter and a histogram"),
];

/// Measures and prints.
pub fn report() -> Result<String> {
    let dir = env::temp_dir().join(format!("weir-floor-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let built = compile(dir.join("floor.bpf.o"));
    let loaded = built.and_then(|file| Ok(ObjectBuilder::default().open_file(file)?.load()?));
    fs::remove_dir_all(&dir)?;
    let object = loaded?;
    let frame = tcp(v4(9, 40000), v4(2, 80), 1, ACK, &[b'x'; 460]);
    let mut text = format!("{:<48} {:>9} {:>9}\n", "what look-ups alone cost", "warm", "single");
    for (name, what) in PROGRAMS {
        let program = object.progs().find(|program| program.name() == name);
        let program = program.ok_or_else(|| format!("no program {name}"))?;
        let warm = test_run(program.as_fd(), &frame, Skb::default(), WARM)?;
        let single = |_| Ok(test_run(program.as_fd(), &frame, Skb::default(), 1)?);
        let single = (0..SINGLE).map(single).collect::<Result<_>>().map(median)?;
        writeln!(text, "{what:<48} {:>6} ns {:>6} ns", warm.as_nanos(), single.as_nanos())?;
    }
    text.push('\n');
    Ok(text)
}

/// As build.rs compiles Weir's, with its headers.
fn compile(to: PathBuf) -> Result<PathBuf> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let multiarch = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let output = std::process::Command::new(env!("WEIR_CLANG"))
        .args(["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-I", env!("WEIR_LIBBPF_INCLUDE")])
        .args(["-I", &multiarch, "-I"])
        .arg(tree.join("bpf"))
        .arg("-c")
        .arg(tree.join("benches/datapath/floor.bpf.c"))
        .arg("-o")
        .arg(&to)
        .output()
        .map_err(|err| format!("{}: {err}", env!("WEIR_CLANG")))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(to)
}
