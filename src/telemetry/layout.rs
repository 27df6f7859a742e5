//! The name of the layout of everything that is pinned: maps of another layout are never opened.
//!
//! It is made of what a compiler makes of the headers: a comment that is put better, or a line that is broken
//! elsewhere, is no other layout, or each of them would cost every connection that is open in an upgrade. `build.rs`
//! takes it from here.

use std::{
    fs,
    hash::{DefaultHasher, Hasher},
    io,
    path::{Path, PathBuf},
};

/// The headers that define what is in maps and records, all of whose words count.
const WHOLE: [&str; 4] = ["wire.h", "wire_merge.h", "conn.h", "maps.h"];

/// The name's number, of the headers in `bpf` and of a definition that the compiler is given. Of other headers than
/// the four the enumerations count, for a parser's place in a message is in the maps, too.
///
/// # Errors
/// Those of reading the directory.
pub fn name(bpf: &Path, definition: &str) -> io::Result<u64> {
    let mut rest: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(bpf)? {
        let path = entry?.path();
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if file.ends_with(".h") && !WHOLE.contains(&file) {
            rest.push(path);
        }
    }
    rest.sort();
    let whole = WHOLE.iter().map(|file| fs::read_to_string(bpf.join(file)));
    let rest = rest.iter().map(fs::read_to_string);
    Ok(hash(
        definition,
        &whole.collect::<Result<Vec<_>, _>>()?,
        &rest.collect::<Result<Vec<_>, _>>()?,
    ))
}

fn hash(definition: &str, whole: &[String], rest: &[String]) -> u64 {
    // DefaultHasher::new() has fixed keys; a compiler that changes it costs one more layout.
    let mut hasher = DefaultHasher::new();
    let mut add = |word: &str| {
        hasher.write(word.as_bytes());
        // No word has a line's end in it.
        hasher.write(b"\n");
    };
    add(definition);
    whole.iter().flat_map(|text| words(text)).for_each(&mut add);
    rest.iter().flat_map(|text| enumerations(&words(text))).for_each(&mut add);
    hasher.finish()
}

/// Names, numbers, texts and signs, without comments and blank space.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let name = |c: char| c.is_alphanumeric() || c == '_';
        let (length, counts) = if first.is_whitespace() {
            (first.len_utf8(), false)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), false)
        } else if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("\\\n") {
            (2, false)
        } else if first == '"' {
            (rest[1..].find('"').map_or(rest.len(), |end| end + 2), true)
        } else if name(first) {
            (rest.find(|c| !name(c)).unwrap_or(rest.len()), true)
        } else {
            (first.len_utf8(), true)
        };
        let (word, behind) = rest.split_at(length);
        if counts {
            words.push(word);
        }
        rest = behind;
    }
    words
}

