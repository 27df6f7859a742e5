//! What a process has used.

use std::{fs, time::Duration};

/// Time on a processor, of all threads that it has now.
pub fn time(pid: u32) -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}
