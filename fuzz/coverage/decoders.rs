//! The decoders led by coverage: the first byte chooses one, or `WEIR_FUZZ_DECODER` names it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weir_fuzz::DECODERS;

static NAMED: LazyLock<Option<usize>> = LazyLock::new(|| {
    let name = std::env::var("WEIR_FUZZ_DECODER").ok()?;
    DECODERS.iter().position(|decoder| decoder.name == name)
});

fuzz_target!(|bytes: &[u8]| {
    match (*NAMED, bytes.split_first()) {
        (Some(at), _) => (DECODERS[at].run)(bytes),
        (None, Some((&first, rest))) => (DECODERS[usize::from(first) % DECODERS.len()].run)(rest),
        (None, None) => {}
    }
});
