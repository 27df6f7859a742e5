//! Strikes: which system calls a call makes, and the same call with one of them struck.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::Path,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::plugin::{Answer, Call};

/// Signal and exit status of what was killed, through `timeout` and `strace`.
const KILLED: i32 = 128 + 9;
/// What a failing system call says.
pub const ERRORS: [&str; 4] = ["ENOSPC", "EIO", "ENOMEM", "EPERM"];

/// What befalls the `nth` call of a system call.
#[derive(Debug, Clone, Hash)]
pub struct Strike {
    syscall: String,
    nth: usize,
    blow: Blow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Blow {
    /// The process is killed instead.
    Kill,
    /// The system call isn't made and says this.
    Fail(&'static str),
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{} {:?}", self.syscall, self.nth, self.blow)
    }
}

/// A call that was struck.
pub struct Struck {
    pub answer: Answer,
    /// Whether the strike hit: the call may have taken another way this time.
    pub hit: bool,
    /// Whether it hit more than once: it befalls each process, of which another IPAM plugin's are some.
    pub again: bool,
    pub killed: bool,
}

/// One system call, as `strace` lists it.
struct Made {
    syscall: String,
    nth: usize,
    /// What follows the name.
    rest: String,
}

/// The system calls of a call, which is made.
pub struct Course(Vec<Made>);

impl Course {
    /// Makes the call, which must succeed.
    pub fn of(call: Call<'_>, scratch: &Path) -> Self {
        let log = scratch.join("course");
        let call = call.under(strace(&log, &["-e".into(), "trace=all".into()]));
        call.succeed();
        let text = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        // Another IPAM plugin's threads don't run alike twice; strace counts for each by itself, so
        // that some strikes befall them all the same.
        let own = text.split(' ').next().unwrap();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let made = text.lines().filter_map(|line| {
            let (process, line) = line.split_once(' ')?;
            let (syscall, rest) = line.trim_start().split_once('(')?;
            let named = syscall.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !named || process != own {
                return None;
            }
            let count = counts.entry(syscall).or_default();
            *count += 1;
            Some(Made { syscall: syscall.to_owned(), nth: *count, rest: rest.to_owned() })
        });
        let made: Vec<_> = made.collect();
        // Before that it is the C and the Rust library that start, and nothing has been begun.
        let begun =
            made.iter().position(|made| made.syscall == "read" && made.rest.starts_with("0,"));
        let made: Vec<_> = made.into_iter().skip(begun.unwrap()).collect();
        assert!(made.len() > 20, "only {} system calls were seen", made.len());
        Self(made)
    }

    /// The course up to where the record says that all is made: an ADD that is killed after that is
    /// as good as done, though nobody may have heard of it.
    pub fn but_the_answer(mut self) -> Self {
        let done = self.0.iter().rposition(|made| made.syscall.starts_with("rename"));
        self.0.truncate(done.unwrap() + 1);
        self
    }

    /// The course of a load from where libbpf has done with trying what the kernel can. Told that this
    /// can less than it can, it loads another program, over which a verifier sits for half a minute.
    pub fn after_the_probes(mut self) -> Self {
        let last = self.0.iter().rposition(|made| made.rest.starts_with("BPF_BTF_LOAD"));
        self.0.drain(..=last.unwrap());
        self
    }

    /// A kill at each system call, or a sample of one in `sample`.
    pub fn kills(&self, sample: u64) -> Vec<Strike> {
        self.strikes(&[Blow::Kill], sample, |_| true)
    }

    /// A failure of each system call by each error, or a sample of one in `sample`; not where the
    /// answer is written or the process ends.
    pub fn failures(&self, sample: u64) -> Vec<Strike> {
        let speaks = |made: &Made| {
            let says = made.rest.starts_with("1,") || made.rest.starts_with("2,");
            made.syscall == "write" && says
        };
        // The kernel refuses a new break by the old one, which an injected error isn't; and what it says
        // of a file that it closes, it closes it.
        let never = |made: &Made| ["brk", "close", "exit", "exit_group"].contains(&&*made.syscall);
        self.strikes(&ERRORS.map(Blow::Fail), sample, |made| !speaks(made) && !never(made))
    }

    /// A failure by each error of each system call that says this.
    pub fn failures_of(&self, what: &str) -> Vec<Strike> {
        let all = self.strikes(&ERRORS.map(Blow::Fail), 1, |made| made.rest.contains(what));
        assert!(!all.is_empty(), "nothing says {what}");
        all
    }

