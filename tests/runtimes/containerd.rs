//! containerd with runc, asked as the kubelet asks it.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, path::Path};

use crate::{
    cri::{Cri, Pod},
    daemon::{SOCKET, end, pod, start},
    image,
    metrics::{Agent, fetch},
    node::{CONFLIST, Node, list, succeed, wait_for},
};

#[test]
fn pods_of_the_kubelet_talk_are_counted_by_name_and_leave_nothing() {
    let node = Node::enter("pods");
    let _containerd = start(&[]);
    let cri = Cri { socket: Path::new(SOCKET) };
    let network = ("NetworkReady".to_owned(), true);
    assert!(wait_for(|| cri.conditions().unwrap().contains(&network).then_some(())).is_some());
    let cgroup = node.cgroup.clone();

    // The first pod brings what stays: programs, maps, the nftables table.
    let first = cri.run(&pod("first", &[(8080, 80)], &cgroup)).unwrap();
    end(&cri, &first);
    let before = node.footprint();

    let agent = Agent::start();
    let (web, client) = (pod("web", &[(8080, 80)], &cgroup), pod("client", &[], &cgroup));
    let serving = cri.run(&web).unwrap();
    let asking = cri.run(&client).unwrap();
    let (ready, ips) = cri.status(&serving).unwrap();
    assert!(ready);
    let [IpAddr::V4(v4), IpAddr::V6(v6)] = ips[..] else { panic!("{ips:?}") };
    let records = node.records();
    let recorded = records.iter().find(|record| record["containerId"] == serving.as_str()).unwrap();
    assert_eq!(recorded["pod"]["uid"], web.uid);

    // The sandbox's own process serves the page already; a container beside it shares its network.
    let container = cri.start(&asking, &client, image::NAME, &["/bin/sleep", "600"]);
    for url in [format!("http://{v4}/"), format!("http://[{v6}]/")] {
        assert_eq!(cri.exec(&container, &["/bin/wget", "-q", "-O", "-", &url]), "hello\n");
    }
    fetch(v4.into(), 80);
    fetch(v6.into(), 80);
    fetch("192.0.2.1".parse().unwrap(), 8080);

    let served = [("namespace", "shop"), ("pod", "web"), ("role", "server"), ("status", "200")];
    agent.await_value("weir_http_requests_total", &served, 5.0);
    let asked = [("namespace", "shop"), ("pod", "client"), ("role", "client"), ("method", "GET")];
    agent.await_value("weir_http_requests_total", &asked, 2.0);
    assert!(agent.value("weir_network_bytes_total", &served[..2]) > 1000.0);

    end(&cri, &asking);
    end(&cri, &serving);
    node.await_same(&before);
    assert!(node.records().is_empty());
    // A pod's series keep their last value for a while.
    assert!(agent.value("weir_http_requests_total", &served) >= 5.0);
}

#[test]
fn a_sandbox_whose_process_died_or_whose_runtime_was_restarted_leaves_nothing_either() {
    let node = Node::enter("dead");
    let containerd = start(&[]);
    let cri = Cri { socket: Path::new(SOCKET) };
    let cgroup = node.cgroup.clone();
    let first = cri.run(&pod("first", &[(8080, 80)], &cgroup)).unwrap();
    end(&cri, &first);
    let before = node.footprint();

    let dying = cri.run(&pod("dying", &[], &cgroup)).unwrap();
    succeed(&format!("ctr -n k8s.io task kill -s SIGKILL {dying}"));
    assert!(wait_for(|| (!cri.status(&dying).unwrap().0).then_some(())).is_some());
    end(&cri, &dying);
    node.await_same(&before);

    // What the old containerd began the new one ends.
    let staying = cri.run(&pod("staying", &[], &cgroup)).unwrap();
    drop(containerd);
    let _again = {
        fs::remove_file(SOCKET).ok();
        fs::remove_dir_all("/run/root").ok();
        fs::remove_dir_all("/run/layout").ok();
        start(&[])
    };
    assert!(cri.status(&staying).unwrap().0);
    end(&cri, &staying);
    node.await_same(&before);
}

#[test]
fn a_refusal_of_weir_fails_the_sandbox_with_its_words_and_leaves_nothing() {
    let node = Node::enter("refused");
    let _containerd = start(&[]);
    let cri = Cri { socket: Path::new(SOCKET) };
    let cgroup = node.cgroup.clone();
    let first = cri.run(&pod("first", &[(8080, 80)], &cgroup)).unwrap();
    end(&cri, &first);
    let before = node.footprint();
    let holding = cri.run(&pod("holding", &[(8080, 80)], &cgroup)).unwrap();
    let refused = cri.run(&pod("second", &[(8080, 80)], &cgroup)).unwrap_err();
    assert!(refused.contains("8080"), "{refused}");
    end(&cri, &holding);
    node.await_same(&before);
}

