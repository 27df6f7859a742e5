//! The judgements: from what was found to a line of the diagnosis. Pure.

use std::path::Path;

use super::Finding;
use crate::{
    error::{Error, Result},
    telemetry::pin,
};

/// `bpf_loop`, without which the verifier refuses the loop over the messages of a packet.
const NEEDED: (u32, u32) = (5, 17);
/// The oldest kernel that the tests run on.
const TESTED: (u32, u32) = (6, 1);
/// tcx links.
const TCX: (u32, u32) = (6, 6);

/// Capabilities by their bit in `CapEff` (linux/capability.h), which plugin and agent use.
const CAPABILITIES: [(&str, u32); 3] =
    [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

/// Major and minor of a release such as `6.1.0-37-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Judges `uname -r`.
pub fn kernel(release: &str) -> Finding {
    let says = format!("Linux {release}");
    match version(release) {
        Some(found) if found >= TESTED => Finding::ok("kernel", says),
        Some(found) if found >= NEEDED => {
            Finding::warn("kernel", says, "the oldest kernel that is tested is Linux 6.1")
        }
        _ => Finding::fail(
            "kernel",
            says,
            "pods get their network, but counting needs Linux 5.17 or newer, better 6.1",
        ),
    }
}

/// Judges the `CapEff` line of `/proc/self/status`.
pub fn privileges(status: &str) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Finding::ok("privileges", "all capabilities that the plugin needs");
    }
    Finding::warn(
        "privileges",
        format!("without {}", missing.join(", ")),
        "run as root, as the runtime runs the plugin; what follows is this user's view",
    )
}

