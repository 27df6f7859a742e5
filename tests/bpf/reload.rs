//! Programs are swapped under connections in mid-message, and nothing is lost or counted twice.

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys, num_possible_cpus};
use weir::telemetry::{
    pin,
    reload::reload,
    wire::{CounterKind, Direction, Family, HistogramKind, Role},
};

use crate::{
    dns_tcp_cases,
    exchange::Exchange,
    frame::v4,
    http1_cases, http2_cases, kafka_cases,
    kernel::{Counts, Kernel},
    mysql_cases, postgresql_cases, redis_cases, share,
    stream::{Side, Stream},
};

/// The requests in two parts and the responses in two, with something done between any two of them.
fn play(stream: &mut Stream<'_>, exchange: &Exchange, mut between: impl FnMut()) {
    for (side, bytes) in &exchange.turns {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        stream.send(*side, first);
        between();
        stream.send(*side, second);
        between();
    }
    stream.fin(Side::Client);
    between();
    stream.fin(Side::Server);
}

fn without_tcp(mut counts: Counts) -> Counts {
    let tcp = [CounterKind::COUNTER_TCP_CONNECTIONS, CounterKind::COUNTER_TCP_CLOSED];
    counts.0.retain(|key, _| !tcp.iter().any(|kind| kind.0 == u32::from(key.0)));
    counts
}

#[test]
fn exchanges_go_on_in_the_new_programs_in_mid_message() {
    // A swap takes some tenths of a second: some of HTTP, and one of each of the others.
    let http = [http1_cases::exchanges(), http2_cases::exchanges()].into_iter().flatten();
    let http = http.filter(|exchange| !exchange.left_open).step_by(4);
    let others = [
        dns_tcp_cases::exchanges(),
        redis_cases::exchanges(),
        postgresql_cases::exchanges(),
        mysql_cases::exchanges(),
        kafka_cases::exchanges(),
    ];
    let others = others.into_iter().map(|all| all.into_iter().next().unwrap());
    let exchanges: Vec<_> = http.chain(others).collect();
    let kernel = Kernel::new();
    for (exchange, port) in exchanges.iter().zip(40000..) {
        let before = without_tcp(kernel.counts());
        let mut steps = 0;
        let mut stream =
            Stream::open(&kernel, Role::ROLE_SERVER, v4(9, port), v4(2, exchange.port));
        play(&mut stream, exchange, || {
            steps += 1;
            assert_eq!(reload(&kernel.bpf_dir()).unwrap().unwrap().pods, 1);
            kernel.refresh();
        });
        assert_eq!(steps, 2 * exchange.turns.len() + 1, "{}", exchange.name);
        let mut added = without_tcp(kernel.counts());
        added.0.retain(|key, n| {
            *n -= before.0.get(key).copied().unwrap_or_default();
            *n > 0
        });
        assert_eq!(added, exchange.expected(Role::ROLE_SERVER), "{}", exchange.name);
    }
    kernel.assert_at_rest();
    share::assert_balanced(&kernel);
}

#[test]
fn totals_come_along_from_another_layout_and_are_added_once() {
    let mut kernel = Kernel::new();
    let exchange = &http1_cases::exchanges()[0];
    let run = |kernel: &Kernel, port| {
        let mut stream = Stream::open(kernel, Role::ROLE_CLIENT, v4(2, port), v4(9, 80));
        play(&mut stream, exchange, || ());
    };
    (40000..40030).for_each(|port| run(&kernel, port));
    let before = kernel.counts();
    let network = kernel.snapshot().pods[&kernel.attached.pod].network;
    let other = kernel.bpf_dir().join("0123456789abcdef");
    // As a version of another layout would have left it.
    std::fs::rename(pin::dir(&kernel.bpf_dir()), &other).unwrap();
    let done = reload(&kernel.bpf_dir()).unwrap().unwrap();
    assert_eq!((done.pods, &done.from[..]), (1, &["0123456789abcdef".to_owned()][..]));
    assert!(!other.exists());
    kernel.reopen();
    assert_eq!(kernel.counts(), before);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 30);
    let after = kernel.snapshot().pods[&kernel.attached.pod].network;
    assert_eq!(format!("{after:?}"), format!("{network:?}"));
    (41000..41010).for_each(|port| run(&kernel, port));
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 40);
    assert!(reload(&kernel.bpf_dir()).unwrap().unwrap().from.is_empty());
    kernel.reopen();
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 40);
    share::assert_balanced(&kernel);
}

/// Until there were lines, the map `pods` had a value for each CPU.
#[test]
fn totals_of_every_cpu_come_along_from_a_layout_without_lines() {
    let mut kernel = Kernel::new();
    let other = kernel.bpf_dir().join("0123456789abcdef");
    std::fs::rename(pin::dir(&kernel.bpf_dir()), &other).unwrap();
    let pin = other.join("pods");
    let now = MapHandle::from_pinned_path(&pin).unwrap();
    let key = now.keys().next().unwrap();
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let mut old =
        MapHandle::create(MapType::PercpuHash, Some("pods"), 4, 72, 1024, &options).unwrap();
    let cpus = num_possible_cpus().unwrap();
    // The attachment's id, and bytes and packets by direction and family.
    let of_a_cpu = |cpu: u64| -> Vec<u8> {
        let numbers = (0..8).map(|number| 1_000_000 * number + cpu);
        let words = std::iter::once(u64::from(kernel.attached.pod)).chain(numbers);
        words.flat_map(u64::to_ne_bytes).collect()
    };
    let values: Vec<_> = (0..cpus).map(|cpu| of_a_cpu(cpu.try_into().unwrap())).collect();
    old.update_percpu(&key, &values, MapFlags::ANY).unwrap();
    std::fs::remove_file(&pin).unwrap();
    old.pin(&pin).unwrap();

    assert_eq!(reload(&kernel.bpf_dir()).unwrap().unwrap().pods, 1);
    kernel.reopen();
    let network = kernel.snapshot().pods[&kernel.attached.pod].network;
    let cpus = u64::try_from(cpus).unwrap();
    let sum = |number: u64| 1_000_000 * number * cpus + cpus * (cpus - 1) / 2;
    for (number, direction, family) in [
        (0, Direction::DIRECTION_RX, Family::FAMILY_IPV4),
        (2, Direction::DIRECTION_RX, Family::FAMILY_IPV6),
        (4, Direction::DIRECTION_TX, Family::FAMILY_IPV4),
        (6, Direction::DIRECTION_TX, Family::FAMILY_IPV6),
    ] {
        let net = network[direction.0 as usize][family.0 as usize];
        assert_eq!((net.bytes, net.packets), (sum(number), sum(number + 1)), "{number}");
    }
}
