//! GC beside another IPAM plugin.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    delegated::{scratch, script},
    plugin::Host,
};

/// It knows the specification's key alone, and may take what isn't there for an empty list.
#[test]
fn gc_tells_one_of_every_valid_attachment_or_nothing() {
    let host = Host::new("listed");
    let heard = scratch(&host, "plugins").join("heard");
    let path = script(&host, "lister", &format!("cat > {}", heard.display()));
    let entry = |id: &str| json!({"containerID": id, "ifname": "eth0"});
    let both = json!([entry("a"), entry("b")]);
    for (new, old, told) in [
        (None, None, None),
        (Some(json!([entry("a")])), Some(json!([entry("b")])), Some(&both)),
        (None, Some(both.clone()), Some(&both)),
        (Some(json!(null)), Some(both.clone()), Some(&both)),
        (Some(json!(null)), None, Some(&json!([]))),
        (Some(both.clone()), Some(json!([entry("b")])), Some(&both)),
    ] {
        let mut call = host.call("GC", None).key("ipam", json!({"type": "lister"}));
        for (key, list) in [("cni.dev/valid-attachments", &new), ("cni.dev/attachments", &old)] {
            if let Some(list) = list {
                call = call.key(key, list.clone());
            }
        }
        let answer = call.variable("CNI_PATH", path.to_str().unwrap()).answer();
        assert_eq!(answer.code, Some(0), "{answer:?}");
        assert_eq!(answer.stderr.contains("lister is not asked"), told.is_none(), "{answer:?}");
        let said = fs::read(&heard).ok().map(|said| {
            fs::remove_file(&heard).unwrap();
            serde_json::from_slice::<Value>(&said).unwrap()["cni.dev/valid-attachments"].clone()
        });
        assert_eq!(said.as_ref(), told, "{new:?} {old:?}");
    }
}

#[test]
fn one_that_hangs_holds_a_gc_for_seconds_however_many_it_is_to_release() {
    let host = Host::new("hung-gc");
    let before = host.footprint();
    let containers: Vec<_> = (0..8).map(|n| host.container(&format!("c{n}"))).collect();
    let (ids, hangs) = (scratch(&host, "released"), scratch(&host, "hangs"));
    let text = format!(
        "[ $CNI_COMMAND != ADD ] || exec echo '{{\"ips\":[{{\"address\":\"10.66.0.1'${{CNI_CONTAINERID#c}}'/24\"}}]}}'\n\
         [ ! -e {hangs}/all ] && [ ! -e {hangs}/${{CNI_CONTAINERID:-none}} ] || exec sleep 60\n\
         [ $CNI_COMMAND != DEL ] || touch {ids}/$CNI_CONTAINERID",
        hangs = hangs.display(),
        ids = ids.display()
    );
    let path = script(&host, "hanging", &text);
    let call = |verb: &str, container| {
        let call = host.call(verb, container).key("ipam", json!({"type": "hanging"}));
        call.variable("CNI_PATH", path.to_str().unwrap())
    };
    for container in &containers {
        call("ADD", Some(container)).succeed();
    }
    let gc = || call("GC", None).key("cni.dev/valid-attachments", json!([]));
    let records = || containers.iter().filter(|container| host.record(container).exists()).count();
    let released = || fs::read_dir(&ids).unwrap().count();

    fs::write(hangs.join("all"), "").unwrap();
    let began = Instant::now();
    assert!(gc().refused(11).contains("hanging"));
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
    // All but the addresses is gone.
    assert_eq!(host.node.links(), ["lo"]);
    assert_eq!((records(), released()), (8, 0));

    // Where it hangs for one, the others' addresses go.
    fs::remove_file(hangs.join("all")).unwrap();
    fs::write(hangs.join("c3"), "").unwrap();
    gc().refused(11);
    assert_eq!((records(), released(), host.record(&containers[3]).exists()), (1, 7, true));
    fs::remove_file(hangs.join("c3")).unwrap();
    gc().succeed();
    assert_eq!((records(), released()), (0, 8));
    for dir in [ids, hangs, path] {
        fs::remove_dir_all(dir).unwrap();
    }
    host.footprint().assert_is(&before, "afterwards");
}
