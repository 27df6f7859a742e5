//! gRPC: a service and clients made with tonic, by how either end saw each call end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::{runtime, time};
use tonic::{
    Code, Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};

use crate::{
    counts::{Counts, assert_counted, assert_none, total},
    grpc_service::{Ask, Ending, Raw, Service},
    nginx::{UNMATCHED, url},
    pair::{BURSTS, Pair},
};

const PORT: u16 = 50_051;

/// One connection, and how the calls on it ended.
#[derive(Clone)]
struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    async fn connect(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(url(address, PORT)).unwrap();
        Self { grpc: Grpc::new(endpoint.connect().await.unwrap()) }
    }

    /// A call with one message, or `more` others behind it; returns the code that it ended with, or
    /// nothing where the client had enough after `patience` messages or waited a while for the first.
    async fn call(&mut self, ask: Ask, more: usize, patience: usize) -> Option<Code> {
        self.grpc.ready().await.unwrap();
        let others = vec![Bytes::from(vec![b'm'; 3_000]); more];
        let messages = stream::iter([ask.to_bytes()].into_iter().chain(others));
        let mut request = Request::new(messages);
        let metadata = request.metadata_mut();
        metadata.insert("x-trace", "t".repeat(more).parse().unwrap());
        let path = PathAndQuery::from_static("/weir.test.Calls/Call");
        let answer = self.grpc.streaming(request, path, Raw);
        let answer = match time::timeout(Duration::from_millis(500), answer).await {
            Err(_) => return None,
            Ok(answer) => answer,
        };
        let mut answers = match answer {
            Err(status) => return Some(status.code()),
            Ok(response) => response.into_inner(),
        };
        for _ in 0..patience {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Some(Code::Ok),
                Err(status) => return Some(status.code()),
            }
        }
        None
    }
}

/// Every way for a call to end, with how many messages besides the first, and how many the client
/// waits for.
fn asks() -> Vec<(Ask, usize, usize)> {
    let ask = |early, items, kilobytes, ending| Ask { early, items, kilobytes, ending };
    let mut asks = vec![
        // No message, one, many, and large ones in either direction.
        (ask(0, 0, 0, Ending::Status(0)), 0, 9),
        (ask(0, 1, 0, Ending::Status(0)), 0, 9),
        (ask(0, 200, 1, Ending::Status(0)), 0, 999),
        (ask(0, 5, 200, Ending::Status(0)), 0, 9),
        (ask(0, 1, 0, Ending::Status(0)), 100, 9),
        (ask(0, 20, 20, Ending::Status(0)), 30, 99),
        // The client has had enough: of messages that don't end, and of waiting for one.
        (ask(0, 0, 1, Ending::Never), 0, 3),
        (ask(0, 0, 0, Ending::Silence), 0, 3),
    ];
    for code in 1..=16 {
        // A status without a message, in one header block with the response's, and behind messages.
        asks.push((ask(code, 0, 0, Ending::Status(0)), 0, 9));
        asks.push((ask(0, 2, 1, Ending::Status(code)), 1, 9));
    }
    asks
}

/// Makes the calls, some at once on each of some connections; tallies what the client saw.
async fn calls(address: &str, connections: usize, at_once: usize) -> Counts {
    let mut seen = Counts::new();
    for _ in 0..connections {
        let client = Client::connect(address).await;
        let calls = stream::iter(asks()).map(|(ask, more, patience)| {
            let mut client = client.clone();
            async move { client.call(ask, more, patience).await }
        });
        let ends: Vec<Option<Code>> = calls.buffer_unordered(at_once).collect().await;
        for end in ends {
            let end = end.map_or("unknown".to_owned(), |code| (code as i32).to_string());
            *seen.entry(end).or_default() += 1;
        }
    }
    seen
}

#[test]
fn calls_are_counted_by_the_status_that_both_ends_saw() {
    let pair = Pair::new("grpc");
    let service = Service::start(pair.listen(PORT));
    let mut seen = Counts::new();
    for (address, segments) in pair.addresses.iter().zip(BURSTS) {
        pair.set_burst(segments);
        for (connections, at_once) in [(1, 1), (3, 40)] {
            let made = pair.at_client(|| {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(calls(address, connections, at_once))
            });
            for (end, n) in made {
                *seen.entry(end).or_default() += n;
            }
        }
    }
    assert_eq!(total(&seen), 8 * asks().len() as u64);
    assert_eq!(seen["unknown"], 8 * 2);
    assert_counted(&pair, "weir_grpc_requests_total", &["grpc_status"], || service.ends());
    assert_eq!(service.ends(), seen, "left is what the service saw, right what the client did");
    let each = || Counts::from([(String::new(), total(&seen))]);
    assert_counted(&pair, "weir_grpc_request_duration_seconds_count", &[], each);
    // For HTTP, only the call that nobody answered has no status.
    let by_status = Counts::from([("0".to_owned(), 8), ("200".to_owned(), total(&seen) - 8)]);
    assert_counted(&pair, "weir_http_requests_total", &["status"], || by_status.clone());
    let cancelled = Counts::from([("cancelled".to_owned(), 8 * 2)]);
    assert_counted(&pair, "weir_http_errors_total", &["error"], || cancelled.clone());
    assert_none(&pair, UNMATCHED);
}
