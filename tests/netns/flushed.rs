//! After `nft flush ruleset`, which a firewall's reload may be: host ports and masquerade of the living come
//! back by `weir reconcile`, and nothing else changes.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    answer::{BRIEFLY, Client, PATIENCE, Server, tcp},
    node::Space,
    plugin::{Call, Container, Host, ips},
    ports::{both, elements, map, reached, send_loopback_to},
};

/// What `weir reconcile` drops and says; its exit status.
fn reconcile(host: &Host) -> (String, String, Option<i32>) {
    let output = host.node.command(&words(host));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn words(host: &Host) -> String {
    let (weir, state) = (env!("CARGO_BIN_EXE_weir"), host.state_dir());
    let bpf = state.with_file_name("bpf");
    format!("{weir} reconcile --state-dir {} --bpf-dir {}", state.display(), bpf.display())
}

/// One that must succeed, and drop nothing; what it says.
fn mend(host: &Host) -> String {
    let (dropped, said, code) = reconcile(host);
    let nothing = if said.contains("again: container") { "" } else { "nothing to drop\n" };
    assert_eq!((&*dropped, code), (nothing, Some(0)), "{said}");
    said
}

/// What the doctor finds of the pods: the verdict, and its words.
fn doctor(host: &Host) -> (String, String) {
    let words = words(host).replace(" reconcile ", " doctor -o json ");
    let findings: Value = serde_json::from_slice(&host.node.command(&words).stdout).unwrap();
    let mut findings = findings.as_array().unwrap().iter();
    let finding = findings.find(|finding| finding["check"] == "pods").unwrap();
    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    (text("verdict"), format!("{}; {}", text("says"), text("mend")))
}

fn masqueraded<'a>(host: &'a Host, container: &Container, ports: Value) -> Call<'a> {
    let call = host.call("ADD", Some(container)).key("ipMasq", json!(true));
    call.key("runtimeConfig", json!({"portMappings": ports}))
}

/// The whole ruleset with the kernel's numbers of tables, maps, chains and rules: made anew they are others.
fn ruleset(host: &Host) -> String {
    host.node.succeed("nft -a list ruleset")
}

/// A firewall is loaded anew: everything goes, and its own table comes, for which the kernel tracks flows.
fn reload_firewall(host: &Host) {
    host.node.succeed("nft flush ruleset");
    add_others(host);
}

fn add_others(host: &Host) {
    host.node.succeed("nft add table ip others");
    host.node.succeed("nft add chain ip others own { type filter hook forward priority 0 ; }");
    host.node.succeed("nft add rule ip others own ct state established,related accept");
    host.node.succeed("nft add table ip6 others");
    host.node.succeed("nft add chain ip6 others own { type filter hook forward priority 0 ; }");
    host.node.succeed("nft add rule ip6 others own ct state established,related accept");
}

/// The firewall's table.
fn foreign(host: &Host) -> String {
    host.node.succeed("nft -a list table ip others")
}

#[test]
fn host_ports_lead_to_the_living_again() {
    let host = Host::new("flushed");
    let world = host.node.outside();
    let [a, b, plain] = ["a", "b", "plain"].map(|id| host.container(id));
    let result = masqueraded(&host, &a, both("8080")).succeed();
    let at = json!([{"hostPort": 9090, "containerPort": 80, "hostIP": "10.9.0.1"}]);
    masqueraded(&host, &b, at).succeed();
    host.add(&plain);
    let _servers = (Server::new(&a.space, "a"), Server::new(&b.space, "b"));
    let asked = || {
        [("10.9.0.1", 8080), ("fd09::1", 8080), ("10.9.0.1", 9090)]
            .map(|(ip, port)| tcp(&world, ip, port).map(|said| said[..1].to_owned()))
    };
    let all = ["a", "a", "b"].map(|name| Some(name.to_owned()));
    let clients = [Client::new(&world, "10.9.0.1", 8080), Client::new(&world, "fd09::1", 8080)];
    assert_eq!(asked(), all);
    let before = elements(&host);
    assert_eq!(doctor(&host).0, "ok");

    reload_firewall(&host);
    let (verdict, said) = doctor(&host);
    let closed = "host ports don't lead to their pods: a, b; what pods send out is not masqueraded: a, b; weir reconcile";
    assert!(verdict == "warn" && said.ends_with(closed), "{said}");
    let others = foreign(&host);
    assert_eq!(asked(), [None, None, None]);
    // The kernel remembers that these flows lead to nobody, and they never pause.
    assert_eq!([clients[0].ask(BRIEFLY), clients[1].ask(BRIEFLY)], [None, None]);
    let told = host.check(&a, &result).key("ipMasq", json!(true)).refused(103);
    assert!(told.contains("masquerade4 is missing; mend it: weir reconcile"), "{told}");

    let said = mend(&host);
    assert!(said.contains("host ports lead there again: container a interface eth0"), "{said}");
    assert!(said.contains("host ports lead there again: container b interface eth0"), "{said}");
    assert!(said.contains("mended attachments: 2") && !said.contains("plain"), "{said}");
    assert_eq!(asked(), all);
    for client in &clients {
        // The first may only collect the refusal of the one before it.
        let told = client.ask(BRIEFLY).or_else(|| client.ask(PATIENCE));
        assert!(told.is_some_and(|told| told.starts_with("a sees")));
    }
    assert_eq!(elements(&host), before);
    host.check(&a, &result).key("ipMasq", json!(true)).succeed();
    assert_eq!(foreign(&host), others);
    assert_eq!(doctor(&host).0, "ok");

    let mended = ruleset(&host);
    assert_eq!(mend(&host), "", "there is nothing to mend any more");
    assert_eq!(ruleset(&host), mended);
    for container in [&a, &b] {
        host.del(container);
    }
    assert!(!elements(&host).contains("elements"), "{}", elements(&host));
}

