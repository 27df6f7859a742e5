//! Plays a case's steps on a node of its own.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use crate::{
    Context, Result,
    call::{Invocation, Plugin},
    delegate, edit, facts,
    footprint::Footprint,
    kernel,
    node::{Node, Space},
    process::Answer,
    protocol::{self, Said},
    shape,
    step::{self, Asked, Call, Edits, Expect, PrevResult, Run, Stdin, Step},
    version::at_least,
};

/// How long a call may take of which nothing is said; a runtime waits for minutes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long what the kernel does behind the caller's back may take.
const KERNEL: Duration = Duration::from_secs(3);

/// A run: the node, and what was called on it so far.
#[derive(Debug)]
pub struct Player<'a> {
    plugin: &'a Plugin,
    version: &'a str,
    pub(crate) node: Node,
    pub(crate) pods: BTreeMap<String, Space>,
    /// Results of ADD by pod and interface; they stay after DEL, for the steps that follow.
    pub(crate) results: BTreeMap<(String, String), Value>,
    /// What libcni would have in its cache.
    cache: BTreeMap<(String, String), Value>,
    pub(crate) remembered: Option<Footprint>,
    last: Option<Invocation>,
}

/// One of the calls that a step makes.
struct One<'a> {
    call: &'a Call,
    pod: Option<&'a str>,
    invocation: Invocation,
}

/// Plays the steps to their end or to the first that does not hold. The calling thread becomes the
/// node, and must end afterwards.
///
/// # Errors
/// Which step does not hold, and why.
pub fn play(plugin: &Plugin, version: &str, steps: &[Value]) -> Result<()> {
    let mut player = Player {
        plugin,
        version,
        node: Node::enter()?,
        pods: BTreeMap::new(),
        results: BTreeMap::new(),
        cache: BTreeMap::new(),
        remembered: None,
        last: None,
    };
    steps.iter().enumerate().try_for_each(|(at, json)| {
        let json = step::substitute(json, &|name| player.meaning(name));
        let step = Step::decode(&json).context(|| format!("step {}", at + 1))?;
        let what = name(&step);
        player.step(step).context(|| format!("step {}, {what}", at + 1))
    })
}

/// A step in a few words.
fn name(step: &Step) -> String {
    match step {
        Step::Call(call) => match (&call.pod, call.pods) {
            (Some(pod), _) => format!("{} {pod}", call.call),
            (None, Some(pods)) => format!("{} {pods} pods", call.call),
            (None, None) => call.call.clone(),
        },
        Step::Run(run) => format!("`{}`", run.run),
        Step::See(see) => match &see.pod {
            Some(pod) => format!("see {pod} {:?}", see.see).to_lowercase(),
            None => format!("see {:?}", see.see).to_lowercase(),
        },
        Step::Remember => "remember".into(),
        Step::Baseline(_) => "a first pod comes and goes".into(),
        Step::Vanish(pod) => format!("{pod} vanishes"),
        Step::Delegate(delegate) => format!("delegate {}", delegate.delegate),
        Step::Asked(asked) => format!("how {} was called", asked.asked),
    }
}

fn container_id(pod: &str) -> String {
    format!("conformance-{pod}")
}

/// More range sets than anybody means.
fn many_ranges() -> Value {
    let set =
        |at: u32| serde_json::json!([{"subnet": format!("10.{}.{}.0/30", at / 250, at % 250)}]);
    (0..20_000).map(set).collect()
}