#[test]
fn the_limits_of_a_pods_annotations_are_in_force_and_go_with_it() {
    let node = Node::enter("limits");
    let _containerd = start(&[]);
    let cri = Cri { socket: Path::new(SOCKET) };
    let cgroup = node.cgroup.clone();
    let limits =
        [("kubernetes.io/ingress-bandwidth", "8M"), ("kubernetes.io/egress-bandwidth", "16M")];
    let limited = |name| Pod { annotations: &limits, ..pod(name, &[], &cgroup) };
    let first = cri.run(&limited("first")).unwrap();
    end(&cri, &first);
    let before = node.footprint();

    let slow = cri.run(&limited("slow")).unwrap();
    // What goes to the pod waits on the node's side, what comes from it on the pod's.
    let of_node = succeed("tc qdisc show");
    assert!(of_node.contains("rate 8Mbit"), "{of_node}");
    let netns = node.records()[0]["netns"]["path"].as_str().unwrap().to_owned();
    let of_pod = succeed(&format!("nsenter --net={netns} tc qdisc show dev eth0"));
    assert!(of_pod.contains("rate 16Mbit"), "{of_pod}");
    let (_, ips) = cri.status(&slow).unwrap();
    fetch(ips[0], 80);
    end(&cri, &slow);
    node.await_same(&before);
}

/// An IPAM plugin that gives one address, and can't take it back while `/run/away` is there.
const AWAY: &str = r#"#!/bin/sh
cat > /dev/null
[ $CNI_COMMAND != ADD ] || exec echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.88.0.2/24"}]}'
[ ! -e /run/away ] || { echo '{"code": 999, "msg": "lease not found"}'; exit 1; }
"#;

#[test]
fn a_failed_del_is_not_taken_for_success_whatever_the_words_of_the_ipam() {
    let node = Node::enter("away");
    fs::write("/run/cni/bin/away", AWAY).unwrap();
    fs::set_permissions("/run/cni/bin/away", fs::Permissions::from_mode(0o755)).unwrap();
    let list = r#"{"cniVersion": "1.0.0", "name": "podnet", "plugins": [{"type": "weir", "ipam": {"type": "away"}}]}"#;
    fs::write(CONFLIST, list).unwrap();
    let _containerd = start(&[]);
    let cri = Cri { socket: Path::new(SOCKET) };
    let sandbox = cri.run(&pod("leaving", &[], &node.cgroup)).unwrap();
    fs::write("/run/away", "").unwrap();
    let said = cri.stop(&sandbox).unwrap_err();
    assert!(said.contains("lease missing"), "{said}");
    assert_eq!(node.records().len(), 1, "it waits to be taken away");
    fs::remove_file("/run/away").unwrap();
    end(&cri, &sandbox);
    assert!(node.records().is_empty());
}

/// Another version of weir: the loader doesn't look behind the end of the last segment.
fn version(number: u8) -> String {
    let mut bytes = fs::read(env!("CARGO_BIN_EXE_weir")).unwrap();
    bytes.push(number);
    let path = format!("/run/weir-{number}");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Has a version install itself, with a network of that MTU.
fn install(weir: &str, mtu: u32) {
    fs::write("/run/mine.conflist", list(mtu)).unwrap();
    let dirs = "--bin-dir /run/cni/bin --conf-dir /run/cni/net.d";
    succeed(&format!("{weir} install --force --conf /run/mine.conflist {dirs}"));
}

fn mtu(node: &Node, sandbox: &str) -> String {
    let records = node.records();
    let record = records.iter().find(|record| record["containerId"] == sandbox).unwrap();
    let netns = record["netns"]["path"].as_str().unwrap();
    let link = succeed(&format!("nsenter --net={netns} ip -o link show eth0"));
    link.split(" mtu ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_running_containerd_takes_up_what_install_puts_in_place_and_upgrades_under_its_pods() {
    let node = Node::enter("installed");
    node.forget_weir();
    let _containerd = start(&[]);
    let cri = Cri { socket: Path::new(SOCKET) };
    let cgroup = node.cgroup.clone();
    let network_is =
        |ready| cri.conditions().unwrap().contains(&("NetworkReady".to_owned(), ready));
    assert!(network_is(false));
    let refused = cri.run(&pod("early", &[], &cgroup)).unwrap_err();
    assert!(refused.contains("cni plugin not initialized"), "{refused}");

    install(&version(1), 1400);
    assert!(wait_for(|| network_is(true).then_some(())).is_some(), "{}", cri.network());
    let first = cri.run(&pod("first", &[(8080, 80)], &cgroup)).unwrap();
    end(&cri, &first);
    let before = node.footprint();
    let old = cri.run(&pod("old", &[(8080, 80)], &cgroup)).unwrap();
    assert_eq!(mtu(&node, &old), "1400");
    let (_, ips_of_old) = cri.status(&old).unwrap();

    // The kubelet asks every few seconds: at no time it is to hear that there is no network.
    install(&version(2), 1300);
    let taken_up = wait_for(|| {
        assert!(network_is(true), "{}", cri.network());
        cri.network().contains(r#"\"mtu\":1300"#).then_some(())
    });
    assert!(taken_up.is_some(), "{}", cri.network());
    assert!(fs::read("/run/cni/bin/weir").unwrap().ends_with(&[2]));
    let new = cri.run(&pod("new", &[], &cgroup)).unwrap();
    assert_eq!((mtu(&node, &old), mtu(&node, &new)), ("1400".into(), "1300".into()));
    let (_, ips_of_new) = cri.status(&new).unwrap();
    for ip in ips_of_old.iter().chain(&ips_of_new) {
        fetch(*ip, 80);
    }
    fetch("192.0.2.1".parse().unwrap(), 8080);
    end(&cri, &old);
    end(&cri, &new);
    node.await_same(&before);
    assert!(node.records().is_empty());
}
