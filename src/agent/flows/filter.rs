//! Which records a listener wants: the same words on the command line and in a query string.

use std::{fmt, str::FromStr, time::Duration};

use super::{flow::Flow, id::Id};

/// Statuses: one, or all of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statuses {
    low: u16,
    high: u16,
}

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no status, such as 404, nor a class of them, such as 5xx");
        let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
        let (digits, size) = class.map_or((text, 1), |class| (class, 100));
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(wrong());
        }
        let low = digits.parse::<u16>().ok().and_then(|first| first.checked_mul(size));
        let low = low.filter(|low| (100..1_000).contains(low)).ok_or_else(wrong)?;
        Ok(Self { low, high: low + size - 1 })
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.high - self.low {
            0 => write!(f, "{}", self.low),
            _ => write!(f, "{}xx", self.low / 100),
        }
    }
}

/// A pod's name, in one namespace or any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    namespace: Option<String>,
    pod: String,
}

impl PodName {
    /// Of this pod alone; without a namespace it is in none.
    pub fn new(namespace: &str, pod: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), pod: pod.to_owned() }
    }
}

/// How a pod is called: no two are called the same. Kubernetes has no slash in a name, but other callers of a
/// plugin may: there it is `%2F`, and `%` is `%25`, which [`PodName`] reads likewise.
pub fn called(namespace: &str, pod: &str) -> String {
    match namespace {
        "" => written(pod),
        namespace => format!("{}/{}", written(namespace), written(pod)),
    }
}

fn written(part: &str) -> String {
    part.replace('%', "%25").replace('/', "%2F")
}

fn read(part: &str) -> String {
    part.replace("%2F", "/").replace("%25", "%")
}

impl FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, pod) = match text.split_once('/') {
            Some((namespace, pod)) => (Some(read(namespace)), pod),
            None => (None, text),
        };
        if pod.is_empty() || pod.contains('/') {
            return Err(format!(
                "{text:?} is no pod: give NAMESPACE/NAME, or NAME for any namespace"
            ));
        }
        Ok(Self { namespace, pod: read(pod) })
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{}", written(namespace), written(&self.pod)),
            None => f.write_str(&written(&self.pod)),
        }
    }
}

/// What protocols can be asked for; gRPC is HTTP too.
pub const PROTOCOLS: [&str; 8] =
    ["http", "grpc", "dns", "tls", "redis", "postgresql", "mysql", "kafka"];

/// All that has to be true of a record. Without any, all are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this pod.
    pub pod: Option<PodName>,
    /// One of [`PROTOCOLS`].
    pub protocol: Option<String>,
    /// With such an HTTP status.
    pub status: Option<Statuses>,
    /// With a path that begins so.
    pub path_prefix: Option<String>,
    /// That took at least so long.
    pub slower_than: Option<Duration>,
    /// That were recorded before, so long ago at most, for an earlier listener.
    pub since: Option<Duration>,
    /// That the agent told of after this one; `since` is of no account then, unless another agent told of it.
    pub after: Option<Id>,
}

/// What a filter says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is wanted.
    Wanted,
    /// It is not.
    Unwanted,
    /// All but the path, which is wanted and not known: its request's head was lost, or can't be read.
    Untold,
}

impl Filter {
    /// Whether a record is wanted.
    pub fn judge(&self, flow: &Flow) -> Verdict {
        let pod = self.pod.as_ref().is_none_or(|pod| {
            pod.pod == flow.pod
                && pod.namespace.as_ref().is_none_or(|namespace| *namespace == flow.namespace)
        });
        let protocol = self.protocol.as_ref().is_none_or(|protocol| {
            flow.protocol == *protocol || (protocol == "http" && flow.protocol == "grpc")
        });
        let status = self.status.is_none_or(|Statuses { low, high }| {
            flow.status.is_some_and(|status| (low..=high).contains(&status))
        });
        let path = match (&self.path_prefix, &flow.path) {
            (None, _) => Verdict::Wanted,
            (Some(prefix), Some(path)) if path.starts_with(prefix.as_str()) => Verdict::Wanted,
            (Some(_), None) if matches!(&*flow.protocol, "http" | "grpc") => Verdict::Untold,
            _ => Verdict::Unwanted,
        };
        let slow = self.slower_than.is_none_or(|least| {
            flow.duration_seconds.is_some_and(|seconds| seconds >= least.as_secs_f64())
        });
        if pod && protocol && status && slow { path } else { Verdict::Unwanted }
    }

    /// Reads a query string.
    ///
    /// # Errors
    /// What is wrong with which parameter.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "pod" => filter.pod = Some(value.parse()?),
                "protocol" => filter.protocol = Some(protocol(&value)?),
                "status" => filter.status = Some(value.parse()?),
                "path_prefix" => filter.path_prefix = Some(value.into_owned()),
                "slower_than" => filter.slower_than = Some(duration(&value)?),
                "since" => filter.since = Some(duration(&value)?),
                "after" => filter.after = Some(value.parse()?),
                _ => {
                    return Err(format!(
                        "{key:?} is no filter: there are pod, protocol, status, path_prefix, slower_than, since and after"
                    ));
                }
            }
        }
        Ok(filter)
    }

    /// The query string that [`from_query`](Self::from_query) reads.
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                query.append_pair(key, &value);
            }
        };
        let span =
            |time: Option<Duration>| time.map(|time| humantime::format_duration(time).to_string());
        add("pod", self.pod.as_ref().map(ToString::to_string));
        add("protocol", self.protocol.clone());
        add("status", self.status.map(|status| status.to_string()));
        add("path_prefix", self.path_prefix.clone());
        add("slower_than", span(self.slower_than));
        add("since", span(self.since));
        add("after", self.after.map(|id| id.to_string()));
        query.finish()
    }
}

