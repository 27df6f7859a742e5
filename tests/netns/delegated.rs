//! Another IPAM plugin: Debian's host-local behind weir, and ones that fail.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Instant};

use serde_json::{Value, json};

use crate::{
    node::talk,
    plugin::{Answer, Container, Host, ips},
};

/// A directory of the test's own.
pub fn scratch(host: &Host, name: &str) -> PathBuf {
    let dir = host.state_dir().with_file_name(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn host_local(host: &Host) -> Value {
    json!({
        "type": "host-local", "dataDir": scratch(host, "host-local"),
        "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    })
}

/// The reservations that host-local has.
fn reserved(host: &Host) -> Vec<String> {
    let dir = scratch(host, "host-local").join("podnet");
    let names = fs::read_dir(dir).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|name| name != "lock" && !name.starts_with("last_")).collect();
    names.sort();
    names
}

#[test]
fn host_local_gives_and_takes_back() {
    let host = Host::new("host-local");
    let a = host.container("a");
    let ipam = host_local(&host);
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let call =
            |verb: &str| host.call(verb, Some(&a)).key("ipam", ipam.clone()).version(version);
        let reply = call("ADD").succeed();
        let given = ips(&reply);
        assert_eq!(reserved(&host), given);
        assert_eq!(reply["ips"][0]["gateway"], "10.77.0.1");
        assert_eq!(reply["ips"][0]["interface"], 1);
        talk(&host.node, &a.space, given[1].parse().unwrap());
        if version != "0.3.1" {
            call("CHECK").key("prevResult", reply).succeed();
        }
        call("DEL").variable("CNI_NETNS", "").succeed();
        call("DEL").succeed();
        assert!(reserved(&host).is_empty());
    }
}

#[test]
fn the_addresses_of_the_dead_are_had_from_it_when_it_is_full() {
    let host = Host::new("full");
    let (a, b, c) = (host.container("a"), host.container("b"), host.container("c"));
    let mut ipam = host_local(&host);
    let only =
        json!({"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.9", "rangeEnd": "10.77.0.9"});
    ipam["ranges"] = json!([[only]]);
    ipam["routes"] = json!([]);
    let add = |pod: &Container| {
        host.call("ADD", Some(pod)).key("ipam", ipam.clone()).version("1.0.0").answer()
    };
    let given = |answer: Answer| {
        assert_eq!(answer.code, Some(0), "{}", answer.stdout);
        ips(&serde_json::from_str(&answer.stdout).unwrap())
    };
    assert_eq!(given(add(&a)), ["10.77.0.9"]);
    // The living keep theirs.
    assert_eq!(add(&b).code, Some(1));
    host.end(a);
    assert_eq!(given(add(&c)), ["10.77.0.9"]);
    assert_eq!(reserved(&host), ["10.77.0.9"]);
}

#[test]
fn its_addresses_are_released_where_the_configuration_has_changed_by_del() {
    let host = Host::new("changed");
    let a = host.container("a");
    host.call("ADD", Some(&a)).key("ipam", host_local(&host)).version("1.0.0").succeed();
    assert_eq!(reserved(&host).len(), 2);
    host.call("DEL", Some(&a)).key("name", json!("renamed")).succeed();
    assert!(reserved(&host).is_empty());
}

#[test]
fn a_failure_behind_the_lease_gives_it_back() {
    let host = Host::new("give-back");
    let a = host.container("a");
    a.space.succeed("ip link add eth0 type veth peer name other");
    let call = host.call("ADD", Some(&a)).key("ipam", host_local(&host)).version("1.0.0");
    call.refused(102);
    assert!(reserved(&host).is_empty() && !host.record(&a).exists());
    let wrong = json!({"type": "host-local", "dataDir": scratch(&host, "host-local")});
    let call = host.call("ADD", Some(&a)).key("ipam", wrong).version("1.0.0");
    // host-local's own code for it.
    call.refused(999);
    assert!(!host.record(&a).exists());
}

#[test]
fn one_that_fails_is_told_to_delete() {
    let host = Host::new("told");
    let a = host.container("a");
    let dir = scratch(&host, "plugins");
    for (script, code) in [
        ("echo garbage", 6),
        ("echo null", 6),
        (r#"echo '{"ips":[]}'"#, 6),
        (r#"echo '{"code":42,"msg":"no"}'; exit 1"#, 42),
        ("exit 1", 5),
    ] {
        let calls = dir.join("calls");
        let text = format!(
            "#!/bin/sh\ncat > /dev/null; echo $CNI_COMMAND $CNI_CONTAINERID >> {}\n\
             [ $CNI_COMMAND = ADD ] || exit 0\n{script}\n",
            calls.display()
        );
        fs::write(dir.join("broken"), text).unwrap();
        fs::set_permissions(dir.join("broken"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.to_str().unwrap();
        let call = host.call("ADD", Some(&a)).key("ipam", json!({"type": "broken"}));
        call.variable("CNI_PATH", path).refused(code);
        assert_eq!(fs::read_to_string(&calls).unwrap(), "ADD a\nDEL a\n", "{script}");
        fs::remove_file(&calls).unwrap();
        assert!(!host.record(&a).exists());
        assert_eq!(host.node.links(), ["lo"]);
    }
}

#[test]
fn one_that_is_told_of_anothers_end_gets_nothing_of_the_call_that_ends_it() {
    let host = Host::new("another-end");
    let dir = scratch(&host, "plugins");
    // It has one address, and says what it was called with.
    let path = script(
        &host,
        "tells",
        "cat > /dev/null; cd $(dirname $0)\n\
         echo \"$CNI_COMMAND $CNI_CONTAINERID ${CNI_NETNS-unset} ${CNI_ARGS-unset}\" >> calls\n\
         [ $CNI_COMMAND != DEL ] || rm -f full\n\
         [ $CNI_COMMAND = ADD ] || exit 0\n\
         [ ! -e full ] || { echo '{\"code\": 42, \"msg\": \"full\"}'; exit 1; }\n\
         touch full; echo '{\"ips\":[{\"address\":\"10.77.0.2/24\"}]}'",
    );
    let call = |verb: &str, pod: Option<&Container>| {
        let call = host.call(verb, pod).key("ipam", json!({"type": "tells"}));
        call.variable("CNI_PATH", path.to_str().unwrap()).variable("CNI_ARGS", "IgnoreUnknown=1")
    };
    let told = || {
        let told = fs::read_to_string(dir.join("calls")).unwrap();
        fs::remove_file(dir.join("calls")).unwrap();
        told
    };
    let (a, b) = (host.container("a"), host.container("b"));
    let own = |verb: &str, pod: &Container| {
        format!("{verb} {} {} IgnoreUnknown=1\n", pod.id, pod.space.path().display())
    };
    call("ADD", Some(&a)).succeed();
    assert_eq!(told(), own("ADD", &a));
    host.end(a);
    call("ADD", Some(&b)).succeed();
    let [add, del] = ["ADD", "DEL"].map(|verb| own(verb, &b));
    assert_eq!(told(), format!("{add}DEL a  unset\n{del}{add}"));
    call("DEL", Some(&b)).succeed();
    assert_eq!(told(), own("DEL", &b));

    call("ADD", Some(&b)).succeed();
    told();
    let gc = call("GC", None).key("cni.dev/valid-attachments", json!([]));
    gc.variable("CNI_NETNS", "/of/the/call").succeed();
    assert!(told().lines().any(|line| line == "DEL b  unset"));
}

#[test]
fn one_that_hangs_holds_status_for_two_seconds() {
    let host = Host::new("hanging");
    let dir = scratch(&host, "plugins");
    fs::write(dir.join("sleeper"), "#!/bin/sh\nexec sleep 15\n").unwrap();
    fs::set_permissions(dir.join("sleeper"), fs::Permissions::from_mode(0o755)).unwrap();
    let call = host.call("STATUS", None).key("ipam", json!({"type": "sleeper"}));
    let call = call.variable("CNI_PATH", dir.to_str().unwrap());
    let began = Instant::now();
    let message = call.refused_without_a_trace(50);
    assert!(message.contains("sleeper"), "{message}");
    assert!((2..4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// Puts an executable into the test's directory of plugins; that.
pub fn script(host: &Host, name: &str, text: &str) -> PathBuf {
    let dir = scratch(host, "plugins");
    fs::write(dir.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn static_addresses_routes_and_dns_are_the_pods() {
    let host = Host::new("static");
    let a = host.container("a");
    let ipam = json!({
        "type": "static",
        "addresses": [
            {"address": "10.66.0.7/24", "gateway": "10.66.0.1"},
            {"address": "fd00:66::7/64", "gateway": "fd00:66::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "203.0.113.0/24", "gw": "10.66.0.1"}],
        "dns": {"nameservers": ["192.0.2.53"], "search": ["a.example"]},
    });
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let before = host.footprint();
        let call =
            |verb: &str| host.call(verb, Some(&a)).key("ipam", ipam.clone()).version(version);
        let reply = call("ADD").succeed();
        assert_eq!(ips(&reply), ["10.66.0.7", "fd00:66::7"]);
        assert_eq!(reply["ips"][1]["gateway"], "fd00:66::1");
        assert_eq!(reply["dns"], json!({"nameservers": ["192.0.2.53"], "search": ["a.example"]}));
        assert!(a.space.succeed("ip route").contains("203.0.113.0/24"));
        for ip in ips(&reply) {
            talk(&host.node, &a.space, ip.parse().unwrap());
        }
        if version != "0.3.1" {
            call("CHECK").key("prevResult", reply).succeed();
        }
        call("DEL").variable("CNI_NETNS", "").succeed();
        host.footprint().assert_is(&before, version);
    }
}

#[test]
fn the_runtimes_wish_reaches_another_plugin_too() {
    let host = Host::new("wish");
    let (a, b) = (host.container("a"), host.container("b"));
    let call = |verb: &str, container| {
        host.call(verb, Some(container)).key("ipam", host_local(&host)).version("1.0.0")
    };
    let wish = json!({"ips": ["10.77.0.50"]});
    let reply = call("ADD", &a).key("runtimeConfig", wish.clone()).succeed();
    assert_eq!(ips(&reply)[0], "10.77.0.50");
    // host-local's own code and words for one that is taken.
    let message = call("ADD", &b).key("runtimeConfig", wish).refused_without_a_trace(999);
    assert!(message.contains("10.77.0.50"), "{message}");
    let second = call("ADD", &b).variable("CNI_ARGS", "IgnoreUnknown=1;IP=10.77.0.60").succeed();
    assert_eq!(ips(&second)[0], "10.77.0.60");
}

#[test]
fn a_reservation_that_is_lost_or_a_pool_that_is_empty_is_its_plugins_word() {
    let host = Host::new("word");
    let (a, b) = (host.container("a"), host.container("b"));
    let mut small = host_local(&host);
    small["ranges"] = json!([[{"subnet": "10.77.0.0/30"}]]);
    small["routes"] = json!([]);
    let call = |verb: &str, container| {
        host.call(verb, Some(container)).key("ipam", small.clone()).version("1.0.0")
    };
    let reply = call("ADD", &a).succeed();
    call("ADD", &b).refused_without_a_trace(999);
    call("CHECK", &a).key("prevResult", reply.clone()).succeed();
    fs::remove_file(scratch(&host, "host-local").join("podnet/10.77.0.2")).unwrap();
    call("CHECK", &a).key("prevResult", reply).refused_without_a_trace(999);
    call("DEL", &a).succeed();
    call("ADD", &b).succeed();
}

#[test]
fn one_that_is_missing_at_del_is_waited_for_by_the_next() {
    let host = Host::new("missing");
    let a = host.container("a");
    let before = host.footprint();
    let call =
        |verb: &str| host.call(verb, Some(&a)).key("ipam", host_local(&host)).version("1.0.0");
    let message = call("ADD").variable("CNI_PATH", "/nowhere").refused_without_a_trace(7);
    assert!(message.contains("host-local") && message.contains("/nowhere"), "{message}");
    // Without a record too: the state dir may have been lost, and the plugin hold an address.
    let message = call("DEL").variable("CNI_PATH", "/nowhere").refused_without_a_trace(7);
    assert!(message.contains("host-local") && message.contains("/nowhere"), "{message}");
    call("ADD").succeed();
    let message = call("DEL").variable("CNI_PATH", "/nowhere").refused(7);
    assert!(message.contains("host-local"), "{message}");
    // All but the address is gone, and the record leads to that.
    assert_eq!(
        (host.node.links(), a.space.links()),
        (vec!["lo".to_owned()], vec!["lo".to_owned()])
    );
    assert!(host.record(&a).exists());
    call("DEL").succeed();
    assert!(reserved(&host).is_empty());
    fs::remove_dir_all(scratch(&host, "host-local")).unwrap();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn its_refusal_at_del_has_no_words_that_a_runtime_takes_for_success() {
    let host = Host::new("words");
    let a = host.container("a");
    let answer = r#"{"ips":[{"address":"10.66.0.5/24"}]}"#;
    let refusal =
        r#"{"code":42,"msg":"lease not found","details":"open /x: no such file or directory"}"#;
    let text = format!("[ $CNI_COMMAND = DEL ] || exec echo '{answer}'\necho '{refusal}'; exit 1");
    let path = script(&host, "unsure", &text);
    let call = |verb: &str| {
        let call = host.call(verb, Some(&a)).key("ipam", json!({"type": "unsure"}));
        call.variable("CNI_PATH", path.to_str().unwrap())
    };
    call("ADD").succeed();
    for netns in [a.space.path().to_str().unwrap(), ""] {
        let answer = call("DEL").variable("CNI_NETNS", netns).answer();
        let error: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!((answer.code, &error["code"]), (Some(1), &json!(42)), "{error}");
        assert!(error["msg"].as_str().unwrap().contains("lease"), "{error}");
        // go-cni's Remove.
        for taken in ["not found", "no such file or directory"] {
            assert!(!error.to_string().contains(taken), "{error}");
        }
        assert!(host.record(&a).exists());
    }
    // Of an ADD nobody takes it so: the plugin's own words.
    let path = script(&host, "unsure", &format!("echo '{refusal}'; exit 1"));
    let b = host.container("b");
    let add = host.call("ADD", Some(&b)).key("ipam", json!({"type": "unsure"}));
    let said = add.variable("CNI_PATH", path.to_str().unwrap()).refused(42);
    assert_eq!(said, "lease not found");
}

#[test]
fn an_answer_that_can_not_be_used_is_given_back() {
    let host = Host::new("unusable");
    let _world = host.node.outside();
    host.node.succeed("ip route add 10.66.0.9/32 dev out0");
    let a = host.container("a");
    let calls = scratch(&host, "plugins").join("calls");
    for (answer, code) in [
        // What the node has itself, needs, or routes elsewhere, and what no interface can have.
        (r#"{"ips":[{"address":"192.0.2.1/24"}]}"#, 7),
        (r#"{"ips":[{"address":"10.9.0.2/24"}]}"#, 7),
        (r#"{"ips":[{"address":"10.66.0.9/24"}]}"#, 105),
        (r#"{"ips":[{"address":"10.66.0.5/24"},{"address":"10.66.0.5/24"}]}"#, 7),
        (r#"{"ips":[{"address":"127.0.0.1/8"}]}"#, 7),
        (r#"{"ips":[{"address":"224.0.0.5/24"}]}"#, 7),
        (r#"{"ips":[{"address":"0.0.0.0/0"}]}"#, 7),
        (r#"{"ips":[{"address":"169.254.1.1/16"}]}"#, 7),
        (r#"{"ips":[{"address":"::1/128"}]}"#, 7),
        (r#"{"ips":[{"address":"fe80::1/64"}]}"#, 7),
        (r#"{"ips":[{"address":"10.66.0.5/24"}],"routes":[{"dst":"::/0"}]}"#, 7),
    ] {
        let text = format!(
            "cat > /dev/null; echo $CNI_COMMAND >> {}; [ $CNI_COMMAND = DEL ] || echo '{answer}'",
            calls.display()
        );
        let path = script(&host, "odd", &text);
        let call = host.call("ADD", Some(&a)).key("ipam", json!({"type": "odd"}));
        let answered = call.variable("CNI_PATH", path.to_str().unwrap()).answer();
        assert!(
            answered.stdout.contains(&format!("\"code\":{code},")),
            "{answer}: {}",
            answered.stdout
        );
        assert_eq!(fs::read_to_string(&calls).unwrap(), "ADD\nDEL\n", "{answer}");
        fs::remove_file(&calls).unwrap();
        assert!(!host.record(&a).exists());
        assert_eq!(a.space.links(), ["lo"]);
    }
}
