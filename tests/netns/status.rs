//! STATUS: whether an ADD could be served, cheaply and behind no lock.

use std::{fs, os::unix::fs::symlink, time::Instant};

use serde_json::json;

use crate::plugin::{Container, Host};

#[test]
fn a_fresh_node_is_ready_and_stays_untouched() {
    let host = Host::new("ready");
    let before = host.footprint();
    host.call("STATUS", None).succeed();
    host.call("STATUS", None).without("ipam").succeed();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn a_state_dir_that_can_not_be_written_is_code_50() {
    let host = Host::new("unwritable");
    fs::write(host.state_dir(), "a file").unwrap();
    for dir in [host.state_dir(), host.state_dir().join("below"), "/proc/weir".into()] {
        let message = host.call("STATUS", None).key("stateDir", json!(dir)).refused(50);
        assert!(message.contains(dir.to_str().unwrap()), "{message}");
    }
}

#[test]
fn an_ipv6_range_on_a_node_without_ipv6_is_code_50() {
    let host = Host::new("status-v6");
    let dual = json!({"ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]]});
    let status = |ipam: &serde_json::Value| {
        let hide = "mount -t tmpfs none /proc/sys/net && exec \"$@\"";
        let words = ["unshare", "--mount", "sh", "-c", hide, "sh"];
        let words = words.iter().map(|&word| word.to_owned()).collect();
        host.call("STATUS", None).key("ipam", ipam.clone()).under(words)
    };
    host.call("STATUS", None).key("ipam", dual.clone()).succeed();
    assert!(status(&dual).refused_without_a_trace(50).contains("ipv6.disable=1"));
    status(&json!({"subnet": "10.88.0.0/16"})).succeed();
}

#[test]
fn a_full_range_is_code_50_until_somebody_dies() {
    let host = Host::new("full-status");
    let small = json!({"subnet": "10.88.0.0/30"});
    let a = host.container("a");
    host.call("ADD", Some(&a)).key("ipam", small.clone()).succeed();
    let status = || host.call("STATUS", None).key("ipam", small.clone());
    assert!(status().refused_without_a_trace(50).contains("10.88.0.0/30"));
    host.end(a);
    status().succeed();
}

#[test]
fn a_full_range_is_a_note_where_the_node_is_to_stay_ready() {
    let host = Host::new("full-note");
    let (a, b) = (host.container("a"), host.container("b"));
    let small = json!({"subnet": "10.88.0.0/30", "statusWhenFull": "ready"});
    host.call("ADD", Some(&a)).key("ipam", small.clone()).succeed();
    let status = || host.call("STATUS", None).key("ipam", small.clone());
    let answer = status().answer();
    assert_eq!((answer.code, &*answer.stdout), (Some(0), ""));
    assert!(answer.stderr.contains("no address left in 10.88.0.0/30"), "{}", answer.stderr);
    // Who is too many is told all the same.
    host.call("ADD", Some(&b)).key("ipam", small.clone()).refused_without_a_trace(101);
    host.del(&a);
    assert_eq!(status().answer().stderr, "");
    let wrong = json!({"subnet": "10.88.0.0/30", "statusWhenFull": false});
    for (verb, container) in [("STATUS", None), ("ADD", Some(&b))] {
        let message = host.call(verb, container).key("ipam", wrong.clone()).refused(7);
        assert!(message.contains("ipam.statusWhenFull is false"), "{message}");
    }
}

/// What the next ADD takes from the dead is no reason to send pods elsewhere.
#[test]
fn what_nobody_alive_has_is_free_to_status_as_to_add() {
    let host = Host::new("nobody-status");
    let small = json!({"subnet": "10.88.0.0/30"});
    let (a, b, c) = (host.container("a"), host.container("b"), host.container("c"));
    let status = || host.call("STATUS", None).key("ipam", small.clone());
    let add =
        |pod: &Container| host.call("ADD", Some(pod)).key("ipam", small.clone()).answer().code;
    assert_eq!(add(&a), Some(0));

    // Its record can't be read, but its interface is there: it lives.
    let record = host.record(&a);
    fs::write(&record, "{").unwrap();
    assert!(status().refused_without_a_trace(50).contains("10.88.0.0/30"));
    assert_eq!(add(&b), Some(1));
    assert_eq!(host.leases("podnet").len(), 1);

    host.end(a);
    status().succeed();
    assert_eq!(host.leases("podnet").len(), 1);
    assert_eq!(add(&b), Some(0));
    assert!(!record.exists());

    // A lease without a record is nobody's.
    assert!(status().refused(50).contains("10.88.0.0/30"));
    let record = host.record(&b);
    host.end(b);
    fs::remove_file(record).unwrap();
    status().succeed();
    assert_eq!(add(&c), Some(0));
    assert_eq!(host.leases("podnet").len(), 1);
}

#[test]
fn many_attachments_hold_nobody_up() {
    let host = Host::new("many-status");
    let a = host.container("a");
    host.add(&a);
    let record = fs::read_to_string(host.record(&a)).unwrap();
    let timed = || {
        let started = Instant::now();
        host.call("STATUS", None).key("telemetry", json!({})).succeed();
        started.elapsed()
    };
    let shortest = || (0..5).map(|_| timed()).min().unwrap();
    let alone = shortest();
    for n in 0..5000 {
        let id = format!("a{n}");
        let one = record.replace(r#""containerId":"a""#, &format!(r#""containerId":"{id}""#));
        assert_ne!(one, record);
        fs::write(host.record(&a).with_file_name(format!("{id}@eth0")), one).unwrap();
    }
    let among_many = shortest();
    // Each of them opened and read would be some hundred times as long.
    assert!(among_many < 10 * alone, "{among_many:?} of {alone:?}");
}

#[test]
fn it_opens_as_few_files_for_many_records_as_for_some_and_takes_no_lock_alone() {
    let host = Host::new("frugal");
    let a = host.container("a");
    host.add(&a);
    let record = fs::read_to_string(host.record(&a)).unwrap();
    let copy = |n: usize| {
        let id = format!("a{n}");
        let one = record.replace(r#""containerId":"a""#, &format!(r#""containerId":"{id}""#));
        fs::write(host.record(&a).with_file_name(format!("{id}@eth0")), one).unwrap();
    };
    let log = host.state_dir().with_file_name("calls");
    let opened = || {
        let words = ["strace", "-f", "-qq", "-e", "trace=openat,flock", "-o"];
        let words = words.map(str::to_owned).into_iter().chain([log.display().to_string()]);
        let status = host.call("STATUS", None).key("telemetry", json!({}));
        status.under(words.collect()).succeed();
        let calls = fs::read_to_string(&log).unwrap();
        assert!(!calls.contains("LOCK_EX"), "{calls}");
        let opened = calls.lines().filter(|line| line.contains("openat(")).count();
        assert!(opened > 3, "{calls}");
        opened
    };
    let one = opened();
    (0..100).for_each(copy);
    let some = opened();
    (100..500).for_each(copy);
    assert!(some > one && some <= one + 64, "{one}, {some}");
    assert_eq!(opened(), some);
}

#[test]
fn of_a_full_range_each_record_is_read_once_up_to_the_first_of_the_dead() {
    const PODS: usize = 61;
    let host = Host::new("full-frugal");
    let ipam = json!({"subnet": "10.88.0.0/26", "rangeStart": "10.88.0.2"});
    let a = host.container("a00");
    host.call("ADD", Some(&a)).key("ipam", ipam.clone()).succeed();
    let (record, leases) = (host.record(&a), host.state_dir().join("leases/podnet"));
    let text = fs::read_to_string(&record).unwrap();
    let file = |n: usize| record.with_file_name(format!("a{n:02}@eth0"));
    for n in 1..PODS {
        let one = text.replace(r#""containerId":"a00""#, &format!(r#""containerId":"a{n:02}""#));
        fs::write(file(n), one).unwrap();
        let lease = leases.join(format!("10.88.0.{}", 2 + n));
        symlink(format!("../../attachments/a{n:02}@eth0"), lease).unwrap();
    }
    let log = host.state_dir().with_file_name("calls");
    let read = |code: i32| {
        let words = ["strace", "-f", "-qq", "-e", "trace=openat", "-o"];
        let words = words.map(str::to_owned).into_iter().chain([log.display().to_string()]);
        let status = host.call("STATUS", None).key("ipam", ipam.clone());
        assert_eq!(status.under(words.collect()).answer().code, Some(code));
        fs::read_to_string(&log).unwrap().lines().filter(|call| call.contains("@eth0")).count()
    };
    assert_eq!(read(1), PODS, "all live");
    let dead = fs::read_to_string(file(7)).unwrap().replace(r#""bootId":""#, r#""bootId":"x"#);
    fs::write(file(7), dead).unwrap();
    assert_eq!(read(0), 8);
    fs::remove_file(file(3)).unwrap();
    assert_eq!(read(0), 4);
    symlink("nobody", leases.join("10.88.0.1")).unwrap();
    assert_eq!(read(0), 0);
}

#[test]
fn telemetry_is_a_note_unless_it_is_required() {
    let host = Host::new("note");
    // A bpfDir that is on no bpffs.
    let status =
        |required: bool| host.call("STATUS", None).key("telemetry", json!({"required": required}));
    status(true).refused_without_a_trace(50);
    let answer = status(false).answer();
    assert_eq!((answer.code, &*answer.stdout), (Some(0), ""));
    assert!(answer.stderr.contains("uncounted"), "{}", answer.stderr);
}
