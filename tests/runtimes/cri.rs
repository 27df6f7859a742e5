//! As much of a CRI client as the tests need: unary gRPC calls over a Unix socket, and messages put
//! together by field number (k8s.io/cri-api, `runtime/v1/api.proto`).

use std::{net::IpAddr, path::Path};

use bytes::Bytes;
use http::{Request, Uri};
use tokio::net::UnixStream;

/// A message of protobuf's wire format.
#[derive(Debug, Default, Clone)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text, or a message's bytes.
    pub fn bytes(mut self, field: u8, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0.push(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    pub fn message(self, field: u8, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    pub fn number(mut self, field: u8, number: u64) -> Self {
        self.0.push(field << 3);
        self.varint(number);
        self
    }

    fn varint(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap());
    }

    /// Every value of a field with bytes in it.
    pub fn all(&self, field: u64) -> Vec<Self> {
        self.fields()
            .into_iter()
            .filter(|(key, ..)| *key == field)
            .map(|(_, _, b)| Self(b))
            .collect()
    }

    /// The first value of a field, or an empty one.
    pub fn get(&self, field: u64) -> Self {
        self.all(field).into_iter().next().unwrap_or_default()
    }

    /// A number; one that is not there is 0.
    pub fn number_of(&self, field: u64) -> u64 {
        self.fields().into_iter().find(|(key, ..)| *key == field).map_or(0, |(_, number, _)| number)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.clone()).unwrap()
    }

    /// Number, value if it is a varint, bytes if it has some.
    fn fields(&self) -> Vec<(u64, u64, Vec<u8>)> {
        let mut rest = &self.0[..];
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let key = take_varint(&mut rest);
            let (number, bytes) = match key & 7 {
                0 => (take_varint(&mut rest), Vec::new()),
                2 => {
                    let length = usize::try_from(take_varint(&mut rest)).unwrap();
                    let (bytes, behind) = rest.split_at(length);
                    rest = behind;
                    (0, bytes.to_vec())
                }
                kind => panic!("wire type {kind}"),
            };
            fields.push((key >> 3, number, bytes));
        }
        fields
    }
}

fn take_varint(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = rest[0];
        *rest = &rest[1..];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// A runtime's CRI socket.
pub struct Cri<'a> {
    pub socket: &'a Path,
}

/// A pod as the kubelet describes it.
pub struct Pod<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    /// A port of the node and one of the pod, over TCP.
    pub ports: &'a [(u16, u16)],
    /// Annotations, such as those that limit bandwidth.
    pub annotations: &'a [(&'a str, &'a str)],
    /// Under which control group.
    pub cgroup: &'a str,
    /// The runtime's handler; empty for the default.
    pub handler: &'a str,
}

impl Pod<'_> {
    /// `PodSandboxConfig`.
    fn config(&self) -> Message {
        let metadata =
            Message::new().bytes(1, self.name).bytes(2, self.uid).bytes(3, self.namespace);
        let mut config = Message::new().message(1, &metadata).bytes(2, self.name);
        for (host, container) in self.ports {
            let port = Message::new().number(2, (*container).into()).number(3, (*host).into());
            config = config.message(5, &port);
        }
        for (key, value) in self.annotations {
            config = config.message(7, &Message::new().bytes(1, key).bytes(2, value));
        }
        config.message(8, &Message::new().bytes(1, self.cgroup))
    }
}

