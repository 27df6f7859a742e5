//! The page for people, as `web/` built it: part of the executable, and all that a browser loads.
//!
//! Names and paths on it come from pods. Its policy lets a browser run this script and no other, and
//! send what it knows nowhere but here, should one of them ever get in as more than text.

use hyper::{
    Response,
    header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS},
};

/// A file of the page.
#[derive(Debug)]
pub struct File {
    /// Where it is asked for.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// What is in it.
    pub content: &'static [u8],
}

/// All of them.
pub const FILES: [File; 3] = [
    File {
        path: "/",
        content_type: "text/html; charset=utf-8",
        content: include_bytes!("../../web/dist/index.html"),
    },
    File {
        path: "/page.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../../web/dist/page.js"),
    },
    File {
        path: "/page.css",
        content_type: "text/css; charset=utf-8",
        content: include_bytes!("../../web/dist/page.css"),
    },
];

/// CSP level 3. What is not named falls back to `default-src`, but for the last three.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (REFERRER_POLICY, "no-referrer"),
    (X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The file that is asked for by this path.
pub fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

/// Adds what a browser has to know before it reads the page.
pub fn guard<B>(mut answer: Response<B>) -> Response<B> {
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_has_nothing_inline_or_from_elsewhere() {
        let total: usize = FILES.iter().map(|file| file.content.len()).sum();
        assert!(total < 300_000, "{total} bytes");
        let html = std::str::from_utf8(FILES[0].content).unwrap();
        for inline in ["<style", "style=", "onload=", "onclick=", "javascript:", "http:", "https:"]
        {
            assert!(!html.contains(inline), "{inline}");
        }
        assert!(html.matches("<script").count() == 1 && html.contains("src=\"page.js\""));
        let css = std::str::from_utf8(FILES[2].content).unwrap();
        assert!(!css.contains("url(") && !css.contains("@import"));
    }
}
