//! An IPAM plugin that takes its time, while others end what it works for.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use weir::cni::{
    purge,
    reconcile::{self, Places, Report, Thing},
};

use crate::{
    delegated::{scratch, script},
    plugin::{Container, Host},
};

/// The words under which a call is killed once this file is there, however long a busy machine takes to that.
fn killed_at(event: &Path) -> Vec<String> {
    let text = format!(
        "exec 3<&0; \"$@\" <&3 3<&- & until [ -e {} ] || ! kill -0 $!; do sleep 0.01; done 2> /dev/null\n\
         kill -KILL $!; kill -KILL $$",
        event.display()
    );
    ["sh", "-c", &text, "sh"].map(str::to_owned).to_vec()
}

#[test]
fn what_one_leases_after_its_add_was_killed_is_released() {
    let host = Host::new("outlived");
    let a = host.container("a");
    let before = host.footprint();
    let dir = scratch(&host, "plugins");
    let (began, lease) = (dir.join("began"), dir.join("lease"));
    // Slow to lease, and deaf to the end of whoever called it.
    let text = format!(
        "exec 2> /dev/null; cat > /dev/null\n\
         [ $CNI_COMMAND = ADD ] || {{ rm -f {lease}; exit 0; }}\n\
         touch {began}; sleep 2; touch {lease}; echo '{{\"ips\":[{{\"address\":\"10.77.0.2/24\"}}]}}'",
        began = began.display(),
        lease = lease.display(),
    );
    let path = script(&host, "slow", &text);
    let call = |verb: &str| {
        let call =
            host.call(verb, (verb != "GC").then_some(&a)).key("ipam", json!({"type": "slow"}));
        call.variable("CNI_PATH", path.to_str().unwrap())
    };
    for end in ["DEL", "GC", "ADD"] {
        assert_eq!(call("ADD").under(killed_at(&began)).answer().code, None);
        assert!(began.exists() && !lease.exists(), "{end}");
        fs::remove_file(&began).unwrap();
        let call = call(end);
        let call =
            if end == "GC" { call.key("cni.dev/valid-attachments", json!([])) } else { call };
        call.succeed();
        assert_eq!(lease.exists(), end == "ADD");
        assert_eq!(host.record(&a).exists(), end == "ADD");
    }
    call("DEL").succeed();
    assert!(!lease.exists());
    fs::remove_dir_all(&dir).unwrap();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn a_successor_of_the_dead_outlives_who_takes_the_dead_away() {
    let host = Host::new("successor");
    let dir = scratch(&host, "plugins");
    let path = script(
        &host,
        "slow",
        "cat > /dev/null; cd $(dirname $0)\n\
         if [ $CNI_COMMAND = DEL ]; then [ ! -e hold ] || { touch began; sleep 2; }\n\
         rm -f lease-$CNI_CONTAINERID; fi\n\
         [ $CNI_COMMAND = ADD ] || exit 0\n\
         touch lease-$CNI_CONTAINERID\n\
         case $CNI_CONTAINERID in c1) ip=10.77.0.2;; *) ip=10.77.0.3;; esac\n\
         echo \"{\\\"ips\\\":[{\\\"address\\\":\\\"$ip/24\\\"}]}\"",
    );
    let path = path.to_str().unwrap();
    let call = |verb: &str, pod: Option<&Container>| {
        host.call(verb, pod).key("ipam", json!({"type": "slow"})).variable("CNI_PATH", path)
    };
    for end in ["GC", "reconcile"] {
        // Whichever comes first holds the end up; the other one's ids, or its own, are used anew meanwhile.
        for id in ["other", "c1"] {
            let pod = host.container(id);
            call("ADD", Some(&pod)).succeed();
            host.end(pod);
        }
        fs::write(dir.join("hold"), "").unwrap();
        let c1 = host.container("c1");
        thread::scope(|scope| {
            let ending = scope.spawn(|| match end {
                "GC" => drop(call("GC", None).succeed()),
                _ => drop(host.reconcile_in(&format!(
                    "--state-dir {} --bpf-dir {} --cni-path {path}",
                    host.state_dir().display(),
                    host.state_dir().with_file_name("bpf").display()
                ))),
            });
            assert!((0..500).any(|_| dir.join("began").exists() || {
                thread::sleep(Duration::from_millis(10));
                false
            }));
            fs::remove_file(dir.join("hold")).unwrap();
            call("DEL", Some(&c1)).succeed();
            call("ADD", Some(&c1)).succeed();
            ending.join().unwrap();
        });
        fs::remove_file(dir.join("began")).unwrap();
        assert_eq!(c1.space.links(), ["lo", "eth0"], "{end}");
        assert_eq!(host.node.links().len(), 2, "{end}");
        assert!(host.record(&c1).exists() && dir.join("lease-c1").exists(), "{end}");
        assert!(!dir.join("lease-other").exists(), "{end}");
        call("DEL", Some(&c1)).succeed();
    }
}

#[test]
fn del_is_no_success_while_a_plugin_is_still_to_lease() {
    let host = Host::new("leasing");
    let a = host.container("a");
    let dir = scratch(&host, "plugins");
    let [began, hold, lease] = ["began", "hold", "lease"].map(|name| dir.join(name));
    let text = format!(
        "exec 2> /dev/null; cat > /dev/null\n\
         [ $CNI_COMMAND = ADD ] || {{ rm -f {lease}; exit 0; }}\n\
         touch {began}; while [ -e {hold} ]; do sleep 0.1; done\n\
         sleep 1; touch {lease}; echo '{{\"ips\":[{{\"address\":\"10.77.0.2/24\"}}]}}'",
        began = began.display(),
        hold = hold.display(),
        lease = lease.display(),
    );
    let path = script(&host, "slower", &text);
    let call = |verb: &str| {
        let call = host.call(verb, Some(&a)).key("ipam", json!({"type": "slower"}));
        call.variable("CNI_PATH", path.to_str().unwrap())
    };
    fs::write(&hold, "").unwrap();
    assert_eq!(call("ADD").under(killed_at(&began)).answer().code, None);
    let message = call("DEL").refused(11);
    assert!(message.contains("outlives"), "{message}");
    assert!(host.record(&a).exists() && !lease.exists());
    fs::remove_file(&hold).unwrap();
    call("DEL").succeed();
    assert!(!host.record(&a).exists() && !lease.exists());
}

#[test]
fn what_a_plugin_left_running_is_named_to_who_waits_for_it() {
    let host = Host::new("daemon");
    let a = host.container("a");
    let before = host.footprint();
    let dir = scratch(&host, "plugins");
    // Its daemon inherits all that is open; its ADD is killed.
    let path = script(
        &host,
        "forks",
        "exec > /dev/null 2>&1; cat > /dev/null; cd $(dirname $0)\n\
         [ $CNI_COMMAND = ADD ] || exit 0\n\
         sleep 300 & echo $! > daemon.new; mv daemon.new daemon; sleep 2",
    );
    let call = |verb: &str| {
        let call = host.call(verb, Some(&a)).key("ipam", json!({"type": "forks"}));
        call.variable("CNI_PATH", path.to_str().unwrap())
    };
    let daemon = dir.join("daemon");
    assert_eq!(call("ADD").under(killed_at(&daemon)).answer().code, None);
    let daemon = fs::read_to_string(daemon).unwrap().trim().to_owned();
    for verb in ["DEL", "ADD"] {
        let answer = call(verb).answer();
        let error: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(error["code"], 11, "{verb}: {error}");
        let details = error["details"].as_str().unwrap();
        let named = format!("process {daemon} (sleep) holds its record; if it is stuck, end it");
        assert!(details.contains(&named), "{verb}: {details}");
    }
    kill(Pid::from_raw(daemon.parse().unwrap()), Signal::SIGKILL).unwrap();
    call("DEL").succeed();
    fs::remove_dir_all(&dir).unwrap();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn one_that_hangs_ends_add_in_bounds_and_its_record_leads_del_to_it() {
    let host = Host::new("hung");
    let a = host.container("a");
    let before = host.footprint();
    let dir = scratch(&host, "plugins");
    let path = script(
        &host,
        "hang",
        "cat > /dev/null; cd $(dirname $0); echo $CNI_COMMAND >> calls\n\
         [ -e well ] || exec sleep 100\n\
         [ $CNI_COMMAND != ADD ] || echo '{\"ips\":[{\"address\":\"10.77.0.2/24\"}]}'",
    );
    let call = |verb: &str, pod: &Container| {
        let call = host.call(verb, Some(pod)).key("ipam", json!({"type": "hang"}));
        call.variable("CNI_PATH", path.to_str().unwrap())
    };
    // Of the dead, too, there is one: a plugin that hangs is not asked about it.
    fs::write(dir.join("well"), "").unwrap();
    let dead = host.container("dead");
    call("ADD", &dead).succeed();
    host.end(dead);
    fs::remove_file(dir.join("well")).unwrap();
    let began = Instant::now();
    let message = call("ADD", &a).within(60).refused(11);
    assert!(message.contains("hang"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(55), "{:?}", began.elapsed());
    assert_eq!(fs::read_to_string(dir.join("calls")).unwrap(), "ADD\nADD\nDEL\n");
    assert!(host.record(&a).exists());
    fs::write(dir.join("well"), "").unwrap();
    call("DEL", &a).succeed();
    assert!(fs::read_to_string(dir.join("calls")).unwrap().ends_with("DEL\nDEL\n"));
    host.reconcile_in(&format!(
        "--state-dir {} --bpf-dir {} --cni-path {}",
        host.state_dir().display(),
        host.state_dir().with_file_name("bpf").display(),
        path.display()
    ));
    fs::remove_dir_all(&dir).unwrap();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn one_that_hangs_holds_no_reconciliation_and_no_uninstallation_up_for_each_of_the_dead() {
    const PODS: usize = 6;
    let host = Host::new("hung-dead");
    let dir = scratch(&host, "plugins");
    let path = script(
        &host,
        "hang",
        "cat > /dev/null; cd $(dirname $0); echo $CNI_COMMAND >> calls\n\
         [ $CNI_COMMAND != DEL ] || [ -e well ] || exec sleep 100\n\
         [ $CNI_COMMAND != ADD ] || echo \"{\\\"ips\\\":[{\\\"address\\\":\\\"10.77.0.${CNI_CONTAINERID#c}/24\\\"}]}\"",
    );
    // Half of what is left each time, and a second at least: 2 s, 1 s and 1 s.
    let places = Places {
        state_dir: host.state_dir(),
        bpf_dir: host.state_dir().with_file_name("bpf"),
        cni_path: path.clone().into(),
        plugins: Duration::from_secs(4),
    };
    let ends = |report: &Report| {
        report.dropped.iter().filter(|dropped| dropped.what == Thing::Attachment).count()
    };
    for uninstall in [false, true] {
        let run = || match uninstall {
            true => host.node.run(|| purge::run(std::slice::from_ref(&places), true)),
            false => host.node.run(|| reconcile::run(&places)),
        };
        let pods: Vec<_> = (2..2 + PODS).map(|n| host.container(&format!("c{n}"))).collect();
        for pod in &pods {
            let add = host.call("ADD", Some(pod)).key("ipam", json!({"type": "hang"}));
            add.variable("CNI_PATH", path.to_str().unwrap()).succeed();
        }
        if !uninstall {
            pods.into_iter().for_each(|pod| host.end(pod));
        }
        fs::write(dir.join("calls"), "").unwrap();
        let began = Instant::now();
        let report = run();
        let took = began.elapsed();
        assert!((4..8).contains(&took.as_secs()), "{took:?}");
        let said: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[..3].iter().all(|said| said.contains("did not finish")), "{said:?}");
        assert_eq!(
            said[3],
            "attachments left to the next run, since IPAM plugins took all of their 4s: 3"
        );
        assert_eq!(ends(&report), 0);
        // Nothing else waits for the plugin.
        assert!(!host.node.links().iter().any(|link| link.starts_with("weir")));
        assert_eq!(fs::read_to_string(dir.join("calls")).unwrap(), "DEL\n".repeat(3));

        fs::write(dir.join("well"), "").unwrap();
        let report = run();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert_eq!(ends(&report), PODS);
        fs::remove_file(dir.join("well")).unwrap();
    }
}
