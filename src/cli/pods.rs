//! `weir pods`: the attachments of this node, and whether each is counted.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::unistd::geteuid;
use serde::Serialize;

use super::{
    Output,
    places::{Configured, Found},
    print, table,
};
use crate::{
    agent::{
        due::{due, names},
        log,
        roster::{Member, State, join, mark_disconnected},
        totals::GRACE,
    },
    attachment::Attachment,
    cni::mend::A_CALL,
    error::{Context, Kind, Result},
    record::{self, Entry},
    telemetry::{
        Census, Mode, alias_of, census, name_of, pin,
        reader::{Maps, Pod},
        verify, whole,
    },
};

/// Lists the attachments of this node, those within their grace time after DEL included
///
/// TELEMETRY is counted; uncounted (started without: start it anew); deleted; detached (something took its hook
/// off: weir reconcile); disconnected (its interface is gone: let its runtime make it anew); lost (the maps were
/// removed: weir reconcile counts it from 0); other-version (weir reload brings it over); unknown (stderr says why);
/// unrecorded (counted, without a record); or unreadable.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    places: Configured,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Prints the list. Maps that can't be read are said so on stderr: the records are listed all the same.
pub fn run(args: &Args) -> Result<()> {
    let Found { state_dir, bpf_dir } = &args.places.find();
    let journal = record::list(state_dir).map_err(|err| {
        if geteuid().is_root() { err } else { err.details("run as root, whose records they are") }
    })?;
    let (census, pods) = look(bpf_dir);
    let mut members = join(&journal, census.as_ref(), &pods);
    mark_disconnected(&mut members, name_of, alias_of);
    let torn = whole::torn(bpf_dir).unwrap_or_default();
    let mut due = due(&members);
    if !torn.is_empty() {
        // They are lost as long as the pin is.
        due.retain(|due| due.state != State::Lost.word());
        log::say(format_args!("{}; {}", pin::torn_apart(bpf_dir, &torn), pin::TORN_MEND));
    }
    due.iter().for_each(log::say);
    // Why there are no maps is said by what became of those that they were of.
    let unsaid = due.is_empty() && torn.is_empty();
    if unsaid && census.is_some_and(|census| census.here.is_none()) {
        log::say(pin::absent(bpf_dir));
    }
    mark_detached(&mut members, bpf_dir);
    if let Some(doubt) = doubt(state_dir, &journal, &members) {
        log::say(&doubt);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    members.retain(|member| !is_over(&member.state, now));
    print(&match args.output {
        Output::Json => json(&members)?,
        Output::Text => text(&members, now),
    })
}

/// Whether the grace time of one that ended is over: the maps have it until an agent or an ADD in need of room
/// sweeps them. One that ended in the future did by a clock that was wrong.
fn is_over(state: &State, now: Duration) -> bool {
    match state {
        State::Deleted(at) => now.saturating_sub(*at) >= GRACE || at.saturating_sub(now) >= GRACE,
        _ => false,
    }
}

/// Who is counted, and the pods of this version's maps; of what can't be read stderr says why.
fn look(bpf_dir: &Path) -> (Option<Census>, BTreeMap<u32, Pod>) {
    let said = |err| log::say(&err);
    let census = census(bpf_dir).map_err(said).ok();
    if census.as_ref().is_none_or(|census| census.here.is_none()) {
        return (census, BTreeMap::new());
    }
    match Maps::open(bpf_dir).and_then(|maps| maps.snapshot()) {
        Ok(snapshot) => (census, snapshot.pods),
        Err(err) => {
            // Of pins that were removed it is said with the rest.
            if whole::torn(bpf_dir).is_ok_and(|torn| torn.is_empty()) {
                log::say(&err);
            }
            (None, BTreeMap::new())
        }
    }
}

/// Those that have a record, and are not counted any more. A call that runs meanwhile is none of them: what it
/// has not made yet, or has taken away already, is otherwise a moment later.
///
/// # Errors
/// Those of [`record::list`] and [`census`].
pub(super) fn uncounted(state_dir: &Path, bpf_dir: &Path) -> Result<Vec<Member>> {
    let look = || -> Result<Vec<Member>> {
        let journal = record::list(state_dir)?;
        if journal.is_empty() {
            return Ok(Vec::new());
        }
        let mut members = join(&journal, Some(&census(bpf_dir)?), &BTreeMap::new());
        mark_disconnected(&mut members, name_of, alias_of);
        mark_detached(&mut members, bpf_dir);
        let is =
            |state: &State| matches!(state, State::Lost | State::Detached | State::Disconnected);
        members.retain(|member| is(&member.state));
        Ok(members)
    };
    let first = look()?;
    if first.is_empty() {
        return Ok(first);
    }
    thread::sleep(A_CALL);
    let mut second = look()?;
    let same =
        |a: &Member, b: &Member| (&a.container_id, &a.ifname) == (&b.container_id, &b.ifname);
    second.retain(|now| first.iter().any(|then| same(then, now)));
    Ok(second)
}

/// Marks those whose hooks are not on their interface; of whom that can't be told stderr says why.
fn mark_detached(members: &mut [Member], bpf_dir: &Path) {
    for member in members {
        let Some((ifindex, attached)) = member.hooked() else { continue };
        match verify(bpf_dir, ifindex, &attached) {
            Err(err) if err.kind() == Kind::Difference => member.state = State::Detached,
            // A reload stands still with the pins, which proves nothing.
            Err(err) if err.kind() == Kind::TryAgain => {}
            Err(err) => {
                let names = names(&[member]);
                log::say(format_args!("whether {names} is counted can't be told: {err}"));
                member.state = State::Unknown;
            }
            Ok(()) => {}
        }
    }
}

/// What to think of a state dir without a record.
fn doubt(state_dir: &Path, journal: &[(Attachment, Entry)], members: &[Member]) -> Option<String> {
    let mend = "if the configuration has another stateDir, give it by --state-dir";
    let shown = state_dir.display();
    match members.iter().filter(|member| member.state == State::Unrecorded).count() {
        _ if !journal.is_empty() => None,
        0 if state_dir.exists() => None,
        0 => Some(format!("{shown} does not exist: no pod was started since the boot; {mend}")),
        pods => {
            Some(format!("{shown} has no record, and yet pods are counted, {pods} of them; {mend}"))
        }
    }
}

/// An attachment, as a program reads it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    network: &'a str,
    namespace: &'a str,
    pod: &'a str,
    uid: &'a str,
    container_id: &'a str,
    ifname: &'a str,
    host_ifindex: Option<u32>,
    addresses: &'a [IpAddr],
    hook: Option<Mode>,
    telemetry: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    /// Seconds since the Unix epoch; null while the pod lives.
    deleted: Option<u64>,
    /// Why the record can't be read; null if it can.
    unreadable: Option<&'a str>,
    /// The layout whose maps have the totals, where it is another version's.
    layout: Option<&'a str>,
}