/// Judges `net.core.bpf_jit_enable`; only the first network namespace shows it.
pub fn jit(setting: Option<&str>) -> Finding {
    match setting.map(str::trim) {
        Some("0") => Finding::warn(
            "jit",
            "BPF programs are interpreted: counting costs several times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Finding::ok("jit", "BPF programs are compiled"),
        None => Finding::warn(
            "jit",
            "net.core.bpf_jit_enable is not to be seen",
            "run doctor in the host's network namespace; or the kernel was built without BPF_JIT",
        ),
    }
}

/// Judges the layouts of other versions that are pinned; nothing to say of none.
pub fn layouts(others: &[String]) -> Option<Finding> {
    let warn = || Finding::warn("version", pin::others(others), pin::OTHERS_MEND);
    (!others.is_empty()).then(warn)
}

/// Judges the pins that are [missing](crate::telemetry::whole::torn) where others are; nothing to say of none.
pub fn pins(bpf_dir: &Path, torn: &[String]) -> Option<Finding> {
    let warn = || Finding::warn("pins", pin::torn_apart(bpf_dir, torn), pin::TORN_MEND);
    (!torn.is_empty()).then(warn)
}

/// Weir's programs carry no relocations, so this is for information.
pub fn btf(present: bool) -> Finding {
    let says = if present { "present (not needed)" } else { "absent (not needed)" };
    Finding::ok("btf", says)
}

/// Judges the hooks: `clsact` is what trying it in a throw-away namespace gave.
pub fn hooks(release: &str, clsact: &Result<()>) -> Finding {
    let tcx = version(release).is_some_and(|found| found >= TCX);
    match (clsact, tcx) {
        (Ok(()), true) => Finding::ok("hooks", "clsact, tcx"),
        (Ok(()), false) => Finding::ok("hooks", "clsact (tcx needs Linux 6.6)"),
        (Err(reason), true) => Finding::warn(
            "hooks",
            format!("tcx only; no clsact: {reason}"),
            "load the modules sch_ingress and cls_bpf, or set telemetry.attach to tcx",
        ),
        (Err(reason), false) => Finding::fail(
            "hooks",
            format!("no clsact: {reason}"),
            "load the modules sch_ingress and cls_bpf",
        ),
    }
}

/// Judges what making a masqueraded network's rules, in a throw-away namespace, gave.
pub fn nftables(masquerade: &Result<()>) -> Finding {
    match masquerade {
        Ok(()) => Finding::ok("nftables", "nf_tables can masquerade"),
        Err(reason) => Finding::warn(
            "nftables",
            format!("nf_tables can't masquerade: {reason}"),
            "load the modules nf_tables, nft_chain_nat and nft_masq; without them ipMasq fails",
        ),
    }
}

/// What could not be tried.
pub fn untried(check: &'static str, reason: &Error) -> Finding {
    Finding::warn(check, reason.to_string(), "run as root")
}

/// Judges `nf_conntrack_count` against `nf_conntrack_max`: a full table drops packets of pods.
pub fn conntrack(count: Option<u64>, max: Option<u64>) -> Finding {
    match (count, max) {
        (Some(count), Some(max)) if max > 0 && count >= max - max / 10 => Finding::warn(
            "conntrack",
            format!("{count} of {max} entries in use"),
            "raise net.netfilter.nf_conntrack_max: a full table drops packets",
        ),
        (Some(count), Some(max)) => {
            Finding::ok("conntrack", format!("{count} of {max} entries in use"))
        }
        _ => Finding::ok("conntrack", "not loaded (ipMasq loads it)"),
    }
}

/// Judges the two forwarding switches, which every ADD sees to. Pods of one node need them to reach
/// each other, too.
pub fn forwarding(v4: Option<&str>, v6: Option<&str>) -> Finding {
    let on = |setting: Option<&str>| setting.map(str::trim) == Some("1");
    let off: Vec<_> =
        [("net.ipv4.ip_forward", on(v4)), ("net.ipv6.conf.all.forwarding", on(v6) || v6.is_none())]
            .into_iter()
            .filter(|(_, on)| !on)
            .map(|(name, _)| name)
            .collect();
    if off.is_empty() {
        return Finding::ok("forwarding", "on");
    }
    let says = format!("off, and turned on by the first ADD that needs it: {}", off.join(", "));
    Finding::ok("forwarding", says)
}

/// Judges what [`telemetry::probe`](crate::telemetry::probe) gave, by whether pods are to be counted
/// at all, and whether they must be.
pub fn bpffs(bpf_dir: &Path, probe: &Result<()>, counted: bool, required: bool) -> Finding {
    let shown = bpf_dir.display();
    let err = match probe {
        _ if !counted => return Finding::ok("bpffs", "not needed: telemetry.enabled is false"),
        Ok(()) => return Finding::ok("bpffs", format!("{shown} is on a bpffs")),
        Err(err) => err.to_string(),
    };
    let (says, mend) = err.split_once("; ").unwrap_or((&err, "look at its details"));
    let then = if required { "no pod starts (telemetry.required)" } else { "no pod is counted" };
    Finding::fail("bpffs", format!("{says}: {then}"), mend)
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};
    use crate::error::Kind;

    #[test]
    fn kernels_are_told_apart_by_number_and_not_as_text() {
        for (release, verdict) in [
            ("6.18.44", Verdict::Ok),
            ("6.1.0-37-cloud-amd64", Verdict::Ok),
            ("10.0-rc1", Verdict::Ok),
            ("5.17.0", Verdict::Warn),
            ("5.9.16", Verdict::Fail),
            ("4.19.0", Verdict::Fail),
            ("who knows", Verdict::Fail),
        ] {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(privileges("CapEff:\t000001ffffffffff\n").verdict, Verdict::Ok);
        // What a Docker container has by default.
        let few = privileges("CapPrm:\t0\nCapEff:\t00000000a80425fb\n");
        assert_eq!(few.says, "without CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF");
        assert_eq!(privileges("").verdict, Verdict::Warn);
    }

    #[test]
    fn either_hook_is_enough() {
        let no = Err(Error::new(Kind::Kernel, "can't add a clsact qdisc"));
        assert_eq!(hooks("6.18.0", &Ok(())).verdict, Verdict::Ok);
        assert_eq!(hooks("6.1.0", &Ok(())).verdict, Verdict::Ok);
        assert_eq!(hooks("6.18.0", &no).verdict, Verdict::Warn);
        assert_eq!(hooks("6.1.0", &no).verdict, Verdict::Fail);
    }

    #[test]
    fn a_switch_that_is_off_is_named_but_add_turns_it_on() {
        let says = |v4, v6| {
            let finding = forwarding(v4, v6);
            assert_eq!(finding.verdict, Verdict::Ok);
            finding.says
        };
        assert_eq!(says(Some("1\n"), Some("1\n")), "on");
        assert_eq!(says(Some("1\n"), None), "on");
        let off = says(Some("0\n"), Some("1\n"));
        assert!(off.contains("ip_forward") && !off.contains("ipv6"), "{off}");
    }

    #[test]
    fn a_missing_bpffs_is_as_bad_as_the_configuration_makes_it() {
        let missing = Err(Error::new(Kind::Telemetry, "/x is not on a bpffs; mount one"));
        let judged = |probe, counted, required| bpffs(Path::new("/x"), probe, counted, required);
        assert_eq!(judged(&Ok(()), true, true).verdict, Verdict::Ok);
        assert_eq!(judged(&missing, false, false).verdict, Verdict::Ok);
        for (required, then) in [(false, "no pod is counted"), (true, "no pod starts")] {
            let finding = judged(&missing, true, required);
            assert_eq!(
                (finding.verdict, finding.mend.as_deref()),
                (Verdict::Fail, Some("mount one"))
            );
            assert!(finding.says.contains(then), "{finding:?}");
        }
    }

    #[test]
    fn a_nearly_full_connection_table_is_a_warning() {
        assert_eq!(conntrack(Some(10), Some(1000)).verdict, Verdict::Ok);
        assert_eq!(conntrack(Some(900), Some(1000)).verdict, Verdict::Warn);
        assert_eq!(conntrack(None, None).verdict, Verdict::Ok);
        assert_eq!(conntrack(Some(u64::MAX), Some(u64::MAX)).verdict, Verdict::Warn);
    }
}
