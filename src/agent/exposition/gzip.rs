//! Compression of a page. It repeats itself so much that the least effort saves nine bytes of ten.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

/// `bytes` as a gzip file (RFC 1952).
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    // Writing to a Vec can't fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_compressed_is_had_again_and_is_smaller() {
        let page = "weir_http_requests_total{namespace=\"shop\",pod=\"web\"} 1\n".repeat(1_000);
        let compressed = compress(page.as_bytes());
        assert!(compressed.len() < page.len() / 10, "{}", compressed.len());
        let mut again = String::new();
        flate2::read::GzDecoder::new(compressed.as_slice()).read_to_string(&mut again).unwrap();
        assert_eq!(again, page);
    }
}