impl Player<'_> {
    /// What `{name}` stands for in a step.
    fn meaning(&self, name: &str) -> Option<Value> {
        let (whose, what) = name.split_once('.').unwrap_or((name, ""));
        let known = match (whose, what) {
            ("version", "") => self.version.to_owned(),
            ("dir", "") => self.node.dir.display().to_string(),
            ("long", "") => "a".repeat(4000),
            ("many", "") => return Some(many_ranges()),
            (pod, "netns") => format!("/run/netns/{pod}"),
            (pod, "id") => container_id(pod),
            (pod, what) => return self.of_result(pod, what),
        };
        Some(known.into())
    }

    fn of_result(&self, pod: &str, what: &str) -> Option<Value> {
        let result = self.results.get(&(pod.to_owned(), "eth0".to_owned()))?;
        let at = shape::interface(result, "eth0")?;
        let cidr = || kernel::addresses(result, at).into_iter().next();
        match what {
            "at" => Some(at.into()),
            "mac" => Some(result["interfaces"][at]["mac"].clone()),
            "cidr" => cidr().map(Value::from),
            "ip" => cidr()?.split('/').next().map(Value::from),
            "host" => shape::host_interface(result).map(Value::from),
            _ => None,
        }
    }

    /// A pod's namespace, made when it is first asked for; or the node's.
    ///
    /// # Errors
    /// The kernel's words.
    pub(crate) fn pod(&mut self, name: &str) -> Result<&Space> {
        if name == "node" {
            return Ok(&self.node.space);
        }
        if !self.pods.contains_key(name) {
            let space = Space::make(name)?;
            space.succeed("ip link set lo up")?;
            self.pods.insert(name.to_owned(), space);
        }
        self.pods.get(name).ok_or_else(|| format!("no pod {name}"))
    }

    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Call(call) => (0..call.times).try_for_each(|_| self.call(&call)),
            Step::Run(run) => self.command(&run),
            Step::See(see) => self.see(&see),
            Step::Remember => {
                self.remembered = Some(Footprint::of(&self.node)?);
                Ok(())
            }
            Step::Baseline(edits) => self.baseline(&edits),
            Step::Vanish(pod) => self.vanish(&pod),
            Step::Delegate(delegate) => delegate::install(&self.node.dir, &delegate),
            Step::Asked(asked) => self.asked(&asked),
        }
    }

    fn command(&mut self, Run { run, place, prints, lacks }: &Run) -> Result<()> {
        let printed = self.pod(place)?.succeed(run)?;
        if let Some(wanted) = prints.as_ref().filter(|text| !printed.contains(*text)) {
            return Err(format!("no {wanted:?} in: {printed}"));
        }
        match lacks.as_ref().filter(|text| printed.contains(*text)) {
            Some(unwanted) => Err(format!("{unwanted:?} in: {printed}")),
            None => Ok(()),
        }
    }

    fn baseline(&mut self, edits: &Edits) -> Result<()> {
        for verb in ["ADD", "DEL"] {
            let json = serde_json::json!({
                "call": verb, "pod": "baseline", "conf": edits.conf, "without": edits.without,
            });
            if let Step::Call(call) = Step::decode(&json)? {
                self.call(&call).context(|| verb.into())?;
            }
        }
        let key = ("baseline".to_owned(), "eth0".to_owned());
        self.results.remove(&key);
        self.vanish("baseline")?;
        self.remembered = Some(Footprint::of(&self.node)?);
        Ok(())
    }

    /// Takes the namespace away, and waits until the kernel has ended it.
    fn vanish(&mut self, pod: &str) -> Result<()> {
        let space = self.pods.remove(pod).ok_or_else(|| format!("no pod {pod}"))?;
        let host = self.of_result(pod, "host");
        space.vanish()?;
        match host.as_ref().and_then(Value::as_str) {
            Some(host) => self.await_gone(host),
            None => Ok(()),
        }
    }

    /// Waits until the node has no such link.
    ///
    /// # Errors
    /// It still has.
    pub(crate) fn await_gone(&self, link: &str) -> Result<()> {
        let until = Instant::now() + KERNEL;
        while self.node.space.ip("link show")?.iter().any(|found| found["ifname"] == link) {
            if Instant::now() > until {
                return Err(format!("the node still has {link}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn call(&mut self, call: &Call) -> Result<()> {
        let names: Vec<Option<String>> = match (call.pods, &call.pod) {
            (Some(count), _) => (0..count).map(|number| Some(format!("p{number}"))).collect(),
            (None, pod) => vec![pod.clone()],
        };
        for name in names.iter().flatten() {
            self.pod(name)?;
        }
        let calls = names.iter().map(|pod| self.prepare(call, pod.as_deref()));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        self.last = calls.last().map(|one| one.invocation.clone());
        let plugin = self.plugin;
        let answers: Vec<Result<Answer>> = thread::scope(|scope| {
            let start = |one: &One<'_>| {
                let invocation = one.invocation.clone();
                scope.spawn(move || plugin.call(&invocation))
            };
            let running: Vec<_> = calls.iter().map(start).collect();
            let ended = |call: thread::ScopedJoinHandle<'_, Result<Answer>>| {
                call.join().unwrap_or_else(|_| Err("a thread ended early".into()))
            };
            running.into_iter().map(ended).collect()
        });
        let mut succeeded = 0;
        for (one, answer) in calls.iter().zip(answers) {
            let of = || one.pod.unwrap_or("the node").to_owned();
            if self.answered(one, &answer?).context(of)? {
                succeeded += 1;
            }
        }
        match call.succeed {
            Some(wanted) if wanted != succeeded => {
                Err(format!("{succeeded} calls succeeded instead of {wanted}"))
            }
            _ => Ok(()),
        }
    }

    /// Judges an answer and remembers what it means; says whether the call succeeded.
    fn answered(&mut self, one: &One<'_>, answer: &Answer) -> Result<bool> {
        let call = one.call;
        let either = Expect::AnyOf(vec![
            step::Expected::Word(step::Word::Success),
            step::Expected::Word(step::Word::Failure),
        ]);
        let expect = if call.succeed.is_some() { &either } else { &call.expect };
        let empty = String::new();
        let variable = |name: &str| one.invocation.env.get(name).unwrap_or(&empty).as_str();
        let asked = protocol::Asked {
            verb: &call.call,
            version: self.version,
            ifname: variable("CNI_IFNAME"),
            netns: variable("CNI_NETNS"),
        };
        let said = protocol::judge(answer, expect, asked)?;
        if let Some(bound) = call.within
            && answer.took.as_secs_f64() > bound
        {
            return Err(format!("took {:.1} s, at most {bound}", answer.took.as_secs_f64()));
        }
        let Some(pod) = one.pod else { return Ok(matches!(said, Said::Success(_))) };
        let key = (pod.to_owned(), call.ifname.clone());
        match (call.call.as_str(), said) {
            ("ADD", Said::Success(Some(result))) => {
                self.results.insert(key.clone(), result.clone());
                self.cache.insert(key, result);
                Ok(true)
            }
            ("DEL", Said::Success(_)) => {
                self.cache.remove(&key);
                Ok(true)
            }
            (_, said) => Ok(matches!(said, Said::Success(_))),
        }
    }

    fn prepare<'c>(&self, call: &'c Call, pod: Option<&'c str>) -> Result<One<'c>> {
        let mut env = facts::variables(&call.call, self.plugin.path(&self.node.dir));
        if let Some(pod) = pod {
            env.insert("CNI_CONTAINERID".into(), container_id(pod));
            env.insert("CNI_NETNS".into(), format!("/run/netns/{pod}"));
            env.insert("CNI_IFNAME".into(), call.ifname.clone());
            let args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};\
                 K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=2f1d6a1c-0000-4000-8000-000000000000",
                container_id(pod)
            );
            env.insert("CNI_ARGS".into(), args);
        }
        for (name, value) in &call.env {
            match value {
                Some(value) => drop(env.insert(name.clone(), value.clone())),
                None => drop(env.remove(name)),
            }
        }
        let invocation = Invocation {
            env,
            stdin: match &call.stdin {
                None => self.conf(call, pod)?.to_string().into_bytes(),
                Some(Stdin::Text(text)) => text.clone().into_bytes(),
                Some(Stdin::Repeated { text, times }) => text.repeat(*times).into_bytes(),
                Some(Stdin::Bytes { bytes }) => bytes.clone(),
            },
            stdout: call.stdout.clone(),
            patience: call.within.map_or(PATIENCE, |bound| Duration::from_secs_f64(bound + 5.0)),
        };
        Ok(One { call, pod, invocation })
    }

    /// The configuration as libcni would put it together, with the step's changes.
    fn conf(&self, call: &Call, pod: Option<&str>) -> Result<Value> {
        let mut conf = self.plugin.conf.clone();
        conf["cniVersion"] = self.version.into();
        if let Some(prev_result) = self.prev_result(call, pod)? {
            conf["prevResult"] = prev_result;
        }
        edit::set(&mut conf, &call.conf)?;
        edit::remove(&mut conf, &call.without);
        Ok(conf)
    }

    fn prev_result(&self, call: &Call, pod: Option<&str>) -> Result<Option<Value>> {
        let key = (pod.unwrap_or_default().to_owned(), call.ifname.clone());
        let sends = match call.call.as_str() {
            "CHECK" => true,
            "DEL" => at_least(self.version, "0.4.0"),
            _ => false,
        };
        let cached = self.cache.get(&key).filter(|_| sends).cloned();
        match &call.prev_result {
            PrevResult::AsLibcni => Ok(cached),
            PrevResult::Withheld(_) => Ok(None),
            PrevResult::Edited { set, without } => {
                let mut edited = cached.unwrap_or_else(|| Value::Object(Map::new()));
                edit::set(&mut edited, set)?;
                edit::remove(&mut edited, without);
                Ok(Some(edited))
            }
        }
    }

    fn asked(&self, asked: &Asked) -> Result<()> {
        let calls = delegate::calls(&self.node.dir, &asked.asked);
        if let Some(wanted) = &asked.calls {
            let with_id = |call: &String| match call.split_once(' ') {
                Some((verb, pod)) => format!("{verb} {}", container_id(pod)),
                None => call.clone(),
            };
            let wanted: Vec<_> = wanted.iter().map(with_id).collect();
            let never = asked.or_never && calls.is_empty();
            if calls != wanted && !never {
                return Err(format!("it was called {calls:?} instead of {wanted:?}"));
            }
        }
        if !asked.same {
            return Ok(());
        }
        let (stdin, environment) = delegate::last_input(&self.node.dir, &asked.asked)?;
        let last = self.last.as_ref().ok_or("the plugin was not called")?;
        let ours: Value = serde_json::from_slice(&last.stdin).context(|| "stdin".into())?;
        if stdin != ours {
            return Err(format!("it got another configuration: {stdin} instead of {ours}"));
        }
        let variables = last.env.iter().filter(|(name, _)| *name != "CNI_COMMAND");
        for (name, value) in variables.filter(|(name, _)| name.starts_with("CNI_")) {
            if !environment.contains(&format!("{name}={value}")) {
                return Err(format!("it did not get {name}={value}: {environment:?}"));
            }
        }
        Ok(())
    }
}