/// The words of the enumerations among them.
fn enumerations<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = words;
    while let Some(begin) = rest.iter().position(|word| *word == "enum") {
        rest = &rest[begin..];
        let is_one = rest.iter().take(3).any(|word| *word == "{");
        let end = if is_one { rest.iter().position(|word| *word == "}") } else { None };
        let end = end.map_or(1, |end| end + 1);
        if is_one {
            found.extend_from_slice(&rest[..end]);
        }
        rest = &rest[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const BPF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf");

    fn of(whole: &str, rest: &str) -> u64 {
        hash("", &[whole.to_owned()], &[rest.to_owned()])
    }

    #[test]
    fn a_comment_or_a_broken_line_is_no_other_layout_and_all_else_is() {
        let this = of("/* why */\nstruct a {\n\t__u32 b; // c\n};\n#define D \\\n\t4\n", "");
        assert_eq!(this, of("struct a { __u32 b; };\n#define D 4 /* is\nso */\n", ""));
        for other in ["struct a { __u64 b; };\n#define D 4", "struct a { __u32 b; };\n#define D 5"]
        {
            assert_ne!(this, of(other, ""));
        }
        assert_ne!(of("int ab;", ""), of("int a b;", ""));
        // A text may look like a comment.
        assert_ne!(of("SEC(\"//a\")", ""), of("SEC(\"//b\")", ""));
        assert_ne!(hash("", &[], &[]), hash("-DX", &[], &[]));
    }

    #[test]
    fn of_other_headers_the_enumerations_count() {
        let this = of("", "enum s { A = 0, B }; /* x */ int f(enum s t) { return 1; }");
        assert_eq!(this, of("", "int g(void) { return 2; }\nenum s {\n\tA = 0, // first\n\tB\n};"));
        assert_ne!(this, of("", "enum s { B = 0, A };"));
    }

    #[test]
    fn the_pins_have_the_name_of_these_headers() {
        let definition = if cfg!(feature = "other-layout") { "-DWEIR_OTHER_LAYOUT" } else { "" };
        let name = name(Path::new(BPF), definition).unwrap();
        assert_eq!(crate::telemetry::pin::SCHEMA, format!("{name:016x}"));
        // That a stage of a parser's counts.
        let kafka = fs::read_to_string(Path::new(BPF).join("kafka.h")).unwrap();
        assert!(enumerations(&words(&kafka)).contains(&"kafka_stage"));
    }

    /// The maps that are declared in headers of these names, or in the others.
    fn declared(whole: bool) -> BTreeSet<String> {
        let mut maps = BTreeSet::new();
        for entry in fs::read_dir(BPF).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if WHOLE.contains(&name) == whole && (name.ends_with(".h") || name.ends_with(".c")) {
                let text = fs::read_to_string(&path).unwrap();
                let words = words(&text);
                let sections = words.windows(4).filter(|four| four[1..3] == ["SEC", "("]);
                let sections = sections.filter(|four| four[3] == "\".maps\"");
                maps.extend(sections.map(|four| four[0].to_owned()));
            }
        }
        maps
    }

    #[test]
    fn a_pinned_map_more_or_less_is_another_layout() {
        let pinned = crate::telemetry::whole::MAPS.map(str::to_owned);
        assert_eq!(declared(true), pinned.into());
        // Of scratch each load has its own.
        assert_eq!(declared(false), ["cursors".to_owned()].into());
        let maps = fs::read_to_string(Path::new(BPF).join("maps.h")).unwrap();
        let (before, last) = maps.rsplit_once("struct {").unwrap();
        let behind = last.split_once("SEC(\".maps\");").unwrap().1;
        assert_ne!(of(&maps, ""), of(&format!("{before}{behind}"), ""));
    }

    /// Every number of the enumerations in wire.h and wire_merge.h, as the compiler gave it; how many there are is
    /// none.
    fn numbers() -> BTreeMap<String, u32> {
        let wire = ["wire.h", "wire_merge.h"];
        let wire = wire.map(|file| fs::read_to_string(Path::new(BPF).join(file)).unwrap()).concat();
        let words = enumerations(&words(&wire));
        let mut ours: Vec<&str> =
            words.windows(2).filter(|two| two[0] == "enum").map(|two| two[1]).collect();
        let skeleton = include_str!(concat!(env!("OUT_DIR"), "/weir.skel.rs"));
        let (mut found, mut within) = (BTreeMap::new(), None);
        for line in skeleton.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("impl ").and_then(|rest| rest.strip_suffix(" {"))
            {
                within = Some(name).filter(|name| words.contains(name));
                ours.retain(|ours| *ours != name);
            }
            let constant =
                line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": Self = Self("));
            if let (Some(of), Some((constant, number))) = (within, constant)
                && !constant.ends_with("_MAX")
            {
                let number = number.trim_end_matches(");").parse().unwrap();
                found.insert(format!("{of} {constant}"), number);
            }
        }
        assert!(ours.is_empty(), "not in the skeleton: {ours:?}");
        found
    }

    #[test]
    fn a_number_keeps_its_meaning() {
        let given = include_str!("numbers.txt").lines().filter(|line| !line.starts_with('#'));
        let given: BTreeMap<String, u32> = given
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, number)| (name.to_owned(), number.parse().unwrap()))
            .collect();
        let numbers = numbers();
        let told = |(name, number): (&String, &u32)| format!("{name} {number}");
        let changed = given.iter().filter(|(name, number)| numbers.get(*name) != Some(number));
        let changed: Vec<_> = changed.map(told).collect();
        assert!(changed.is_empty(), "a reload takes these for what they were: {changed:#?}");
        let new: Vec<_> =
            numbers.iter().filter(|(name, _)| !given.contains_key(*name)).map(told).collect();
        assert!(new.is_empty(), "put these into src/telemetry/numbers.txt:\n{}", new.join("\n"));
    }
}
