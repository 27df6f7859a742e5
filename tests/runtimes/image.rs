//! An image made on the spot: a static busybox that serves a page, as an OCI archive.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::node::succeed;

/// Its name.
pub const NAME: &str = "localhost/weirtest:1";
/// Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// Writes the archive below a directory; its path.
pub fn archive(dir: &Path) -> PathBuf {
    let (root, layout) = (dir.join("root"), dir.join("layout"));
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("www")).unwrap();
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("install busybox-static");
    for applet in ["httpd", "sleep", "wget"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("www/index.html"), "hello\n").unwrap();
    let layer = dir.join("layer.tar");
    succeed(&format!("tar -C {} -cf {} .", root.display(), layer.display()));

    let layer = blob(&layout, &fs::read(layer).unwrap(), "layer.v1.tar");
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Cmd": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(&layout, config.to_string().as_bytes(), "config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let mut manifest = blob(&layout, manifest.to_string().as_bytes(), "manifest.v1+json");
    manifest["annotations"] =
        json!({"org.opencontainers.image.ref.name": NAME, "io.containerd.image.name": NAME});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let archive = dir.join("image.tar");
    succeed(&format!("tar -C {} -cf {} .", layout.display(), archive.display()));
    archive
}

/// Go's name of the machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Stores a blob; its descriptor.
fn blob(layout: &Path, bytes: &[u8], kind: &str) -> Value {
    let blobs = layout.join("blobs/sha256");
    let new = blobs.join("new");
    fs::write(&new, bytes).unwrap();
    let sum = succeed(&format!("sha256sum {}", new.display()));
    let sum = sum.split(' ').next().unwrap();
    fs::rename(new, blobs.join(sum)).unwrap();
    let kind = match kind {
        "layer.v1.tar" | "manifest.v1+json" => format!("application/vnd.oci.image.{kind}"),
        _ => "application/vnd.oci.image.config.v1+json".to_owned(),
    };
    json!({"mediaType": kind, "digest": format!("sha256:{sum}"), "size": bytes.len()})
}