#[test]
fn what_living_pods_send_out_is_masqueraded_again() {
    let host = Host::new("flushed-masq");
    let world = host.node.outside();
    let [a, b] = ["a", "b"].map(|id| host.container(id));
    let own = ips(&masqueraded(&host, &a, json!([])).succeed());
    masqueraded(&host, &b, json!([])).succeed();
    // Else no answer would come back to who is not masqueraded.
    world.succeed("ip route add 10.88.0.0/24 via 10.9.0.1");
    world.succeed("ip route add fd00:88::/64 via fd09::1");
    // A router asks for a neighbour of whom it sends others' packets from its link-local address.
    host.node.succeed("ip addr add fe80::1:1/64 dev out0 nodad");
    let _world = Server::new(&world, "world");
    let seen = |ip: &str| Some(format!("world sees {ip}"));
    assert_eq!(tcp(&a.space, "10.9.0.2", 80), seen("10.9.0.1"));

    reload_firewall(&host);
    assert_eq!(tcp(&a.space, "10.9.0.2", 80), seen(&own[0]));
    let flows = [Client::new(&a.space, "10.9.0.2", 80), Client::new(&a.space, "fd09::2", 80)];
    let asked = || [flows[0].ask(PATIENCE), flows[1].ask(PATIENCE)];
    assert_eq!(asked(), [seen(&own[0]), seen(&own[1])]);

    let said = mend(&host);
    assert_eq!(said.matches("masqueraded again: container").count(), 2, "{said}");
    assert!(said.contains("mended attachments: 2"), "{said}");
    assert_eq!(tcp(&a.space, "10.9.0.2", 80), seen("10.9.0.1"));
    // Also what began while nothing masqueraded it.
    assert_eq!(asked(), [seen("10.9.0.1"), seen("fd09::1")]);
    assert_eq!(mend(&host), "");
}

/// A connection that is begun now, and what it is told once it is established.
fn begin(from: &Space, ip: &str, port: u16) -> JoinHandle<Option<String>> {
    let at = SocketAddr::new(ip.parse().unwrap(), port);
    let socket = from.run(|| Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap());
    thread::spawn(move || {
        // A SYN is sent again after 1, 3 and 7 s.
        socket.connect_timeout(&at.into(), Duration::from_secs(10)).ok()?;
        let mut text = String::new();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        (&socket).read_to_string(&mut text).ok()?;
        Some(text)
    })
}

/// Echo requests of one sequence for six seconds at most; whether one is answered.
fn ping(from: &Space, to: Ipv4Addr) -> JoinHandle<bool> {
    const REQUEST: [u8; 8] = [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1];
    let socket = from.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap());
    socket.connect(&SocketAddr::new(to.into(), 0).into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    thread::spawn(move || {
        (0..30).any(|_| {
            socket.send(&REQUEST).unwrap();
            let mut answer = [0; 64];
            let length = (&socket).read(&mut answer).unwrap_or(0);
            // Behind the header of IP.
            length >= 28 && answer[20] == 0 && answer[24..26] == REQUEST[4..6]
        })
    })
}

#[test]
fn what_began_meanwhile_and_was_not_answered_gets_through_when_it_is_sent_again() {
    meanwhile("flushed-syn", false);
}

/// Then nothing is missing any more when `weir reconcile` comes.
#[test]
fn what_began_before_an_add_brought_the_rules_back_gets_through_as_well() {
    meanwhile("flushed-add", true);
}

