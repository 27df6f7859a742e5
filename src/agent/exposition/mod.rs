//! The forms of a page on the wire: two of text, one of protocol buffers, each compressed or not.

mod buckets;
mod gzip;
mod message;
mod protobuf;
mod text;

pub use buckets::Buckets;
use hyper::body::Bytes;

use super::series::Page;

/// A form of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Classic,
    /// Prometheus' protocol buffers, which carry native histograms beside the classic ones.
    Protobuf,
}

impl Form {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }
}

/// Writes the page in one of its forms; as a gzip file (RFC 1952) if that is wanted.
pub fn write(page: &Page<'_>, form: Form, gzip: bool) -> Bytes {
    let written = match form {
        Form::OpenMetrics | Form::Classic => text::write(page, form).into_bytes(),
        Form::Protobuf => protobuf::write(page),
    };
    if gzip { gzip::compress(&written) } else { written }.into()
}
