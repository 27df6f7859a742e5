//! Debian's Chromium without a window, driven by the DevTools protocol over a pipe: one JSON object
//! after the other, each ended by a zero byte (the browser's `--remote-debugging-pipe`).

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::node::{Node, PATIENCE};

/// A browser with one page. It ends with its handle.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    messages: Receiver<Value>,
    /// With the page; none while there is no page yet.
    session: Option<String>,
    /// A page beside it, once there has to be one.
    beside: Option<String>,
    last: u64,
    /// What it said unasked.
    events: Vec<Value>,
}

impl Browser {
    /// Starts it in the calling thread's namespaces, with nothing remembered.
    pub fn new(node: &Node) -> Self {
        Self::start(node, &[])
    }

    /// One for which a name has another meaning than elsewhere.
    pub fn resolving(node: &Node, name: &str, address: &str) -> Self {
        Self::start(node, &[format!("--host-resolver-rules=MAP {name} {address}")])
    }

    fn start(node: &Node, more: &[String]) -> Self {
        // The protocol is spoken on descriptors 3 and 4.
        let script = r#"exec 3<&0 4>&1; exec chromium "$@" </dev/null >&2"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "chromium", "--headless=new", "--remote-debugging-pipe"]);
        command.args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-background-networking", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", node.path("chromium").display()));
        command.args(more).env("HOME", node.path("")).arg("about:blank");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let (send, messages) = channel();
        thread::spawn(move || {
            from.split(0).map_while(Result::ok).try_for_each(|message| {
                send.send(serde_json::from_slice::<Value>(&message).unwrap())
            })
        });
        let to = child.stdin.take().unwrap();
        let (session, beside, events) = (None, None, Vec::new());
        let mut browser = Self { child, to, messages, session, beside, last: 0, events };
        browser.session = Some(browser.tab());
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Opens a tab in front of all others; returns the session with it.
    fn tab(&mut self) -> String {
        let page = self.send(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = self.send(None, "Target.attachToTarget", attach);
        attached["sessionId"].as_str().unwrap().to_owned()
    }

    /// Calls a method of the page and returns its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.send(self.session.clone(), method, params)
    }

    fn send(&mut self, session: Option<String>, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let mut message = message.unwrap_or_else(|err| panic!("{method}: chromium is {err}"));
            if message["id"] == self.last {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// Sets the window's size and the colours that the system likes.
    pub fn look(&mut self, width: u32, height: u32, colours: &str) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{ "name": "prefers-color-scheme", "value": colours }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Goes to an address.
    pub fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{went}");
        self.eventually("document.readyState === 'complete'");
    }

    /// The value of an expression on the page; of a promise, what it comes to.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub fn eventually(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.value(expression) != json!(true) {
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {expression}\n{}", self.text());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Goes to another tab.
    pub fn hide(&mut self) {
        match self.beside.clone() {
            None => self.beside = Some(self.tab()),
            beside => drop(self.send(beside, "Page.bringToFront", json!({}))),
        }
        self.eventually("document.hidden");
    }

    /// And comes back.
    pub fn show(&mut self) {
        self.call("Page.bringToFront", json!({}));
        self.eventually("!document.hidden");
    }

    /// Presses and releases a key.
    pub fn press(&mut self, key: &str) {
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            " " => ("Space", 32, " "),
            _ => panic!("no key of this test's: {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({ "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Moves the pointer to the middle of what an expression gives.
    pub fn point(&mut self, element: &str) {
        let at = self.value(&format!(
            "(() => {{ const at = {element}; at.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const box = at.getBoundingClientRect(); \
             return {{ x: box.x + box.width / 2, y: box.y + box.height / 2 }}; }})()"
        ));
        let moved = json!({ "type": "mouseMoved", "x": at["x"], "y": at["y"] });
        self.call("Input.dispatchMouseEvent", moved);
    }

    fn text(&mut self) -> String {
        self.value("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Types a text into the field with this id, in place of what is there.
    pub fn fill(&mut self, id: &str, text: &str) {
        let text = json!(text);
        self.value(&format!(
            "{{ const field = document.getElementById('{id}'); field.value = {text}; \
             field.dispatchEvent(new Event('input', {{ bubbles: true }})); }}"
        ));
    }

    /// Keeps a picture of the page as a test's artefact, and returns where.
    pub fn picture(&mut self, name: &str) -> PathBuf {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        fs::create_dir_all(&dir).unwrap();
        let encoded = dir.join(format!("{name}.base64"));
        fs::write(&encoded, shot["data"].as_str().unwrap()).unwrap();
        let decoded = Command::new("base64").arg("--decode").arg(&encoded).output().unwrap();
        assert!(decoded.status.success());
        fs::remove_file(&encoded).unwrap();
        let picture = dir.join(format!("{name}.png"));
        fs::write(&picture, decoded.stdout).unwrap();
        picture
    }

    /// Errors and warnings that the browser has for a page's author, so far: of its policy too.
    pub fn complaints(&mut self) -> Vec<String> {
        // What was said before this answer is there with it.
        self.value("1");
        let of_interest = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            // Chromium also warns of how often a script of the tests' own, which has no address, reads a plot.
            Some("Log.entryAdded") => {
                let entry = &event["params"]["entry"];
                let text = entry["text"].as_str().unwrap_or_default();
                let own = entry["stackTrace"]["callFrames"][0]["url"] == "";
                let reads = own && text.starts_with("Canvas2D: Multiple readback operations");
                entry["level"] != "verbose" && !reads
            }
            Some("Runtime.consoleAPICalled") => true,
            _ => false,
        };
        self.events.iter().filter(of_interest).map(Value::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