fn meanwhile(name: &str, another_is_added: bool) {
    let host = Host::new(name);
    let world = host.node.outside();
    let a = host.container("a");
    masqueraded(&host, &a, both("8080")).succeed();
    let (_world, _pod) = (Server::new(&world, "world"), Server::new(&a.space, "pod"));
    if another_is_added {
        host.node.succeed("nft flush table inet weir");
        add_others(&host);
    } else {
        reload_firewall(&host);
    }
    // Of the node's refusals nobody hears, not even who tracks the flows.
    for family in ["ip", "ip6"] {
        let own = format!("nft add chain {family} others out");
        host.node.succeed(&format!("{own} {{ type filter hook output priority -300 ; }}"));
        host.node.succeed(&format!("nft add rule {family} others out tcp flags & rst == rst drop"));
    }
    let begun = [
        begin(&a.space, "10.9.0.2", 80),
        begin(&a.space, "fd09::2", 80),
        begin(&world, "10.9.0.1", 8080),
        begin(&world, "fd09::1", 8080),
    ];
    let pinging = ping(&a.space, Ipv4Addr::new(10, 9, 0, 2));
    let waiting = || {
        let known = host.node.succeed("cat /proc/net/nf_conntrack");
        let of = |kind: &str| {
            let unanswered = known.lines().filter(|line| line.contains("[UNREPLIED]"));
            unanswered.filter(|line| line.contains(kind)).count()
        };
        [of(" SYN_SENT "), of(" icmp ")]
    };
    assert!((0..300).any(|_| waiting() == [4, 1] || {
        thread::sleep(Duration::from_millis(10));
        false
    }));
    if another_is_added {
        masqueraded(&host, &host.container("b"), both("8081")).succeed();
        let (said, words, code) = reconcile(&host);
        assert_eq!(code, Some(0), "{words}");
        assert!(!said.contains("mended"), "{said}");
    } else {
        let said = mend(&host);
        assert_eq!(said.matches("container a").count(), 2, "{said}");
    }
    let told = begun.map(|connection| connection.join().unwrap());
    let seen = |who: &str, whom: &str| Some(format!("{who} sees {whom}"));
    assert_eq!(
        told,
        [
            seen("world", "10.9.0.1"),
            seen("world", "fd09::1"),
            seen("pod", "10.9.0.2"),
            seen("pod", "fd09::2"),
        ]
    );
    assert!(pinging.join().unwrap(), "no echo came back");
}

#[test]
fn whatever_part_is_missing_comes_back() {
    let host = Host::new("flushed-part");
    let a = host.container("a");
    let result = masqueraded(&host, &a, both("8080")).succeed();
    let (check, whole) = (host.check(&a, &result).key("ipMasq", json!(true)), unnumbered(&host));
    for harm in [
        "flush table inet weir",
        "flush chain inet weir hostports_in",
        "flush chain inet weir hostports_guard",
        "flush chain inet weir postrouting",
        "flush map inet weir hostports4",
        "flush set inet weir hairpin6",
        "flush set inet weir masquerade6",
        "delete element inet weir hostports6 { udp . 8080 }",
        "delete table inet weir",
    ] {
        host.node.succeed(&format!("nft {harm}"));
        let told = check.refused(103);
        assert!(told.ends_with("is missing; mend it: weir reconcile"), "{harm}: {told}");
        let said = mend(&host);
        assert!(said.contains("mended attachments: 1"), "{harm}: {said}");
        assert_eq!(unnumbered(&host), whole, "{harm}");
        check.succeed();
    }
}

/// The lines of the ruleset without the kernel's numbers.
fn unnumbered(host: &Host) -> Vec<String> {
    let text = ruleset(host);
    let mut lines: Vec<_> =
        text.lines().map(|line| line.split(" # handle").next().unwrap().to_owned()).collect();
    lines.sort();
    lines
}

