//! How every bench tells what it measured: rows of one form, printed as a table, and put down as lines of JSON
//! where `WEIR_BENCH_ROWS` names a file, so that `make bench` can print one table of all of them.

pub mod lines;
pub mod row;
pub mod text;

use std::{
    env,
    fmt::Display,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::SystemTime,
};

use nix::sys::utsname::uname;

use lines::{Line, Run};
pub use row::Row;

/// Names the file that rows are appended to.
pub const ROWS: &str = "WEIR_BENCH_ROWS";

/// The rows of a bench that runs.
pub struct Rows {
    run: Run,
    /// Opened before the bench moves to namespaces of its own, where the file may have another path.
    file: Option<File>,
}

impl Rows {
    fn begin(bench: &str) -> io::Result<Self> {
        let file = match env::var_os(ROWS) {
            Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
            None => None,
        };
        let mut command = format!("cargo bench --bench {bench}");
        let arguments: Vec<_> = arguments().collect();
        if !arguments.is_empty() {
            command = format!("{command} -- {}", arguments.join(" "));
        }
        let mut rows = Self { run: Run::new(bench, &command), file };
        rows.put(&Line::Begun { bench: bench.to_owned(), command })?;
        Ok(rows)
    }

    /// Adds one.
    pub fn add(&mut self, row: Row) -> io::Result<()> {
        self.put(&Line::Row { bench: self.run.bench.clone(), row: row.clone() })?;
        self.run.rows.push(row);
        Ok(())
    }

    fn end(&mut self, error: Option<String>) -> io::Result<()> {
        self.put(&Line::Ended { bench: self.run.bench.clone(), error: error.clone() })?;
        self.run.failed = error;
        Ok(())
    }

    fn put(&mut self, line: &Line) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(line.written()?.as_bytes()),
            None => Ok(()),
        }
    }
}

/// What the bench was started with: Cargo itself adds `--bench`.
pub fn arguments() -> impl Iterator<Item = String> {
    env::args().skip(1).filter(|argument| argument != "--bench")
}

/// The number that the bench was started with, else `usual`.
pub fn number<N>(name: &str, usual: N) -> Result<N, String>
where
    N: std::str::FromStr<Err: Display>,
{
    match arguments().next() {
        Some(number) => number.parse().map_err(|err| format!("{name} {number:?}: {err}")),
        None => Ok(usual),
    }
}

/// Has a bench measure, and prints its rows; of one that fails, those that it had until then.
pub fn bench<E: Display>(name: &str, measure: impl FnOnce(&mut Rows) -> Result<(), E>) -> ExitCode {
    let told = || -> io::Result<bool> {
        let mut rows = Rows::begin(name)?;
        // What benches share with tests panics.
        let measured = catch_unwind(AssertUnwindSafe(|| measure(&mut rows)));
        rows.end(match measured {
            Ok(measured) => measured.err().map(|err| err.to_string()),
            Err(_) => Some("it panicked, in words on its stderr".to_owned()),
        })?;
        let text = text::table(&heading()?, &[rows.run.clone()]);
        io::stdout().write_all(text.as_bytes())?;
        Ok(rows.run.failed.is_none())
    };
    match told() {
        Ok(true) => ExitCode::SUCCESS,
        // Its words are in the table.
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("{name} bench: can't tell what it measured: {err}");
            ExitCode::FAILURE
        }
    }
}

/// When and where: the date, the processors, the kernel.
pub fn heading() -> io::Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let models: Vec<_> = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model)
        .collect();
    let model = models.first().copied().unwrap_or("unknown processor");
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor\t")).count();
    let kernel = uname()?.release().to_string_lossy().into_owned();
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    Ok(format!("{now}; {count} x {model}; Linux {kernel}"))
}
