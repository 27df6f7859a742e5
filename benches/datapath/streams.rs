//! `iperf3` from one pod to another: bytes in few connections, and small packets, beside pairs of pods
//! that nobody counts. Of bytes in the middle of a connection there is nothing to read, so this is what
//! counting bytes and packets and following sequence numbers costs.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Result,
    pair::{Pair, Pairs, command, inside},
    report::{Row, Rows, row::median},
};

/// The kinds of traffic: a name, iperf3's options, and what is told of it.
const KINDS: [(&str, &[&str], Unit); 3] = [
    ("TCP, 1 stream", &["-P", "1"], Unit::Bits),
    ("TCP, 4 streams", &["-P", "4"], Unit::Bits),
    ("UDP, 64 bytes each", &["-u", "-b", "0", "-l", "64"], Unit::Packets),
];
/// Of the rate without a program.
const LEAST: f64 = 0.98;
/// In turns, for the machine's rate moves by a tenth from one second to the next.
const TURNS: usize = 5;

#[derive(Clone, Copy)]
enum Unit {
    /// Gigabits a second at the receiver.
    Bits,
    /// Thousand packets a second at the receiver.
    Packets,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Bits => "Gbit/s",
            Self::Packets => "thousand/s",
        }
    }

    /// From what iperf3 reports.
    fn of(self, report: &Value) -> Option<f64> {
        let end = &report["end"];
        match self {
            Self::Bits => Some(end["sum_received"]["bits_per_second"].as_f64()? / 1e9),
            Self::Packets => {
                let sum = &end["sum"];
                let received = sum["packets"].as_f64()? - sum["lost_packets"].as_f64()?;
                Some(received / sum["seconds"].as_f64()? / 1e3)
            }
        }
    }
}

/// iperf3's server for one test, ended when dropped.
struct Server(Child);

impl Server {
    fn start(pair: &Pair) -> Result<Self> {
        let mut command = command(&pair.server, &["iperf3", "--server", "--one-off"]);
        Ok(Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn rate(pair: &Pair, time: Duration, options: &[&str], unit: Unit) -> Result<f64> {
    let _server = Server::start(pair)?;
    let seconds = time.as_secs().to_string();
    let words = ["iperf3", "--json", "--client", &pair.address, "--time", &seconds];
    let words = [&words[..], options].concat();
    // Its server has no other sign of life than that it answers.
    let mut said = String::new();
    for _ in 0..40 {
        said = inside(&pair.client, &words).unwrap_or_else(|err| err.to_string());
        let report: Value = serde_json::from_str(&said).unwrap_or_default();
        if let Some(rate) = unit.of(&report) {
            return Ok(rate);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(format!("iperf3 said no rate: {said}").into())
}

/// Measures and tells.
pub fn tell(pairs: &Pairs, time: Duration, rows: &mut Rows) -> Result<()> {
    for (name, options, unit) in KINDS {
        let mut rates = pairs.all().map(|_| Vec::new());
        for turn in 1..=TURNS {
            eprintln!("datapath: iperf3, {name}, turn {turn} of {TURNS}");
            for (pair, rates) in pairs.all().into_iter().zip(&mut rates) {
                rates.push(rate(pair, time, options, unit)?);
            }
        }
        let bare = pairs.bare.name;
        let than = rates.last().and_then(|rates| median(rates)).ok_or("no turn of iperf3")?;
        for (pair, rates) in pairs.all().into_iter().zip(&rates) {
            let row = Row::of(format!("iperf3, {name}: {}", pair.name), unit.name(), rates)?;
            let row = if pair.name == bare { row } else { row.ratio(bare, than) };
            rows.add(if pair.name == pairs.counted.name { row.at_least(LEAST) } else { row })?;
        }
    }
    Ok(())
}
