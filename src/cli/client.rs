//! A client of the agent's HTTP interface.

use std::{fmt, str::FromStr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::HOST,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::error::{Context, Error, Kind, Result};

/// Until the agent is connected to, and until its answer begins.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of an answer that is read as a whole.
const LONGEST: usize = 32 << 20;

/// The port where an agent listens unless it is told otherwise.
const PORT: u16 = 9920;

/// Where an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    host: String,
    port: u16,
}

impl FromStr for Agent {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no address of an agent, such as http://127.0.0.1:9920");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let scheme = uri.scheme_str().unwrap_or("http");
        let whole = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        match uri.authority() {
            Some(authority) if scheme == "http" && whole && !authority.as_str().contains('@') => {
                let host = authority.host().to_owned();
                Ok(Self { host, port: authority.port_u16().unwrap_or(PORT) })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl Agent {
    /// Asks for a path; the answer's body is still to come.
    ///
    /// # Errors
    /// `Kind::Io` if no agent is there, or it says no; with its reason.
    pub async fn get(&self, path: &str) -> Result<Response<Incoming>> {
        let answer = timeout(PATIENCE, self.ask(path))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
            .map_err(|why| {
                let msg = format!("no agent answers at {self}: start `weir agent`, or say where it listens with --agent");
                Error::new(Kind::Io, msg).details(why)
            })?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let (status, reason) = (answer.status(), self.whole(answer).await.unwrap_or_default());
        let msg = format!("the agent at {self} answers with {status}");
        Err(Error::new(Kind::Io, msg).details(String::from_utf8_lossy(&reason).trim()))
    }

    /// Reads the body of an answer.
    ///
    /// # Errors
    /// `Kind::Io`: it broke off, or is longer than anything that an agent says.
    pub async fn whole(&self, answer: Response<Incoming>) -> Result<Bytes> {
        let body = timeout(PATIENCE, Limited::new(answer.into_body(), LONGEST).collect());
        let broke_off = |why: String| {
            Error::new(Kind::Io, format!("the answer of the agent at {self} broke off"))
                .details(why)
        };
        match body.await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(err)) => Err(broke_off(err.to_string())),
            Err(_) => Err(broke_off(format!("not whole within {PATIENCE:?}"))),
        }
    }

    async fn ask(&self, path: &str) -> std::result::Result<Response<Incoming>, String> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await.map_err(|err| err.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|err| err.to_string())?;
        // It ends with the answer; what broke it is what reading the answer says.
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::get(path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .body(Empty::<Bytes>::new())
            .map_err(|err| err.to_string())?;
        sender.send_request(request).await.map_err(|err| err.to_string())
    }
}

/// The event loop of a client.
///
/// # Errors
/// `Kind::Kernel`.
pub fn event_loop() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(Kind::Kernel, || "can't start the event loop".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_named_by_an_address_with_or_without_a_port() {
        for (text, shown) in [
            ("http://127.0.0.1:9920", "http://127.0.0.1:9920"),
            ("http://[::1]:1/", "http://[::1]:1"),
            ("http://node-1", "http://node-1:9920"),
            ("node-1:80", "http://node-1:80"),
        ] {
            assert_eq!(text.parse::<Agent>().unwrap().to_string(), shown);
        }
        for text in ["", "https://a", "http://a/metrics", "http://u@a", "/a", "http://a?b"] {
            assert!(text.parse::<Agent>().unwrap_err().contains("such as"), "{text}");
        }
    }
}
