//! Every decoder with its seeds, with what is in `corpus/`, and with changes of these for a while.
//!
//! `WEIR_FUZZ_SECONDS` is how long each goes on (2 by default), `WEIR_FUZZ_SEED` begins where a failure
//! was. What a decoder fails on is told, and kept in the directory for temporary files.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a failed step fails the test

use std::{
    env, fs, panic,
    path::Path,
    time::{Duration, Instant},
};

use weir_fuzz::{
    DECODERS, Decoder,
    mutate::{Random, mutate},
};

/// No input of 64 KiB may take longer, on a busy machine and without optimization too.
const PATIENCE: Duration = Duration::from_secs(5);

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// What was found to be worth keeping: each a file in `corpus/NAME/`.
fn corpus(decoder: &Decoder) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(decoder.name);
    let Ok(files) = fs::read_dir(dir) else { return Vec::new() };
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

fn run(decoder: &Decoder, bytes: &[u8], how: &str) {
    let begun = Instant::now();
    let ended = panic::catch_unwind(|| (decoder.run)(bytes));
    if ended.is_err() || begun.elapsed() > PATIENCE {
        let kept = env::temp_dir().join(format!("weir-fuzz-{}", decoder.name));
        fs::write(&kept, bytes).unwrap();
        panic!("{} fails, {how}, after {:?}: {}", decoder.name, begun.elapsed(), kept.display());
    }
}

#[test]
fn no_bytes_stop_a_decoder() {
    let time = Duration::from_secs(number("WEIR_FUZZ_SECONDS").unwrap_or(2));
    let seed = number("WEIR_FUZZ_SEED").unwrap_or_else(|| std::process::id().into());
    for decoder in DECODERS {
        let mut seeds = (decoder.seeds)();
        seeds.extend(corpus(decoder));
        seeds.iter().for_each(|bytes| run(decoder, bytes, "with a seed"));
        let (begun, mut random, mut rounds) = (Instant::now(), Random::new(seed), 0u64);
        while begun.elapsed() < time {
            let bytes = mutate(&seeds, &mut random);
            run(decoder, &bytes, &format!("WEIR_FUZZ_SEED={seed}, round {rounds}"));
            rounds += 1;
        }
        println!("{}: {rounds} rounds", decoder.name);
    }
}

/// Seeds that are refused at once would test little.
#[test]
fn the_seeds_are_understood() {
    for bytes in (DECODERS[0].seeds)() {
        let told = weir::fuzzing::ring(&bytes);
        assert!(told.len() == 1 && !told.concat().contains('?'), "{told:?}");
    }
    for decoder in DECODERS {
        for bytes in (decoder.seeds)() {
            let understood = match decoder.name {
                "ring" => weir::fuzzing::ring(&bytes).len() == 1,
                "events" => weir::fuzzing::events(&bytes).len() == 2,
                "query" => weir::fuzzing::query(&bytes).is_some(),
                "stdin" => weir::fuzzing::stdin(&bytes).map_err(|err| println!("{err}")).is_ok(),
                "record" => weir::fuzzing::is_record(&bytes),
                "conflist" => weir::fuzzing::conflist(&bytes) == Some(2),
                "overview" => weir::fuzzing::overview(&bytes) == Some(1),
                "receiver" => {
                    weir::fuzzing::receiver(&bytes) == if bytes.is_empty() { 0 } else { 3 }
                }
                _ => true,
            };
            assert!(understood, "{}: {}", decoder.name, bytes.escape_ascii());
        }
    }
}