impl Cri<'_> {
    /// One call; an error is the status's message.
    pub fn call(&self, method: &str, request: &Message) -> Result<Message, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let patience = std::time::Duration::from_secs(60);
        let called = runtime.block_on(async {
            tokio::time::timeout(patience, self.exchange(method, request)).await
        });
        called.unwrap_or_else(|_| Err(format!("{method} took longer than a minute")))
    }

    async fn exchange(&self, method: &str, request: &Message) -> Result<Message, String> {
        let stream = UnixStream::connect(self.socket).await.map_err(|err| err.to_string())?;
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let uri = Uri::builder().scheme("http").authority("localhost").path_and_query(path);
        let head = Request::post(uri.build().unwrap())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut sender = sender.ready().await.unwrap();
        let (response, mut stream) = sender.send_request(head, false).unwrap();
        let length = u32::try_from(request.0.len()).unwrap().to_be_bytes();
        let framed = [&[0], &length[..], &request.0].concat();
        stream.send_data(Bytes::from(framed), true).unwrap();

        let response = response.await.map_err(|err| err.to_string())?;
        let headers = response.headers().clone();
        let mut body = response.into_body();
        let mut answer = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(|err| err.to_string())?;
            answer.extend(&chunk);
            body.flow_control().release_capacity(chunk.len()).unwrap();
        }
        let trailers = body.trailers().await.map_err(|err| err.to_string())?.unwrap_or(headers);
        let text = |name: &str| {
            trailers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        if text("grpc-status") != "0" {
            return Err(format!("{method}: {}", text("grpc-message")));
        }
        Ok(Message(answer.split_off(5)))
    }

    /// The conditions of the runtime and whether they are met: `RuntimeReady`, `NetworkReady`.
    pub fn conditions(&self) -> Result<Vec<(String, bool)>, String> {
        let status = self.call("Status", &Message::new())?.get(1);
        let condition =
            |condition: &Message| (condition.get(1).text(), condition.number_of(2) == 1);
        Ok(status.all(1).iter().map(condition).collect())
    }

    /// The network configuration that the runtime has taken up, as it tells a verbose Status.
    pub fn network(&self) -> String {
        let status = self.call("Status", &Message::new().number(1, 1)).unwrap();
        let info = status.all(2).into_iter().find(|info| info.get(1).text() == "cniconfig");
        info.unwrap().get(2).text()
    }

    /// RunPodSandbox; the sandbox's id.
    pub fn run(&self, pod: &Pod<'_>) -> Result<String, String> {
        let request = Message::new().message(1, &pod.config()).bytes(2, pod.handler);
        Ok(self.call("RunPodSandbox", &request)?.get(1).text())
    }

    /// PodSandboxStatus: whether it is ready, and its addresses.
    pub fn status(&self, sandbox: &str) -> Result<(bool, Vec<IpAddr>), String> {
        let status = self.call("PodSandboxStatus", &Message::new().bytes(1, sandbox))?.get(1);
        let network = status.get(5);
        let more = network.all(2).into_iter().map(|ip| ip.get(1).text());
        let ips = [network.get(1).text()].into_iter().chain(more).filter(|ip| !ip.is_empty());
        Ok((status.number_of(3) == 0, ips.map(|ip| ip.parse().unwrap()).collect()))
    }

    /// Creates a container in a sandbox and starts it; its id.
    pub fn start(&self, sandbox: &str, pod: &Pod<'_>, image: &str, command: &[&str]) -> String {
        let mut config = Message::new()
            .message(1, &Message::new().bytes(1, "main"))
            .message(2, &Message::new().bytes(1, image));
        for word in command {
            config = config.bytes(3, word);
        }
        let request =
            Message::new().bytes(1, sandbox).message(2, &config).message(3, &pod.config());
        let id = self.call("CreateContainer", &request).unwrap().get(1).text();
        self.call("StartContainer", &Message::new().bytes(1, &id)).unwrap();
        id
    }

    /// Runs a command in a container to its end, which must be a good one; what it printed.
    pub fn exec(&self, container: &str, command: &[&str]) -> String {
        let mut request = Message::new().bytes(1, container);
        for word in command {
            request = request.bytes(2, word);
        }
        let answer = self.call("ExecSync", &request.number(3, 30)).unwrap();
        assert_eq!(answer.number_of(3), 0, "{command:?}: {}", answer.get(2).text());
        answer.get(1).text()
    }

    /// StopPodSandbox.
    pub fn stop(&self, sandbox: &str) -> Result<(), String> {
        self.call("StopPodSandbox", &Message::new().bytes(1, sandbox)).map(drop)
    }

    /// RemovePodSandbox.
    pub fn remove(&self, sandbox: &str) -> Result<(), String> {
        self.call("RemovePodSandbox", &Message::new().bytes(1, sandbox)).map(drop)
    }
}
