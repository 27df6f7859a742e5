//! From a request to its answer. Read-only: GET and HEAD, and nothing that a client sends is kept.

use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{
        ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap,
        HeaderName, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};

use super::{
    accept,
    families::Flavor,
    flows::{Events, Flows, filter::Filter},
    hosts::{self, Hosts},
    page,
    totals::{Page, Totals},
};
use crate::error::{Error, Result};

/// What answers are made of.
#[derive(Debug)]
pub struct Sources {
    /// The maps.
    pub totals: Totals,
    /// The ring of live records.
    pub flows: Flows,
    /// By what names the page is called.
    pub hosts: Hosts,
}

/// What the server sends: a whole, or events without end.
pub type Answer = Response<Either<Full<Bytes>, Events>>;

/// Those of the page are besides, in [`page::FILES`].
const PATHS: [&str; 6] =
    ["/metrics", "/healthz", "/readyz", "/api/flows", "/api/pods", "/api/services"];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// HTML standard, section 9.2.4.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Answers one request.
pub async fn answer<B>(request: &Request<B>, sources: &Sources) -> Answer {
    let path = request.uri().path();
    let file = page::file(path);
    if file.is_none() && !PATHS.contains(&path) {
        return text(StatusCode::NOT_FOUND, format!("there are /, {}\n", PATHS.join(", ")));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    // What scrapers and probes ask for they ask by whatever name, and no browser's script could use it for more.
    if (file.is_some() || path.starts_with("/api/"))
        && let Err(wrong) = sources.hosts.meant(request.uri(), request.headers())
    {
        return text(StatusCode::MISDIRECTED_REQUEST, wrong);
    }
    if path.starts_with("/api/")
        && let Err(wrong) = hosts::asked_by_the_page(request.headers())
    {
        return text(StatusCode::FORBIDDEN, wrong);
    }
    if let Some(file) = file {
        return page::guard(respond(StatusCode::OK, file.content_type, file.content));
    }
    match path {
        "/metrics" => metrics(request, &sources.totals).await,
        "/api/pods" => match sources.totals.pods().await {
            Ok(pods) => respond(StatusCode::OK, JSON, pods),
            Err(reason) => unavailable(&reason),
        },
        "/api/flows" => flows(request, &sources.flows),
        "/api/services" if request.method() == Method::HEAD => {
            respond(StatusCode::OK, EVENTS, Bytes::new())
        }
        "/api/services" => stream(sources.flows.services()),
        "/readyz" => match sources.totals.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => unavailable(&reason),
        },
        _ => text(StatusCode::OK, "ok\n"),
    }
}

async fn metrics<B>(request: &Request<B>, totals: &Totals) -> Answer {
    let flavor = match flavor(request.uri().query().unwrap_or_default()) {
        Ok(flavor) => flavor,
        Err(wrong) => return text(StatusCode::BAD_REQUEST, wrong),
    };
    let form = accept::form(list(request.headers(), &ACCEPT).as_deref());
    let gzip = list(request.headers(), &ACCEPT_ENCODING).is_some_and(|list| accept::gzip(&list));
    match totals.page(Page { form, flavor, gzip }).await {
        Ok(page) => {
            let mut answer = respond(StatusCode::OK, form.content_type(), page);
            let headers = answer.headers_mut();
            headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
            if gzip {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            answer
        }
        Err(reason) => unavailable(&reason),
    }
}

/// Several headers of a name are one list (RFC 9110, section 5.2); one that is no text asks nothing.
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let lists: Vec<_> = lists.collect();
    (!lists.is_empty()).then(|| lists.join(","))
}

/// The names that a query asks for; of several the last, and Weir's own if it says nothing of it.
fn flavor(query: &str) -> Result<Flavor, String> {
    let asked = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "flavor").last();
    let Some((_, asked)) = asked else { return Ok(Flavor::Weir) };
    let found = Flavor::NAMES.iter().find(|(name, _)| *name == asked);
    found.map(|(_, flavor)| *flavor).ok_or_else(|| {
        let names = Flavor::NAMES.map(|(name, _)| name).join(", ");
        format!("flavor is one of {names}\n")
    })
}

/// Live records as server-sent events (HTML standard, section 9.2).
fn flows<B>(request: &Request<B>, flows: &Flows) -> Answer {
    let mut filter = match Filter::from_query(request.uri().query().unwrap_or_default()) {
        Ok(filter) => filter,
        Err(wrong) => return text(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
    };
    // A browser that comes back says so besides its question, which is the one it came with first. An id of
    // somebody else's is no reason to refuse it for ever.
    if let Some(had) =
        request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok())
    {
        filter.after = Some(had);
    }
    if request.method() == Method::HEAD {
        return respond(StatusCode::OK, EVENTS, Bytes::new());
    }
    stream(flows.listen(filter))
}

fn stream(events: Result<Events>) -> Answer {
    match events {
        Ok(events) => answer_with(StatusCode::OK, EVENTS, Either::Right(events)),
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
    answer_with(status, content_type, Either::Left(Full::new(body.into())))
}

fn answer_with(
    status: StatusCode,
    content_type: &'static str,
    body: Either<Full<Bytes>, Events>,
) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
