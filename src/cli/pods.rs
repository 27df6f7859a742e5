//! `weir pods`: the attachments of this node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Output, Places, print, table};
use crate::{
    error::{Context, Kind, Result},
    telemetry::{
        Mode,
        reader::{Maps, Pod, Snapshot},
    },
};

/// Lists the attachments of this node, those within their grace time after DEL included.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    places: Places,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// An attachment, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    namespace: &'a str,
    pod: &'a str,
    uid: &'a str,
    container_id: &'a str,
    ifname: &'a str,
    host_ifindex: u32,
    hook: Mode,
    /// Seconds since the Unix epoch.
    created: u64,
    deleted: Option<u64>,
}

impl<'a> From<&'a Pod> for Line<'a> {
    fn from(pod: &'a Pod) -> Self {
        Self {
            namespace: &pod.namespace,
            pod: &pod.pod,
            uid: &pod.uid,
            container_id: &pod.container_id,
            ifname: &pod.ifname,
            host_ifindex: pod.ifindex,
            hook: pod.mode,
            created: pod.created.as_secs(),
            deleted: pod.deleted.map(|deleted| deleted.as_secs()),
        }
    }
}

/// Prints the list.
pub fn run(args: &Args) -> Result<()> {
    let snapshot = Maps::open(&args.places.bpf_dir)?.snapshot()?;
    print(&match args.output {
        Output::Json => json(&snapshot)?,
        Output::Text => {
            text(&snapshot, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
        }
    })
}

fn json(snapshot: &Snapshot) -> Result<String> {
    let lines: Vec<Line<'_>> = snapshot.pods.values().map(Line::from).collect();
    let json = serde_json::to_string_pretty(&lines);
    json.map(|json| json + "\n").context(Kind::Io, || "can't write the list as JSON".into())
}

fn text(snapshot: &Snapshot, now: Duration) -> String {
    let header =
        ["NAMESPACE", "POD", "IFNAME", "HOST IF", "HOOK", "AGE", "STATE"].map(String::from);
    let mut rows = vec![header.to_vec()];
    rows.extend(snapshot.pods.values().map(|pod| {
        vec![
            pod.namespace.clone(),
            pod.pod.clone(),
            pod.ifname.clone(),
            pod.ifindex.to_string(),
            match pod.mode {
                Mode::Clsact => "clsact".to_owned(),
                Mode::Tcx => "tcx".to_owned(),
            },
            age(now.saturating_sub(pod.created)),
            match pod.deleted {
                None => "counted".to_owned(),
                Some(deleted) => format!("deleted {} ago", age(now.saturating_sub(deleted))),
            },
        ]
    }));
    table::render(&rows)
}

/// Two units at most, as kubectl does.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match (seconds / 86_400, seconds / 3_600, seconds / 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{}m", minutes % 60),
        (days, hours, _) => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(pod: &str, deleted: Option<u64>) -> Snapshot {
        let pod = Pod {
            namespace: "shop".into(),
            pod: pod.into(),
            uid: "u1".into(),
            container_id: "c1".into(),
            ifname: "eth0".into(),
            created: Duration::from_secs(1_000),
            deleted: deleted.map(Duration::from_secs),
            ifindex: 7,
            mode: Mode::Tcx,
            network: Default::default(),
        };
        Snapshot { pods: [(1, pod)].into(), ..Snapshot::default() }
    }

    #[test]
    fn an_attachment_is_one_line_with_its_age_and_state() {
        let text = text(&snapshot("web", Some(4_700)), Duration::from_secs(4_730));
        assert_eq!(
            text,
            "NAMESPACE  POD  IFNAME  HOST IF  HOOK  AGE   STATE\n\
             shop       web  eth0    7        tcx   1h2m  deleted 30s ago\n"
        );
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        let text = text(&snapshot("\u{1b}[2J\nroot", None), Duration::from_secs(1_000));
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn json_has_one_object_an_attachment() {
        let json: serde_json::Value =
            serde_json::from_str(&json(&snapshot("web", None)).unwrap()).unwrap();
        assert_eq!(json[0]["containerId"], "c1");
        assert_eq!(json[0]["hook"], "tcx");
        assert_eq!(json[0]["deleted"], serde_json::Value::Null);
    }
}
