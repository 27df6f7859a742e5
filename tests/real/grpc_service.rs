//! A gRPC service made with tonic, without protobuf: the first message of a call says what to answer.

use std::{
    convert::Infallible,
    future::{Future, pending},
    net::TcpListener,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, stream};
use tokio::{runtime, sync::oneshot, time};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, StreamingService},
    transport::{Server, server::TcpIncoming},
};

use crate::counts::Counts;

/// What a client asks for: a status at once, if it is not 0; else so many messages, and an ending.
#[derive(Clone, Copy)]
pub struct Ask {
    pub early: u8,
    pub items: u8,
    pub kilobytes: u8,
    pub ending: Ending,
}

#[derive(Clone, Copy)]
pub enum Ending {
    Status(u8),
    /// More messages, until the client leaves.
    Never,
    /// Not even the response's headers.
    Silence,
}

impl Ask {
    pub fn to_bytes(self) -> Bytes {
        let ending = match self.ending {
            Ending::Status(code) => code,
            Ending::Never => 100,
            Ending::Silence => 101,
        };
        Bytes::from(vec![self.early, self.items, self.kilobytes, ending])
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let &[early, items, kilobytes, ending] = bytes else { panic!("no ask: {bytes:?}") };
        let ending = match ending {
            100 => Ending::Never,
            101 => Ending::Silence,
            code => Ending::Status(code),
        };
        Self { early, items, kilobytes, ending }
    }
}

/// Messages are their bytes.
#[derive(Clone)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A call that is being answered. When it is over, its end is tallied.
struct Call {
    ends: Arc<Mutex<Counts>>,
    end: Option<u8>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let end = self.end.map_or("unknown".to_owned(), |code| code.to_string());
        *self.ends.lock().unwrap().entry(end).or_default() += 1;
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

#[derive(Clone)]
struct Calls(Arc<Mutex<Counts>>);

impl StreamingService<Bytes> for Calls {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Boxed<Result<Response<Messages>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let mut call = Call { ends: Arc::clone(&self.0), end: None };
        Box::pin(async move {
            let mut messages = request.into_inner();
            let first = messages.message().await?.unwrap();
            let ask = Ask::from_bytes(&first);
            while messages.message().await?.is_some() {}
            if ask.early != 0 {
                let _ = call.end.insert(ask.early);
                return Err(status(ask.early));
            }
            if let Ending::Silence = ask.ending {
                pending::<()>().await;
            }
            Ok(Response::new(answer(call, ask)))
        })
    }
}

fn status(code: u8) -> Status {
    Status::new(Code::from_i32(code.into()), "as it was asked for: \u{e4}\n")
}

fn answer(call: Call, ask: Ask) -> Messages {
    let message = Bytes::from(vec![b'a'; usize::from(ask.kilobytes) * 1024]);
    Box::pin(stream::unfold((call, 0), move |(mut call, sent)| {
        let message = message.clone();
        async move {
            if sent < ask.items {
                return Some((Ok(message), (call, sent + 1)));
            }
            match ask.ending {
                Ending::Status(code) if call.end.is_none() => {
                    call.end = Some(code);
                    (code != 0).then(|| (Err(status(code)), (call, sent)))
                }
                Ending::Status(_) => None,
                Ending::Never | Ending::Silence => {
                    time::sleep(Duration::from_millis(5)).await;
                    Some((Ok(message), (call, sent)))
                }
            }
        }
    }))
}

impl tower_service::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let calls = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).streaming(calls, request).await) })
    }
}

/// The service, on a thread of its own until it is dropped.
pub struct Service {
    ends: Arc<Mutex<Counts>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Service {
    pub fn start(listener: TcpListener) -> Self {
        let ends = Arc::new(Mutex::new(Counts::new()));
        let calls = Calls(Arc::clone(&ends));
        let (stop, stopped) = oneshot::channel();
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming =
                    TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
                let served = Server::builder().serve_with_incoming(calls, incoming);
                tokio::select! {
                    served = served => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { ends, stop: Some(stop) }
    }

    /// The calls that are over, by their status.
    pub fn ends(&self) -> Counts {
        self.ends.lock().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}
