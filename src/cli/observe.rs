//! `weir observe`: the live records of an agent, one a line.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::ValueEnum;
use http_body_util::BodyExt;

use super::{
    Output,
    client::{Agent, event_loop},
    events::{Event, Events},
    line::{Colours, line},
    several,
};
use crate::{
    agent::{
        flows::{
            filter::{self, Filter, PodName, Statuses},
            flow::{Flow, Lost},
        },
        log,
    },
    error::{Context, Error, Kind, Result},
};

/// Show single exchanges as they end: HTTP, gRPC, DNS, TLS and databases of this node's pods
///
/// All filters that are given have to be true. Times are UTC. What an agent or this command could
/// not keep up with is left out, and said to be missing; the metrics have it all the same.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the agent listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9920")]
    agent: Agent,
    /// Only of this pod: NAMESPACE/NAME, or NAME in any namespace
    #[arg(long, value_name = "POD")]
    pod: Option<PodName>,
    /// Only of this protocol: http (gRPC included), grpc, dns, tls, redis, postgresql, mysql or kafka
    #[arg(long, value_name = "NAME", value_parser = filter::protocol)]
    protocol: Option<String>,
    /// Only with this HTTP status, such as 404, or with one of its class, such as 5xx
    #[arg(long, value_name = "STATUS")]
    status: Option<Statuses>,
    /// Only with a path that begins so; requests of which no path is known, as on an HTTP/2 connection that is
    /// older than the agent's listening, are said to be missing
    #[arg(long, value_name = "PATH")]
    path_prefix: Option<String>,
    /// Only what took at least so long, such as 100ms
    #[arg(long, value_name = "TIME", value_parser = filter::duration)]
    slower_than: Option<Duration>,
    /// Begin with what was recorded in the time before, such as 5m, while somebody listened: of the 4,096 records
    /// that the agent keeps
    #[arg(long, value_name = "TIME", value_parser = filter::duration)]
    since: Option<Duration>,
    /// End after so many records
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Whether to use colours
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    color: When,
    /// Form of the output: json is one object a line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Into a pipe, too
    Always,
    /// Not at all
    Never,
}

/// Prints records until the agent ends, nobody reads them any more, or there were `--count`.
pub fn run(args: Args) -> Result<()> {
    let filter = Filter {
        pod: args.pod,
        protocol: args.protocol,
        status: args.status,
        path_prefix: args.path_prefix,
        slower_than: args.slower_than,
        since: args.since,
        after: None,
    };
    let colours = match args.color {
        When::Always => true,
        When::Never => false,
        When::Auto => {
            let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            wanted && io::stdout().is_terminal()
        }
    };
    let mut printer =
        Printer { output: args.output, colours: Colours(colours), left: args.count, lost: 0 };
    event_loop()?.block_on(follow(&args.agent, &filter, &mut printer))
}

async fn follow(agent: &Agent, filter: &Filter, printer: &mut Printer) -> Result<()> {
    let mut body = agent.get(&format!("/api/flows?{}", filter.to_query())).await?.into_body();
    // It listens all the same: they come once there is something to count by.
    if let Err(why) = agent.get("/readyz").await {
        log::say(format_args!("records are missing as yet: {why}"));
    }
    let mut events = Events::default();
    let ended = || Error::new(Kind::Io, format!("the agent at {agent} ended the stream"));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|err| ended().details(err.to_string()))?;
        let piece = frame.into_data().unwrap_or_default();
        let Some(events) = events.take(&piece) else {
            return Err(Error::new(Kind::Io, format!("what answers at {agent} is no agent")));
        };
        if !printer.print(&events)? {
            return Ok(());
        }
    }
    Err(ended())
}

struct Printer {
    output: Output,
    colours: Colours,
    left: Option<u64>,
    lost: u64,
}

impl Printer {
    /// Writes what came; false once no more is wanted.
    fn print(&mut self, events: &[Event]) -> Result<bool> {
        let mut text = String::new();
        for event in events {
            match event.name.as_str() {
                "" if self.left == Some(0) => break,
                "" => {
                    text.push_str(&self.record(&event.data));
                    self.left = self.left.map(|left| left - 1);
                }
                "lost" => text.push_str(&self.lost(&event.data)),
                // Of a newer agent.
                _ => {}
            }
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            done => {
                done.context(Kind::Io, || "can't write to stdout".into())?;
                Ok(self.left != Some(0))
            }
        }
    }

    fn record(&self, data: &str) -> String {
        match self.output {
            Output::Json => format!("{data}\n"),
            Output::Text => match serde_json::from_str::<Flow>(data) {
                Ok(flow) => line(&flow, self.colours),
                Err(err) => {
                    log::say(format_args!("a record can't be read: {err}"));
                    String::new()
                }
            },
        }
    }

    /// A program gets it in its place among the records, a person on stderr.
    fn lost(&mut self, data: &str) -> String {
        let Ok(lost) = serde_json::from_str::<Lost>(data) else { return String::new() };
        self.lost = self.lost.saturating_add(lost.records);
        if self.output == Output::Json {
            return format!("{{\"lost\":{data}}}\n");
        }
        let cause = match lost.place.as_ref() {
            "ring" => "the agent could not keep up with the traffic",
            "head" => "their paths are not known, which --path-prefix asks for",
            _ => "this command could not keep up with the agent",
        };
        log::say(format_args!(
            "{} missing here, {} in all: {cause}",
            several(lost.records, "record"),
            self.lost
        ));
        String::new()
    }
}
