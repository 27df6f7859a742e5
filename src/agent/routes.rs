//! From a request to its answer. Read-only: GET and HEAD, and nothing that a client sends is kept.

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{
        ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};

use super::{accept, totals::Totals};
use crate::error::Error;

/// What the server sends.
pub type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers one request.
pub async fn answer<B>(request: &Request<B>, totals: &Totals) -> Answer {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "there is /metrics, /healthz and /readyz\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/metrics" => metrics(request, totals).await,
        "/readyz" => match totals.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => unavailable(&reason),
        },
        _ => text(StatusCode::OK, "ok\n"),
    }
}

async fn metrics<B>(request: &Request<B>, totals: &Totals) -> Answer {
    // Several Accept headers are one list (RFC 9110, section 5.2); one that is no text asks nothing.
    let accepts = request.headers().get_all(ACCEPT).iter();
    let accepts: Vec<_> = accepts.filter_map(|value| value.to_str().ok()).collect();
    let form = accept::form((!accepts.is_empty()).then(|| accepts.join(",")).as_deref());
    match totals.page(form).await {
        Ok(page) => {
            let mut answer = respond(StatusCode::OK, form.content_type(), page);
            answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
            answer
        }
        Err(reason) => unavailable(&reason),
    }
}

fn unavailable(reason: &Error) -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    respond(status, TEXT, body)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
