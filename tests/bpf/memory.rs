//! What the maps take of the kernel's memory: all of them are told of, and all together stay below 40 MiB with
//! every table full and as many CPUs as a large node has.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, AsRawFd},
};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, ObjectBuilder, num_possible_cpus};
use weir::telemetry::{
    pin,
    sys::{Skb, test_pass},
    wire::{PodTraffic, bytes_of, from_bytes},
};

use crate::{
    frame::{self, v4},
    kernel::Kernel,
    verified,
};

const MOST: u64 = 40 << 20;
const CPUS: u64 = 64;
const PAGE: u64 = 4096;

/// A map as it is made.
struct Shape {
    kind: MapType,
    key: u64,
    value: u64,
    elements: u64,
}

impl Shape {
    fn of(map: &impl MapCore) -> Self {
        Self {
            kind: map.map_type(),
            key: map.key_size().into(),
            value: map.value_size().into(),
            elements: map.max_entries().into(),
        }
    }

    /// Bytes, full, with so many CPUs: `kernel/bpf/hashtab.c`, `arraymap.c` and `ringbuf.c` of Linux 6.18. What is
    /// less than a page a map is left out.
    fn bytes(&self, cpus: u64) -> u64 {
        let (key, value) = (self.key.next_multiple_of(8), self.value.next_multiple_of(8));
        match self.kind {
            MapType::Hash => {
                // An element of each CPU's own, for its updates in place.
                let elements = (self.elements + cpus) * (48 + key + value);
                elements + 16 * self.elements.next_power_of_two()
            }
            MapType::Array => value * self.elements,
            MapType::PercpuArray => (8 + value * cpus) * self.elements,
            // Each page is mapped twice, in a row.
            MapType::RingBuf => self.elements + 2 * 8 * self.elements / PAGE,
            other => panic!("no map was of the kind {other:?} when this was written"),
        }
    }
}

fn fdinfo(map: &MapHandle) -> String {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd())).unwrap()
}

/// The kernel's own figure.
fn locked(map: &MapHandle) -> u64 {
    let info = fdinfo(map);
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.unwrap_or_else(|| panic!("{info}")).trim().parse().unwrap()
}

/// Up to Linux 6.3 the kernel's figure is that of keys and values alone.
fn leaves_some_out() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) < (Some(6), Some(4))
}

/// Every map that is pinned, by its name.
fn pinned(kernel: &Kernel) -> BTreeMap<String, MapHandle> {
    let entries = fs::read_dir(pin::dir(&kernel.bpf_dir())).unwrap();
    entries
        .filter_map(|entry| {
            let entry = entry.unwrap();
            // A program is opened just so.
            let map = MapHandle::from_pinned_path(entry.path()).unwrap();
            fdinfo(&map).contains("map_type:").then_some(())?;
            Some((entry.file_name().into_string().unwrap(), map))
        })
        .collect()
}

#[test]
fn every_map_is_told_of_with_what_the_kernel_says() {
    let kernel = Kernel::new();
    let maps = pinned(&kernel);
    assert!(maps.len() > 10, "{:?}", maps.keys());
    let expected: BTreeMap<_, _> =
        maps.iter().map(|(name, map)| (name.as_str(), locked(map))).collect();
    let told: BTreeMap<_, _> = kernel.snapshot().memory.into_iter().collect();
    assert_eq!(told, expected);
    assert!(told.values().all(|&bytes| bytes > 0), "{told:?}");
}

#[test]
fn all_maps_together_stay_below_40_mib_with_64_cpus() {
    let kernel = Kernel::new();
    let here = u64::try_from(num_possible_cpus().unwrap()).unwrap();
    // What is worked out for 64 CPUs is what the kernel says, with those of this machine.
    let maps = pinned(&kernel);
    for (name, map) in maps.iter().filter(|(name, _)| *name != "limits") {
        let (says, is) = (locked(map), Shape::of(map).bytes(here));
        assert!(says <= is + 4 * PAGE, "{name}: the kernel says {says}, and not {is}");
        let is_exact = says + 4 * PAGE >= is;
        assert!(is_exact || leaves_some_out(), "{name}: the kernel says {says}, and not {is}");
    }
    // And those that are the programs' own.
    let object = kernel.beside("memory.o");
    verified::compile(env!("WEIR_CLANG"), &object);
    let loaded = ObjectBuilder::default().open_file(&object).unwrap().load().unwrap();
    fs::remove_file(&object).unwrap();
    let shapes: Vec<_> = loaded
        .maps()
        .map(|map| (map.name().to_string_lossy().into_owned(), Shape::of(&map)))
        .collect();
    assert!(shapes.len() > maps.len(), "{}", shapes.len());
    for cpus in [here, CPUS] {
        let sizes = shapes.iter().map(|(name, shape)| (name, shape.bytes(cpus) + PAGE));
        let sizes: Vec<_> =
            sizes.inspect(|(name, bytes)| println!("{cpus} {name} {bytes}")).collect();
        let all = sizes.iter().map(|(_, bytes)| bytes).sum::<u64>();
        println!("{cpus} CPUs: {all}");
        assert!(all < MOST, "{all} of {MOST} with {cpus} CPUs: {sizes:?}");
    }
}

/// With more CPUs than lines their programs are others, by a constant.
#[test]
fn programs_that_share_lines_count_as_those_that_do_not() {
    const LOOPBACK: u32 = 1;
    const TIMES: u64 = 100;
    let kernel = Kernel::new();
    let object = kernel.beside("lines.o");
    verified::compile(env!("WEIR_CLANG"), &object);
    let mut open = ObjectBuilder::default().open_file(&object).unwrap();
    fs::remove_file(&object).unwrap();
    // All constants are true, then: which of them doesn't matter to bytes and packets.
    let mut rodata =
        open.maps_mut().find(|map| map.name().to_string_lossy().ends_with(".rodata")).unwrap();
    rodata.initial_value_mut().unwrap().fill(1);
    let loaded = open.load().unwrap();
    let pods = loaded.maps().find(|map| map.name() == "pods").unwrap();
    let pod = PodTraffic { pod: 7, ..Default::default() };
    pods.update(bytes_of(&LOOPBACK), bytes_of(&pod), MapFlags::ANY).unwrap();
    let frame = frame::udp(v4(9, 1000), v4(2, 2000), &[0; 100]);
    let program = loaded.progs().find(|program| program.name() == "weir_to_pod").unwrap();
    for _ in 0..TIMES {
        test_pass(program.as_fd(), &frame, Skb::default()).unwrap();
    }
    let value = pods.lookup(bytes_of(&LOOPBACK), MapFlags::ANY).unwrap().unwrap();
    let lines = from_bytes::<PodTraffic>(&value).unwrap().lines;
    let [bytes, packets] = lines.iter().fold([0, 0], |[bytes, packets], line| {
        [bytes + line.net[0][0].bytes, packets + line.net[0][0].packets]
    });
    assert_eq!((bytes, packets), (TIMES * u64::try_from(frame.len()).unwrap(), TIMES));
}
