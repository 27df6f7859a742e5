//! Whose telemetry it is, as OpenTelemetry says such things: resources, attributes, scope.

use super::message::{Any, AnyValue, KeyValue, Resource, Scope};

/// The semantic conventions that names are taken from.
pub const SCHEMA: &str = "https://opentelemetry.io/schemas/1.45.0";

/// What tells who observed it.
pub fn scope() -> Scope {
    Scope { name: "weir".into(), version: env!("CARGO_PKG_VERSION").into() }
}

/// A pod. The conventions have its name as the service's where nothing better is known; without
/// Kubernetes a pod is known by its container's id.
pub fn of_pod(namespace: &str, pod: &str) -> Resource {
    let attributes = if namespace.is_empty() {
        vec![text("service.name", pod), text("container.id", pod)]
    } else {
        vec![
            text("service.name", pod),
            text("service.namespace", namespace),
            text("k8s.namespace.name", namespace),
            text("k8s.pod.name", pod),
        ]
    };
    Resource { attributes }
}

/// The agent of the node of that name, without which those of two nodes would be one; the name is empty
/// where the node has none.
pub fn of_agent(node: &str) -> Resource {
    let mut attributes = vec![text("service.name", "weir")];
    if !node.is_empty() {
        attributes.extend([text("service.instance.id", node), text("host.name", node)]);
    }
    Resource { attributes }
}

/// An attribute.
pub fn text(key: &str, value: impl Into<String>) -> KeyValue {
    any(key, Any::Text(value.into()))
}

/// An attribute that is a number.
pub fn integer(key: &str, value: impl Into<i64>) -> KeyValue {
    any(key, Any::Integer(value.into()))
}

fn any(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
}