#[test]
fn an_add_has_the_rules_that_it_needs() {
    let host = Host::new("flushed-add");
    let world = host.node.outside();
    let first = host.container("first");
    masqueraded(&host, &first, both("8080")).succeed();
    let whole = unnumbered(&host);
    let _servers = (Server::new(&world, "world"), Server::new(&host.node, "node"));
    let emptied =
        ["guard", "in", "out", "back"].map(|chain| format!("chain inet weir hostports_{chain}"));
    let deleted = ["hostports_guard", "postrouting"]
        .map(|chain| format!("chain inet weir {chain} ; delete chain inet weir {chain}"));
    let others = ["table inet weir", "chain inet weir postrouting"].map(str::to_owned);
    for (at, harm) in others.into_iter().chain(emptied).chain(deleted).enumerate() {
        let pod = host.container(&format!("c{at}"));
        host.node.succeed(&format!("nft flush {harm}"));
        let result = masqueraded(&host, &pod, both("8081")).succeed();
        host.check(&pod, &result).key("ipMasq", json!(true)).succeed();
        let _server = Server::new(&pod.space, "pod");
        let seen = |name: &str, ip: &str| Some(format!("{name} sees {ip}"));
        assert_eq!(tcp(&pod.space, "10.9.0.2", 80), seen("world", "10.9.0.1"), "{harm}");
        assert_eq!(tcp(&world, "10.9.0.1", 8081), seen("pod", "10.9.0.2"), "{harm}");
        assert_eq!(tcp(&world, "fd09::1", 8081), seen("pod", "fd09::2"), "{harm}");
        assert!(tcp(&host.node, "127.0.0.1", 8081).is_some_and(|told| told.starts_with("pod")));
        assert!(reached(&host.node, 80));
        send_loopback_to(&pod.space, "eth0", "169.254.1.1");
        assert!(!reached(&pod.space, 80), "{harm}");
        host.del(&pod);
        assert_eq!(unnumbered(&host), whole, "{harm}");
    }
    // Whole as they are, they are left alone.
    let numbered = ruleset(&host);
    let pod = host.container("last");
    masqueraded(&host, &pod, both("8081")).succeed();
    host.del(&pod);
    assert_eq!(ruleset(&host), numbered);
}

#[test]
fn a_port_that_another_got_meanwhile_is_said_and_the_others_come_back() {
    let host = Host::new("flushed-taken");
    let [a, b] = ["a", "b"].map(|id| host.container(id));
    let ports = json!([map("8080", "tcp", "80"), map("8081", "tcp", "80")]);
    masqueraded(&host, &a, ports).succeed();
    let _servers = (Server::new(&a.space, "a"), Server::new(&b.space, "b"));
    host.node.succeed("nft flush ruleset");
    masqueraded(&host, &b, json!([map("8080", "tcp", "80")])).succeed();
    let (_, said, code) = reconcile(&host);
    assert_eq!(code, Some(1), "{said}");
    let [a_is, b_is] = ["a", "b"].map(|id| format!("container {id} interface eth0"));
    assert!(said.contains(&format!("8080/tcp of {a_is} was given to {b_is}")), "{said}");
    assert!(tcp(&host.node, "127.0.0.1", 8080).unwrap().starts_with('b'));
    assert!(tcp(&host.node, "127.0.0.1", 8081).unwrap().starts_with('a'));
    host.del(&b);
    assert!(mend(&host).contains("mended attachments: 1"));
    assert!(tcp(&host.node, "127.0.0.1", 8080).unwrap().starts_with('a'));
}

/// A DEL beside a reconciliation that is slow at every message to the kernel, after another number of messages
/// each time: by the clock, a busy machine would have it come too early, or too late, each time.
#[test]
fn a_del_meanwhile_leaves_nothing_behind() {
    const MOMENTS: usize = 16;
    let host = Host::new("flushed-del");
    let stays = host.container("stays");
    masqueraded(&host, &stays, json!([])).succeed();
    let messages = host.state_dir().with_file_name("messages");
    let slow = format!(
        "strace -qq -o {} -e trace=sendto,sendmsg -e inject=sendto,sendmsg:delay_enter=20000 {}",
        messages.display(),
        words(&host)
    );
    let sent = || fs::read_to_string(&messages).unwrap_or_default().lines().count();
    // Whether it mended the pod, with another command meanwhile.
    let reconciled = |pod: &Container, meanwhile: &dyn Fn(&dyn Fn() -> bool)| {
        masqueraded(&host, pod, both("8080")).succeed();
        host.node.succeed("nft flush ruleset");
        let _ = fs::remove_file(&messages);
        let output = thread::scope(|scope| {
            let reconciling = scope.spawn(|| host.node.command(&slow));
            meanwhile(&|| reconciling.is_finished());
            reconciling.join().unwrap()
        });
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said.contains("host ports")
    };
    let unhindered = host.container("unhindered");
    assert!(reconciled(&unhindered, &|_| ()));
    let all = sent();
    assert!(all >= MOMENTS, "{all}");
    host.del(&unhindered);

    let mut mended = 0;
    for moment in 0..MOMENTS {
        let pod = host.container(&format!("c{moment}"));
        mended += u32::from(reconciled(&pod, &|ended| {
            while sent() < all * moment / MOMENTS && !ended() {
                thread::sleep(Duration::from_millis(5));
            }
            host.del(&pod);
        }));
        assert!(!host.record(&pod).exists());
        let left = host.node.succeed("nft list ruleset");
        assert!(!left.contains("8080") && !left.contains("10.88.0.3 ."), "{moment}: {left}");
    }
    assert!((1..16).contains(&mended), "DEL came too early or too late each time: {mended}");
}