/// One of [`PROTOCOLS`].
///
/// # Errors
/// Which there are.
pub fn protocol(text: &str) -> Result<String, String> {
    let known = PROTOCOLS.contains(&text).then(|| text.to_owned());
    known.ok_or_else(|| format!("{text:?} is no protocol: there are {}", PROTOCOLS.join(", ")))
}

/// A span of time with its unit.
///
/// # Errors
/// What such a span looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is no span of time, such as 100ms, 2s or 5m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            namespace: "shop".into(),
            pod: "web".into(),
            protocol: "http".into(),
            path: Some("/api/a".into()),
            status: Some(503),
            duration_seconds: Some(0.1),
            ..Flow::default()
        }
    }

    #[test]
    fn each_filter_lets_its_own_through() {
        for (query, wanted) in [
            ("", true),
            ("pod=shop/web", true),
            ("pod=web", true),
            ("pod=/web", false),
            ("pod=other%2Fweb", false),
            ("protocol=http", true),
            ("protocol=grpc", false),
            ("status=5xx", true),
            ("status=503", true),
            ("status=500", false),
            ("path_prefix=/api/", true),
            ("path_prefix=%2Fapi%2Fb", false),
            ("slower_than=100ms", true),
            ("slower_than=101ms", false),
            ("pod=shop/web&status=4xx", false),
        ] {
            let verdict = if wanted { Verdict::Wanted } else { Verdict::Unwanted };
            assert_eq!(Filter::from_query(query).unwrap().judge(&flow()), verdict, "{query}");
        }
        let grpc = Flow { protocol: "grpc".into(), ..Flow::default() };
        let judged = |query: &str| Filter::from_query(query).unwrap().judge(&grpc);
        assert_eq!(judged("protocol=http"), Verdict::Wanted);
        assert_eq!(judged("status=5xx"), Verdict::Unwanted);
        // Of a request whose head nobody has read.
        assert_eq!(judged("path_prefix=/a"), Verdict::Untold);
        assert_eq!(judged("path_prefix=/a&protocol=dns"), Verdict::Unwanted);
    }

    #[test]
    fn no_two_pods_are_called_the_same_and_each_is_found_by_its_name() {
        let names = [
            ("", "a/b"),
            ("a", "b"),
            ("", "b"),
            ("a/b", "c"),
            ("a", "b/c"),
            ("a", "b%2Fc"),
            ("/", "%"),
        ];
        let called = names.map(|(namespace, pod)| called(namespace, pod));
        let different: std::collections::BTreeSet<_> = called.iter().collect();
        assert_eq!(different.len(), names.len(), "{called:?}");
        for (name, (namespace, pod)) in called.iter().zip(names) {
            let of = |namespace: &str, pod: &str| Flow {
                namespace: namespace.into(),
                pod: pod.into(),
                ..Flow::default()
            };
            let exact = Filter { pod: Some(PodName::new(namespace, pod)), ..Filter::default() };
            let read = Filter::from_query(&exact.to_query()).unwrap();
            assert_eq!(read, exact);
            for (other_namespace, other) in names {
                let wanted = read.judge(&of(other_namespace, other)) == Verdict::Wanted;
                assert_eq!(wanted, (namespace, pod) == (other_namespace, other), "{name} {other}");
            }
            let named = Filter { pod: Some(name.parse().unwrap()), ..Filter::default() };
            assert_eq!(named.judge(&of(namespace, pod)), Verdict::Wanted);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, named) in [
            ("pods=a", "pods"),
            ("pod=", "NAMESPACE/NAME"),
            ("pod=a/b/c", "a/b/c"),
            ("protocol=gopher", "gopher"),
            ("status=0xx", "0xx"),
            ("status=+5xx", "5xx"),
            ("status=99", "99"),
            ("status=60xx", "60xx"),
            ("status=xx", "xx"),
            ("slower_than=100", "100ms"),
            ("since=-1s", "-1s"),
            ("after=1", "1"),
        ] {
            let said = Filter::from_query(query).unwrap_err();
            assert!(said.contains(named), "{query}: {said}");
        }
    }

    #[test]
    fn a_filter_survives_its_query_string() {
        let query = "pod=a%2Fb&protocol=dns&status=4xx&path_prefix=%2F%C3%A9+%26&slower_than=1m+30s&since=5m&after=1f-7";
        let filter = Filter::from_query(query).unwrap();
        assert_eq!(filter.path_prefix.as_deref(), Some("/é &"));
        assert_eq!(Filter::from_query(&filter.to_query()), Ok(filter));
    }
}
