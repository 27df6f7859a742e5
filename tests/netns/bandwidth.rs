//! Bandwidth limits, by what really passes: TCP at several rates, floods, and a pod that would rather
//! have none.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use libbpf_rs::{MapCore, MapHandle};
use serde_json::{Value, json};
use weir::telemetry::pin;

use crate::{
    counted::{Counted, shown},
    node::Space,
    plugin::{Call, Container, Host, ips},
};

/// What a runtime sends as burst where a pod has none (containerd).
const NO_BURST: u64 = u32::MAX as u64;
pub const MBIT: u64 = 1_000_000;

/// Both directions at the same rate.
fn both(rate: u64) -> Value {
    json!({"IngressRate": rate, "IngressBurst": NO_BURST, "EgressRate": rate, "EgressBurst": NO_BURST})
}

fn limited<'a>(call: Call<'a>, bandwidth: &Value) -> Call<'a> {
    call.key("runtimeConfig", json!({"bandwidth": bandwidth}))
}

/// Has this thread go before those of other tests: a sender that gets no processor fills no limit.
fn go_first() {
    let thread = nix::unistd::gettid().to_string();
    let done = Command::new("renice").args(["-n", "-15", "-p", &thread]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Sends as fast as TCP can for a time; the bits a second that arrived in its second part.
pub fn tcp_rate(from: &Space, to: &Space, ip: IpAddr) -> f64 {
    const WARM: Duration = Duration::from_millis(700);
    const MEASURED: Duration = Duration::from_millis(2_000);
    let listener = to.run(|| TcpListener::bind(SocketAddr::new(ip, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || {
        go_first();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = vec![0; 1 << 18];
        let begun = Instant::now();
        while begun.elapsed() < WARM {
            assert!(read(&mut stream, &mut buffer) > 0);
        }
        let (from, mut bytes) = (Instant::now(), 0);
        while from.elapsed() < MEASURED {
            bytes += read(&mut stream, &mut buffer);
        }
        bytes as f64 * 8.0 / from.elapsed().as_secs_f64()
    });
    from.run(|| {
        go_first();
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let chunk = vec![0; 1 << 17];
        // Until the receiver has had enough.
        while stream.write_all(&chunk).is_ok() {}
    });
    receiver.join().unwrap()
}

/// With a time-out a read ends at a signal to the process, too, as a debugger's.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    loop {
        match stream.read(buffer) {
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            done => return done.unwrap(),
        }
    }
}

/// Sends datagrams at a rate, in bits a second of what is on the link.
fn flood(from: &Space, to: IpAddr, rate: u64, time: Duration) {
    const PAYLOAD: usize = 1_200;
    let on_link = u64::try_from(PAYLOAD).unwrap() + 42;
    from.run(|| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
        let begun = Instant::now();
        let mut sent = 0;
        while begun.elapsed() < time {
            let due = begun.elapsed().as_secs_f64() * rate as f64 / 8.0;
            while (sent as f64) < due {
                // A full queue of one's own is no surprise here.
                let _ = socket.send_to(&[0; PAYLOAD], SocketAddr::new(to, 9));
                sent += on_link;
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
}

fn of_family(result: &Value, v4: bool) -> IpAddr {
    let mut ips = ips(result).into_iter().map(|ip| ip.parse::<IpAddr>().unwrap());
    ips.find(|ip| ip.is_ipv4() == v4).unwrap()
}

/// Elements of the map of limits.
fn entries(counted: &Counted) -> usize {
    let map: MapHandle = pin::map(&counted.bpffs.join("weir"), "limits").unwrap().unwrap();
    map.keys().count()
}

#[test]
fn both_directions_are_held_within_a_tenth() {
    let counted = Counted::new("bandwidth");
    let host = &counted.host;
    let b = host.container("b");
    let other = counted.call("ADD", Some(&b), "auto").succeed();
    for (rate, v4) in [(10 * MBIT, true), (100 * MBIT, false), (100 * MBIT, true)] {
        let a = host.container("a");
        let result = limited(counted.call("ADD", Some(&a), "auto"), &both(rate)).succeed();
        counted.check(&a, "auto", &result).succeed();
        let to_pod = tcp_rate(&b.space, &a.space, of_family(&result, v4));
        let from_pod = tcp_rate(&a.space, &b.space, of_family(&other, v4));
        for (direction, is) in [("to", to_pod), ("from", from_pod)] {
            let share = is / rate as f64;
            assert!((0.9..1.02).contains(&share), "{direction} the pod at {rate}: {share}");
        }
        counted.call("DEL", Some(&a), "auto").succeed();
        assert_eq!(entries(&counted), 0);
    }
}

#[test]
fn one_direction_alone_leaves_the_other_free() {
    let host = Host::new("one-way");
    let b = host.container("b");
    let other = host.add(&b);
    let a = host.container("a");
    // Without a bpffs there are the queues alone, which is told.
    let bandwidth = json!({"ingressRate": 20 * MBIT});
    let call = limited(host.call("ADD", Some(&a)), &bandwidth);
    let answer = call.answer();
    assert!(answer.stderr.contains("queues alone"), "{}", answer.stderr);
    let result: Value = serde_json::from_str(&answer.stdout).unwrap();
    host.check(&a, &result).succeed();
    let to_pod = tcp_rate(&b.space, &a.space, of_family(&result, true)) / (20 * MBIT) as f64;
    let from_pod = tcp_rate(&a.space, &b.space, of_family(&other, true)) / (20 * MBIT) as f64;
    assert!((0.9..1.02).contains(&to_pod), "{to_pod}");
    assert!(from_pod > 5.0, "{from_pod}");
    host.del(&a);
}

#[test]
fn what_is_counted_is_what_the_pod_gets_and_sends() {
    const RATE: u64 = 10 * MBIT;
    let counted = Counted::new("exact");
    let host = &counted.host;
    let [a, b] = ["a", "b"].map(|id| host.container(id));
    let result = limited(counted.call("ADD", Some(&a), "auto"), &both(RATE)).succeed();
    let other = host.add(&b);
    for v4 in [true, false] {
        // Three times as much as may pass: most of it is dropped somewhere.
        flood(&b.space, of_family(&result, v4), 3 * RATE, Duration::from_millis(500));
        flood(&a.space, of_family(&other, v4), 3 * RATE, Duration::from_millis(500));
        tcp_rate(&b.space, &a.space, of_family(&result, v4));
    }
    let equal = (0..100).any(|_| {
        // Packets are not compared: of one with many segments each is counted, and shown is one.
        let bytes = |of: [[u64; 2]; 2]| of.map(|[bytes, _]| bytes);
        let same = bytes(counted.network()) == bytes(shown(&a));
        same || {
            thread::sleep(Duration::from_millis(50));
            false
        }
    });
    assert!(equal, "counted {:?}, shown {:?}", counted.network(), shown(&a));
    let link = result["interfaces"][0]["name"].as_str().unwrap();
    let queue = host.node.succeed(&format!("tc -s qdisc show dev {link} root"));
    assert!(queue.contains("qdisc tbf 1:") && queue.contains("dropped 0,"), "{queue}");
}

#[test]
fn a_pod_that_takes_its_queue_away_is_held_all_the_same() {
    const RATE: u64 = 20 * MBIT;
    let counted = Counted::new("guarded");
    let host = &counted.host;
    let [a, b] = ["a", "b"].map(|id| host.container(id));
    let result = limited(counted.call("ADD", Some(&a), "auto"), &both(RATE)).succeed();
    let other = host.add(&b);
    a.space.succeed("tc qdisc del dev eth0 root");
    let check = counted.check(&a, "auto", &result);
    let message = check.refused(103);
    assert!(
        message.contains("interface eth0 (") && message.contains("start the pod anew"),
        "{message}"
    );

    let received = |container: &Container| shown(container)[1][0];
    let (before, time) = (received(&b), Duration::from_secs(2));
    flood(&a.space, of_family(&other, true), 5 * RATE, time);
    let share = (received(&b) - before) as f64 * 8.0 / time.as_secs_f64() / RATE as f64;
    // A tenth above the rate, and what may come at once.
    assert!((1.0..1.25).contains(&share), "{share}");
}

#[test]
fn check_names_what_is_missing() {
    let counted = Counted::new("bandwidth-check");
    let host = &counted.host;
    let link = |result: &Value| result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    for (harm, named) in [
        ("tc qdisc del dev LINK root", "is not held to a rate instead of"),
        ("tc qdisc replace dev LINK root handle 1: tbf rate 1mbit burst 16kb limit 64kb", "125000"),
        ("tc filter del dev LINK egress pref 49151", "the filter of the limit"),
        ("tc filter del dev LINK ingress pref 49153", "the filter of the limit"),
    ] {
        let a = host.container("a");
        let result = limited(counted.call("ADD", Some(&a), "auto"), &both(10 * MBIT)).succeed();
        counted.check(&a, "auto", &result).succeed();
        host.node.succeed(&harm.replace("LINK", &link(&result)));
        let message = counted.check(&a, "auto", &result).refused(103);
        let link = link(&result);
        for words in [named, &format!("interface {link} ("), "; weir reconcile puts "] {
            assert!(message.contains(words), "{harm}: {message}");
        }
        let said = harm.starts_with("tc qdisc").then_some("instead of 1250000 bytes a second");
        assert!(message.contains(said.unwrap_or_default()), "{message}");
        counted.call("DEL", Some(&a), "auto").succeed();
        assert_eq!(entries(&counted), 0);
    }
}

#[test]
fn a_queue_that_was_taken_off_comes_back_by_reconcile_and_anothers_stays() {
    let counted = Counted::new("queueless");
    let host = &counted.host;
    let a = host.container("a");
    let reply = limited(counted.call("ADD", Some(&a), "clsact"), &both(10 * MBIT)).succeed();
    let check = || limited(counted.check(&a, "clsact", &reply), &both(10 * MBIT));
    check().succeed();
    let name = reply["interfaces"][0]["name"].as_str().unwrap();
    let (state, bpf) = (host.state_dir(), counted.bpffs.join("weir"));
    let words = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
    let doctor = || {
        let weir = env!("CARGO_BIN_EXE_weir");
        String::from_utf8(host.node.command(&format!("{weir} doctor {words}")).stdout).unwrap()
    };
    let unlimited = "pods are not held to their bandwidth: a\n";
    assert!(
        doctor().contains("1 attachment, with hooks, limits, host ports and masquerade in place")
    );
    let before = host.node.succeed(&format!("tc qdisc show dev {name}"));
    for harm in ["qdisc del dev LINK root", "filter del dev LINK egress pref 49151"] {
        host.node.succeed(&format!("tc {}", harm.replace("LINK", name)));
        check().refused(103);
        assert!(doctor().contains(unlimited), "{harm}: {}", doctor());
        host.reconcile_in(&words);
    }
    assert_eq!(host.node.succeed(&format!("tc qdisc show dev {name}")), before);
    check().succeed();

    host.node.succeed(&format!("tc qdisc replace dev {name} root handle 7: pfifo limit 9"));
    let (weir, words) = (env!("CARGO_BIN_EXE_weir"), words);
    let output = host.node.command(&format!("{weir} reconcile {words}"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains(name));
    assert!(host.node.succeed(&format!("tc qdisc show dev {name}")).contains("pfifo 7:"));
}

#[test]
fn a_limit_of_nobody_goes_by_reconcile() {
    let counted = Counted::new("unlimited");
    let host = &counted.host;
    let (a, b) = (host.container("a"), host.container("b"));
    for pod in [&a, &b] {
        limited(counted.call("ADD", Some(pod), "clsact"), &both(10 * MBIT)).succeed();
    }
    assert_eq!(entries(&counted), 4);
    // Its record is lost, and its interface goes by reconcile alone.
    std::fs::remove_file(host.record(&a)).unwrap();
    let (state, bpf) = (host.state_dir(), counted.bpffs.join("weir"));
    let places = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
    let dropped = host.reconcile_in(&places);
    assert!(dropped.iter().any(|what| what.starts_with("link ")), "{dropped:?}");
    assert_eq!(entries(&counted), 2);
    counted.call("DEL", Some(&b), "clsact").succeed();
    assert_eq!(entries(&counted), 0);
}