impl<'a> From<&'a Member> for Line<'a> {
    fn from(member: &'a Member) -> Self {
        Self {
            network: &member.network,
            namespace: &member.namespace,
            pod: &member.pod,
            uid: &member.uid,
            container_id: &member.container_id,
            ifname: &member.ifname,
            host_ifindex: member.host_ifindex,
            addresses: &member.addresses,
            hook: member.hook,
            telemetry: member.state.word(),
            created: member.created.as_secs(),
            deleted: match member.state {
                State::Deleted(at) => Some(at.as_secs()),
                _ => None,
            },
            unreadable: match &member.state {
                State::Unreadable(why) => Some(why),
                _ => None,
            },
            layout: match &member.state {
                State::OtherVersion(layout) => Some(layout),
                _ => None,
            },
        }
    }
}

fn json(members: &[Member]) -> Result<String> {
    let lines: Vec<Line<'_>> = members.iter().map(Line::from).collect();
    let json = serde_json::to_string_pretty(&lines);
    json.map(|json| json + "\n").context(Kind::Io, || "can't write the list as JSON".into())
}

fn text(members: &[Member], now: Duration) -> String {
    let header = ["NAMESPACE", "POD", "IFNAME", "ADDRESSES", "NETWORK", "HOOK", "AGE", "TELEMETRY"];
    let mut rows = vec![header.map(String::from).to_vec()];
    rows.extend(members.iter().map(|member| {
        let addresses: Vec<_> = member.addresses.iter().map(IpAddr::to_string).collect();
        vec![
            dash(&member.namespace),
            dash(&member.pod),
            dash(&member.ifname),
            dash(&addresses.join(" ")),
            dash(&member.network),
            match member.hook {
                Some(Mode::Clsact) => "clsact".to_owned(),
                Some(Mode::Tcx) => "tcx".to_owned(),
                None => dash(""),
            },
            age(now.saturating_sub(member.created)),
            match &member.state {
                State::Deleted(at) => format!("deleted {} ago", age(now.saturating_sub(*at))),
                State::Unreadable(why) => format!("unreadable: {why}"),
                state => state.word().to_owned(),
            },
        ]
    }));
    table::render(&rows)
}

