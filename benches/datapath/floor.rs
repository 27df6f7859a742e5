//! The floor: what look-ups alone cost, by programs that do nothing else.

use std::os::fd::AsFd;

use libbpf_rs::{MapCore, Object, ProgramImpl};
use weir::telemetry::sys::{Skb, test_run};

use crate::{
    Result,
    frame::{ACK, tcp, v4},
    program,
    report::{Row, Rows, row::nanos},
    runs::{self, SINGLE},
};

const PROGRAMS: [(&str, &str); 5] = [
    ("floor_nothing", NOTHING),
    ("floor_pod", "the pod's bytes"),
    ("floor_conn", "and the connection looked up"),
    ("floor_request", "and 460 bytes copied, one clock read"),
    ("floor_response", "or 120 bytes, a counter and a histogram"),
];
pub const NOTHING: &str = "a program that does nothing";

/// The programs, and what a run of none takes, in nanoseconds: the run loop's own cost.
pub struct Floor {
    object: Object,
    pub warm: f64,
    pub single: f64,
}

impl Floor {
    /// Measures and tells.
    pub fn measure(rows: &mut Rows) -> Result<Self> {
        let mut floor =
            Self { object: program::load("datapath/floor.bpf.c")?, warm: 0.0, single: 0.0 };
        let frame = tcp(v4(9, 40000), v4(2, 80), 1, ACK, &[b'x'; 460]);
        for (name, what) in PROGRAMS {
            let program = floor.program(name)?;
            let warm = runs::warm(program.as_fd(), &frame)?;
            let single = |_| Ok(test_run(program.as_fd(), &frame, Skb::default(), 1)?);
            let single: Vec<f64> =
                (0..SINGLE).map(|run| single(run).map(nanos)).collect::<Result<_>>()?;
            let warm = Row::of(format!("floor, warm: {what}"), "ns", &warm)?;
            let single = Row::of(format!("floor, single runs: {what}"), "ns", &single)?;
            if what == NOTHING {
                (floor.warm, floor.single) = (warm.median, single.median);
            }
            rows.add(warm)?;
            rows.add(single)?;
        }
        Ok(floor)
    }

    /// What counts bytes and packets and follows connections, and reads no payload.
    pub fn layer4(&self) -> Result<ProgramImpl<'_>> {
        self.program("floor_layer4")
    }

    /// Interfaces whose packets its programs saw.
    pub fn interfaces(&self) -> Result<usize> {
        let pods = self.object.maps().find(|map| map.name() == "pods").ok_or("no map pods")?;
        Ok(pods.keys().count())
    }

    fn program(&self, name: &str) -> Result<ProgramImpl<'_>> {
        let program = self.object.progs().find(|program| program.name() == name);
        Ok(program.ok_or_else(|| format!("no program {name}"))?)
    }
}