    fn strikes(&self, blows: &[Blow], sample: u64, wanted: impl Fn(&Made) -> bool) -> Vec<Strike> {
        let all = self.0.iter().filter(|made| wanted(made)).flat_map(|made| {
            blows.iter().map(|&blow| Strike { syscall: made.syscall.clone(), nth: made.nth, blow })
        });
        let mut all: Vec<_> = all.collect();
        if env::var_os("WEIR_TORTURE").is_some_and(|value| value == "1") {
            return all;
        }
        let drawn = (all.len() as u64).div_ceil(sample);
        all.sort_by_cached_key(|strike| {
            let mut hasher = DefaultHasher::new();
            (seed(), strike).hash(&mut hasher);
            hasher.finish()
        });
        all.truncate(usize::try_from(drawn).unwrap());
        all
    }
}

/// What the samples are drawn by: the same in each run, so that a change is judged by what it changed, unless
/// `WEIR_SEED` says another. It is told past the test harness, which keeps what a test prints to itself.
fn seed() -> &'static str {
    static SEED: OnceLock<String> = OnceLock::new();
    SEED.get_or_init(|| {
        let seed = env::var("WEIR_SEED").unwrap_or_else(|_| "1".to_owned());
        let told = format!("kill: WEIR_SEED={seed} strikes these system calls again\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
        seed
    })
}

/// Makes the call, which must succeed, while each process waits half a second for the answer to its first
/// message to the kernel; says whether the first process is the first to end.
pub fn leaves_the_wait_to_another(call: Call<'_>, scratch: &Path) -> bool {
    let log = scratch.join("slow");
    let mut words = strace(&log, &["-e".into(), "trace=sendto".into()]);
    words.retain(|word| word != "-qq");
    words.extend(["-e".into(), "inject=sendto:delay_exit=500000:when=1".into()]);
    call.under(words).succeed();
    let text = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let process = |line: &'_ str| line.split(' ').next().map(str::to_owned);
    let ends: Vec<_> =
        text.lines().filter(|line| line.contains("+++ exited")).map(process).collect();
    assert!(ends.len() > 1, "{text}");
    ends.first() == text.lines().next().map(process).as_ref()
}

/// Tries every strike; `attempt` says whether it hit, which nearly all must: of a small sample all but two,
/// and one in any case.
pub fn each(strikes: &[Strike], mut attempt: impl FnMut(&Strike) -> bool) {
    let mut progress = Progress::new(strikes.len());
    let missed: Vec<_> = strikes
        .iter()
        .skip(progress.begun)
        .filter(|strike| {
            progress.step();
            !attempt(strike)
        })
        .collect();
    let most = (strikes.len() / 10).max(2).min(strikes.len() - 1);
    assert!(missed.len() <= most, "of {} strikes these missed: {missed:?}", strikes.len());
}

/// Says every ten seconds how far a test is, past the test harness.
struct Progress {
    begun: usize,
    of: usize,
    said: Instant,
}

impl Progress {
    /// `WEIR_STRIKE=N` begins with the Nth: one test's, where it ended before.
    fn new(of: usize) -> Self {
        let first = env::var("WEIR_STRIKE").map_or(1, |first| first.parse().unwrap());
        assert!((1..=of).contains(&first), "there is no strike {first} of {of}");
        Self { begun: first - 1, of, said: Instant::now() }
    }

    fn step(&mut self) {
        self.begun += 1;
        if self.said.elapsed() < Duration::from_secs(10) {
            return;
        }
        self.said = Instant::now();
        let thread = thread::current();
        let test = thread.name().unwrap_or("?");
        let said = format!("kill: {test}: strike {} of {}\n", self.begun, self.of);
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
}

impl Strike {
    /// A kill of the process that DEL leaves with the kernel, before it has asked for anything.
    pub fn of_the_one_aside() -> Self {
        Self { syscall: "setsid".into(), nth: 1, blow: Blow::Kill }
    }

    /// Makes the call under the strike.
    pub fn on(&self, call: Call<'_>, scratch: &Path) -> Struck {
        let log = scratch.join("strike");
        let blow = match self.blow {
            Blow::Kill => "signal=KILL".to_owned(),
            Blow::Fail(error) => format!("error={error}"),
        };
        let inject = format!("inject={}:{blow}:when={}", self.syscall, self.nth);
        let trace = format!("trace={}", self.syscall);
        let words = strace(&log, &["-e".into(), trace, "-e".into(), inject]);
        // Another IPAM plugin is struck, too, and may hang until its time is over.
        let answer = call.under(words).within(70).answer();
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        assert!(!text.contains("INJECTED") || self.blow != Blow::Kill);
        let killed = answer.code == Some(KILLED) || answer.code.is_none();
        let hits = text.matches("INJECTED").count() + text.matches("killed by SIGKILL").count();
        Struck { hit: hits > 0, again: hits > 1, killed, answer }
    }
}

impl Struck {
    /// Fails unless the answer is one JSON object as the spec wants it; says whether it is a success.
    pub fn told(&self, strike: &Strike) -> bool {
        let Answer { code, stdout, stderr } = &self.answer;
        let said = format!("{strike}: {code:?} {stdout}{stderr}");
        if *code == Some(0) {
            return true;
        }
        assert_eq!(*code, Some(1), "{said}");
        let error: Value = serde_json::from_str(stdout).expect(&said);
        // Another IPAM plugin, which is struck too, has its own codes and words.
        let others = error["details"].as_str().is_some_and(|of| of.starts_with("from IPAM plugin"));
        let code = error["code"].as_u64();
        assert!(code.is_some_and(|code| code > 0 && (others || code != 999)), "{said}");
        assert!(error["msg"].as_str().is_some_and(|msg| others || msg.len() > 10), "{said}");
        false
    }
}

fn strace(log: &Path, more: &[String]) -> Vec<String> {
    let words = ["strace", "-f", "-qq", "-o", log.to_str().unwrap()];
    words.iter().map(|&word| word.to_owned()).chain(more.iter().cloned()).collect()
}