/// An empty cell would shift the columns of whoever cuts the table by words.
fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
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

    fn member(pod: &str, state: State) -> Member {
        Member {
            network: "podnet".into(),
            namespace: String::new(),
            pod: pod.into(),
            uid: "u1".into(),
            container_id: "c1".into(),
            ifname: "eth0".into(),
            attachment: Some(1),
            host_ifindex: Some(7),
            host_ifname: None,
            host_alias: None,
            addresses: vec!["10.88.0.2".parse().unwrap(), "fd00:88::2".parse().unwrap()],
            hook: Some(Mode::Tcx),
            created: Duration::from_secs(1_000),
            state,
        }
    }

    #[test]
    fn an_attachment_is_one_line_with_its_age_and_state() {
        let deleted = State::Deleted(Duration::from_secs(4_700));
        assert_eq!(
            text(&[member("web", deleted)], Duration::from_secs(4_730)),
            "NAMESPACE  POD  IFNAME  ADDRESSES             NETWORK  HOOK  AGE   TELEMETRY\n\
             -          web  eth0    10.88.0.2 fd00:88::2  podnet   tcx   1h2m  deleted 30s ago\n"
        );
    }

    #[test]
    fn who_ended_longer_ago_than_the_grace_time_is_not_listed() {
        let ended = |at: u64| is_over(&State::Deleted(Duration::from_secs(at)), GRACE * 10);
        assert_eq!(
            [0, 539, 540, 541, 600, 659, 660].map(ended),
            [true, true, true, false, false, false, true]
        );
        assert!(!is_over(&State::Counted, GRACE));
    }

    #[test]
    fn a_state_dir_without_a_record_is_doubted_where_pods_are_counted() {
        let dir = std::env::temp_dir();
        let stray =
            [member("web", State::Unrecorded), member("old", State::Deleted(Duration::ZERO))];
        let doubted = |dir: &Path, members: &[Member]| doubt(dir, &[], members);
        assert!(doubted(&dir, &stray).unwrap().contains("pods are counted, 1 of them"));
        assert!(doubted(Path::new("/no/such"), &[]).unwrap().contains("/no/such does not exist"));
        assert_eq!(doubted(&dir, &stray[1..]), None);
        let one = [(Attachment::new("c1", "eth0").unwrap(), Entry::Absent)];
        assert_eq!(doubt(&dir, &one, &stray), None);
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        let hostile = member("\u{1b}[2J\nroot\u{202e}", State::Counted);
        let text = text(&[hostile], Duration::from_secs(1_000));
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }

    #[test]
    fn json_has_one_object_an_attachment() {
        let members = [
            member("web", State::Counted),
            member("bad", State::Unreadable("x".into())),
            member("old", State::OtherVersion("0123".into())),
        ];
        let json: serde_json::Value = serde_json::from_str(&json(&members).unwrap()).unwrap();
        assert_eq!(json[0]["containerId"], "c1");
        assert_eq!(json[0]["hook"], "tcx");
        assert_eq!(json[0]["telemetry"], "counted");
        assert_eq!(json[0]["deleted"], serde_json::Value::Null);
        assert_eq!(json[0]["addresses"][1], "fd00:88::2");
        assert_eq!(json[1]["unreadable"], "x");
        let elsewhere = [&json[2]["telemetry"], &json[2]["layout"]];
        assert_eq!(elsewhere, ["other-version", "0123"]);
    }
}
